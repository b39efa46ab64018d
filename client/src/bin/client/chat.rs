//! `client chat`: a line chat. Whatever others wrote is shown with control characters escaped, so
//! that nobody can write to the terminal but this program.

use std::collections::{BTreeSet, HashSet};
use std::io::{self, BufRead, Write};
use std::thread;
use std::time::Duration;

use anyhow::{Context, anyhow};
use clap::Args;
use client::escape::ForTerminal;
use client::event::ReceivedMessage;
use client::{Client, Event, EventStream, Handle};
use protocol::PublicKey;
use tokio::sync::mpsc;

use crate::{Connection, Failure};

/// Hex digits of a key that are shown: 64 bits, too many to imitate.
const SHOWN_DIGITS: usize = 16;

/// How long messages on their way may take when the chat ends.
const LAST_ACKS: Duration = Duration::from_secs(5);

const HELP: &str = "/who lists who is online; /to KEYPREFIX selects whom to write to; /quit ends; \
                    anything else is sent to the one selected; // sends a text that starts with /";

/// Chat line by line: /who, /to KEYPREFIX, /quit; everything else is sent
#[derive(Args)]
pub(crate) struct Chat {
    #[command(flatten)]
    connection: Connection,
}

impl Chat {
    pub(crate) async fn run(self) -> Result<(), Failure> {
        let config = self.connection.config("chat")?;
        let (handle, events) = Client::connect(config);
        let room = Room { handle, online: BTreeSet::new(), selected: None, unanswered: HashSet::new() };
        match room.run(events, read_lines()).await {
            // Nobody reads any more.
            Err(error) if is_broken_pipe(&error) => Ok(()),
            result => Ok(result?),
        }
    }
}

/// Reads standard input on a thread of its own, which may wait for a line for ever without keeping
/// the program from ending.
fn read_lines() -> mpsc::Receiver<io::Result<String>> {
    let (lines, queue) = mpsc::channel(16);
    thread::spawn(move || {
        for line in io::stdin().lock().lines() {
            let is_fatal = line.as_ref().is_err_and(|error| error.kind() != io::ErrorKind::InvalidData);
            if lines.blocking_send(line).is_err() || is_fatal {
                return;
            }
        }
    });
    queue
}

/// What is on the screen.
struct Room {
    handle: Handle,
    online: BTreeSet<PublicKey>,
    selected: Option<PublicKey>,
    /// Own messages without an answer.
    unanswered: HashSet<String>,
}

enum Next {
    GoOn,
    Quit,
}

impl Room {
    async fn run(
        mut self,
        mut events: EventStream,
        mut lines: mpsc::Receiver<io::Result<String>>,
    ) -> anyhow::Result<()> {
        // Lines typed, or piped in, before the lobby is known could not be sent to anybody.
        let mut is_ready = false;
        loop {
            tokio::select! {
                event = events.next() => match event {
                    Some(event) => {
                        is_ready |= matches!(event, Event::Lobby { .. });
                        self.show(event)?;
                    }
                    None => return Err(anyhow!("the client has ended")),
                },
                line = lines.recv(), if is_ready => match line {
                    Some(line) => match self.line(&line.context("cannot read standard input")?).await? {
                        Next::GoOn => {}
                        Next::Quit => break,
                    },
                    None => break,
                },
            }
        }
        let answers = async {
            while !self.unanswered.is_empty() {
                let Some(event) = events.next().await else { break };
                self.show(event)?;
            }
            anyhow::Ok(())
        };
        // Later answers are not waited for.
        tokio::time::timeout(LAST_ACKS, answers).await.unwrap_or(Ok(()))?;
        self.handle.close().await;
        while events.next().await.is_some() {}
        Ok(())
    }

    async fn line(&mut self, line: &str) -> anyhow::Result<Next> {
        match line.split_once(' ').unwrap_or((line, "")) {
            ("", "") => {}
            ("/quit", "") => return Ok(Next::Quit),
            ("/help", "") => say(format_args!("* {HELP}"))?,
            ("/who", "") => {
                for key in &self.online {
                    let note = if *key == self.handle.public_key() { " (you)" } else { "" };
                    let mark = if Some(*key) == self.selected { ">" } else { "*" };
                    say(format_args!("{mark} {key}{note}"))?;
                }
            }
            ("/to", prefix) => self.select(prefix.trim())?,
            (command, _) if command.starts_with('/') && !command.starts_with("//") => {
                say(format_args!("! there is no {}; {HELP}", ForTerminal(command)))?;
            }
            _ => self.send(if line.starts_with("//") { &line[1..] } else { line }).await?,
        }
        Ok(Next::GoOn)
    }

    fn select(&mut self, prefix: &str) -> anyhow::Result<()> {
        let mut matches = self.online.iter().filter(|key| key.to_hex().as_str().starts_with(prefix));
        let found = match (prefix, matches.next(), matches.next()) {
            ("", ..) => return say(format_args!("! /to needs the first digits of a key; /who lists them")),
            (_, Some(key), None) => *key,
            (_, Some(_), Some(_)) => return say(format_args!("! several keys start so: give more digits")),
            (whole, None, _) => match PublicKey::from_hex(whole) {
                Some(key) => key,
                None => return say(format_args!("! nobody online has a key that starts so")),
            },
        };
        self.selected = Some(found);
        say(format_args!("* writing to {found}"))
    }

    async fn send(&mut self, text: &str) -> anyhow::Result<()> {
        let Some(to) = self.selected else {
            return say(format_args!("! nobody is selected: /who lists who is online, /to KEYPREFIX selects"));
        };
        match self.handle.submit(to, text).await {
            Ok(id) => {
                self.unanswered.insert(id);
                Ok(())
            }
            Err(error) => say(format_args!("! not sent: {error}")),
        }
    }

    fn show(&mut self, event: Event) -> anyhow::Result<()> {
        match event {
            Event::Welcome { relay, public_key, .. } => say(format_args!("* connected to {relay} as {public_key}")),
            Event::Lobby { users, .. } => {
                self.online = users.into_iter().collect();
                say(format_args!("* {} online; /help explains", self.online.len()))?;
                self.check_selected()
            }
            Event::Joined { public_key, .. } => {
                self.online.insert(public_key);
                say(format_args!("* {} joined", short(&public_key)))
            }
            Event::Left { public_key, .. } => {
                self.online.remove(&public_key);
                say(format_args!("* {} left", short(&public_key)))?;
                self.check_selected()
            }
            Event::Message(message) => self.show_message(&message),
            Event::BadSignature(dropped) => {
                let sender = short(&dropped.sender_public_key);
                say(format_args!("! dropped a message that {sender} is said to have sent, but did not sign"))
            }
            Event::Ack { client_message_id, recipient_online, .. } => {
                self.unanswered.remove(&client_message_id);
                if recipient_online { Ok(()) } else { say(format_args!("* kept by the relay until they come online")) }
            }
            Event::Failed { client_message_id, details, .. } => {
                self.unanswered.remove(&client_message_id);
                say(format_args!("! not sent: {}", ForTerminal(&details)))
            }
            Event::Error { details, .. } => say(format_args!("! the relay says: {}", ForTerminal(&details))),
            Event::Closed { details, retry: false, .. } => Err(anyhow!(details)),
            Event::Closed { details, .. } => say(format_args!("* disconnected: {}", ForTerminal(&details))),
            Event::Reconnecting { delay_ms, .. } => {
                say(format_args!("* next attempt in {}.{} s", delay_ms / 1000, delay_ms % 1000 / 100))
            }
            _ => Ok(()),
        }
    }

    fn show_message(&self, message: &ReceivedMessage) -> anyhow::Result<()> {
        let own = self.handle.public_key();
        let place = match (&message.room_id, message.recipient_public_key) {
            (Some(room), Some(_)) => format!(" in {room}, privately"),
            (Some(room), None) => format!(" in {room}"),
            (None, Some(recipient)) if recipient != own => format!(" to {}", short(&recipient)),
            (None, _) => String::new(),
        };
        let sender = &message.sender_public_key;
        let sender = if *sender == own { "you".to_owned() } else { short(sender) };
        say(format_args!("{sender}{place}> {}", ForTerminal(&message.message)))
    }

    /// Forgets a selected user who is not online.
    fn check_selected(&mut self) -> anyhow::Result<()> {
        match self.selected {
            Some(selected) if !self.online.contains(&selected) => {
                self.selected = None;
                say(format_args!("* recipient went offline: nobody is selected now"))
            }
            _ => Ok(()),
        }
    }
}

fn short(key: &PublicKey) -> String {
    key.to_hex().as_str()[..SHOWN_DIGITS].to_owned()
}

fn say(line: std::fmt::Arguments<'_>) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).context("cannot write to standard output")
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
