//! How connections end: with a close frame that is read, at once, or all of them because the relay goes
//! away.
//!
//! # Invariants
//! - A session leaves its user and the lobby when its end begins, not when its socket is gone.

use protocol::{encode, websocket};

use crate::config::nanos;
use crate::connection::{Closing, Connection, State};
use crate::effect::{Effect, Effects, ReadMode};
use crate::refusal::Closure;
use crate::shard::Core;

/// Clients are asked to come back after this long at least, and spread over as long again and more,
/// so that the relay that follows is up and does not meet all at once.
const RECONNECT_MIN_MS: u64 = 500;
const RECONNECT_SPREAD_MS: u64 = 4_500;

impl Core {
    /// Says goodbye to everybody. Clients come back spread over [`RECONNECT_SPREAD_MS`].
    pub(crate) fn drain(&mut self, effects: &mut Effects) {
        self.is_draining = true;
        self.journal.drain();
        for at in 0..self.slots.len() {
            let Some(mut connection) = self.slots[at].connection.take() else { continue };
            match &connection.state {
                State::Upgrading(_) => {
                    self.finish(connection, effects);
                    continue;
                }
                State::Active(session) => {
                    let part = self.config.hash(&session.member.key) % RECONNECT_SPREAD_MS;
                    let is_told =
                        self.post.text(&mut connection.link, |out| encode::restarting(out, RECONNECT_MIN_MS + part));
                    // A full outbox has no room for it, and is a reason of its own.
                    self.stats.closed_too_slow += u64::from(!is_told);
                    let closure = if is_told { Closure::GOING_AWAY } else { Closure::TOO_SLOW };
                    self.begin_close(&mut connection, closure, effects);
                }
                State::Challenged(_) | State::Moving(_) => {
                    self.begin_close(&mut connection, Closure::GOING_AWAY, effects);
                }
                State::Closing(_) => {}
            }
            self.put_back(connection);
        }
    }

    /// Sends a close frame and waits for it to be read. What waits in the outbox goes first, unless
    /// it overflowed.
    pub(crate) fn begin_close(&mut self, connection: &mut Connection, closure: Closure, effects: &mut Effects) {
        self.leave(connection);
        let link = &mut connection.link;
        if std::mem::take(&mut link.overflowed) {
            link.outbox.discard_pending();
        }
        self.post.last(link, |out| websocket::push_close(out, closure.code, closure.reason));
        self.enter_closing(connection, effects);
    }

    /// Closes once what waits in the outbox is written and read.
    pub(crate) fn enter_closing(&mut self, connection: &mut Connection, effects: &mut Effects) {
        let deadline = self.now.nanos + nanos(self.config.close_timeout);
        connection.state = State::Closing(Closing { deadline, peer_done: false, shut: false });
        let link = &mut connection.link;
        self.timers.arm(link.id, &mut link.armed, deadline);
        self.post.touch(link);
        effects.push(Effect::Read { connection: link.id, mode: ReadMode::Continuous });
    }

    /// Ends a connection at once.
    pub(crate) fn finish(&mut self, mut connection: Box<Connection>, effects: &mut Effects) {
        self.leave(&mut connection);
        self.stats.connections -= 1;
        effects.push(Effect::Close { connection: connection.link.id });
    }

    /// Closes those whose outbox overflowed in this batch.
    pub(crate) fn close_overflowed(&mut self, effects: &mut Effects) {
        while let Some(id) = self.post.overflowed.pop() {
            let Some(mut connection) = self.take_out(id) else { continue };
            if connection.link.overflowed {
                if matches!(connection.state, State::Active(_)) {
                    self.stats.closed_too_slow += 1;
                    self.begin_close(&mut connection, Closure::TOO_SLOW, effects);
                } else {
                    self.finish(connection, effects);
                    continue;
                }
            }
            self.put_back(connection);
        }
    }
}
