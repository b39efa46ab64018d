//! How sessions may end, and what a healthy one has got by the time nothing is under way.

use protocol::limits::{self, close};

use crate::invariant::{Checked, Invariant, ensure};
use crate::session::{End, Opening, Phase, Session};

impl Session {
    /// Checks how the session ended. `replaced` says that a newer connection of the device logged in
    /// or tried to; `crowded` that the key may have had too many devices; `tight` that even a good
    /// reader may be too slow or be left behind; `draining` that the relay goes away or is gone.
    pub(crate) fn check_end(&self, replaced: bool, crowded: bool, tight: bool, draining: bool) -> Checked {
        let Phase::Ended(end) = self.phase else {
            return Ok(());
        };
        let late = self.stalled || tight;
        match end {
            End::Own => Ok(()),
            End::Http(status) => {
                let expected = match self.opening {
                    Opening::WrongPath => 404,
                    Opening::PlainGet => 426,
                    Opening::NoUpgrade => 408,
                    _ => 0,
                };
                ensure(status == expected || draining, Invariant::CloseCode, || {
                    format!("HTTP {status} after a {:?} opening", self.opening)
                })
            }
            End::Code(code) => {
                let cause = match code {
                    close::REPLACED => replaced,
                    close::TOO_SLOW => late,
                    close::GOING_AWAY => draining,
                    close::TOO_MANY => {
                        crowded || self.frames + self.messages > u64::from(limits::CONTROL_FRAMES_PER_SECOND)
                    }
                    close::AUTH => late || !matches!(self.opening, Opening::Honest | Opening::BinaryFirst),
                    _ => false,
                };
                let ok = cause || self.causes.contains(&code) || self.close_sent == Some(code);
                ensure(ok, Invariant::CloseCode, || {
                    format!(
                        "connection {} closed with {code}: opening {:?}, causes {:?}",
                        self.id, self.opening, self.causes
                    )
                })?;
                let told = self.restarting || self.welcomed_at.is_none() || self.close_sent == Some(code);
                ensure(code != close::GOING_AWAY || told, Invariant::CloseCode, || {
                    format!("connection {} closed with 1001 without a word about restarting", self.id)
                })
            }
            End::Abrupt => {
                let excused = draining
                    || late
                    || self.half_closed
                    || self.close_sent.is_some()
                    || !self.causes.is_empty()
                    || self.opening != Opening::Honest;
                ensure(excused, Invariant::UnexpectedEnd, || {
                    format!("connection {} ended without a close frame", self.id)
                })
            }
        }
    }

    /// Checks, once quiet, that a healthy session got all its answers.
    pub(crate) fn check_quiet(&self) -> Checked {
        if !self.is_healthy() {
            return Ok(());
        }
        for (what, asked, answered) in
            [("nameless frames", self.nameless, self.nameless_answered), ("pings", self.pings, self.pongs)]
        {
            ensure(asked == answered, Invariant::AnswerMissing, || {
                format!("connection {}: {answered} answers to {asked} {what}", self.id)
            })?;
        }
        // RFC 6455, 5.5.3: only the latest of several pings must be answered.
        ensure((self.control_pings > 0) == (self.control_pongs > 0), Invariant::AnswerMissing, || {
            format!("connection {}: {} WebSocket pings unanswered", self.id, self.control_pings)
        })?;
        ensure(self.sync_asked.is_none_or(|before| self.lobby.snapshots > before), Invariant::LobbySync, || {
            format!("connection {} asked for a snapshot and got none", self.id)
        })
    }
}
