//! Frames that are neither messages nor the opening: rooms, history, typing, `read`. They wait in a
//! bounded queue for the relay's limit on frames, and go with the connection.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use protocol::frame::{RoomAction, Target};
use protocol::keys::is_id;
use protocol::server_frame::{ErrorFrame, HistoryPage, Receipt, ReceiptStatus, RoomState, RoomUpdate, Typing};
use protocol::{encode, limits};
use thiserror::Error;

use super::state::{Phase, State, text_of};
use super::{Effect, Event};
use crate::event::NO_ANSWER;
use crate::history::{Entry, Peer, Status, peer_of};
use crate::pace::Bucket;

/// Frames a second and at once that this client sends besides new messages: four fifths of what the
/// relay takes ([`limits::CONTROL_FRAMES_PER_SECOND`], and as much again at once), since its clock
/// sees them closer together than they were sent.
const PER_SECOND: u64 = limits::CONTROL_FRAMES_PER_SECOND as u64 * 4 / 5;
const AT_ONCE: u64 = 2 * PER_SECOND;

/// Frames that wait at most.
const WAITING_MAX: usize = 256;

/// Pages of history that wait to be asked for; one is asked for at a time, since an answer does not
/// say to which question it belongs.
const PAGES_MAX: usize = 16;

/// How long the relay may take for a page.
const PAGE_TIMEOUT: Duration = Duration::from_secs(15);

/// How often `typing` says so again while it goes on.
const TYPING_INTERVAL: Duration = Duration::from_secs(3);

/// Conversations that can be typed in at once.
const TYPING_MAX: usize = 16;

/// Why a request is not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum RequestError {
    /// There is no open session.
    #[error("there is no connection to the relay")]
    NotOpen,
    /// The room's id has another form.
    #[error("a room's id is 1 to 64 of A-Z a-z 0-9 - _ . :")]
    Room,
    /// A page has 1 to 100 messages.
    #[error("a page of history has 1 to {max} messages", max = limits::HISTORY_MESSAGES)]
    Limit,
    /// Too many requests wait already.
    #[error("too many requests wait for the relay already")]
    TooMany,
}

/// A page of history to ask for.
#[derive(Debug)]
struct PageRequest {
    with: Peer,
    before_seq: Option<u64>,
    limit: u64,
}

#[derive(Debug)]
pub(super) struct Requests {
    waiting: VecDeque<String>,
    pub(super) pace: Bucket,
    /// Where the own key types, and when that was last said.
    typing: Vec<(Peer, Instant)>,
    pages: VecDeque<PageRequest>,
    /// The page that the relay was asked for, and until when it may answer.
    asked: Option<(PageRequest, Instant)>,
}

impl Requests {
    pub(super) fn new() -> Self {
        Self {
            waiting: VecDeque::new(),
            pace: Bucket::new(PER_SECOND, AT_ONCE),
            typing: Vec::new(),
            pages: VecDeque::new(),
            asked: None,
        }
    }

    /// What was asked of one connection, nothing answers on another.
    pub(super) fn end_connection(&mut self) {
        *self = Self { pace: self.pace, ..Self::new() };
    }

    pub(super) fn poll_timeout(&self, now: Instant) -> Option<Instant> {
        let ready = (!self.waiting.is_empty()).then(|| self.pace.ready_at(now));
        self.asked.as_ref().map(|&(_, deadline)| deadline).into_iter().chain(ready).min()
    }

    /// Lets no page count as unanswered before `at`.
    pub(super) fn postpone(&mut self, at: Instant) {
        if let Some((_, deadline)) = &mut self.asked {
            *deadline = at.max(*deadline);
        }
    }

    /// A message ends the typing by itself.
    pub(super) fn stop_typing(&mut self, peer: &Peer) {
        self.typing.retain(|(other, _)| other != peer);
    }
}

impl State {
    pub(super) fn is_open(&self) -> bool {
        matches!(self.phase, Phase::Open(_))
    }

    /// Sends a frame as soon as the relay's limit allows.
    fn request(
        &mut self,
        write: impl FnOnce(&mut Vec<u8>),
        now: Instant,
        effects: &mut Vec<Effect>,
    ) -> Result<(), RequestError> {
        if !self.is_open() {
            return Err(RequestError::NotOpen);
        }
        if self.requests.waiting.len() >= WAITING_MAX {
            return Err(RequestError::TooMany);
        }
        let mut frame = Vec::with_capacity(256);
        write(&mut frame);
        self.requests.waiting.push_back(text_of(frame));
        self.send_requests(now, effects);
        Ok(())
    }

    pub(super) fn send_requests(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        while self.requests.pace.ready_at(now) <= now
            && let Some(frame) = self.requests.waiting.pop_front()
        {
            self.requests.pace.take(now);
            effects.push(Effect::Send(frame));
        }
    }

    pub(super) fn room(
        &mut self,
        room: &str,
        action: &RoomAction,
        now: Instant,
        effects: &mut Vec<Effect>,
    ) -> Result<(), RequestError> {
        if !is_id(room) {
            return Err(RequestError::Room);
        }
        self.request(|out| encode::room_action(out, room, action), now, effects)
    }

    pub(super) fn read(&mut self, seq: u64, now: Instant, effects: &mut Vec<Effect>) -> Result<(), RequestError> {
        self.request(|out| encode::read(out, seq), now, effects)
    }

    pub(super) fn typing(
        &mut self,
        peer: &Peer,
        is_typing: bool,
        now: Instant,
        effects: &mut Vec<Effect>,
    ) -> Result<(), RequestError> {
        if matches!(peer, Peer::Room(room) if !is_id(room)) {
            return Err(RequestError::Room);
        }
        if !self.is_open() {
            return Err(RequestError::NotOpen);
        }
        let said = self.requests.typing.iter().find(|(other, _)| other == peer).map(|&(_, said)| said);
        let is_news = match said {
            Some(said) => !is_typing || now >= said + TYPING_INTERVAL,
            None => is_typing,
        };
        // Nobody misses one that comes at a busy time.
        if !is_news || !self.requests.waiting.is_empty() {
            return Ok(());
        }
        self.requests.stop_typing(peer);
        if is_typing {
            self.requests.typing.truncate(TYPING_MAX - 1);
            self.requests.typing.insert(0, (peer.clone(), now));
        }
        self.request(|out| encode::typing(out, &peer.as_target(), is_typing, None), now, effects)
    }

    pub(super) fn request_history(
        &mut self,
        with: Peer,
        before_seq: Option<u64>,
        limit: u64,
        now: Instant,
        effects: &mut Vec<Effect>,
    ) -> Result<(), RequestError> {
        if matches!(&with, Peer::Room(room) if !is_id(room)) {
            return Err(RequestError::Room);
        }
        if !(1..=limits::HISTORY_MESSAGES).contains(&limit) {
            return Err(RequestError::Limit);
        }
        if !self.is_open() {
            return Err(RequestError::NotOpen);
        }
        if self.requests.pages.len() >= PAGES_MAX {
            return Err(RequestError::TooMany);
        }
        self.requests.pages.push_back(PageRequest { with, before_seq, limit });
        self.ask_for_page(now, effects)
    }

    fn ask_for_page(&mut self, now: Instant, effects: &mut Vec<Effect>) -> Result<(), RequestError> {
        if self.requests.asked.is_some() {
            return Ok(());
        }
        let Some(page) = self.requests.pages.pop_front() else { return Ok(()) };
        let PageRequest { with, before_seq, limit } = &page;
        self.request(|out| encode::history_request(out, &with.as_target(), *before_seq, *limit), now, effects)?;
        self.requests.asked = Some((page, now + PAGE_TIMEOUT));
        Ok(())
    }

    /// Ends the wait for a page, and asks for the next one.
    fn next_page(&mut self, now: Instant, effects: &mut Vec<Effect>) -> Option<PageRequest> {
        let asked = self.requests.asked.take();
        if let Err(error) = self.ask_for_page(now, effects) {
            effects.push(Effect::Event(request_failed(error.to_string(), None)));
        }
        asked.map(|(page, _)| page)
    }

    pub(super) fn expire_page(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        if self.requests.asked.as_ref().is_some_and(|&(_, deadline)| deadline <= now)
            && let Some(page) = self.next_page(now, effects)
        {
            let room = match page.with {
                Peer::Room(room) => Some(room),
                Peer::User(_) => None,
            };
            let details = "the relay did not answer a request for history".to_owned();
            effects.push(Effect::Event(request_failed(details, room)));
        }
    }

    /// Notes an error that is about no own message: it may be the answer to a request for a page.
    pub(super) fn request_refused(&mut self, error: &ErrorFrame<'_>, now: Instant, effects: &mut Vec<Effect>) {
        let is_about = |page: &PageRequest| match (&page.with, error.room) {
            (Peer::Room(room), Some(other)) => room == other,
            (Peer::User(_), None) => true,
            _ => false,
        };
        if error.id.is_none() && self.requests.asked.as_ref().is_some_and(|(page, _)| is_about(page)) {
            self.next_page(now, effects);
        }
    }

    pub(super) fn history_page(&mut self, page: &HistoryPage<'_>, now: Instant, effects: &mut Vec<Effect>) {
        let Some(PageRequest { with, .. }) = self.next_page(now, effects) else {
            let details = "the relay sent a page of history that nobody asked for".to_owned();
            effects.push(Effect::Event(Event::BadFrame { details }));
            return;
        };
        let mut messages = Vec::with_capacity(page.messages.len());
        for pushed in &page.messages {
            let message = &pushed.message;
            let is_there = peer_of(&message.target, message.sender, self.public_key) == with;
            if !is_there || !self.is_mine(message) || !self.verifier.verify(message) {
                continue;
            }
            let received = Self::received(pushed);
            if !self.history.contains(&with, &message.sender, message.id) {
                let entry = Entry { status: self.status_of(message), ..Entry::from(&received) };
                self.history.insert(with.clone(), entry);
            }
            messages.push(received);
        }
        let dropped = (page.messages.len() - messages.len()) as u64;
        let (user, room) = match with {
            Peer::User(user) => (Some(user), None),
            Peer::Room(room) => (None, Some(room)),
        };
        let event = Event::History { with: user, room_id: room, messages, dropped, more: page.more };
        effects.push(Effect::Event(event));
    }

    pub(super) fn receipt(&mut self, receipt: &Receipt<'_>, effects: &mut Vec<Effect>) {
        let status = match receipt.status {
            ReceiptStatus::Delivered => Status::Delivered,
            ReceiptStatus::Read => Status::Read,
        };
        let peer = receipt.room.map_or(Peer::User(receipt.recipient), |room| Peer::Room(room.to_owned()));
        for id in &receipt.ids {
            self.history.set_status(&peer, id, status, None);
        }
        effects.push(Effect::Event(Event::Receipt {
            status: receipt.status,
            client_message_ids: receipt.ids.iter().map(|&id| id.to_owned()).collect(),
            recipient_public_key: receipt.recipient,
            room_id: receipt.room.map(str::to_owned),
        }));
    }

    pub(super) fn typing_of(&self, typing: &Typing<'_>, effects: &mut Vec<Effect>) {
        let room_id = match typing.target {
            Target::User(recipient) if recipient != self.public_key => return,
            Target::User(_) => None,
            Target::Room(room) | Target::RoomMember(room, _) => Some(room.to_owned()),
        };
        effects.push(Effect::Event(Event::Typing {
            sender_public_key: typing.sender,
            room_id,
            is_typing: typing.is_typing,
        }));
    }
}

pub(super) fn room_event(room: &RoomState<'_>) -> Event {
    Event::Room { room_id: room.room.to_owned(), owner: room.owner, open: room.open, members: room.members.clone() }
}

pub(super) fn room_update_event(update: &RoomUpdate<'_>) -> Event {
    Event::RoomUpdate {
        room_id: update.room.to_owned(),
        joined: update.joined.clone(),
        left: update.left.clone(),
        owner: update.owner,
    }
}

fn request_failed(details: String, room_id: Option<String>) -> Event {
    Event::Error { reason: NO_ANSWER.to_owned(), details, client_message_id: None, room_id, retry_after_ms: None }
}
