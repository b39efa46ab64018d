//! Whether the engine works here.

use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use crate::{Disconnect, Engine, EngineConfig, Event, ReadMode};

use super::Ring;

/// How long the probe waits for the one byte it sends to itself.
const PATIENCE: Duration = Duration::from_secs(1);

/// Says whether a [`Ring`] works here, by letting one receive a byte: every needed feature is used,
/// whatever a kernel, a container or a system call filter makes of it.
///
/// # Errors
/// What stands in the way, as from the kernel: `EPERM` or `ENOSYS` where io_uring is forbidden,
/// `EINVAL` where a feature is missing (Linux before 6.1), `ENOMEM` where locked memory is short;
/// `TimedOut` if nothing arrives within a second.
pub fn probe() -> io::Result<()> {
    let mut ring = Ring::new(&EngineConfig {
        submission_entries: 4,
        completion_entries: 8,
        receive_buffers: 1,
        receive_buffer_bytes: 64,
        ..EngineConfig::default()
    })?;
    let (near, mut far) = UnixStream::pair()?;
    let connection = ring.adopt(near.into())?;
    ring.read(connection, ReadMode::Continuous);
    far.write_all(b"?")?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut outcome = None;
        let left = deadline.saturating_duration_since(Instant::now());
        ring.poll(Some(left), &mut |event| match event {
            Event::Received { .. } => outcome = Some(Ok(())),
            Event::Disconnected { reason: Disconnect::Error(errno), .. } => {
                outcome = Some(Err(io::Error::from_raw_os_error(errno)));
            }
            _ => {}
        })?;
        if let Some(outcome) = outcome {
            return outcome;
        }
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_probe_finds_what_the_engine_needs() {
        super::probe().unwrap();
    }
}
