//! A seed is a run: the same one every time.

use relay_sim::{Overrides, RunOptions, run};

#[test]
fn the_same_seed_gives_the_same_trace() {
    let options = RunOptions::default();
    let mut hashes = Vec::new();
    for seed in 0..12 {
        let (first, second) = (run(seed, &options), run(seed, &options));
        assert_eq!(first, second, "seed {seed}");
        assert!(first.events > 500, "seed {seed}: {} events", first.events);
        hashes.push(first.trace_hash);
    }
    hashes.sort_unstable();
    hashes.dedup();
    assert_eq!(hashes.len(), 12, "different seeds are different runs");
}

#[test]
fn what_the_caller_fixes_changes_the_run() {
    let with = |overrides| run(3, &RunOptions { overrides, ..RunOptions::default() });
    let few = with(Overrides { steps: Some(10), ..Overrides::default() });
    let many = with(Overrides { steps: Some(400), ..Overrides::default() });
    assert!(few.messages < many.messages, "{} and {}", few.messages, many.messages);
    let crowd = with(Overrides { clients: Some(40), steps: Some(400), ..Overrides::default() });
    assert!(crowd.failure.is_none(), "{crowd}");
    assert!(crowd.logins > 40);
}
