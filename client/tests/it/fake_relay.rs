//! A relay in miniature for one test: a listener on a free port, and connections that the test
//! scripts frame by frame. Every wait ends after [`DEADLINE`].

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use protocol::decode::FrameDecoder;
use protocol::frame::{ClientFrame, LobbyMode, Resume};
use protocol::keys::PublicKey;
use protocol::opening::check_auth;
use protocol::server_frame::Welcome;
use protocol::signature::verify_strict;
use protocol::{encode, signed_bytes};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;

use crate::frames::{self, NONCE, RELAY};

/// More than any step takes on a busy machine.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// Waits for `future`, and fails the test if it takes too long.
pub(crate) async fn within<F: Future>(what: &str, future: F) -> F::Output {
    match tokio::time::timeout(DEADLINE, future).await {
        Ok(output) => output,
        Err(_) => panic!("waited {DEADLINE:?} for {what}"),
    }
}

pub(crate) struct FakeRelay {
    listener: TcpListener,
}

impl FakeRelay {
    pub(crate) async fn start() -> Self {
        Self { listener: TcpListener::bind("127.0.0.1:0").await.expect("a free port") }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.listener.local_addr().expect("a bound socket")
    }

    pub(crate) fn url(&self) -> String {
        format!("ws://{}/ws", self.address())
    }

    /// The next connection, before the upgrade.
    pub(crate) async fn accept_tcp(&self) -> TcpStream {
        within("a connection", self.listener.accept()).await.expect("a connection").0
    }

    /// The next connection, upgraded.
    pub(crate) async fn accept(&self) -> Peer {
        let stream = self.accept_tcp().await;
        let socket = within("an upgrade", tokio_tungstenite::accept_async(stream)).await.expect("an upgrade");
        Peer { socket, decoder: FrameDecoder::new() }
    }

    /// The next connection, welcomed as the device it says to be; the key is the one of `seed`.
    pub(crate) async fn accept_open(&self, seed: u8) -> Peer {
        self.accept_open_with(|device| frames::text(|out| encode::welcome(out, &frames::welcome_frame(seed, device))))
            .await
    }

    /// The same with a heartbeat of the test's own.
    pub(crate) async fn accept_open_with_heartbeat(&self, seed: u8, heartbeat_ms: u64) -> Peer {
        self.accept_open_with(|device| {
            let welcome = Welcome { heartbeat_ms, ..frames::welcome_frame(seed, device) };
            frames::text(|out| encode::welcome(out, &welcome))
        })
        .await
    }

    async fn accept_open_with(&self, welcome: impl FnOnce(&str) -> String) -> Peer {
        let mut peer = self.accept().await;
        let (device, _) = peer.challenge().await;
        peer.send(&welcome(&device)).await;
        peer
    }
}

/// One connection, seen from the relay.
pub(crate) struct Peer {
    socket: WebSocketStream<TcpStream>,
    decoder: FrameDecoder,
}

/// A message that the client sent, with its signature checked.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Sent {
    pub(crate) from: PublicKey,
    pub(crate) target: String,
    pub(crate) id: String,
    pub(crate) text: String,
}

impl Peer {
    pub(crate) async fn send(&mut self, text: &str) {
        self.send_message(Message::text(text)).await;
    }

    pub(crate) async fn send_message(&mut self, message: Message) {
        within("room to write", self.socket.send(message)).await.expect("a live connection");
    }

    /// Whatever comes next; `None` at the end of the connection.
    pub(crate) async fn next(&mut self) -> Option<Message> {
        within("a frame of the client", self.socket.next()).await?.ok()
    }

    pub(crate) async fn next_text(&mut self) -> String {
        match self.next().await {
            Some(Message::Text(text)) => text.as_str().to_owned(),
            other => panic!("expected a text, got {other:?}"),
        }
    }

    /// Sends a challenge and checks the answer: gives the device and whether it wants the lobby.
    pub(crate) async fn challenge(&mut self) -> (String, LobbyMode) {
        let (device, lobby, _) = self.challenged().await;
        (device, lobby)
    }

    /// Sends a challenge and checks the answer: gives what the client asks to go on from.
    pub(crate) async fn challenge_resume(&mut self) -> Option<Resume> {
        self.challenged().await.2
    }

    async fn challenged(&mut self) -> (String, LobbyMode, Option<Resume>) {
        self.send(&frames::challenge(RELAY)).await;
        let text = self.next_text().await;
        let ClientFrame::Auth(auth) = self.decoder.decode(&text).expect("a good frame") else {
            panic!("not an auth: {text}")
        };
        check_auth(&auth, RELAY, &NONCE, &mut Vec::new()).expect("a good signature");
        (auth.device_id.to_owned(), auth.lobby, auth.resume)
    }

    /// The next frame but for `received` and `read`.
    pub(crate) async fn next_but_confirmations(&mut self) -> String {
        loop {
            let text = self.next_text().await;
            if !matches!(self.decoder.decode(&text), Ok(ClientFrame::Received(_) | ClientFrame::Read(_))) {
                return text;
            }
        }
    }

    /// The next frame but for `received` and `read`, which is a message with a good signature.
    pub(crate) async fn next_message(&mut self) -> Sent {
        let text = self.next_but_confirmations().await;
        let ClientFrame::Message(message) = self.decoder.decode(&text).expect("a good frame") else {
            panic!("not a message: {text}")
        };
        let mut signed = Vec::new();
        signed_bytes::message(&mut signed, &message);
        let key = message.sender.to_verifying_key().expect("a good key");
        assert!(verify_strict(&key, &signed, &message.signature));
        let target = String::from_utf8(signed).expect("text").lines().nth(2).expect("a target").to_owned();
        Sent { from: message.sender, target, id: message.id.to_owned(), text: message.text.to_owned() }
    }

    /// Closes with a code, and waits until the client has gone.
    pub(crate) async fn close(mut self, code: u16, reason: &'static str) {
        self.close_with(code, reason).await;
    }

    /// The same for a connection that is held on to.
    pub(crate) async fn close_with(&mut self, code: u16, reason: &'static str) {
        let frame = CloseFrame { code: code.into(), reason: reason.into() };
        within("room to write", self.socket.close(Some(frame))).await.expect("a live connection");
        while self.next().await.is_some() {}
    }

    /// The close code that comes next, behind anything else; `None` if the connection just ends.
    pub(crate) async fn close_code(mut self) -> Option<u16> {
        loop {
            match self.next().await {
                Some(Message::Close(frame)) => return frame.map(|frame| frame.code.into()),
                Some(_) => {}
                None => return None,
            }
        }
    }
}
