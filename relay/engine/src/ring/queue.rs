//! The two queues shared with the kernel, and the system call that moves them.
//!
//! # Invariants
//! - An operation once pushed is submitted, in order, whatever the kernel answers in between: what
//!   does not fit waits in a backlog in front of the next entry.
//! - `in_flight` counts operations pushed whose last completion has not been taken.
//! - Completions are made only inside [`Queue::enter`] (`DEFER_TASKRUN`): between two calls the
//!   kernel writes into no receive buffer.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use io_uring::types::{CancelBuilder, SubmitArgs, Timespec};
use io_uring::{EnterFlags, IoUring, Submitter, cqueue, opcode, squeue};

use crate::EngineStats;

use super::tag::{Operation, Tag};

/// Longest single wait, far below where kernel time arithmetic could overflow.
const WAIT_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// How long [`Queue::enter`] may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    /// Submits and leaves completions where they are.
    SubmitOnly,
    /// Submits and collects what is at hand.
    Collect,
    /// Submits and waits for one completion, at most this long if bounded.
    One(Option<Duration>),
}

/// A ring with room for any number of operations.
pub(super) struct Queue {
    ring: IoUring,
    /// Entries that found the submission queue full while the kernel took none.
    backlog: VecDeque<squeue::Entry>,
    in_flight: usize,
    overflowing: bool,
    stats: EngineStats,
}

impl Queue {
    /// Makes a ring for the calling thread alone.
    ///
    /// # Errors
    /// The kernel's, unchanged: `EPERM` or `ENOSYS` where io_uring is forbidden or missing,
    /// `EINVAL` where it is older than 6.1 or the sizes are out of range, `ENOMEM`.
    pub(super) fn new(submission_entries: u32, completion_entries: u32) -> io::Result<Self> {
        let ring = IoUring::builder()
            .setup_cqsize(completion_entries)
            .setup_submit_all()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .dontfork()
            .build(submission_entries)?;
        let parameters = ring.params();
        if !parameters.is_feature_ext_arg() || !parameters.is_feature_nodrop() {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        Ok(Self { ring, backlog: VecDeque::new(), in_flight: 0, overflowing: false, stats: EngineStats::default() })
    }

    /// For registrations.
    pub(super) fn submitter(&self) -> Submitter<'_> {
        self.ring.submitter()
    }

    /// Operations pushed and not yet completed.
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Counts since the ring was made.
    pub(super) fn stats(&self) -> EngineStats {
        self.stats
    }

    /// Counts a receive that found no buffer.
    pub(super) fn count_shortage(&mut self) {
        self.stats.buffer_shortages += 1;
    }

    /// Queues an operation for the next [`Queue::enter`]; enters at once when there is no room.
    ///
    /// # Safety
    /// Memory that the entry points to stays valid and unmoved until the operation's last
    /// completion, and its descriptor stays open as long.
    pub(super) unsafe fn push(&mut self, entry: squeue::Entry) {
        self.in_flight += 1;
        if self.backlog.is_empty() {
            // SAFETY: as promised by the caller.
            if unsafe { self.ring.submission().push(&entry) }.is_ok() {
                return;
            }
        }
        self.backlog.push_back(entry);
        // A failure shows again in the next `enter` of the owner, who can tell it.
        let _ = self.enter_once(Wait::SubmitOnly);
        self.refill();
    }

    /// Queues the cancellation of an operation. The operation itself completes, with or without
    /// it, and tells how.
    pub(super) fn cancel(&mut self, target: Tag) {
        let entry = opcode::AsyncCancel::new(target.pack()).build().user_data(Tag::anonymous(Operation::Cancel).pack());
        // SAFETY: the entry points to no memory and names no descriptor.
        unsafe { self.push(entry) };
    }

    /// Queues the cancellation of everything in flight.
    pub(super) fn cancel_all(&mut self) {
        let entry =
            opcode::AsyncCancel2::new(CancelBuilder::any()).build().user_data(Tag::anonymous(Operation::Cancel).pack());
        // SAFETY: the entry points to no memory and names no descriptor.
        unsafe { self.push(entry) };
    }

    /// Submits everything and waits as told. Returns early, without an error, when a signal or the
    /// time limit ends the wait or the kernel asks to try again later.
    ///
    /// # Errors
    /// The kernel's, when the ring can no longer be used, or `OutOfMemory` when it had to drop
    /// completions.
    pub(super) fn enter(&mut self, wait: Wait) -> io::Result<()> {
        while self.refill() {
            if !self.enter_once(Wait::SubmitOnly)? {
                // The kernel takes no more before completions are handled: no time to sleep.
                self.enter_once(Wait::Collect)?;
                return Ok(());
            }
        }
        self.enter_once(wait)?;
        Ok(())
    }

    /// Moves the backlog into the submission queue. Whether some of it is left.
    fn refill(&mut self) -> bool {
        if self.backlog.is_empty() {
            return false;
        }
        let mut submission = self.ring.submission();
        while let Some(entry) = self.backlog.front() {
            // SAFETY: whoever pushed the entry first promised for it.
            if unsafe { submission.push(entry) }.is_err() {
                return true;
            }
            self.backlog.pop_front();
        }
        false
    }

    /// One system call. Whether the kernel took every entry of the submission queue.
    fn enter_once(&mut self, wait: Wait) -> io::Result<bool> {
        let queued = self.ring.submission().len();
        let (want, mut flags) = match wait {
            Wait::SubmitOnly if queued == 0 => return Ok(true),
            Wait::SubmitOnly => (0, EnterFlags::empty()),
            Wait::Collect => (0, EnterFlags::GETEVENTS),
            Wait::One(_) => (1, EnterFlags::GETEVENTS),
        };
        let limit = match wait {
            Wait::One(Some(limit)) => Some(Timespec::from(limit.min(WAIT_MAX))),
            _ => None,
        };
        let mut arguments = SubmitArgs::new();
        if let Some(limit) = &limit {
            arguments = arguments.timespec(limit);
        }
        flags |= EnterFlags::EXT_ARG;
        self.stats.enters += 1;
        // SAFETY: the flags say that the argument is the extended one, which it is (`SubmitArgs`
        // is transparent); it lives through the call, and so does the time it points to.
        let result = unsafe { self.ring.submitter().enter(queued as u32, want, flags.bits(), Some(&arguments)) };
        let taken = match result {
            Ok(taken) => taken,
            Err(error) => match error.raw_os_error() {
                // The time is up; a signal came; no memory for requests now; completions have to
                // be handled first.
                Some(libc::ETIME | libc::EINTR | libc::EAGAIN | libc::EBUSY) => 0,
                _ => return Err(error),
            },
        };
        self.stats.submissions += taken as u64;
        self.watch_overflow()?;
        Ok(taken == queued)
    }

    /// Counts the times that the completion queue starts to overflow.
    fn watch_overflow(&mut self) -> io::Result<()> {
        let overflowing = self.ring.submission().cq_overflow();
        if overflowing && !self.overflowing {
            self.stats.completion_overflows += 1;
        }
        self.overflowing = overflowing;
        if self.ring.completion().overflow() > 0 {
            return Err(io::Error::new(
                io::ErrorKind::OutOfMemory,
                "the kernel had no memory to keep completions and dropped some",
            ));
        }
        Ok(())
    }

    /// Whether entering would do anything: entries wait to be submitted, or the kernel holds
    /// completions back. Costs no system call.
    pub(super) fn has_work(&mut self) -> bool {
        let submission = self.ring.submission();
        !self.backlog.is_empty() || !submission.is_empty() || must_collect(&submission)
    }

    /// Whether the kernel holds completions back until the next call that collects.
    pub(super) fn must_collect(&mut self) -> bool {
        must_collect(&self.ring.submission())
    }

    /// Whether completions are at hand.
    pub(super) fn has_completions(&mut self) -> bool {
        !self.ring.completion().is_empty()
    }

    /// Takes one completion.
    pub(super) fn next(&mut self) -> Option<cqueue::Entry> {
        let entry = self.ring.completion().next()?;
        self.stats.completions += 1;
        if !cqueue::more(entry.flags()) {
            self.in_flight -= 1;
        }
        Some(entry)
    }
}

fn must_collect(submission: &squeue::SubmissionQueue<'_>) -> bool {
    submission.taskrun() || submission.cq_overflow()
}
