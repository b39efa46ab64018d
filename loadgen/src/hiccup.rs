//! What this machine does to a thread that wants to run: the generator's own heartbeat, after
//! jHiccup.
//!
//! A thread on each worker's core (or one that floats with them) sleeps until every full
//! millisecond and notes how late it woke. It does nothing else: what delays it delays the workers
//! too, whatever the cause (another process, the hypervisor, a quota, the kernel itself).
//!
//! # Invariants
//! - Sleeps are absolute. After a stall the beat goes on from now: one stall is one entry.
//! - Only beats of the steady phase count; of a delay that lasts longer, its part in it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};

use hdrhistogram::Histogram;
use rustix::thread::clock_nanosleep_absolute;
use rustix::time::{ClockId, Timespec, clock_gettime};

use crate::clock::{Clock, SECOND_NS};
use crate::plan::Moments;
use crate::preflight;
use crate::recorder;

/// From one beat to the next: 1 ms, which costs some 0.5 % of a core.
const BEAT_NS: u64 = 1_000_000;

/// A beat that is so late is a long stall: twice what the kernel's scheduler keeps a thread waiting
/// where one other wants the core.
pub const LONG_STALL_NS: u64 = 10_000_000;

/// What one heartbeat saw.
#[derive(Clone, Debug)]
pub struct Hiccups {
    /// The core it was kept on; `None` if it floated.
    pub core: Option<usize>,
    /// How late each beat was.
    pub late: Histogram<u64>,
    /// Beats later than [`LONG_STALL_NS`].
    pub long_stalls: u64,
    /// Time that lay in them.
    pub stalled_ns: u64,
}

#[derive(Debug, Default)]
struct Window {
    steady_ns: AtomicU64,
    end_ns: AtomicU64,
    stop: AtomicBool,
}

impl Window {
    /// How much of a delay that ends now lies in the steady phase; `None` of one that has no part in it. One that
    /// lasts beyond the end counts up to it: who slept through a whole phase has seen the worst of it.
    fn part_of(&self, now_ns: u64, late_ns: u64) -> Option<u64> {
        let steady_ns = self.steady_ns.load(Ordering::Acquire);
        let end_ns = self.end_ns.load(Ordering::Relaxed);
        let due_ns = now_ns.saturating_sub(late_ns);
        let counts = steady_ns > 0 && now_ns >= steady_ns && due_ns < end_ns;
        counts.then(|| now_ns.min(end_ns).saturating_sub(due_ns.max(steady_ns)))
    }
}

/// The heartbeats of a run.
#[derive(Debug)]
pub struct Heartbeats {
    window: Arc<Window>,
    threads: Vec<JoinHandle<Hiccups>>,
}

impl Heartbeats {
    /// Starts one on each of these cores, or a floating one if there are none.
    ///
    /// # Errors
    /// The operating system's, when there can be no more threads; none is left behind.
    pub fn start(clock: Clock, cores: &[usize]) -> io::Result<Self> {
        let mut beats = Self { window: Arc::default(), threads: Vec::new() };
        let mut places: Vec<_> = cores.iter().copied().map(Some).collect();
        places.sort_unstable();
        places.dedup();
        if places.is_empty() {
            places.push(None);
        }
        for core in places {
            let window = Arc::clone(&beats.window);
            let thread = thread::Builder::new().name("heartbeat".to_owned()).spawn(move || beat(clock, core, &window));
            match thread {
                Ok(thread) => beats.threads.push(thread),
                Err(error) => {
                    beats.end();
                    return Err(error);
                }
            }
        }
        Ok(beats)
    }

    /// Says which beats count.
    pub fn watch(&self, moments: &Moments) {
        // The end first: a beat between the two stores then sees an empty window.
        self.window.end_ns.store(moments.end_ns, Ordering::Relaxed);
        self.window.steady_ns.store(moments.steady_ns, Ordering::Release);
    }

    /// Ends them, and says what they saw.
    pub fn end(&mut self) -> Vec<Hiccups> {
        self.window.stop.store(true, Ordering::Relaxed);
        // A panic in one has ended the process.
        self.threads.drain(..).filter_map(|thread| thread.join().ok()).collect()
    }
}

impl Drop for Heartbeats {
    fn drop(&mut self) {
        self.end();
    }
}

fn beat(clock: Clock, core: Option<usize>, window: &Window) -> Hiccups {
    if let Some(core) = core {
        preflight::pin_thread(core);
    }
    preflight::sharpen_timers();
    let mut seen = Hiccups { core, late: recorder::empty(), long_stalls: 0, stalled_ns: 0 };
    let mut due_ns = monotonic_ns() + BEAT_NS;
    while !window.stop.load(Ordering::Relaxed) {
        let until = Timespec { tv_sec: (due_ns / SECOND_NS) as i64, tv_nsec: (due_ns % SECOND_NS) as _ };
        // What ends a sleep early is a signal, and the beat is then not late.
        let _ = clock_nanosleep_absolute(ClockId::Monotonic, &until);
        let (woke_ns, now_ns) = (monotonic_ns(), clock.now_ns());
        let late_ns = woke_ns.saturating_sub(due_ns);
        if let Some(late_ns) = window.part_of(now_ns, late_ns) {
            seen.note(late_ns);
        }
        due_ns = woke_ns.max(due_ns) + BEAT_NS;
    }
    seen
}

impl Hiccups {
    fn note(&mut self, late_ns: u64) {
        self.late.saturating_record(late_ns.max(1));
        if late_ns > LONG_STALL_NS {
            self.long_stalls += 1;
            self.stalled_ns += late_ns;
        }
    }
}

fn monotonic_ns() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec.unsigned_abs() * SECOND_NS + time.tv_nsec.unsigned_abs()
}

#[cfg(test)]
mod tests {
    use super::{Heartbeats, Hiccups, LONG_STALL_NS, Window};
    use crate::clock::{Clock, SECOND_NS};
    use crate::plan::Moments;
    use crate::recorder;
    use std::thread;
    use std::time::Duration;

    #[test]
    fn beats_count_in_the_steady_phase_alone() {
        let clock = Clock::start();
        let seen = |steady_ns| {
            let mut beats = Heartbeats::start(clock, &[]).unwrap();
            beats.watch(&Moments { begin_ns: steady_ns, steady_ns, end_ns: u64::MAX });
            thread::sleep(Duration::from_millis(50));
            beats.end().remove(0)
        };
        let steady = seen(1);
        assert!(steady.core.is_none() && !steady.late.is_empty());
        assert_eq!(seen(1000 * SECOND_NS).late.len(), 0);
    }

    #[test]
    fn a_stall_beyond_the_end_counts_up_to_it() {
        let window = Window { steady_ns: 100.into(), end_ns: 200.into(), ..Window::default() };
        let parts = [(90, 5), (110, 3), (110, 30), (199, 0), (250, 60), (250, 300), (250, 40)];
        let parts = parts.map(|(now_ns, late_ns)| window.part_of(now_ns, late_ns));
        assert_eq!(parts, [None, Some(3), Some(10), Some(0), Some(10), Some(100), None]);
        assert_eq!(Window::default().part_of(5, 5), None);
    }

    #[test]
    fn one_beat_for_each_core() {
        let core = rustix::thread::sched_getcpu();
        let mut beats = Heartbeats::start(Clock::start(), &[core, core]).unwrap();
        let cores: Vec<_> = beats.end().iter().map(|seen| seen.core).collect();
        assert_eq!(cores, [Some(core)]);
    }

    #[test]
    fn long_stalls_are_counted_with_their_time() {
        let mut seen = Hiccups { core: None, late: recorder::empty(), long_stalls: 0, stalled_ns: 0 };
        for late_ns in [0, 60_000, LONG_STALL_NS, LONG_STALL_NS + 1, 3 * LONG_STALL_NS] {
            seen.note(late_ns);
        }
        assert_eq!((seen.long_stalls, seen.stalled_ns), (2, 4 * LONG_STALL_NS + 1));
        assert_eq!(seen.late.len(), 5);
    }
}
