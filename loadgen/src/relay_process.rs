//! A relay of our own: started for one run, watched, and ended with it.
//!
//! # Invariants
//! - The process is told to end (SIGTERM) on every way out: when its [`RelayProcess`] is dropped, and
//!   by the panic hook of [`end_on_panic`], since a panic aborts without dropping anything. The
//!   command also tethers it ([`crate::tether`]), so that it does not outlive a SIGKILL.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, ExitStatus, Stdio};
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{RecvTimeoutError, Sender, unbounded};
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};

use crate::environment::kilobytes;
use crate::plan::Spawn;
use crate::relay_admin::CpuByThread;
use crate::tether;

/// How long a relay may take to say where it listens.
const START_PATIENCE: Duration = Duration::from_secs(10);

/// How long a relay may take to end: it promises 10 s.
const END_PATIENCE: Duration = Duration::from_secs(12);

/// Lines of its output that are kept for an explanation.
const LINES_MAX: usize = 20;

/// What `_SC_CLK_TCK` is on every Linux of today: times in `/proc` count hundredths of a second.
const TICKS_PER_SECOND: u64 = 100;

/// The relay to end in a panic; zero is none.
static RUNNING: AtomicI32 = AtomicI32::new(0);

/// Why there is no relay.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    /// The program cannot be run.
    #[error("the relay {program} cannot be started: {error}; --relay-bin says where it is")]
    Start {
        /// Its path.
        program: String,
        /// Why.
        error: io::Error,
    },
    /// It ended, or said nothing in time.
    #[error("the relay did not start: {why}\n{output}")]
    Silent {
        /// What happened instead.
        why: String,
        /// What it printed.
        output: String,
    },
}

/// Memory and CPU time of a process, from `/proc`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Resident memory.
    pub rss_bytes: u64,
    /// Of that, its own: heap, stacks, buffers.
    pub rss_anon_bytes: u64,
    /// CPU time in user space.
    pub user_ns: u64,
    /// CPU time in the kernel.
    pub system_ns: u64,
}

impl Usage {
    /// CPU time in all.
    #[must_use]
    pub fn cpu_ns(&self) -> u64 {
        self.user_ns + self.system_ns
    }
}

/// A running relay.
#[derive(Debug)]
pub struct RelayProcess {
    child: Child,
    /// Where it listens.
    pub address: SocketAddr,
    /// Where its admin port is.
    pub admin: SocketAddr,
    /// The line that it started with.
    pub start_line: String,
    lines: Arc<Mutex<VecDeque<String>>>,
    /// Those who read its output, until it ends.
    followers: Vec<JoinHandle<()>>,
}

impl RelayProcess {
    /// Starts a relay on the loopback interface, on the port `listen` (0 is a free one), and waits until it
    /// listens. Its output goes to the end of `log`, if that is given.
    ///
    /// # Errors
    /// [`RelayError`], with what it printed.
    pub fn start(spawn: &Spawn, listen: u16, log: Option<&Path>) -> Result<Self, RelayError> {
        let program = spawn.program.display().to_string();
        let failed = |error| RelayError::Start { program: program.clone(), error };
        let mut command = tether::command(&spawn.program).map_err(failed)?;
        // No other relay's directory is touched, and a run finds none of an earlier one: a store is asked
        // for by name. By environment, since older relays do not know the option.
        if !spawn.arguments.iter().any(|argument| argument.starts_with("--data")) {
            command.env("RELAY_EPHEMERAL", "true");
        }
        let child = command
            .args(["--listen", &format!("127.0.0.1:{listen}"), "--admin", "127.0.0.1:0"])
            .args(&spawn.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        RUNNING.store(child.id().cast_signed(), Ordering::Relaxed);
        // From here on dropping ends the process.
        let unspecified = SocketAddr::from(([0, 0, 0, 0], 0));
        let mut relay = Self {
            child,
            address: unspecified,
            admin: unspecified,
            start_line: String::new(),
            lines: Arc::default(),
            followers: Vec::new(),
        };
        let log = log.map(|log| File::options().create(true).append(true).open(log)).transpose().map_err(failed)?;
        let (started, start) = unbounded();
        if let Some(stdout) = relay.child.stdout.take() {
            relay.follow(stdout, log.as_ref(), Some(started)).map_err(failed)?;
        }
        if let Some(stderr) = relay.child.stderr.take() {
            relay.follow(stderr, log.as_ref(), None).map_err(failed)?;
        }
        match start.recv_timeout(START_PATIENCE) {
            Ok(line) => {
                (relay.address, relay.admin) = addresses(&line)
                    .ok_or_else(|| relay.silent("its first line does not say where it listens".to_owned()))?;
                relay.start_line = line;
                Ok(relay)
            }
            Err(RecvTimeoutError::Timeout) => Err(relay.silent("it said nothing for 10 s".to_owned())),
            Err(RecvTimeoutError::Disconnected) => {
                let status = relay.child.wait().map_or_else(|error| error.to_string(), |status| status.to_string());
                for follower in relay.followers.drain(..) {
                    // A follower has no result, and a panic in it has ended this program.
                    let _ = follower.join();
                }
                Err(relay.silent(format!("it ended ({status})")))
            }
        }
    }

    /// Passes its output on, line by line: to the log, to the last lines, and the first one that
    /// names addresses to `started`.
    fn follow(
        &mut self,
        output: impl Read + Send + 'static,
        log: Option<&File>,
        mut started: Option<Sender<String>>,
    ) -> io::Result<()> {
        let lines = Arc::clone(&self.lines);
        let mut log = log.map(File::try_clone).transpose()?;
        let follower = thread::Builder::new().name("relay-output".to_owned()).spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if let Some(log) = &mut log {
                    // A full disk must not stop the relay, whose pipe would fill.
                    let _ = writeln!(log, "{line}");
                }
                if addresses(&line).is_some()
                    && let Some(started) = started.take()
                {
                    // Nobody waits any more after the patience.
                    let _ = started.send(line.clone());
                }
                let mut lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
                if lines.len() == LINES_MAX {
                    lines.pop_front();
                }
                lines.push_back(line);
            }
        })?;
        self.followers.push(follower);
        Ok(())
    }

    fn silent(&self, why: String) -> RelayError {
        RelayError::Silent { why, output: self.last_lines() }
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The last lines of its output.
    #[must_use]
    pub fn last_lines(&self) -> String {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().map(String::as_str).collect::<Vec<_>>().join("\n")
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Its memory and CPU time now; zeros once it has ended.
    #[must_use]
    pub fn usage(&self) -> Usage {
        let read = |file| fs::read_to_string(format!("/proc/{}/{file}", self.child.id())).unwrap_or_default();
        let (status, stat) = (read("status"), read("stat"));
        // Behind the name in parentheses, which may hold anything, utime is the 12th field.
        let mut times = stat.rsplit(')').next().unwrap_or_default().split_ascii_whitespace().skip(11);
        let mut next_ns = || {
            let ticks: u64 = times.next().and_then(|ticks| ticks.parse().ok()).unwrap_or(0);
            ticks * (crate::clock::SECOND_NS / TICKS_PER_SECOND)
        };
        Usage {
            rss_bytes: kilobytes(&status, "VmRSS"),
            rss_anon_bytes: kilobytes(&status, "RssAnon"),
            user_ns: next_ns(),
            system_ns: next_ns(),
        }
    }

    /// The CPU time of each of its shards' threads, or of all its threads if it has none of that name;
    /// empty once it has ended.
    #[must_use]
    pub fn cpu(&self) -> CpuByThread {
        let Ok(tasks) = fs::read_dir(format!("/proc/{}/task", self.child.id())) else { return CpuByThread::new() };
        let mut cpu = CpuByThread::new();
        for task in tasks.filter_map(Result::ok) {
            let read = |file| fs::read_to_string(task.path().join(file)).unwrap_or_default();
            // `schedstat` begins with the time on a core in nanoseconds.
            let (name, times) = (read("comm"), read("schedstat"));
            if let Some(cpu_ns) = times.split(' ').next().and_then(|ns| ns.parse::<u64>().ok()) {
                *cpu.entry(name.trim_end().to_owned()).or_default() += cpu_ns;
            }
        }
        if cpu.keys().any(|name| name.starts_with("shard-")) {
            cpu.retain(|name, _| name.starts_with("shard-"));
        }
        cpu
    }

    /// Kills it with SIGKILL, and waits until it is gone.
    ///
    /// # Errors
    /// It has ended by itself before, or cannot be killed.
    pub fn kill(mut self) -> Result<(), String> {
        if let Some(status) = self.has_ended() {
            return Err(format!("the relay ended by itself ({status})\n{}", self.last_lines()));
        }
        let killed = self.child.kill().and_then(|()| self.child.wait());
        killed.map(|_| ()).map_err(|error| format!("the relay cannot be killed: {error}"))
    }

    /// Ends it with SIGTERM and waits. It should exit with 0.
    ///
    /// # Errors
    /// A sentence that says what it did instead.
    pub fn end(mut self) -> Result<(), String> {
        if let Some(status) = self.has_ended() {
            return Err(format!("the relay ended by itself ({status})\n{}", self.last_lines()));
        }
        terminate(self.child.id().cast_signed());
        let deadline = Instant::now() + END_PATIENCE;
        while Instant::now() < deadline {
            if let Some(status) = self.has_ended() {
                return if status.success() {
                    Ok(())
                } else {
                    let how = match status.signal() {
                        Some(signal) => format!("signal {signal}"),
                        None => status.to_string(),
                    };
                    Err(format!("the relay did not end well ({how})\n{}", self.last_lines()))
                };
            }
            thread::sleep(Duration::from_millis(10));
        }
        Err("the relay did not end within 12 s of SIGTERM and was killed".to_owned())
    }
}

impl Drop for RelayProcess {
    fn drop(&mut self) {
        if self.has_ended().is_none() {
            terminate(self.child.id().cast_signed());
            let deadline = Instant::now() + Duration::from_secs(1);
            while self.has_ended().is_none() && Instant::now() < deadline {
                thread::sleep(Duration::from_millis(10));
            }
            // One that has ended meanwhile cannot be killed, and needs not be.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        RUNNING.store(0, Ordering::Relaxed);
    }
}

/// Lets a panic, which aborts this program, end the relay first.
pub fn end_on_panic() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        terminate(RUNNING.load(Ordering::Relaxed));
        before(panic);
    }));
}

fn terminate(pid: i32) {
    if let Some(pid) = Pid::from_raw(pid) {
        // The process may have ended meanwhile; it is not waited for, so its number is not reused.
        let _ = kill_process(pid, Signal::TERM);
    }
}

/// Reads `listening on ADDRESS` and `admin on ADDRESS` out of a line.
fn addresses(line: &str) -> Option<(SocketAddr, SocketAddr)> {
    let address = |name| {
        let rest = &line[line.find(name)? + str::len(name)..];
        rest.split([' ', ',', ';', '"']).next()?.trim_end_matches('.').parse().ok()
    };
    Some((address("listening on ")?, address("admin on ")?))
}

#[cfg(test)]
mod tests {
    use super::{RelayProcess, addresses};
    use crate::plan::Spawn;
    use std::path::PathBuf;

    #[test]
    fn addresses_are_found_in_the_start_line() {
        let line = "listening on 127.0.0.1:7400, admin on 127.0.0.1:7401, 2 shards, engine ring (probed)";
        let (address, admin) = addresses(line).unwrap();
        assert_eq!((address.port(), admin.port()), (7400, 7401));
        assert!(addresses("listening on everything").is_none());
        assert!(addresses("INFO listening on 127.0.0.1:1; admin on [::1]:2; ready").is_some());
    }

    #[test]
    fn a_program_that_ends_explains_itself() {
        // A shell knows no `--listen`: it says so, by its own name, and ends.
        let spawn = Spawn { program: PathBuf::from("/bin/sh"), arguments: Vec::new() };
        let error = RelayProcess::start(&spawn, 0, None).unwrap_err().to_string();
        assert!(error.contains("it ended") && error.contains("sh: "), "{error}");
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let spawn = Spawn { program: PathBuf::from("/no/such/relay"), arguments: Vec::new() };
        let error = RelayProcess::start(&spawn, 0, None).unwrap_err().to_string();
        assert!(error.contains("/no/such/relay") && error.contains("--relay-bin"), "{error}");
    }
}
