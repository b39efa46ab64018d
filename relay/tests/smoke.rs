//! The real binary from its first line to its exit status: what an operator meets.

#![expect(clippy::unwrap_used, reason = "a test may fail by a panic")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ed25519_dalek::{Signer, SigningKey};
use protocol::frame::{LobbyMode, Target};
use protocol::server_frame::{ServerFrame, ServerFrameDecoder};
use protocol::{PublicKey, Signature, Timestamp, encode, opening, signed_bytes};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::{Message, WebSocket};

/// The longest that anything is waited for.
const DEADLINE: Duration = Duration::from_secs(20);

/// The command, without the developer's own settings.
fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_relay"));
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("RELAY_")) {
        command.env_remove(name);
    }
    if !arguments.contains(&"--data") {
        command.env("RELAY_EPHEMERAL", "true");
    }
    command
}

/// Runs the command to its end.
fn run(arguments: &[&str], environment: &[(&str, &str)]) -> (Option<i32>, String) {
    let Output { status, stdout, stderr } = command(arguments).envs(environment.iter().copied()).output().unwrap();
    assert!(stdout.is_empty(), "{}", String::from_utf8_lossy(&stdout));
    (status.code(), String::from_utf8(stderr).unwrap())
}

/// A relay of two shards, ended with this value.
struct Relay {
    child: Child,
    banner: String,
    address: SocketAddr,
    admin: SocketAddr,
}

impl Relay {
    fn start(arguments: &[&str]) -> Self {
        let ports = ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--shards", "2", "--log-level", "warn"];
        let mut child = command(&[&ports, arguments].concat()).stderr(Stdio::inherit()).spawn().unwrap();
        let stdout = child.stdout.take().unwrap();
        let unset = SocketAddr::from(([0; 4], 0));
        let mut relay = Self { child, banner: String::new(), address: unset, admin: unset };
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            let mut line = String::new();
            let _ = BufReader::new(stdout).read_line(&mut line);
            let _ = sender.send(line);
        });
        relay.banner = lines.recv_timeout(DEADLINE).expect("the relay says that it listens");
        relay.address = after("listening on ", &relay.banner);
        relay.admin = after("admin on ", &relay.banner);
        relay
    }

    /// Status and body of a GET at the admin endpoint.
    fn get(&self, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.admin).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: relay\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    fn stats(&self) -> Value {
        let (status, body) = self.get("/stats");
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).unwrap()
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    fn wait_for_exit(&mut self) -> Option<i32> {
        let deadline = Instant::now() + DEADLINE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(Instant::now() < deadline, "the relay does not end");
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The address behind these words.
fn after(words: &str, line: &str) -> SocketAddr {
    let (_, rest) = line.split_once(words).unwrap_or_else(|| panic!("{words:?} is not in {line:?}"));
    rest.split([',', '\n']).next().unwrap().parse().unwrap()
}

/// A session of a user with a lobby.
struct Session {
    socket: WebSocket<TcpStream>,
    decoder: ServerFrameDecoder,
    signing_key: SigningKey,
    key: PublicKey,
}

impl Session {
    /// Connects and logs in, up to the end of the lobby snapshot, in which the user finds itself.
    fn open(relay: &Relay, secret: u8) -> Self {
        let stream = TcpStream::connect(relay.address).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let (socket, _) = tungstenite::client(format!("ws://{}/ws", relay.address), stream).unwrap();
        let signing_key = SigningKey::from_bytes(&[secret; 32]);
        let key = PublicKey::from(&signing_key.verifying_key());
        let mut session = Self { socket, decoder: ServerFrameDecoder::new(), signing_key, key };

        let challenge = session.read_text();
        let ServerFrame::Challenge(challenge) = session.decoder.decode(&challenge).unwrap() else {
            panic!("no challenge: {challenge}")
        };
        let mut auth = Vec::new();
        let answer = opening::answer(&challenge, "localhost", &session.signing_key, "phone", LobbyMode::All, None);
        encode::auth(&mut auth, &answer.unwrap());
        session.send(auth);

        let welcome = session.read_text();
        let ServerFrame::Welcome(welcome) = session.decoder.decode(&welcome).unwrap() else {
            panic!("no welcome: {welcome}")
        };
        assert_eq!((welcome.public_key, welcome.device_id), (key, "phone"));
        let mut has_itself = false;
        loop {
            let page = session.read_text();
            let ServerFrame::Lobby(page) = session.decoder.decode(&page).unwrap() else { panic!("no lobby: {page}") };
            has_itself |= page.users.contains(&key);
            if page.totals.is_some() {
                break;
            }
        }
        assert!(has_itself);
        session
    }

    fn send(&mut self, frame: Vec<u8>) {
        self.socket.send(Message::text(String::from_utf8(frame).unwrap())).unwrap();
    }

    fn read_text(&mut self) -> String {
        loop {
            match self.socket.read().expect("a frame in time") {
                Message::Text(text) => return text.as_str().to_owned(),
                Message::Ping(_) => {}
                other => panic!("no text: {other:?}"),
            }
        }
    }

    /// The next frame that is not about the lobby.
    fn read_own(&mut self) -> Value {
        loop {
            let frame: Value = serde_json::from_str(&self.read_text()).unwrap();
            if frame["type"] != "lobby_update" {
                return frame;
            }
        }
    }

    fn send_message(&mut self, recipient: PublicKey, text: &str) {
        let unix_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64;
        let mut message = protocol::frame::Message {
            target: Target::User(recipient),
            text,
            sender: self.key,
            id: "m-1",
            timestamp: Timestamp::from_unix_ms(unix_ms),
            signature: Signature::from_bytes([0; 64]),
        };
        let mut signed = Vec::new();
        signed_bytes::message(&mut signed, &message);
        message.signature = Signature::from_bytes(self.signing_key.sign(&signed).to_bytes());
        let mut frame = Vec::new();
        encode::message(&mut frame, &message);
        self.send(frame);
    }
}

/// Sessions of users enough that every shard is the home of one.
fn sessions_on_all_shards(relay: &Relay) -> Vec<Session> {
    let mut sessions = vec![Session::open(relay, 1)];
    for secret in 2..=64 {
        sessions.push(Session::open(relay, secret));
        let stats = relay.stats();
        if stats["shards"].as_array().unwrap().iter().all(|shard| shard["counts"]["core"]["users"] != 0) {
            return sessions;
        }
    }
    panic!("64 keys have their home on one shard of two");
}

/// Logs in, sends a message to the next user around a ring, and ends the relay.
fn serves_from_start_to_end(engine: &str) {
    let mut relay = Relay::start(&["--engine", engine]);
    let version = env!("CARGO_PKG_VERSION");
    assert!(relay.banner.starts_with(&format!("relay {version} listening on 127.0.0.1:")), "{}", relay.banner);
    assert!(relay.banner.contains(&format!("engine {engine} (asked for)")), "{}", relay.banner);
    assert_eq!(relay.get("/healthz"), (200, "ok".to_owned()));
    assert_eq!(relay.get("/nothing").0, 404);
    let about: Value = serde_json::from_str(&relay.get("/version").1).unwrap();
    assert_eq!((&about["version"], &about["engine"], &about["shards"]), (&version.into(), &engine.into(), &2.into()));

    let config: Value = serde_json::from_str(&relay.get("/config").1).unwrap();
    assert_eq!((&config["engine"], &config["shards"], &config["verify"]), (&engine.into(), &2.into(), &"auto".into()));
    let stats: Value = serde_json::from_str(&relay.get("/stats").1).unwrap();
    assert!(stats["shards"][1]["counts"]["thread"]["cpu_ns"].as_u64() > Some(0), "{stats}");

    let mut sessions = sessions_on_all_shards(&relay);
    let keys: Vec<_> = sessions.iter().map(|session| session.key).collect();
    let users = keys.len();
    for (at, session) in sessions.iter_mut().enumerate() {
        session.send_message(keys[(at + 1) % users], "hello, neighbour");
    }
    for (at, session) in sessions.iter_mut().enumerate() {
        let mut frames = [session.read_own(), session.read_own()];
        frames.sort_by_key(|frame| frame["type"].to_string());
        let [ack, message] = frames;
        assert_eq!((&ack["type"], &ack["recipient"]), (&"ack".into(), &"online".into()), "{ack}");
        let sender = keys[(at + users - 1) % users].to_hex();
        assert_eq!(message["senderPublicKey"], sender.as_str(), "{message}");
        assert_eq!((&message["message"], &message["seq"]), (&"hello, neighbour".into(), &1.into()));
    }
    let total = relay.stats()["total"].clone();
    assert_eq!(total["core"]["messages_delivered"], users);
    assert_eq!(total["core"]["users"], users);
    // Around a ring that touches both shards, two messages cross and two answers come back.
    assert!(total["mesh"]["items_sent"].as_u64().unwrap() >= 4, "{total}");
    assert_eq!(total["mesh"]["items_sent"], total["mesh"]["items_received"]);

    relay.signal(Signal::TERM);
    for session in &mut sessions {
        assert_eq!(session.read_own()["type"], "restarting");
        let Message::Close(Some(close)) = session.socket.read().unwrap() else { panic!("no close frame") };
        assert_eq!(close.code, CloseCode::Away);
        // Answers the close frame, and reads to the end.
        while session.socket.read().is_ok() {}
    }
    assert_eq!(relay.wait_for_exit(), Some(0));
}

#[test]
fn ring_serves_from_start_to_end() {
    serves_from_start_to_end("ring");
}

#[test]
fn tokio_uring_serves_from_start_to_end() {
    serves_from_start_to_end("tokio-uring");
}

#[test]
fn epoll_serves_from_start_to_end() {
    serves_from_start_to_end("epoll");
}

#[test]
fn one_acceptor_and_busy_polling_serve_too() {
    let relay = Relay::start(&["--accept", "single", "--busy-poll", "100us", "--pin-cores", "none"]);
    assert!(relay.banner.contains("2 shards on any core"), "{}", relay.banner);
    let sessions = sessions_on_all_shards(&relay);
    let stats = relay.stats();
    assert_eq!(stats["shards"][0]["counts"]["core"]["accepted"], sessions.len());
    assert_ne!(stats["shards"][1]["counts"]["core"]["users"], 0);
}

#[test]
fn clients_that_do_not_go_away_do_not_keep_the_relay() {
    let mut relay = Relay::start(&[]);
    // Logged in, upgraded, and only connected; none of them reads any more.
    let _session = Session::open(&relay, 1);
    let stream = TcpStream::connect(relay.address).unwrap();
    let _upgraded = tungstenite::client(format!("ws://{}/ws", relay.address), stream).unwrap();
    let _connected = TcpStream::connect(relay.address).unwrap();
    relay.signal(Signal::INT);
    assert_eq!(relay.wait_for_exit(), Some(0));
}

#[test]
fn a_second_signal_ends_at_once() {
    let mut relay = Relay::start(&[]);
    let _session = Session::open(&relay, 1);
    // Two different ones, since the kernel may merge two of a kind. Without the second the relay
    // would wait for the client, which does not read.
    relay.signal(Signal::TERM);
    relay.signal(Signal::INT);
    let status = relay.wait_for_exit();
    assert!(matches!(status, Some(130 | 143)), "{status:?}");
}

#[test]
fn an_address_in_use_is_an_error_that_names_it() {
    let relay = Relay::start(&[]);
    let address = relay.address.to_string();
    let (status, text) = run(&["--listen", &address, "--admin", "off"], &[]);
    assert_eq!(status, Some(1));
    assert!(text.contains(&format!("cannot listen on {address} (--listen)")), "{text}");
    let admin = relay.admin.to_string();
    let (status, text) = run(&["--listen", "127.0.0.1:0", "--admin", &admin], &[]);
    assert_eq!(status, Some(1));
    assert!(text.contains(&format!("cannot listen on {admin} (--admin)")), "{text}");
}

#[test]
fn bad_configurations_end_with_2_and_name_option_value_and_fix() {
    let (status, text) = run(&["--heartbeat", "20"], &[]);
    assert_eq!(status, Some(2));
    assert!(text.contains("'20'") && text.contains("--heartbeat") && text.contains("with its unit"), "{text}");
    let (status, text) = run(&["--frame-bytes", "1MiB"], &[]);
    assert_eq!(status, Some(2));
    assert!(text.contains("'1048576' for '--frame-bytes': take at most"), "{text}");
    let (status, text) = run(&["--pin-cores", "1023"], &[]);
    assert_eq!(status, Some(2));
    assert!(text.contains("--pin-cores") && text.contains("take some of"), "{text}");
    let (status, text) = run(&[], &[("RELAY_ENGINE", "kqueue")]);
    assert_eq!(status, Some(2));
    assert!(text.contains("'kqueue'") && text.contains("--engine"), "{text}");
}
