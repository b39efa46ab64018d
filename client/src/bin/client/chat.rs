//! `client chat`: a line chat. Whatever others wrote is shown with control characters escaped, so
//! that nobody can write to the terminal but this program.
//!
//! What is shown counts as read, and says so to its sender unless `--no-read-receipts`. Typing of
//! others is shown; the own is not told, since a terminal gives whole lines.

mod commands;
mod show;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::io::{self, BufRead, Write};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, SystemTime};

use anyhow::{Context, anyhow};
use clap::Args;
use client::escape::ForTerminal;
use client::history::Peer;
use client::history_file::{HistoryFile, PastMessage};
use client::{Client, Event, EventStream, Handle, Recipient};
use protocol::{PublicKey, Timestamp};
use tokio::sync::mpsc;

use crate::{Connection, Failure};

/// Hex digits of a key that are shown: 64 bits, too many to imitate.
const SHOWN_DIGITS: usize = 16;

/// How long messages on their way may take when the chat ends.
const LAST_ACKS: Duration = Duration::from_secs(5);

/// Own messages whose fate is followed: the latest.
const FOLLOWED_MAX: usize = 1024;

/// Rooms whose members are known for `/invite` and the like.
const ROOMS_MAX: usize = 64;

/// Messages of the history file that are shown at the start.
const PAST_SHOWN: usize = 20;

/// Characters of an own message that stand for it.
const LABEL_CHARS: usize = 32;

/// Chat line by line: /help lists the commands, everything else is sent
///
/// Messages written without a connection wait for one. Own messages are followed: ✓ the relay has
/// it, ✓✓ they have it, read.
#[derive(Args)]
pub(crate) struct Chat {
    #[command(flatten)]
    connection: Connection,

    /// Keep messages, and what became of the own ones, in a file of JSON lines, and show the last
    /// ones at the start
    #[arg(long, value_name = "FILE")]
    history: Option<PathBuf>,

    /// Do not tell senders that their messages were read
    #[arg(long)]
    no_read_receipts: bool,
}

impl Chat {
    pub(crate) async fn run(self) -> Result<(), Failure> {
        let mut config = self.connection.config("chat")?;
        let (file, past) = match &self.history {
            Some(path) => {
                let (file, past) = HistoryFile::open(path).map_err(|error| Failure::Usage(error.into()))?;
                (Some(file), past)
            }
            None => (None, Vec::new()),
        };
        config.remembered = past.iter().map(|message| (message.sender, message.id.clone())).collect();
        let (handle, events) = Client::connect(config);
        let screen = Screen {
            handle,
            reads: !self.no_read_receipts,
            file,
            online: BTreeSet::new(),
            selected: None,
            wanted: None,
            rooms: HashMap::new(),
            own: VecDeque::new(),
            unanswered: 0,
            page: None,
            is_connected: false,
        };
        match screen.run(past, events, read_lines()).await {
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

/// A room, as far as it was told.
struct RoomView {
    owner: PublicKey,
    members: BTreeSet<PublicKey>,
}

/// An own message.
struct Own {
    id: String,
    /// What stands for it on the screen.
    label: String,
    is_answered: bool,
}

/// A page of history that was shown.
struct Page {
    with: Peer,
    oldest_seq: Option<u64>,
}

/// What is on the screen.
struct Screen {
    handle: Handle,
    /// Whether what is shown is told as read.
    reads: bool,
    file: Option<HistoryFile>,
    online: BTreeSet<PublicKey>,
    /// To whom lines are sent.
    selected: Option<Peer>,
    /// The room to select once its answer says that this key is in it.
    wanted: Option<String>,
    rooms: HashMap<String, RoomView>,
    /// The latest own messages, oldest first.
    own: VecDeque<Own>,
    /// How many of them have no answer.
    unanswered: usize,
    /// The last page of history.
    page: Option<Page>,
    is_connected: bool,
}

enum Next {
    GoOn,
    Quit,
}

impl Screen {
    async fn run(
        mut self,
        past: Vec<PastMessage>,
        mut events: EventStream,
        mut lines: mpsc::Receiver<io::Result<String>>,
    ) -> anyhow::Result<()> {
        for message in &past[past.len().saturating_sub(PAST_SHOWN)..] {
            self.show_past(message)?;
        }
        // Lines typed, or piped in, before the lobby is known could not be sent to anybody.
        let mut is_ready = false;
        loop {
            tokio::select! {
                event = events.next() => match event {
                    Some(event) => {
                        is_ready |= matches!(event, Event::Lobby { .. } | Event::Closed { .. });
                        self.show(event).await?;
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
            while self.unanswered > 0 {
                let Some(event) = events.next().await else { break };
                self.show(event).await?;
            }
            anyhow::Ok(())
        };
        // Later answers are not waited for.
        tokio::time::timeout(LAST_ACKS, answers).await.unwrap_or(Ok(()))?;
        self.handle.close().await;
        while let Some(event) = events.next().await {
            if matches!(event, Event::Failed { .. }) {
                self.show(event).await?;
            }
        }
        Ok(())
    }

    async fn send(&mut self, to: Recipient, text: &str) -> anyhow::Result<()> {
        let id = match self.handle.submit(to.clone(), text).await {
            Ok(id) => id,
            Err(error) => return say(format_args!("! not sent: {error}")),
        };
        if let Some(file) = &mut self.file {
            file.own(&self.handle.public_key(), &to, &id, local_time(), text)?;
        }
        let label = label(text);
        if !self.is_connected {
            say(format_args!("… waits for a connection: {label}"))?;
        }
        if self.own.len() >= FOLLOWED_MAX
            && let Some(oldest) = self.own.pop_front()
        {
            self.unanswered -= usize::from(!oldest.is_answered);
        }
        self.own.push_back(Own { id, label, is_answered: false });
        self.unanswered += 1;
        Ok(())
    }

    /// What stands for an own message; `None` if it is none that is followed.
    fn label_of(&self, id: &str) -> Option<&str> {
        self.own.iter().rev().find(|own| own.id == id).map(|own| own.label.as_str())
    }

    /// Notes that an own message has its answer.
    fn answered(&mut self, id: &str) {
        if let Some(own) = self.own.iter_mut().rev().find(|own| own.id == id && !own.is_answered) {
            own.is_answered = true;
            self.unanswered -= 1;
        }
    }

    fn note_status(&mut self, id: &str, status: &str, reason: Option<&str>) -> anyhow::Result<()> {
        match &mut self.file {
            Some(file) => Ok(file.status(id, status, reason)?),
            None => Ok(()),
        }
    }
}

fn label(text: &str) -> String {
    let mut chars = text.chars();
    let start: String = chars.by_ref().take(LABEL_CHARS).collect();
    let rest = if chars.next().is_some() { "…" } else { "" };
    format!("\"{}{rest}\"", ForTerminal(&start))
}

fn short(key: &PublicKey) -> String {
    key.to_hex().as_str()[..SHOWN_DIGITS].to_owned()
}

/// For the history file; what is signed follows the relay's clock.
fn local_time() -> Timestamp {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_unix_ms(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

fn say(line: std::fmt::Arguments<'_>) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).context("cannot write to standard output")
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
