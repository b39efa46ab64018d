//! A shard's end of the queues to and from the store.
//!
//! # Invariants
//! - No call blocks. A shard has at most [`BATCHES_MAX`] batches and [`LOADS_MAX`] page requests under
//!   way; what is beyond waits here, and goes as answers come.
//! - The queue to the store has room for all of them, and so has the way back: neither side waits.
//! - Batches go in their order. A page request goes after the batches that were pushed before it; it
//!   may go after later ones.

use std::collections::VecDeque;

use crossbeam_channel::{Receiver, Sender};
use relay_core::{Batch, Event, Page, PageRequest, StoreFault};

/// Batches of one shard under way. The core has fewer.
const BATCHES_MAX: usize = 16;

/// Page requests of one shard under way: some milliseconds of reading. More wait at the shard, where
/// they hold up nobody's commit.
const LOADS_MAX: usize = 16;

/// Answers that one shard can be owed.
pub(super) const ANSWERS_MAX: usize = BATCHES_MAX + LOADS_MAX;

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
    loads: VecDeque<Box<PageRequest>>,
    batches_under_way: usize,
    loads_under_way: usize,
}

impl StoreLink {
    pub(super) fn new(shard: u16, requests: Sender<Request>, answers: Receiver<Answer>) -> Self {
        Self {
            shard,
            requests,
            answers,
            batches: VecDeque::new(),
            loads: VecDeque::new(),
            batches_under_way: 0,
            loads_under_way: 0,
        }
    }

    /// Gives a batch to be stored.
    pub(crate) fn store(&mut self, batch: Box<Batch>) {
        self.batches.push_back(batch);
        self.flush();
    }

    /// Asks for a page.
    pub(crate) fn load(&mut self, request: Box<PageRequest>) {
        self.loads.push_back(request);
        self.flush();
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
            && self.loads_under_way < LOADS_MAX
            && let Some(request) = self.loads.pop_front()
        {
            self.loads_under_way += 1;
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
        !self.answers.is_empty()
    }

    /// Whether nothing is under way or waits.
    pub(crate) fn is_idle(&self) -> bool {
        self.batches_under_way + self.loads_under_way + self.batches.len() + self.loads.len() == 0
    }

    /// Tells what the store has answered.
    pub(crate) fn drain(&mut self, mut tell: impl FnMut(Event<'static>)) {
        for _ in 0..ANSWERS_MAX {
            let Ok(answer) = self.answers.try_recv() else { break };
            match answer {
                Answer::Stored(batch, result) => {
                    self.batches_under_way -= 1;
                    tell(Event::Stored { batch, result });
                }
                Answer::Loaded(page) => {
                    self.loads_under_way -= 1;
                    tell(Event::Loaded { page });
                }
            }
        }
        self.flush();
    }
}
