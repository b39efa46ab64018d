//! Each check on a machine that has everything but one thing.

use std::net::{IpAddr, Ipv4Addr};

use super::{Check, Demand, Grade, Shards, checks};
use crate::plan::EngineChoice;
use crate::preflight::machine::Machine;

fn machine() -> Machine {
    Machine {
        files_hard: Some(1_048_576),
        files_ceiling: Some(1_048_576),
        files_system: Some(1_000_000),
        ports: Some(28_232),
        cores: vec![0, 1, 2, 3],
        siblings: [(0, vec![0, 2]), (1, vec![1, 3]), (2, vec![0, 2]), (3, vec![1, 3])].into(),
        governors: (0..4).map(|core| (core, "performance".to_owned())).collect(),
        accept_queue: Some(4096),
        tracked_left: Some(100_000),
        clock_source: "tsc".to_owned(),
        clock_sources: "tsc hpet acpi_pm".to_owned(),
        clock_read_ns: 25,
        memory_bytes: Some(16 << 30),
        ring_fault: None,
    }
}

/// 1,000 clients on core 1 against a relay elsewhere.
fn demand() -> Demand {
    Demand {
        connections: 1000,
        redialled: 0,
        workers: 1,
        pin_cores: vec![1],
        engine: EngineChoice::Auto,
        signed_ahead: 24_000,
        frame_bytes: 450,
        seconds: 10,
        metrics: 5,
        source_ips: Vec::new(),
        relay: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7)),
        spawned: None,
    }
}

/// The same with a relay of our own on core 0.
fn spawned() -> Demand {
    let shards = Shards { count: Some(1), pin_cores: vec![0] };
    Demand { relay: Ipv4Addr::LOCALHOST.into(), spawned: Some(shards), ..demand() }
}

/// All checks that are not fit.
fn faults(machine: &Machine, demand: &Demand) -> Vec<Check> {
    checks(machine, demand).into_iter().filter(|check| check.grade != Grade::Fit).collect()
}

/// The one check that is not fit.
fn fault(machine: &Machine, demand: &Demand) -> (Grade, String) {
    let faults = faults(machine, demand);
    assert_eq!(faults.len(), 1, "{faults:#?}");
    assert!(faults[0].fix.is_some(), "no fix: {faults:?}");
    (faults[0].grade, faults[0].sentence())
}

#[track_caller]
fn expect(machine: &Machine, demand: &Demand, grade: Grade, parts: &[&str]) {
    let (found, sentence) = fault(machine, demand);
    assert_eq!(found, grade, "{sentence}");
    for part in parts {
        assert!(sentence.contains(part), "{part}: {sentence}");
    }
}

#[test]
fn a_good_machine_is_fit_for_both_kinds_of_run() {
    assert_eq!(faults(&machine(), &demand()), []);
    assert_eq!(faults(&machine(), &spawned()), []);
    // What cannot be read is not judged.
    assert_eq!(faults(&Machine { cores: vec![0, 1], ..Machine::default() }, &spawned()), []);
}

#[test]
fn every_client_needs_a_file() {
    let few = Machine { files_hard: Some(1063), ..machine() };
    expect(&few, &demand(), Grade::Unfit, &["1064 are needed", "1063 are allowed", "ulimit -Hn 1064"]);
    assert_eq!(faults(&Machine { files_hard: Some(1064), ..machine() }, &demand()), []);
    let lower = Machine { files_hard: Some(1000), files_ceiling: Some(1000), ..machine() };
    expect(&lower, &demand(), Grade::Unfit, &["sysctl -w fs.nr_open=1064"]);
    // A relay on the same machine opens as many.
    let system = Machine { files_system: Some(2000), ..machine() };
    assert_eq!(faults(&system, &demand()), []);
    expect(&system, &spawned(), Grade::Unfit, &["2128 are needed on this machine", "fs.file-max"]);
}

#[test]
fn ports_that_run_short_ask_for_addresses() {
    let many = Demand { connections: 60_000, ..demand() };
    expect(&machine(), &many, Grade::Unfit, &["1 × 28232", "3 addresses", "ip addr add", "--source-ip"]);
    let sources = (1..=3).map(|last| Ipv4Addr::new(192, 0, 2, last).into()).collect();
    assert_eq!(faults(&machine(), &Demand { source_ips: sources, ..many }), []);
    // Who drops and comes back takes a second port, while the first still lingers.
    let storm = Demand { connections: 20_000, redialled: 20_000, ..demand() };
    expect(&machine(), &storm, Grade::Unfit, &["40000 connections", "2 addresses"]);
}

#[test]
fn on_loopback_addresses_are_taken_without_asking() {
    let mut many = Demand { connections: 60_000, ..spawned() };
    expect(&machine(), &many, Grade::Unfit, &["127.0.0.2"]);
    many.spread_over_loopback(&machine());
    let last: IpAddr = Ipv4Addr::new(127, 0, 0, 3).into();
    assert_eq!((many.source_ips.len(), many.source_ips.last()), (3, Some(&last)));
    assert_eq!(faults(&machine(), &many), []);

    let mut few = spawned();
    few.spread_over_loopback(&machine());
    assert_eq!(few.source_ips, [] as [IpAddr; 0]);
    let mut remote = Demand { connections: 60_000, ..demand() };
    remote.spread_over_loopback(&machine());
    assert_eq!(remote.source_ips, [] as [IpAddr; 0]);
}

#[test]
fn memory_is_for_signed_messages_and_clients() {
    let signed = Demand { signed_ahead: 1_000_000, ..demand() };
    let tight = |bytes| Machine { memory_bytes: Some(bytes), ..machine() };
    expect(&tight(400 << 20), &signed, Grade::Unfit, &["--presign", "400"]);
    expect(&tight(500 << 20), &signed, Grade::Doubtful, &["--presign"]);
    assert_eq!(faults(&tight(700 << 20), &signed), []);
    // Histograms may turn out smaller, so they forbid nothing.
    let long = Demand { seconds: 3600, ..demand() };
    expect(&tight(700 << 20), &long, Grade::Doubtful, &["2812.5 MiB for the histograms", "--duration"]);
    assert_eq!(faults(&tight(4 << 30), &long), []);
    // What nobody has is not what a number too large to count comes to.
    expect(&tight(700 << 20), &Demand { signed_ahead: u64::MAX, ..demand() }, Grade::Unfit, &["--presign"]);
}

#[test]
fn cores_are_there_and_not_shared() {
    let absent = Demand { pin_cores: vec![9], ..demand() };
    expect(&machine(), &absent, Grade::Unfit, &["core 9 is not available", "0,1,2,3"]);
    let twice = Demand { workers: 2, ..demand() };
    expect(&machine(), &twice, Grade::Doubtful, &["2 workers share core 1", "--pin-cores"]);
    let crowd = Demand { workers: 5, pin_cores: Vec::new(), ..demand() };
    expect(&machine(), &crowd, Grade::Doubtful, &["5 workers share 4 cores", "--workers 4"]);
    let siblings = Demand { workers: 2, pin_cores: vec![1, 3], ..demand() };
    expect(&machine(), &siblings, Grade::Doubtful, &["cores 1 and 3 are two threads"]);
}

#[test]
fn a_relay_of_our_own_has_cores_of_its_own() {
    let on =
        |cores: &[usize], count| Demand { spawned: Some(Shards { count, pin_cores: cores.to_vec() }), ..spawned() };
    expect(&machine(), &on(&[1], Some(1)), Grade::Doubtful, &["both on core 1"]);
    // Not told how many, it takes a shard for each core.
    let parts = ["4 shards and 1 worker share 4 cores", "--shards 3 --pin-cores 0,1,2' --pin-cores 3"];
    expect(&machine(), &on(&[], None), Grade::Doubtful, &parts);
    expect(&machine(), &on(&[3], Some(1)), Grade::Doubtful, &["cores 1 and 3 are two threads"]);
    let one = Machine { cores: vec![0], ..machine() };
    let unpinned = Demand { pin_cores: Vec::new(), ..on(&[], Some(1)) };
    expect(&one, &unpinned, Grade::Doubtful, &["more cores"]);
}

#[test]
fn without_io_uring_there_is_epoll_or_nothing() {
    let old = Machine { ring_fault: Some("not permitted".to_owned()), ..machine() };
    expect(&old, &demand(), Grade::Doubtful, &["not permitted", "io_uring_disabled"]);
    let ring = Demand { engine: EngineChoice::Ring, ..demand() };
    expect(&old, &ring, Grade::Unfit, &["--engine epoll"]);
    assert_eq!(faults(&old, &Demand { engine: EngineChoice::Epoll, ..demand() }), []);
}

#[test]
fn the_accept_queue_matters_where_the_relay_is() {
    let short = Machine { accept_queue: Some(100), ..machine() };
    assert_eq!(faults(&short, &demand()), []);
    expect(&short, &spawned(), Grade::Doubtful, &["net.core.somaxconn=4096"]);
    let local = Demand { relay: Ipv4Addr::LOCALHOST.into(), ..demand() };
    expect(&short, &local, Grade::Doubtful, &["start the relay again"]);
}

#[test]
fn a_full_firewall_drops_connections() {
    let full = Machine { tracked_left: Some(999), ..machine() };
    expect(&full, &demand(), Grade::Doubtful, &["999 more", "nf_conntrack_max=2048"]);
}

#[test]
fn a_slow_clock_is_named_with_what_would_be_faster() {
    let slow = Machine { clock_source: "hpet".to_owned(), clock_read_ns: 1200, ..machine() };
    expect(&slow, &demand(), Grade::Doubtful, &["clock source hpet", "echo tsc >"]);
    let none = Machine { clock_sources: "hpet acpi_pm".to_owned(), ..slow };
    expect(&none, &demand(), Grade::Doubtful, &["dmesg"]);
}

#[test]
fn a_governor_that_saves_power_is_named_where_a_worker_runs() {
    let saving = |core| {
        let mut machine = machine();
        machine.governors.insert(core, "powersave".to_owned());
        machine
    };
    expect(&saving(1), &demand(), Grade::Doubtful, &["core 1", "powersave", "cpupower"]);
    assert_eq!(faults(&saving(2), &demand()), []);
    expect(&saving(2), &Demand { pin_cores: Vec::new(), ..demand() }, Grade::Doubtful, &["core 2"]);
}
