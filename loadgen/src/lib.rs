//! The load generator: thousands of clients with keys of their own, on one clock, in one process.
//!
//! # Flow
//! ```text
//! cli ── RunPlan ──> run (coordinator)
//!   preflight, relay_process            descriptors and ports; a relay of our own, if asked for
//!   worker × N   one thread each: engine, clients, schedule, stock of signed messages
//!   signer × N   one thread each: signs ahead of the run
//!   worker ── Report (intervals, ledger, lobby views) ──> run
//! run ── summary ── slo ──> table, summary.json, intervals.hlog, exit code
//! ```
//!
//! | module | subject |
//! |---|---|
//! | [`cli`], [`plan`], [`units`] | options, what a run does, how numbers are written |
//! | [`scenario`] | what is not steady: bursts, favourites, storms, slow readers; files of options |
//! | [`schedule`], [`rng`], [`clock`] | when messages are due |
//! | [`identity`], [`stock`], [`signer`], [`audience`] | keys; messages signed ahead; who signs them; who is to get them |
//! | [`worker`] | the thread that holds clients and measures |
//! | [`spread`] | when the first, the median and the last watcher were told |
//! | [`lobby`] | what a client knows of who is online, and how late it learns |
//! | [`ledger`], [`recorder`] | what became of each message; histograms |
//! | [`run`] | phases: connect, sign, warm-up, steady, drain, settle |
//! | [`hiccup`], [`interference`] | what the machine does to the generator |
//! | [`validity`] | whether a run may be believed |
//! | [`slo`], [`report`], [`summary`], [`table`], [`interval_log`] | targets, verdict and output |
//! | [`compare`] | two sets of finished runs set against each other |
//! | [`merge`] | several generators' runs of one test put together |
//! | [`measure`], [`archive`] | a run as commands use it; a finished run's folder, written and read |
//! | [`progress`], [`live`] | what is shown while a run goes on |
//! | [`report_page`] | the page about a finished run |
//! | [`capacity`] | the highest rate that keeps all targets, by runs one after the other |
//! | [`preflight`], [`relay_process`], [`tether`], [`relay_admin`], [`environment`], [`exit`] | around the run |
//!
//! # Invariants
//! - Latency counts from the **intended** send time. The schedule is never skipped: what is late is
//!   sent at once, and its latency holds the wait.
//! - Sender and recipient of a message live on one worker: nothing depends on two clocks, and no
//!   memory is shared on the message path.
//! - Every received message is compared byte for byte with what its sender signed; equal bytes have
//!   the right signature, and others are verified strictly.
//! - What was not delivered counts as infinitely late in the percentiles that are judged.
//! - No allocation for a message once its batch is signed.
//!
//! Absent on purpose: TLS, private messages in rooms, receipts, clients that reconnect by themselves (those of a storm
//! and of a relay that is killed do).

#![forbid(unsafe_code)]

pub mod archive;
pub mod audience;
pub mod capacity;
pub mod cli;
pub mod clock;
pub mod compare;
pub mod environment;
pub mod exit;
pub mod hiccup;
pub mod identity;
pub mod interference;
pub mod interval_log;
pub mod ledger;
pub mod live;
pub mod lobby;
pub mod measure;
pub mod merge;
pub mod plan;
pub mod preflight;
pub mod progress;
pub mod recorder;
pub mod relay_admin;
pub mod relay_process;
pub mod report;
pub mod report_page;
pub mod rng;
pub mod run;
pub mod scenario;
pub mod schedule;
pub mod signer;
pub mod slo;
pub mod spread;
pub mod stock;
pub mod summary;
pub mod table;
pub mod tether;
pub mod units;
pub mod validity;
pub mod worker;
