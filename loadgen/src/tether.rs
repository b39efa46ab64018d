//! Ends a relay of our own with this program, however that ends: also by SIGKILL, which leaves it no
//! time to end anything.
//!
//! A process can only ask for that itself, between its start and its own work. So the relay is not
//! started straight: this program starts itself once more ([`become_program`]), asks the kernel for
//! the signal, and turns into the relay, which keeps what was asked for.
//!
//! The signal comes when the **thread** ends that started the process. Relays are therefore started
//! from a thread that stays: the one that conducts the run.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{self, Command};
use std::sync::OnceLock;
use std::{env, io};

use rustix::process::{Signal, getppid, set_parent_process_death_signal};

use crate::exit::Exit;

/// The hidden command of this program that [`become_program`] serves.
pub const COMMAND: &str = "tether";

/// This program, once relays are to be tethered.
static OWN: OnceLock<PathBuf> = OnceLock::new();

/// Lets all relays end with this program, whose command line has to know [`COMMAND`].
pub fn tether_relays() {
    if let Ok(own) = env::current_exe() {
        // Said twice it is the same.
        let _ = OWN.set(own);
    }
}

/// How to start a program: tethered, if relays are.
///
/// # Errors
/// The operating system's, when the program is not there: who turns into it could not say so well.
pub fn command(program: &Path) -> io::Result<Command> {
    let Some(own) = OWN.get() else { return Ok(Command::new(program)) };
    // A bare name is looked for along the path.
    if program.components().count() > 1 {
        program.metadata()?;
    }
    let mut command = Command::new(own);
    command.arg(COMMAND).arg(process::id().to_string()).arg(program);
    Ok(command)
}

/// Turns this process into a program that gets SIGTERM when `parent`, which started it, has ended.
/// Returns only if that cannot be, with how to end.
pub fn become_program(parent: u32, program: &Path, arguments: &[OsString]) -> Exit {
    let asked = set_parent_process_death_signal(Some(Signal::TERM));
    if let Err(error) = asked {
        eprintln!("loadgen: the relay would outlive a loadgen that is killed: {error}");
    }
    // The parent may have ended before that was asked.
    if getppid().is_some_and(|now| now.as_raw_nonzero().get().unsigned_abs() == parent) {
        let error = Command::new(program).args(arguments).exec();
        eprintln!("loadgen: the relay {} cannot be started: {error}", program.display());
    }
    Exit::CouldNotRun
}

#[cfg(test)]
mod tests {
    use super::{become_program, command};
    use crate::exit::Exit;
    use std::path::Path;

    #[test]
    fn relays_are_started_straight_unless_they_are_tethered() {
        assert_eq!(command(Path::new("/no/such/relay")).unwrap().get_program(), "/no/such/relay");
    }

    #[test]
    fn a_child_whose_parent_has_gone_becomes_nothing() {
        assert_eq!(become_program(u32::MAX, Path::new("/bin/false"), &[]), Exit::CouldNotRun);
    }
}
