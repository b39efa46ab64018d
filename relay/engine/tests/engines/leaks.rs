//! Descriptors come back, whatever was in flight. These tests count those of the whole process.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Duration;

use relay_engine::{ConnectionId, EngineConfig, EngineKind, ReadMode};

use crate::rig::{Rig, Told, connect, for_every_engine, listener, pattern, reset, small, socket_pair};

for_every_engine! { alone:
    close_in_flight_frees_the_descriptor,
    an_engine_gives_back_all_it_took,
    accepting_resumes_after_descriptors_ran_out,
    random_operations_leak_nothing,
}

fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Polls until the process has no more descriptors than before.
fn until_back_at(rig: &mut Rig, before: usize) {
    rig.until(&format!("{before} descriptors"), |_| (descriptors() <= before).then_some(()));
}

fn close_in_flight_frees_the_descriptor(kind: EngineKind) {
    let mut rig = Rig::new(kind);
    let address = rig.listen();
    rig.settle(address);
    rig.poll(Duration::ZERO);
    let before = descriptors();
    for submitted in [false, true] {
        for mode in [None, Some(ReadMode::Once), Some(ReadMode::Continuous)] {
            let (mut client, id) = rig.pair(address);
            if let Some(mode) = mode {
                rig.engine.read(id, mode);
            }
            rig.engine.write(id, pattern(16 << 20));
            if submitted {
                rig.engine.submit().unwrap();
            }
            rig.engine.close(id);
            // The client's own descriptor is still there.
            until_back_at(&mut rig, before + 1);
            rig.assert_silent(id);
            let mut rest = Vec::new();
            let _ = client.read_to_end(&mut rest);
        }
    }
    assert_eq!(descriptors(), before);
}

fn an_engine_gives_back_all_it_took(kind: EngineKind) {
    let before = descriptors();
    for _ in 0..3 {
        let mut rig = Rig::new(kind);
        let address = rig.listen();
        let (_client, id) = rig.pair(address);
        rig.engine.read(id, ReadMode::Continuous);
        let (_client, id) = rig.pair(address);
        rig.engine.write(id, pattern(16 << 20));
        let (_client, id) = rig.pair(address);
        rig.engine.read(id, ReadMode::Once);
        rig.poll(Duration::ZERO);
        // Not yet accepted, accepted and not yet told: nobody will see these.
        let _unseen = connect(address);
    }
    assert_eq!(descriptors(), before);
}

fn accepting_resumes_after_descriptors_ran_out(kind: EngineKind) {
    let mut rig = Rig::new(kind);
    let listener = listener();
    let client = connect(listener.local_addr().unwrap());
    // io_uring reads the limit when an accept is armed: lower it before.
    let old = limit(None);
    let lowest_free = fs::File::open("/dev/null").unwrap().as_raw_fd();
    limit(Some(libc::rlimit { rlim_cur: lowest_free as libc::rlim_t, ..old }));
    let failed = catch_unwind(AssertUnwindSafe(|| {
        rig.engine.listen(listener).unwrap();
        rig.event("AcceptFailed", |told| match told {
            Told::AcceptFailed(error) => Some(*error),
            _ => None,
        })
    }));
    limit(Some(old));
    assert_eq!(failed.unwrap(), libc::EMFILE);
    // Descriptors are back: the engine goes on by itself.
    let local = client.local_addr().unwrap();
    rig.event("Accepted", |told| match told {
        Told::Accepted(_, peer) if *peer == local => Some(()),
        _ => None,
    });
}

/// Reads the limit of descriptors, and sets it if told.
fn limit(new: Option<libc::rlimit>) -> libc::rlimit {
    let mut old = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    let new = new.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: both pointers are null or point to live values of the right type.
    let result = unsafe { libc::prlimit(0, libc::RLIMIT_NOFILE, new, &raw mut old) };
    assert_eq!(result, 0);
    old
}

/// Seeded and small, for sequences that can be repeated.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 33) as usize % end
    }
}

/// What the test knows of a connection.
#[derive(Default)]
struct Known {
    writing: bool,
    reading: bool,
}

fn random_operations_leak_nothing(kind: EngineKind) {
    for seed in 1..=12_u64 {
        let before = descriptors();
        let mut steps = Vec::new();
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            random_sequence(kind, seed, &mut steps);
        }));
        if let Err(failure) = outcome {
            eprintln!("seed {seed} failed after {} steps: {steps:?}", steps.len());
            resume_unwind(failure);
        }
        assert_eq!(descriptors(), before, "seed {seed}: {steps:?}");
    }
}

fn random_sequence(kind: EngineKind, seed: u64, steps: &mut Vec<&'static str>) {
    let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
    let config = if seed.is_multiple_of(3) {
        // Queues that overflow and buffers that run out, all the time.
        EngineConfig {
            submission_entries: 4,
            completion_entries: 8,
            receive_buffers: 2,
            receive_buffer_bytes: 512,
            ..EngineConfig::default()
        }
    } else {
        small()
    };
    let mut rig = Rig::with(kind, &config);
    let address = rig.listen();
    let before = descriptors();
    let mut clients: Vec<TcpStream> = Vec::new();
    let mut known: BTreeMap<ConnectionId, Known> = BTreeMap::new();
    let mut closed: Vec<ConnectionId> = Vec::new();
    for _ in 0..400 {
        let chosen = (!known.is_empty()).then(|| {
            let number = random.below(known.len());
            *known.keys().nth(number).unwrap()
        });
        match (random.below(12), chosen) {
            (0 | 1, _) if clients.len() < 30 => {
                steps.push("connect");
                clients.push(connect(address));
            }
            (2, _) if clients.len() < 30 => {
                steps.push("adopt");
                let (client, socket) = socket_pair();
                clients.push(client);
                let id = rig.engine.adopt(socket).unwrap();
                assert!(!closed.contains(&id));
                known.insert(id, Known::default());
            }
            (3, _) if !clients.is_empty() => {
                let client = clients.swap_remove(random.below(clients.len()));
                if random.below(2) == 0 {
                    steps.push("client resets");
                    reset(client);
                } else {
                    steps.push("client closes");
                }
            }
            (4, _) if !clients.is_empty() => {
                steps.push("client writes");
                let number = random.below(clients.len());
                let _ = clients[number].write(&pattern(1 + random.below(20_000)));
            }
            (5, _) if !clients.is_empty() => {
                steps.push("client reads");
                let client = &mut clients[0];
                client.set_nonblocking(true).unwrap();
                let _ = client.read(&mut vec![0; 1 << 20]);
                client.set_nonblocking(false).unwrap();
            }
            (6, Some(id)) => {
                steps.push("read");
                let mode = if random.below(2) == 0 { ReadMode::Once } else { ReadMode::Continuous };
                rig.engine.read(id, mode);
                known.get_mut(&id).unwrap().reading = true;
            }
            (7, Some(id)) if !known[&id].writing => {
                steps.push("write");
                rig.engine.write(id, pattern(1 + random.below(1 << 20)));
                known.get_mut(&id).unwrap().writing = true;
            }
            (8, Some(id)) => {
                steps.push("shutdown_write");
                rig.engine.shutdown_write(id);
            }
            (9, Some(id)) => {
                steps.push("close");
                rig.engine.close(id);
                known.remove(&id);
                closed.push(id);
            }
            (10, Some(id)) if !known[&id].reading && !known[&id].writing => {
                steps.push("release");
                drop(rig.engine.release(id));
                known.remove(&id);
                closed.push(id);
            }
            _ => {
                steps.push("poll");
                let closed_before = closed.len();
                rig.poll(Duration::ZERO);
                for told in std::mem::take(&mut rig.told) {
                    let Some(id) = told.connection() else {
                        // A client that left before it was accepted.
                        assert_eq!(told, Told::AcceptFailed(libc::ECONNABORTED));
                        continue;
                    };
                    let (before, now) = closed.split_at(closed_before);
                    assert!(!before.contains(&id), "{told:?} after its close");
                    if now.contains(&id) {
                        // Told by the same poll as the end of file that made us close it.
                        assert!(matches!(told, Told::Written(..)), "{told:?}");
                        continue;
                    }
                    match told {
                        Told::Accepted(..) => {
                            assert!(known.insert(id, Known::default()).is_none());
                        }
                        Told::Written(..) => known.get_mut(&id).unwrap().writing = false,
                        Told::Received(..) => assert!(known[&id].reading),
                        Told::Disconnected(..) => {
                            rig.engine.close(id);
                            known.remove(&id);
                            closed.push(id);
                        }
                        Told::AcceptFailed(_) => unreachable!("names no connection"),
                    }
                }
            }
        }
    }
    drop(clients);
    if seed.is_multiple_of(2) {
        // Half of the sequences end by closing everything, the others by dropping the engine.
        for id in known.into_keys() {
            rig.engine.close(id);
        }
        rig.until("all descriptors back", |rig| {
            for told in std::mem::take(&mut rig.told) {
                if let Told::Accepted(id, _) = told {
                    rig.engine.close(id);
                }
            }
            (descriptors() == before).then_some(())
        });
    }
}
