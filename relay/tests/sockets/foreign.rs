//! Clients that share no line with this project: Python's `websockets` and Node's `ws`, each with its
//! own platform's Ed25519. They log in, see each other in the lobby and exchange messages.
//!
//! `scripts/foreign-clients` installs both and runs a command with `FOREIGN_PYTHON` and
//! `FOREIGN_NODE_MODULES` set.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::kit::{Engine, Relay, User, on_every_engine};

on_every_engine! {
    #[ignore = "needs Python websockets and Node ws: scripts/foreign-clients installs them"]
    python_and_node_talk_to_each_other,
}

/// Starting an interpreter and loading its modules takes seconds on a busy machine.
const DEADLINE: Duration = Duration::from_secs(60);

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run this by scripts/foreign-clients"))
}

fn start(mut command: Command, relay: &Relay, user: &User, peer: &User) -> Child {
    command
        .args([&format!("ws://{}/ws", relay.address()), &user.seed(), &peer.key])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"))
}

/// Waits for the end of a client; gives its lines of JSON.
fn finish(name: &str, mut child: Child) -> Vec<Value> {
    let (done, result) = channel();
    let (stdout, stderr) = (child.stdout.take().expect("piped"), child.stderr.take().expect("piped"));
    for (is_error, mut stream) in
        [(false, Box::new(stdout) as Box<dyn std::io::Read + Send>), (true, Box::new(stderr) as _)]
    {
        let done = done.clone();
        thread::spawn(move || {
            let mut text = String::new();
            let read = stream.read_to_string(&mut text);
            drop(done.send((is_error, read.map(|_| text))));
        });
    }
    let (mut output, mut errors) = (String::new(), String::new());
    for _ in 0..2 {
        let Ok((is_error, text)) = result.recv_timeout(DEADLINE) else {
            // Both fail only for a process that has ended already.
            let _ = child.kill();
            let _ = child.wait();
            panic!("{name} does not end; it wrote {:?}", result.recv().map(|(_, text)| text));
        };
        *(if is_error { &mut errors } else { &mut output }) = text.expect("text");
    }
    let status = child.wait().expect("a process can be waited for");
    assert!(status.success(), "{name} failed:\n{output}\n{errors}");
    output.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
}

fn python_and_node_talk_to_each_other(engine: Engine) {
    let (python, modules) = (variable("FOREIGN_PYTHON"), variable("FOREIGN_NODE_MODULES"));
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/foreign");
    let relay = Relay::start(engine);
    let users = [User::numbered(0), User::numbered(1)];
    let mut python = Command::new(python);
    python.arg(scripts.join("python/client.py"));
    let mut node = Command::new("node");
    node.env("NODE_PATH", modules).arg(scripts.join("node/client.cjs"));
    let clients =
        [("python", start(python, &relay, &users[0], &users[1])), ("node", start(node, &relay, &users[1], &users[0]))];
    let events = clients.map(|(name, child)| finish(name, child));

    let texts = |number: usize, name: &str| -> Vec<&Value> {
        events[number].iter().filter(|event| event["event"] == name).map(|event| &event["text"]).collect()
    };
    for (number, events) in events.iter().enumerate() {
        let named = |name: &str| -> Vec<&Value> { events.iter().filter(|event| event["event"] == name).collect() };
        assert_eq!(named("welcome").len(), 1, "{events:?}");
        let lobbies = named("lobby");
        assert!(lobbies.iter().all(|lobby| lobby["agrees"] == true), "{events:?}");
        let has_both = |lobby: &&Value| {
            let online = lobby["users"].as_array().expect("users");
            users.iter().all(|user| online.contains(&user.key.as_str().into()))
        };
        assert!(lobbies.iter().any(has_both), "{events:?}");
        let received = named("message");
        assert!(received.iter().all(|message| message["verified"] == true), "{events:?}");
        assert!((1..).zip(&received).all(|(seq, message)| message["seq"] == seq), "{events:?}");
        assert_eq!(named("ack").len(), named("sent").len(), "{events:?}");
        // What one of them sent is what the other one got, letter by letter.
        assert!(!received.is_empty());
        assert_eq!(texts(number, "message"), texts(1 - number, "sent"));
    }
}
