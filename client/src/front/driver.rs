//! The task behind a client: carries out the session's effects, serves commands, hands out events.

use std::collections::{HashMap, VecDeque};
use std::pin::pin;
use std::time::{Duration, Instant};

use protocol::PublicKey;
use protocol::frame::RoomAction;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{sleep, sleep_until, timeout};

use super::connection::{Connection, Progress};
use super::{Acked, Handled, Queues, SendError, Told};
use crate::endpoint::Endpoint;
use crate::event::{CLOSED, Event, NO_ANSWER};
use crate::history::{Entry, Peer};
use crate::session::{ComposeError, Effect, Recipient, RequestError, Session};

/// RFC 6455, 7.4.1: the purpose is fulfilled.
const CLOSE_NORMAL: u16 = 1000;

/// What handles ask for.
#[derive(Debug)]
pub(super) enum Command {
    Send { to: Recipient, text: String, reply: oneshot::Sender<Result<Acked, SendError>> },
    Submit { to: Recipient, text: String, reply: oneshot::Sender<Result<String, ComposeError>> },
    Ask { request: Request, reply: oneshot::Sender<Result<(), RequestError>> },
    Lobby { reply: oneshot::Sender<Vec<PublicKey>> },
    History { peer: Peer, reply: oneshot::Sender<Vec<Entry>> },
    Close,
}

/// What is asked of the relay besides messages.
#[derive(Debug)]
pub(super) enum Request {
    Room { room: String, action: RoomAction },
    History { with: Peer, before_seq: Option<u64>, limit: u64 },
    Read { seq: u64 },
    Typing { peer: Peer, is_typing: bool },
}

/// How a connection ended.
struct End {
    code: Option<u16>,
    details: String,
}

/// Events on their way to the user.
struct Outlet {
    queue: mpsc::Sender<Told>,
    /// What the queue has no room for yet. Reading stops until it is empty.
    backlog: VecDeque<Told>,
    is_open: bool,
}

impl Outlet {
    fn push(&mut self, told: Told) {
        if self.is_open {
            self.backlog.push_back(told);
        }
    }

    /// Hands out one event, or notices that nobody takes them any more. Cancel-safe.
    async fn turn(&mut self) {
        if self.backlog.is_empty() {
            self.queue.closed().await;
            self.is_open = false;
        } else if let Ok(permit) = self.queue.reserve().await {
            if let Some(event) = self.backlog.pop_front() {
                permit.send(event);
            }
        } else {
            self.is_open = false;
            self.backlog.clear();
        }
    }
}

/// Commands on their way in.
struct Inlet {
    queue: mpsc::Receiver<Command>,
    is_open: bool,
}

pub(super) struct Driver {
    session: Session,
    endpoint: Endpoint,
    reconnect: bool,
    connect_timeout: Duration,
    inlet: Inlet,
    outlet: Outlet,
    /// The last message that the user is done with.
    handled: watch::Receiver<Handled>,
    /// Senders that wait for an answer, by message id.
    waiting: HashMap<String, oneshot::Sender<Result<Acked, SendError>>>,
    effects: Vec<Effect>,
    /// Set by [`Command::Close`].
    is_closing: bool,
}

impl Driver {
    pub(super) fn new(
        session: Session,
        endpoint: Endpoint,
        reconnect: bool,
        connect_timeout: Duration,
        Queues { commands, events, handled }: Queues,
    ) -> Self {
        Self {
            session,
            endpoint,
            reconnect,
            connect_timeout,
            inlet: Inlet { queue: commands, is_open: true },
            outlet: Outlet { queue: events, backlog: VecDeque::new(), is_open: true },
            handled,
            waiting: HashMap::new(),
            effects: Vec::new(),
            is_closing: false,
        }
    }

    pub(super) async fn run(mut self) {
        loop {
            let end = self.connect_and_serve().await;
            let (random, now) = (random(), Instant::now());
            let delay = self.session.disconnected(end.code, &end.details, random, now, &mut self.effects);
            let delay = delay.filter(|_| self.reconnect && !self.is_stopping());
            if delay.is_none() {
                // Before `closed`, which is the last word.
                let mut failed = Vec::new();
                self.session.give_up(&end.details, &mut failed);
                self.effects.splice(..0, failed);
            }
            self.tell_end(delay.is_some());
            match delay {
                Some(delay) if self.meanwhile(sleep(delay)).await.is_some() => self.wait_for_user().await,
                // Told to close while waiting: `closed` with another attempt announced was no last word.
                Some(_) => {
                    let details = CLOSED_HERE.to_owned();
                    self.session.give_up(&details, &mut self.effects);
                    self.effects.push(Effect::Event(Event::Closed { code: None, details, retry: false }));
                    self.tell_end(false);
                    break;
                }
                None => break,
            }
        }
        while self.outlet.is_open && !self.outlet.backlog.is_empty() {
            self.outlet.turn().await;
        }
    }

    /// Whether nobody wants the client any more.
    fn is_stopping(&self) -> bool {
        self.is_closing || (!self.inlet.is_open && !self.outlet.is_open)
    }

    async fn connect_and_serve(&mut self) -> End {
        let endpoint = self.endpoint.clone();
        let seconds = self.connect_timeout.as_secs_f32();
        let opened = match self.meanwhile(timeout(self.connect_timeout, Connection::open(&endpoint))).await {
            Some(Ok(opened)) => opened,
            Some(Err(_)) => Err(format!("cannot connect to {} within {seconds} s", endpoint.url())),
            None => return closed_here(),
        };
        match opened {
            Ok(connection) => {
                self.catch_up();
                self.session.connected(Instant::now());
                self.serve(connection).await
            }
            Err(details) => End { code: None, details },
        }
    }

    /// Drives one connection to its end.
    async fn serve(&mut self, mut connection: Connection) -> End {
        loop {
            if self.is_stopping() {
                self.catch_up();
                self.session.finish(Instant::now(), &mut self.effects);
                for effect in std::mem::take(&mut self.effects) {
                    match effect {
                        Effect::Send(frame) => connection.queue(frame),
                        Effect::Event(event) => self.tell(event),
                        Effect::Close { .. } => {}
                    }
                }
                connection.close(CLOSE_NORMAL).await;
                return closed_here();
            }
            let reads = self.outlet.backlog.is_empty();
            if !reads {
                // Silence means nothing while nobody listens.
                self.session.unread(Instant::now());
            }
            let deadline = self.session.poll_timeout(Instant::now());
            tokio::select! {
                progress = connection.next(reads) => match progress {
                    Progress::Text(text) => self.session.handle_text(&text, Instant::now(), &mut self.effects),
                    Progress::Drained => self.session.drained(Instant::now(), &mut self.effects),
                    Progress::Heard => self.session.heard(Instant::now()),
                    Progress::Flushed => {}
                    Progress::Ended(code, details) => return End { code, details },
                },
                command = self.inlet.queue.recv(), if self.inlet.is_open && !connection.is_backed_up() => {
                    self.command(command);
                }
                () = self.outlet.turn(), if self.outlet.is_open => {}
                Ok(()) = self.handled.changed() => self.note_handled(),
                () = until(deadline) => self.session.handle_timeout(Instant::now(), &mut self.effects),
            }
            let mut effects = std::mem::take(&mut self.effects);
            for effect in effects.drain(..) {
                match effect {
                    Effect::Send(frame) => connection.queue(frame),
                    Effect::Event(event) => self.tell(event),
                    Effect::Close { code, details } => {
                        connection.close(code).await;
                        return End { code: None, details };
                    }
                }
            }
            self.effects = effects;
        }
    }

    /// Waits for something else while serving commands and handing out events; `None` if told to
    /// stop first.
    async fn meanwhile<F: Future>(&mut self, future: F) -> Option<F::Output> {
        let mut future = pin!(future);
        while !self.is_stopping() {
            tokio::select! {
                output = &mut future => return Some(output),
                command = self.inlet.queue.recv(), if self.inlet.is_open => self.command(command),
                () = self.outlet.turn(), if self.outlet.is_open => {}
            }
        }
        None
    }

    /// Waits until the user has taken what is told, so that attempts without end tell no events without
    /// end.
    async fn wait_for_user(&mut self) {
        while !self.is_stopping() && self.outlet.is_open && !self.outlet.backlog.is_empty() {
            tokio::select! {
                command = self.inlet.queue.recv(), if self.inlet.is_open => self.command(command),
                () = self.outlet.turn() => {}
            }
        }
    }

    fn command(&mut self, command: Option<Command>) {
        let Some(command) = command else {
            self.inlet.is_open = false;
            return;
        };
        // Whoever asked may have gone; then nobody misses the answer.
        match command {
            Command::Send { to, text, reply } => match self.compose(&to, &text) {
                Ok(id) => {
                    self.waiting.insert(id, reply);
                }
                Err(error) => drop(reply.send(Err(error.into()))),
            },
            Command::Submit { to, text, reply } => drop(reply.send(self.compose(&to, &text))),
            Command::Ask { request, reply } => drop(reply.send(self.ask(request))),
            Command::Lobby { reply } => drop(reply.send(self.session.lobby().users().iter().copied().collect())),
            Command::History { peer, reply } => drop(reply.send(self.session.history().with(&peer).cloned().collect())),
            Command::Close => self.is_closing = true,
        }
    }

    fn compose(&mut self, to: &Recipient, text: &str) -> Result<String, ComposeError> {
        self.session.send(to, text, Instant::now(), &mut self.effects)
    }

    fn ask(&mut self, request: Request) -> Result<(), RequestError> {
        let (now, effects) = (Instant::now(), &mut self.effects);
        match request {
            Request::Room { room, action } => self.session.room(&room, &action, now, effects),
            Request::History { with, before_seq, limit } => {
                self.session.request_history(with, before_seq, limit, now, effects)
            }
            Request::Read { seq } => self.session.read(seq, now, effects),
            Request::Typing { peer, is_typing } => self.session.typing(&peer, is_typing, now, effects),
        }
    }

    /// Notes what the user has handled meanwhile.
    fn catch_up(&mut self) {
        if !matches!(self.handled.has_changed(), Ok(false)) {
            self.note_handled();
        }
    }

    fn note_handled(&mut self) {
        let Handled { epoch, seq } = *self.handled.borrow_and_update();
        self.session.handled(epoch, seq, Instant::now(), &mut self.effects);
    }

    /// Answers whoever waits for this event, and hands it out.
    fn tell(&mut self, event: Event) {
        match &event {
            Event::Ack { client_message_id, recipient_online, .. } => {
                let acked = Acked { client_message_id: client_message_id.clone(), recipient_online: *recipient_online };
                self.answer(client_message_id, Ok(acked));
            }
            Event::Failed { client_message_id, reason, .. } if matches!(reason.as_str(), NO_ANSWER | CLOSED) => {
                self.answer(client_message_id, Err(SendError::Lost));
            }
            Event::Failed { client_message_id, reason, details, retry_after_ms } => {
                let refused = SendError::Refused {
                    reason: reason.clone(),
                    details: details.clone(),
                    retry_after_ms: *retry_after_ms,
                };
                self.answer(client_message_id, Err(refused));
            }
            _ => {}
        }
        let handled = self.session.epoch().zip(event.seq()).map(|(epoch, seq)| Handled { epoch, seq });
        self.outlet.push(Told { event, handled });
    }

    fn answer(&mut self, id: &str, result: Result<Acked, SendError>) {
        if let Some(reply) = self.waiting.remove(id) {
            drop(reply.send(result));
        }
    }

    /// Tells the events of an ended connection; another attempt only if there is to be one.
    fn tell_end(&mut self, retries: bool) {
        for effect in std::mem::take(&mut self.effects) {
            match effect {
                Effect::Event(Event::Closed { code, details, .. }) => {
                    self.tell(Event::Closed { code, details, retry: retries });
                }
                Effect::Event(Event::Reconnecting { .. }) if !retries => {}
                Effect::Event(event) => self.tell(event),
                // For a connection that is gone.
                Effect::Send(_) | Effect::Close { .. } => {}
            }
        }
    }
}

/// Why a connection ended that this client closed.
const CLOSED_HERE: &str = "this client closed";

fn closed_here() -> End {
    End { code: None, details: CLOSED_HERE.to_owned() }
}

/// Waits for a moment; forever without one.
async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

/// Uniform over all values, for the jitter; not secret.
fn random() -> u32 {
    getrandom::u32().unwrap_or(u32::MAX / 2)
}
