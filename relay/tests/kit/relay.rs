//! The relay as a process.

use std::fmt;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use rustix::process::{Pid, Signal, kill_process};

use super::DEADLINE;

/// An engine of the relay.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Engine {
    Ring,
    TokioUring,
    Epoll,
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ring => "ring",
            Self::TokioUring => "tokio-uring",
            Self::Epoll => "epoll",
        })
    }
}

/// A running relay on a port of its own, of two shards unless told otherwise.
pub(crate) struct Relay {
    child: Child,
    address: SocketAddr,
    admin: SocketAddr,
    /// Its lines on stdout; the channel closes when the process ends. In a mutex so that threads may
    /// share the relay; only its owner waits for lines.
    lines: Mutex<Receiver<String>>,
    output: Arc<Mutex<String>>,
    is_to_end: bool,
}

impl Relay {
    /// Starts a relay with its defaults.
    pub(crate) fn start(engine: Engine) -> Self {
        Self::with(engine, &[])
    }

    /// Starts a relay with further options.
    pub(crate) fn with(engine: Engine, options: &[&str]) -> Self {
        Self::within(&[], engine, options)
    }

    /// Starts a relay by another program, which runs it with `exec`.
    pub(crate) fn within(wrapper: &[&str], engine: Engine, options: &[&str]) -> Self {
        let engine = engine.to_string();
        let words: Vec<_> = wrapper.iter().copied().chain([env!("CARGO_BIN_EXE_relay")]).collect();
        let mut command = Command::new(words[0]);
        command
            .args(&words[1..])
            .args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--engine", &engine])
            .args(options)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if !options.contains(&"--shards") {
            command.args(["--shards", "2"]);
        }
        // The developer's own settings are not the test's.
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("RELAY_")) {
            command.env_remove(name);
        }
        if !options.contains(&"--data") {
            command.env("RELAY_EPHEMERAL", "true");
        }
        let mut child = command.spawn().expect("the relay's binary starts");
        let output = Arc::new(Mutex::new(String::new()));
        let (line_sender, lines) = channel();
        let stdout = child.stdout.take().expect("stdout is piped");
        let stderr = child.stderr.take().expect("stderr is piped");
        collect(stderr, &output, |_| ());
        // Lines behind the one that is waited for interest nobody: the receiver may be gone.
        collect(stdout, &output, move |line| drop(line_sender.send(line)));
        // Made before anything can panic, so that the process is ended whatever comes.
        let unset = ([0; 4], 0).into();
        let lines = Mutex::new(lines);
        let mut relay = Self { child, address: unset, admin: unset, lines, output, is_to_end: false };
        let deadline = Instant::now() + DEADLINE;
        while relay.address.port() == 0 {
            match relay.line_by(deadline) {
                Ok(line) => {
                    relay.address = address_in(&line, "listening on ").unwrap_or(unset);
                    relay.admin = address_in(&line, "admin on ").unwrap_or(unset);
                }
                Err(RecvTimeoutError::Timeout) => panic!("the relay does not say where it listens"),
                Err(RecvTimeoutError::Disconnected) => panic!("the relay ended before it listened"),
            }
        }
        relay
    }

    fn line_by(&mut self, deadline: Instant) -> Result<String, RecvTimeoutError> {
        let lines = self.lines.get_mut().unwrap_or_else(PoisonError::into_inner);
        lines.recv_timeout(deadline.saturating_duration_since(Instant::now()))
    }

    /// Where it takes WebSockets.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Status and body of a GET at the admin endpoint.
    pub(crate) fn get(&self, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.admin).expect("the admin endpoint takes connections");
        stream.set_read_timeout(Some(DEADLINE)).expect("a socket takes a timeout");
        write!(stream, "GET {path} HTTP/1.1\r\nHost: relay\r\nConnection: close\r\n\r\n").expect("it takes bytes");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("it answers in time");
        let (head, body) = answer.split_once("\r\n\r\n").expect("it answers HTTP");
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        (status.expect("an answer has a status"), body.to_owned())
    }

    /// What the process has as the root of its files, wherever it is mounted.
    pub(crate) fn root(&self) -> PathBuf {
        format!("/proc/{}/root", self.child.id()).into()
    }

    /// Ends it by SIGKILL.
    pub(crate) fn kill(mut self) {
        self.is_to_end = true;
        self.child.kill().expect("the relay takes a signal");
    }

    /// Bytes of memory that the process holds.
    pub(crate) fn resident_bytes(&self) -> u64 {
        let path = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(path).expect("the relay runs");
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("the kernel says VmRSS");
        let kib = line.split_whitespace().nth(1).expect("a number of KiB");
        kib.parse::<u64>().expect("a number of KiB") * 1024
    }

    /// Asks it to end, as a service manager does.
    pub(crate) fn terminate(&mut self) {
        self.is_to_end = true;
        kill_process(Pid::from_child(&self.child), Signal::TERM).expect("the relay takes a signal");
    }

    /// Waits for its end.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + DEADLINE;
        loop {
            match self.line_by(deadline) {
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) => panic!("the relay does not end"),
                Err(RecvTimeoutError::Disconnected) => {
                    return self.child.wait().expect("the process can be waited for");
                }
            }
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let end = self.child.try_wait();
        // Both fail only for a process that has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let has_crashed = !self.is_to_end && !matches!(end, Ok(None));
        if has_crashed || thread::panicking() {
            let output = self.output.lock().unwrap_or_else(PoisonError::into_inner);
            eprintln!("--- what the relay wrote ---\n{output}---");
        }
        assert!(!has_crashed || thread::panicking(), "the relay ended by itself: {end:?}");
    }
}

/// Reads lines to the end in a thread of its own.
fn collect(stream: impl Read + Send + 'static, output: &Arc<Mutex<String>>, each: impl Fn(String) + Send + 'static) {
    let output = Arc::clone(output);
    thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            {
                let mut output = output.lock().unwrap_or_else(PoisonError::into_inner);
                output.push_str(&line);
                output.push('\n');
            }
            each(line);
        }
    });
}

/// The address behind these words.
fn address_in(line: &str, words: &str) -> Option<SocketAddr> {
    let (_, rest) = line.split_once(words)?;
    let end = rest.find(|c: char| c.is_whitespace() || c == ',' || c == ';').unwrap_or(rest.len());
    rest[..end].parse().ok()
}
