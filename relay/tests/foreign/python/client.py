"""A client of the relay on `websockets` and `cryptography`: nothing in it comes from this project.

    client.py URL SEED PEER

Logs in with the key that SEED (64 hex digits) makes, keeps the lobby and checks its count and digest,
sends some messages to PEER (64 hex digits) as soon as that one is online, and leaves when all are
acknowledged and as many have come back, each verified. Tells what happens, one JSON object a line.
"""

import json
import sys
import uuid
from datetime import datetime, timezone
from functools import reduce

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from websockets.sync.client import connect

TEXTS = ["hello from Python", "two\nlines", 'quotes " and \\ and \t', "emoji 😀 👩‍👩‍👧‍👦", "é e\u0301 \u2028"]
SECONDS_MAX = 40


def tell(event, **fields):
    print(json.dumps({"event": event, **fields}), flush=True)


def verifies(message):
    """Whether the message was signed by the sender it names, for the recipient it names."""
    signed = "\n".join(
        [
            "relay-message/v1",
            message["senderPublicKey"],
            "user:" + message["recipientPublicKey"],
            message["clientMessageId"],
            message["timestamp"],
            message["message"],
        ]
    )
    key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(message["senderPublicKey"]))
    try:
        key.verify(bytes.fromhex(message["signature"]), signed.encode())
    except InvalidSignature:
        return False
    return True


class Client:
    def __init__(self, socket, seed, peer):
        self.socket = socket
        self.private_key = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(seed))
        self.key = self.private_key.public_key().public_bytes_raw().hex()
        self.peer = peer
        self.users = set()
        self.pages = []
        self.awaited = None
        self.received = 0

    def sign(self, *lines):
        return self.private_key.sign("\n".join(lines).encode()).hex()

    def receive(self):
        return json.loads(self.socket.recv(timeout=SECONDS_MAX))

    def send(self, frame):
        self.socket.send(json.dumps(frame))

    def log_in(self):
        challenge = self.receive()
        assert challenge["type"] == "challenge" and challenge["version"] == 1, challenge
        assert challenge["relay"] == "localhost", "another relay could pass this signature on"
        device = "python"
        signature = self.sign("relay-auth/v1", challenge["relay"], challenge["nonce"], self.key, device)
        self.send(
            {"type": "auth", "version": 1, "publicKey": self.key, "deviceId": device, "signature": signature}
        )
        welcome = self.receive()
        assert welcome["type"] == "welcome" and welcome["publicKey"] == self.key, welcome
        tell("welcome", limits=welcome["limits"])

    def say(self, text):
        message_id = str(uuid.uuid4())
        now = datetime.now(timezone.utc)
        timestamp = now.strftime("%Y-%m-%dT%H:%M:%S.") + f"{now.microsecond // 1000:03}Z"
        signature = self.sign("relay-message/v1", self.key, "user:" + self.peer, message_id, timestamp, text)
        self.send(
            {
                "type": "message",
                "recipientPublicKey": self.peer,
                "message": text,
                "senderPublicKey": self.key,
                "clientMessageId": message_id,
                "timestamp": timestamp,
                "signature": signature,
            }
        )
        self.awaited.add(message_id)
        tell("sent", text=text)

    def tell_lobby(self, frame):
        digest = reduce(lambda digest, key: digest ^ int(key[:16], 16), self.users, 0)
        agrees = frame["count"] == len(self.users) and frame["digest"] == f"{digest:016x}"
        tell("lobby", users=sorted(self.users), agrees=agrees)

    def handle(self, frame):
        kind = frame["type"]
        if kind == "lobby":
            self.pages += [user["publicKey"] for user in frame["users"]]
            if not frame["more"]:
                self.users, self.pages = set(self.pages), []
                self.tell_lobby(frame)
        elif kind == "lobby_update":
            self.users -= {user["publicKey"] for user in frame["left"]}
            self.users |= {user["publicKey"] for user in frame["joined"]}
            self.tell_lobby(frame)
        elif kind == "ack":
            self.awaited.remove(frame["clientMessageId"])
            tell("ack")
        elif kind == "message":
            assert frame["recipientPublicKey"] == self.key, frame
            self.received += 1
            tell("message", text=frame["message"], seq=frame["seq"], verified=verifies(frame))
        elif kind == "error":
            raise RuntimeError(f"the relay refuses: {frame}")

    def run(self):
        self.log_in()
        while self.awaited is None or self.awaited or self.received < len(TEXTS):
            self.handle(self.receive())
            if self.awaited is None and self.peer in self.users:
                self.awaited = set()
                for text in TEXTS:
                    self.say(text)


def main():
    url, seed, peer = sys.argv[1:]
    # No proxy: the relay is on this machine.
    with connect(url, proxy=None) as socket:
        Client(socket, seed, peer).run()


main()
