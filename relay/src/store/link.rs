//! A shard's end of the queues to and from the store.
//!
//! # Invariants
//! - No call blocks. A shard has at most [`BATCHES_MAX`] batches, [`LOADS_MAX`] requests of pages of inboxes
//!   and [`SEARCHES_MAX`] of history under way; what is beyond waits here, and goes as answers come. Of
//!   history at most [`SEARCHES_WAITING_MAX`] wait.
//! - The queue to the store has room for all of them, and so has the way back: neither side waits.
//! - Batches go in their order. A page request goes after the batches that were pushed before it; it
//!   may go after later ones.

use std::collections::VecDeque;

use crossbeam_channel::{Receiver, Sender};
use relay_core::store::PageOf;
use relay_core::{Batch, Event, Page, PageRequest, StoreFault};
use relay_store::Load;

/// Batches of one shard under way. The core has fewer.
const BATCHES_MAX: usize = 16;

/// Requests of one shard under way for pages of inboxes: some milliseconds of reading. More wait at the
/// shard, where they hold up nobody's commit.
const LOADS_MAX: usize = 16;

/// The same for pages of history. A search through a long one may take seconds: whoever comes back and
/// wants the messages that wait is not to stand in line behind many of them.
const SEARCHES_MAX: usize = 8;

/// Requests of history that wait at the shard: one for each connection that asked, whether or not it is
/// still there. One more is refused, so that nobody makes them many by coming and going.
const SEARCHES_WAITING_MAX: usize = 16 * 1024;

/// Answers that one shard can be owed.
pub(super) const ANSWERS_MAX: usize = BATCHES_MAX + LOADS_MAX + SEARCHES_MAX;

/// From a shard to the store.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) shard: u16,
    pub(super) what: Asked,
}

#[derive(Debug)]
pub(super) enum Asked {
    Store(Box<Batch>),
    Load(Box<PageRequest>),
}

/// From the store to a shard.
#[derive(Debug)]
pub(super) enum Answer {
    Stored(Box<Batch>, Result<(), StoreFault>),
    Loaded(Box<Page>),
}

/// See the module. Belongs to the shard's thread.
#[derive(Debug)]
pub(crate) struct StoreLink {
    shard: u16,
    requests: Sender<Request>,
    answers: Receiver<Answer>,
    batches: VecDeque<Box<Batch>>,
    batches_under_way: usize,
    loads: Line,
    searches: Line,
    /// Pages that are refused, until the shard looks for its mail.
    refused: VecDeque<Box<Page>>,
}

/// Page requests that wait, and how many are under way.
#[derive(Debug, Default)]
struct Line {
    waiting: VecDeque<Box<PageRequest>>,
    under_way: usize,
}

impl Line {
    /// The next that may go.
    fn next(&mut self, max: usize) -> Option<Box<PageRequest>> {
        let next = (self.under_way < max).then(|| self.waiting.pop_front()).flatten();
        self.under_way += usize::from(next.is_some());
        next
    }

    fn len(&self) -> usize {
        self.waiting.len() + self.under_way
    }
}

impl StoreLink {
    pub(super) fn new(shard: u16, requests: Sender<Request>, answers: Receiver<Answer>) -> Self {
        Self {
            shard,
            requests,
            answers,
            batches: VecDeque::new(),
            batches_under_way: 0,
            loads: Line::default(),
            searches: Line::default(),
            refused: VecDeque::new(),
        }
    }

    /// Gives a batch to be stored.
    pub(crate) fn store(&mut self, batch: Box<Batch>) {
        self.batches.push_back(batch);
        self.flush();
    }

    /// Asks for a page.
    pub(crate) fn load(&mut self, request: Box<PageRequest>) {
        if self.searches.waiting.len() >= SEARCHES_WAITING_MAX && matches!(request.what, PageOf::History { .. }) {
            self.refused.push_back(Load::new(*request).failed(StoreFault::Full));
            return;
        }
        self.line(&request).waiting.push_back(request);
        self.flush();
    }

    fn line(&mut self, request: &PageRequest) -> &mut Line {
        match request.what {
            PageOf::Inbox { .. } => &mut self.loads,
            PageOf::History { .. } => &mut self.searches,
        }
    }

    /// Sends what may go.
    fn flush(&mut self) {
        while self.batches_under_way < BATCHES_MAX
            && let Some(batch) = self.batches.pop_front()
        {
            self.batches_under_way += 1;
            self.send(Asked::Store(batch));
        }
        while self.batches.is_empty()
            && let Some(request) = self.loads.next(LOADS_MAX).or_else(|| self.searches.next(SEARCHES_MAX))
        {
            self.send(Asked::Load(request));
        }
    }

    fn send(&self, what: Asked) {
        // There is room for all that may be under way. The store outlives its links, unless it has
        // panicked, and then the process ends.
        let sent = self.requests.try_send(Request { shard: self.shard, what });
        debug_assert!(sent.is_ok(), "the queue to the store has room");
    }

    /// Whether the store has answered something.
    pub(crate) fn has_mail(&self) -> bool {
        !self.answers.is_empty() || !self.refused.is_empty()
    }

    /// Whether nothing is under way or waits.
    pub(crate) fn is_idle(&self) -> bool {
        self.batches_under_way + self.batches.len() + self.loads.len() + self.searches.len() == 0
    }

    /// Tells what the store has answered.
    pub(crate) fn drain(&mut self, mut tell: impl FnMut(Event<'static>)) {
        self.refused.drain(..).for_each(|page| tell(Event::Loaded { page }));
        for _ in 0..ANSWERS_MAX {
            let Ok(answer) = self.answers.try_recv() else { break };
            match answer {
                Answer::Stored(batch, result) => {
                    self.batches_under_way -= 1;
                    tell(Event::Stored { batch, result });
                }
                Answer::Loaded(page) => {
                    self.line(&page.request).under_way -= 1;
                    tell(Event::Loaded { page });
                }
            }
        }
        self.flush();
    }
}
