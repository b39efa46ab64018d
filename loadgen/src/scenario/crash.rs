//! A relay that is killed and started again while messages go on.

use std::ops::Range;

use crate::clock::to_ns;
use crate::plan::Workload;
use crate::rng::Rng;

/// Keeps the moments apart from other uses of the seed.
const MOMENT_STREAM: u64 = 0x6b69_6c6c_0000_0000;

/// When the relay is killed, from the beginning of the steady phase in nanoseconds: so often, each time at
/// some moment of its part of the phase. The same seed has the same moments.
#[must_use]
pub fn moments(workload: &Workload) -> Vec<u64> {
    let kills = u64::from(workload.scenario.crash.unwrap_or(0));
    let mut rng = Rng::new(workload.seed, MOMENT_STREAM);
    let part_ns = to_ns(workload.duration) / kills.max(1);
    let within = |part: Range<u64>, rng: &mut Rng| part.start + rng.below((part.end - part.start).max(1));
    (0..kills).map(|kill| within(kill * part_ns..(kill + 1) * part_ns, &mut rng)).collect()
}
