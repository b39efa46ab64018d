//! When accepting rests, and which failures of it are told.
//!
//! # Invariants
//! - A failure that the next try would meet again begins a pause and is told once for it; a failure
//!   of one waiting connection is told and pauses nothing.

use std::time::{Duration, Instant};

/// Long enough that a process without descriptors does not spin, short enough that clients in the
/// backlog do not give up: SYN retransmission starts at 1 s.
const PAUSE: Duration = Duration::from_millis(100);

/// The pause of all listeners of one engine: what they are short of, they are short of together.
#[derive(Debug, Default)]
pub(crate) struct AcceptPause {
    until: Option<Instant>,
}

impl AcceptPause {
    /// Whether accepting rests now.
    pub(crate) fn in_force(&mut self) -> bool {
        let in_force = self.until.is_some_and(|end| Instant::now() < end);
        if !in_force {
            self.until = None;
        }
        in_force
    }

    /// Cuts a time limit that would outlast the pause.
    pub(crate) fn cut(&self, limit: Option<Duration>) -> Option<Duration> {
        let Some(end) = self.until else { return limit };
        let left = end.saturating_duration_since(Instant::now());
        Some(limit.map_or(left, |limit| limit.min(left)))
    }

    /// Takes note that accept failed with this `errno`, and returns whether that is to be told.
    pub(crate) fn accept_failed(&mut self, error: i32) -> bool {
        if concerns_one_connection(error) {
            return true;
        }
        let first = !self.in_force();
        if first {
            self.until = Some(Instant::now() + PAUSE);
        }
        first
    }
}

/// Whether accept took a connection off the queue and handed on that connection's error, or that of
/// a firewall that forbids it: accept(2), "Error handling".
fn concerns_one_connection(error: i32) -> bool {
    matches!(
        error,
        libc::ECONNABORTED
            | libc::EPERM
            | libc::EPROTO
            | libc::ENETDOWN
            | libc::ENOPROTOOPT
            | libc::EHOSTDOWN
            | libc::ENONET
            | libc::EHOSTUNREACH
            | libc::EOPNOTSUPP
            | libc::ENETUNREACH
    )
}

#[cfg(test)]
mod tests {
    use super::{AcceptPause, PAUSE};
    use std::time::{Duration, Instant};

    #[test]
    fn a_lack_of_descriptors_pauses_and_is_told_once() {
        let mut pause = AcceptPause::default();
        assert!(!pause.in_force());
        assert_eq!(pause.cut(None), None);
        assert!(pause.accept_failed(libc::EMFILE));
        // Far from its end, however slow the test runs.
        pause.until = Some(Instant::now() + Duration::from_secs(3600));
        assert!(!pause.accept_failed(libc::ENFILE));
        assert!(pause.in_force());
        assert!(pause.cut(None) > Some(PAUSE));
        assert_eq!(pause.cut(Some(Duration::ZERO)), Some(Duration::ZERO));
        pause.until = Some(Instant::now());
        assert!(!pause.in_force());
        assert!(pause.accept_failed(libc::EMFILE));
    }

    #[test]
    fn one_broken_connection_pauses_nothing() {
        let mut pause = AcceptPause::default();
        assert!(pause.accept_failed(libc::ECONNABORTED));
        assert!(pause.accept_failed(libc::ECONNABORTED));
        assert!(!pause.in_force());
    }
}
