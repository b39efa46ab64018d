//! Which engine runs the shards, and why.

use std::fs;
use std::io;

use relay_engine::tokio_uring::TokioUring;
use relay_engine::{EngineConfig, EngineKind, ring};
use thiserror::Error;
use tracing::warn;

use crate::config::EngineOption;

/// An engine that works here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Which.
    pub kind: EngineKind,
    /// Why this one, in a few words.
    pub why: String,
}

/// The engine that was asked for does not work here.
#[derive(Debug, Error)]
#[error("engine {kind} does not work here: {source}: {fix}")]
pub struct Unavailable {
    /// Which.
    pub kind: EngineKind,
    /// What the kernel said.
    pub source: io::Error,
    /// What would help.
    pub fix: String,
}

/// Chooses an engine by trying it: for `ring`, by receiving a byte through one.
///
/// # Errors
/// When one was asked for by name that does not work here. [`EngineOption::Auto`] always finds one.
pub fn choose(wanted: EngineOption) -> Result<Choice, Unavailable> {
    // The runtime makes its ring as it is made itself; an engine that was made works.
    choose_by(wanted, ring::probe, || TokioUring::new(&EngineConfig::default()).map(drop))
}

fn choose_by(
    wanted: EngineOption,
    ring: impl FnOnce() -> io::Result<()>,
    tokio_uring: impl FnOnce() -> io::Result<()>,
) -> Result<Choice, Unavailable> {
    let named = |kind, probed: io::Result<()>| match probed {
        Ok(()) => Ok(Choice { kind, why: "asked for".to_owned() }),
        Err(source) => Err(Unavailable { kind, fix: fix(&source), source }),
    };
    match wanted {
        EngineOption::Ring => named(EngineKind::Ring, ring()),
        EngineOption::TokioUring => named(EngineKind::TokioUring, tokio_uring()),
        EngineOption::Epoll => named(EngineKind::Epoll, Ok(())),
        EngineOption::Auto => Ok(match ring() {
            Ok(()) => Choice { kind: EngineKind::Ring, why: "io_uring with all features".to_owned() },
            Err(error) => {
                warn!(%error, fix = fix(&error), "io_uring does not work here: falling back to epoll");
                Choice { kind: EngineKind::Epoll, why: format!("io_uring does not work here: {error}") }
            }
        }),
    }
}

/// What would let io_uring work, by what the kernel said.
fn fix(error: &io::Error) -> String {
    use rustix::io::Errno;

    match Errno::from_io_error(error) {
        Some(Errno::PERM | Errno::ACCESS) => match fs::read_to_string("/proc/sys/kernel/io_uring_disabled") {
            Ok(setting) if setting.trim() != "0" => {
                format!("sysctl kernel.io_uring_disabled is {}: set it to 0, or take --engine epoll", setting.trim())
            }
            _ => "the system call filter (seccomp) of the container or service forbids it: \
                  allow io_uring_setup, io_uring_enter and io_uring_register there, or take --engine epoll"
                .to_owned(),
        },
        Some(Errno::NOSYS) => "this kernel, or the system call filter of the container, has no io_uring: \
                               take Linux 6.1 or later and allow it there, or take --engine epoll"
            .to_owned(),
        Some(Errno::INVAL | Errno::OPNOTSUPP) => {
            "this kernel lacks a feature of io_uring: take Linux 6.1 or later, or --engine epoll".to_owned()
        }
        Some(Errno::NOMEM) => "too little locked memory: raise it (ulimit -l, LimitMEMLOCK=), \
                               or take --engine epoll"
            .to_owned(),
        _ => "take --engine epoll".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::{choose, choose_by};
    use crate::config::EngineOption;
    use relay_engine::EngineKind;
    use rustix::io::Errno;
    use std::io;

    fn fails(errno: Errno) -> impl FnOnce() -> io::Result<()> {
        move || Err(errno.into())
    }

    fn unasked() -> io::Result<()> {
        panic!("probed an engine that nobody asked for")
    }

    #[test]
    fn auto_takes_ring_where_it_works_and_says_why() {
        let choice = choose_by(EngineOption::Auto, || Ok(()), unasked).unwrap();
        assert_eq!((choice.kind, &*choice.why), (EngineKind::Ring, "io_uring with all features"));
    }

    #[test]
    fn auto_falls_back_to_epoll_and_says_why() {
        let choice = choose_by(EngineOption::Auto, fails(Errno::PERM), unasked).unwrap();
        assert_eq!(choice.kind, EngineKind::Epoll);
        assert!(choice.why.contains("Operation not permitted"), "{}", choice.why);
    }

    #[test]
    fn a_named_engine_that_does_not_work_is_an_error_with_the_fix() {
        let fixes = [
            (Errno::PERM, "seccomp"),
            (Errno::NOSYS, "no io_uring"),
            (Errno::INVAL, "Linux 6.1"),
            (Errno::NOMEM, "ulimit -l"),
            (Errno::IO, "--engine epoll"),
        ];
        for (errno, fix) in fixes {
            let text = choose_by(EngineOption::Ring, fails(errno), unasked).unwrap_err().to_string();
            // A machine that disables io_uring by sysctl is told so instead.
            let is_told = text.contains(fix) || text.contains("kernel.io_uring_disabled");
            assert!(text.starts_with("engine ring does not work here: ") && is_told, "{text}");
            assert!(text.contains("--engine epoll"));
        }
        let error = choose_by(EngineOption::TokioUring, unasked, fails(Errno::PERM)).unwrap_err();
        assert_eq!(error.kind, EngineKind::TokioUring);
    }

    #[test]
    fn epoll_needs_no_probe() {
        let choice = choose_by(EngineOption::Epoll, unasked, unasked).unwrap();
        assert_eq!((choice.kind, &*choice.why), (EngineKind::Epoll, "asked for"));
    }

    #[test]
    fn something_works_here() {
        choose(EngineOption::Auto).unwrap();
    }
}
