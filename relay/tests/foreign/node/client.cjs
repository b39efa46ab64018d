// A client of the relay on `ws` and Node's own crypto: nothing in it comes from this project.
//
//     node client.cjs URL SEED PEER
//
// Logs in with the key that SEED (64 hex digits) makes, keeps the lobby and checks its count and
// digest, sends some messages to PEER (64 hex digits) as soon as that one is online, and leaves when
// all are acknowledged and as many have come back, each verified. Tells what happens, one JSON object
// a line.
"use strict";

const assert = require("node:assert");
const crypto = require("node:crypto");
const WebSocket = require("ws");

const TEXTS = ["hello from Node", "two\nlines", 'quotes " and \\ and \t', "emoji 😀 👩‍👩‍👧‍👦", "é e\u0301 \u2028"];
const MILLISECONDS_MAX = 40_000;

// DER in front of the 32 bytes of an Ed25519 key (RFC 8410).
const PKCS8 = Buffer.from("302e020100300506032b657004220420", "hex");
const SPKI = Buffer.from("302a300506032b6570032100", "hex");

const [url, seed, peer] = process.argv.slice(2);
const privateKey = crypto.createPrivateKey({
  key: Buffer.concat([PKCS8, Buffer.from(seed, "hex")]),
  format: "der",
  type: "pkcs8",
});
const key = crypto.createPublicKey(privateKey).export({ format: "der", type: "spki" }).subarray(SPKI.length).toString("hex");

const tell = (event, fields = {}) => console.log(JSON.stringify({ event, ...fields }));
const sign = (...lines) => crypto.sign(null, Buffer.from(lines.join("\n")), privateKey).toString("hex");

/** Whether the message was signed by the sender it names, for the recipient it names. */
function verifies(message) {
  const publicKey = crypto.createPublicKey({
    key: Buffer.concat([SPKI, Buffer.from(message.senderPublicKey, "hex")]),
    format: "der",
    type: "spki",
  });
  const signed = [
    "relay-message/v1",
    message.senderPublicKey,
    `user:${message.recipientPublicKey}`,
    message.clientMessageId,
    message.timestamp,
    message.message,
  ].join("\n");
  return crypto.verify(null, Buffer.from(signed), publicKey, Buffer.from(message.signature, "hex"));
}

const socket = new WebSocket(url);
const send = (frame) => socket.send(JSON.stringify(frame));
const users = new Set();
let pages = [];
let awaited = null;
let received = 0;
let isDone = false;

function say(text) {
  const id = crypto.randomUUID();
  const timestamp = new Date().toISOString();
  send({
    type: "message",
    recipientPublicKey: peer,
    message: text,
    senderPublicKey: key,
    clientMessageId: id,
    timestamp,
    signature: sign("relay-message/v1", key, `user:${peer}`, id, timestamp, text),
  });
  awaited.add(id);
  tell("sent", { text });
}

function tellLobby(frame) {
  let digest = 0n;
  for (const user of users) digest ^= BigInt(`0x${user.slice(0, 16)}`);
  const agrees = frame.count === users.size && frame.digest === digest.toString(16).padStart(16, "0");
  tell("lobby", { users: [...users].sort(), agrees });
}

const handlers = {
  challenge(frame) {
    assert.strictEqual(frame.version, 1);
    assert.strictEqual(frame.relay, "localhost", "another relay could pass this signature on");
    const deviceId = "node";
    const signature = sign("relay-auth/v1", frame.relay, frame.nonce, key, deviceId);
    send({ type: "auth", version: 1, publicKey: key, deviceId, signature });
  },
  welcome(frame) {
    assert.strictEqual(frame.publicKey, key);
    tell("welcome", { limits: frame.limits });
  },
  lobby(frame) {
    pages.push(...frame.users);
    if (frame.more) return;
    users.clear();
    for (const user of pages) users.add(user.publicKey);
    pages = [];
    tellLobby(frame);
  },
  lobby_update(frame) {
    for (const user of frame.left) users.delete(user.publicKey);
    for (const user of frame.joined) users.add(user.publicKey);
    tellLobby(frame);
  },
  ack(frame) {
    assert(awaited.delete(frame.clientMessageId), "an ack of no message");
    tell("ack");
  },
  message(frame) {
    assert.strictEqual(frame.recipientPublicKey, key);
    received += 1;
    tell("message", { text: frame.message, seq: frame.seq, verified: verifies(frame) });
  },
  error(frame) {
    throw new Error(`the relay refuses: ${JSON.stringify(frame)}`);
  },
};

socket.on("message", (data, isBinary) => {
  assert(!isBinary, "the relay sends text");
  const frame = JSON.parse(data);
  handlers[frame.type]?.(frame);
  if (awaited === null && users.has(peer)) {
    awaited = new Set();
    TEXTS.forEach(say);
  }
  if (awaited?.size === 0 && received === TEXTS.length) {
    isDone = true;
    socket.close(1000);
  }
});
socket.on("close", (code) => process.exit(isDone && code === 1000 ? 0 : 1));
setTimeout(() => {
  console.error("the exchange takes too long");
  process.exit(1);
}, MILLISECONDS_MAX);
