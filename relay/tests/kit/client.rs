//! A client: tungstenite's WebSocket on a blocking socket, that can also send any bytes.

use std::io::{ErrorKind, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use socket2::{Domain, SockAddr, SockRef, Socket, Type};
use tungstenite::protocol::WebSocketConfig;
use tungstenite::{Error, Message, WebSocket};

use super::{DEADLINE, Draft, Relay, User};

/// What came of reading once.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Got {
    Text(String),
    Ping,
    Pong(Vec<u8>),
    /// A close frame, with its code if it has one.
    Close(Option<u16>),
    /// The end of the connection, orderly or not.
    End,
}

/// One connection to a relay.
pub(crate) struct Client {
    socket: WebSocket<TcpStream>,
}

impl Client {
    /// Opens a WebSocket and no session.
    pub(crate) fn open(relay: &Relay) -> Self {
        let stream = TcpStream::connect(relay.address()).expect("the relay takes connections");
        stream.set_nodelay(true).expect("a socket takes options");
        Self::upgrade(stream)
    }

    /// Opens a WebSocket from this address and port, 0 for any.
    pub(crate) fn open_from(relay: &Relay, source: Ipv4Addr) -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        socket.bind(&SockAddr::from(SocketAddr::new(IpAddr::V4(source), 0))).expect("a free port");
        socket.connect(&SockAddr::from(relay.address())).expect("the relay takes connections");
        socket.set_tcp_nodelay(true).expect("a socket takes options");
        Self::upgrade(socket.into())
    }

    /// Opens a WebSocket whose kernel holds few bytes that were not read.
    pub(crate) fn open_narrow(relay: &Relay) -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        socket.set_recv_buffer_size(4096).expect("a socket takes options");
        socket.connect(&SockAddr::from(relay.address())).expect("the relay takes connections");
        Self::upgrade(socket.into())
    }

    /// Upgrades a connection to WebSocket.
    pub(crate) fn upgrade(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(DEADLINE)).expect("a socket takes a timeout");
        stream.set_write_timeout(Some(DEADLINE)).expect("a socket takes a timeout");
        let url = format!("ws://{}/ws", stream.peer_addr().expect("a connected socket"));
        let (socket, _) = tungstenite::client::client_with_config(url, stream, Some(config())).expect("an upgrade");
        Self { socket }
    }

    /// Goes on with a connection that was upgraded by hand, `read` being what came behind the response.
    pub(crate) fn upgraded(stream: TcpStream, read: Vec<u8>) -> Self {
        let role = tungstenite::protocol::Role::Client;
        Self { socket: WebSocket::from_partially_read(stream, read, role, Some(config())) }
    }

    /// Opens a session as `device`, without lobby frames.
    pub(crate) fn login_as(relay: &Relay, user: &User, device: &str) -> Self {
        Self::open(relay).with_session(user, device, "none").0
    }

    /// Opens a session without lobby frames.
    pub(crate) fn login(relay: &Relay, user: &User) -> Self {
        Self::login_as(relay, user, "phone")
    }

    /// Opens the session of a fresh connection; the welcome comes with it.
    pub(crate) fn with_session(mut self, user: &User, device: &str, lobby: &str) -> (Self, Value) {
        let auth = self.answer(user, device, lobby);
        self.send(&auth);
        let welcome = self.expect("welcome");
        (self, welcome)
    }

    /// Reads the challenge and makes the `auth` that answers it.
    pub(crate) fn answer(&mut self, user: &User, device: &str, lobby: &str) -> String {
        let challenge = self.expect("challenge");
        user.auth(text_of(&challenge, "relay"), text_of(&challenge, "nonce"), device, lobby)
    }

    /// Sends a text message.
    pub(crate) fn send(&mut self, text: &str) {
        self.socket.send(Message::text(text)).expect("the relay takes a frame");
    }

    /// Sends bytes as they are.
    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.socket.get_mut().write_all(bytes).expect("the relay takes bytes");
    }

    /// Sends bytes as they are, though the relay may have closed by now.
    pub(crate) fn try_raw(&mut self, bytes: &[u8]) -> bool {
        self.socket.get_mut().write_all(bytes).is_ok()
    }

    /// Sends a WebSocket ping.
    pub(crate) fn ping(&mut self, payload: &[u8]) {
        self.socket.send(Message::Ping(payload.to_vec().into())).expect("the relay takes a ping");
    }

    /// Sends a message and reads its ack, which says that the recipient is online.
    pub(crate) fn say(&mut self, draft: &Draft) {
        self.send(&draft.frame());
        self.expect_ack(&draft.id, false);
    }

    /// Reads whatever comes next.
    pub(crate) fn next(&mut self) -> Got {
        self.next_by(Instant::now() + DEADLINE).expect("something comes in time")
    }

    /// Reads whatever comes next; `None` when nothing has by then.
    pub(crate) fn next_by(&mut self, deadline: Instant) -> Option<Got> {
        let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        self.socket.get_ref().set_read_timeout(Some(left)).expect("a socket takes a timeout");
        let got = match self.socket.read() {
            Ok(Message::Text(text)) => Got::Text(text.to_string()),
            Ok(Message::Pong(payload)) => Got::Pong(payload.to_vec()),
            Ok(Message::Close(frame)) => Got::Close(frame.map(|frame| frame.code.into())),
            Ok(Message::Ping(_)) => {
                // Answers it now, not with the next read. If that fails, the next read says why.
                let _ = self.socket.flush();
                Got::Ping
            }
            Ok(other) => panic!("the relay never sends this: {other:?}"),
            Err(Error::Io(error)) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return None;
            }
            Err(Error::ConnectionClosed | Error::AlreadyClosed | Error::Io(_)) => Got::End,
            Err(Error::Protocol(tungstenite::error::ProtocolError::ResetWithoutClosingHandshake)) => Got::End,
            Err(error) => panic!("the relay breaks the WebSocket protocol: {error}"),
        };
        Some(got)
    }

    /// Reads the next text, answering pings.
    pub(crate) fn text(&mut self) -> String {
        let deadline = Instant::now() + DEADLINE;
        loop {
            match self.next_by(deadline) {
                Some(Got::Ping) => {}
                Some(Got::Text(text)) => return text,
                other => panic!("expected a text frame, got {other:?}"),
            }
        }
    }

    /// Reads the next frame, answering pings.
    pub(crate) fn frame(&mut self) -> Value {
        let text = self.text();
        let frame: Value = serde_json::from_str(&text).expect("the relay sends JSON");
        assert!(frame.is_object() && frame["type"].is_string(), "no frame: {text}");
        frame
    }

    /// Reads the next frame that is no receipt: those come when they come.
    pub(crate) fn answer_to_message(&mut self) -> Value {
        loop {
            let frame = self.frame();
            if frame["type"] != "receipt" {
                return frame;
            }
        }
    }

    /// Reads the next frame, which is of this type.
    pub(crate) fn expect(&mut self, kind: &str) -> Value {
        let frame = self.frame();
        assert_eq!(frame["type"], kind, "{frame}");
        frame
    }

    /// Reads the next frame: the ack of this message, with its recipient online.
    pub(crate) fn expect_ack(&mut self, id: &str, is_duplicate: bool) {
        let ack = self.expect("ack");
        assert_eq!(
            (&ack["clientMessageId"], &ack["duplicate"], &ack["recipient"]),
            (&json!(id), &json!(is_duplicate), &json!("online")),
            "{ack}"
        );
    }

    /// Reads the next frame: an error of this reason, with a sentence for a person.
    pub(crate) fn expect_error(&mut self, reason: &str) -> Value {
        let error = self.expect("error");
        assert_eq!(error["reason"], reason, "{error}");
        let details = text_of(&error, "details");
        assert!(details.contains(' ') && details.ends_with('.'), "no sentence: {details}");
        error
    }

    /// Reads the next frame: an error of this reason about this message.
    pub(crate) fn expect_refusal(&mut self, reason: &str, id: &str) -> Value {
        let error = self.expect_error(reason);
        assert_eq!(error["clientMessageId"], id, "{error}");
        error
    }

    /// Reads the next frame: a message, of which it gives the `seq` and the sender's own bytes.
    pub(crate) fn expect_push(&mut self) -> (u64, String) {
        let text = self.text();
        let (seq, rest) = text
            .trim_start()
            .strip_prefix("{\"seq\":")
            .and_then(|rest| rest.split_once(','))
            .unwrap_or_else(|| panic!("no pushed message: {text}"));
        let white = &text[..text.len() - text.trim_start().len()];
        (seq.parse().expect("seq is a whole number"), format!("{white}{{{rest}"))
    }

    /// Reads the close frame, which has this code, and then the end of the connection.
    pub(crate) fn expect_close(&mut self, code: u16) {
        let deadline = Instant::now() + DEADLINE;
        let mut got = self.next_by(deadline);
        while got == Some(Got::Ping) {
            got = self.next_by(deadline);
        }
        assert_eq!(got, Some(Got::Close(Some(code))), "expected close {code}");
        self.expect_end();
    }

    /// Reads the end of the connection.
    pub(crate) fn expect_end(&mut self) {
        assert_eq!(self.next(), Got::End, "the relay ends a closed connection");
    }

    /// Shows that the session is open and that nothing unread is on its way.
    pub(crate) fn expect_quiet(&mut self) {
        self.send(r#"{"type":"ping"}"#);
        self.expect("pong");
    }

    /// Leaves in good order, up to the end of the connection.
    pub(crate) fn leave(mut self) {
        self.socket.close(None).expect("the relay takes a close");
        while self.next() != Got::End {}
    }

    /// Breaks off: the peer gets an RST at once.
    pub(crate) fn reset(self) {
        SockRef::from(self.socket.get_ref()).set_linger(Some(Duration::ZERO)).expect("a socket takes options");
    }
}

/// 4 KiB a connection, as some tests have thousands; a frame of the relay has at most 64 KiB.
fn config() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(4096)
        .write_buffer_size(0)
        .max_message_size(Some(64 * 1024))
        .max_frame_size(Some(64 * 1024))
}

/// A field that is text.
pub(crate) fn text_of<'a>(frame: &'a Value, field: &str) -> &'a str {
    frame[field].as_str().unwrap_or_else(|| panic!("{field} is no text in {frame}"))
}
