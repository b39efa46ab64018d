//! The command lines of `compare` and `merge`.

use std::path::PathBuf;

use clap::Args;

use super::{RunOptions, wrong};
use crate::compare::{Question, Round, Term};
use crate::run::Request;
use crate::slo::Slo;

pub(super) const COMPARE_HELP: &str = "\
loadgen compare A B                     a run's folder each, or a folder that holds such
loadgen compare A1 A2 A3 -- B1 B2 B3    several
loadgen compare --live URL1 URL2 --out DIR [options of run]
                                        runs both in turns, keeps the runs in DIR/a and DIR/b, and compares them
loadgen compare --live --spawn-relay RELAY1 RELAY2 --out DIR [options of run]
                                        the same with relays that are started for each run: two builds

A change is called when all figures together would be wrong once in twenty comparisons of equal builds, and when it is
larger than what A differs from itself by. INVALID runs are set aside.

Exit code: 0 compared (or everything of --fail-on kept), 1 could not run, 2 wrong usage, 3 the runs cannot tell,
99 something of --fail-on exceeded.";

/// Options of `compare`.
#[derive(Debug, Args)]
pub struct CompareArgs {
    /// A and B, or A if B follows behind `--`.
    #[arg(required = true, value_name = "A B")]
    sides: Vec<String>,
    /// B, behind `--`.
    #[arg(last = true, value_name = "B")]
    others: Vec<String>,
    /// Fail (99) on a change: FIGURE:+N% or throughput:-N% when all of the 95 % interval lies beyond, or `slower`. May be
    /// given several times.
    #[arg(long, value_name = "CHANGE", value_delimiter = ',')]
    fail_on: Vec<Term>,
    /// The change that must have shown for a figure to be `no change`, in percent.
    #[arg(long, value_name = "PERCENT", default_value = "10%", value_parser = parse_percent)]
    resolution: f64,
    /// Compare runs of different workloads.
    #[arg(long)]
    force: bool,
    /// Write the comparison to this file too, for programs.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Run two relays in turns, and compare those runs.
    #[arg(long)]
    live: bool,
    /// With --live: runs of each.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000), requires = "live")]
    rounds: u32,
    /// How the runs are.
    #[command(flatten, next_help_heading = "Options of run, with --live")]
    options: RunOptions,
}

/// What `compare` is to do.
#[derive(Debug)]
pub enum CompareRequest {
    /// Read runs.
    Folders {
        /// A's.
        a: Vec<PathBuf>,
        /// B's.
        b: Vec<PathBuf>,
    },
    /// Make runs.
    Live(Box<Live>),
}

/// Runs to be made in turns.
#[derive(Debug)]
pub struct Live {
    /// Of each side.
    pub rounds: u32,
    /// Where they are kept.
    pub out: PathBuf,
    /// URLs, or programs to spawn.
    targets: [String; 2],
    options: RunOptions,
}

fn parse_percent(text: &str) -> Result<f64, String> {
    let percent = text.strip_suffix('%').unwrap_or(text).trim().parse::<f64>().ok();
    let share = percent.filter(|percent| (0.1..=100.0).contains(percent)).map(|percent| percent / 100.0);
    share.ok_or_else(|| format!("`{text}` is no percentage from 0.1 to 100; write it as 10%"))
}

impl CompareArgs {
    /// Settles what is asked, and of which runs.
    ///
    /// # Errors
    /// What cannot be, for [`clap::Error::exit`].
    pub fn into_request(self) -> Result<(CompareRequest, Question), clap::Error> {
        let question = Question { resolution: self.resolution, fail_on: self.fail_on, force: self.force };
        let request = if self.live {
            let [a, b] = <[String; 2]>::try_from([self.sides, self.others].concat())
                .map_err(|sides| wrong(format!("--live takes two relays in turns, and {} are named", sides.len())))?;
            let out =
                self.options.out.clone().ok_or_else(|| wrong("--live keeps its runs: say where with --out DIR"))?;
            if out.join("a").exists() || out.join("b").exists() {
                return Err(wrong(format!("{} holds runs already: take another folder for --out", out.display())));
            }
            if self.options.relay_bin.is_some() {
                return Err(wrong("with --live the two relays are named like URLs: --spawn-relay RELAY1 RELAY2"));
            }
            let live = Live { rounds: self.rounds, out, targets: [a, b], options: self.options };
            // What is wrong with the options is said before the first run.
            for is_a in [true, false] {
                live.checked(&Round { number: 1, is_a, folder: PathBuf::new() })?;
            }
            CompareRequest::Live(Box::new(live))
        } else {
            let paths = |names: Vec<String>| names.into_iter().map(PathBuf::from).collect();
            match (self.sides.len(), self.others.is_empty()) {
                (_, false) => CompareRequest::Folders { a: paths(self.sides), b: paths(self.others) },
                (2, true) => {
                    let mut a: Vec<PathBuf> = paths(self.sides);
                    let b = a.split_off(1);
                    CompareRequest::Folders { a, b }
                }
                _ => return Err(wrong("two sides are compared: `compare A B`, or `compare A1 A2 … -- B1 B2 …`")),
            }
        };
        Ok((request, question))
    }
}

impl Live {
    fn checked(&self, turn: &Round) -> Result<Request, clap::Error> {
        let target = &self.targets[usize::from(!turn.is_a)];
        let mut options = self.options.clone();
        // Each round has keys of its own, the same for both: no figure depends on one set of keys.
        options.seed = options.seed.wrapping_add(u64::from(turn.number) - 1);
        options.out = Some(turn.folder.clone());
        if options.spawn_relay {
            options.relay_bin = Some(PathBuf::from(target));
            options.into_request(None)
        } else {
            options.into_request(Some(target))
        }
    }

    /// What is to be run in a turn.
    ///
    /// # Errors
    /// [`clap::Error`]: a URL's host that is no longer known.
    pub fn request(&self, turn: &Round) -> Result<Request, clap::Error> {
        self.checked(turn)
    }
}

pub(super) const MERGE_HELP: &str = "\
Several generators loaded one relay at the same time, each with a --seed of its own and a folder of its own. Their
histograms and ledgers are added, and the targets judged anew.

Exit code: as that of run; 1 if the runs cannot be merged.";

/// Options of `merge`.
#[derive(Debug, Args)]
pub struct MergeArgs {
    /// The generators' folders.
    #[arg(required = true, num_args = 2.., value_name = "DIR")]
    pub runs: Vec<PathBuf>,
    /// Directory for the merged summary.json and intervals.hlog; is made.
    #[arg(long)]
    pub out: PathBuf,
    /// Targets for all together [default: those of the runs].
    #[arg(long)]
    pub slo: Option<Slo>,
    /// Merge runs that were not at the same time, or of different workloads.
    #[arg(long)]
    pub force: bool,
}

#[cfg(test)]
mod tests {
    use super::CompareRequest;
    use crate::cli::{Cli, Command};
    use crate::compare::{Question, Round};
    use crate::plan::Rate;
    use std::path::PathBuf;

    fn request(arguments: &str) -> Result<(CompareRequest, Question), String> {
        let line = ["loadgen", "compare"].into_iter().chain(arguments.split_ascii_whitespace());
        let cli = Cli::read(line.map(Into::into)).map_err(|error| error.to_string())?;
        let Command::Compare(args) = cli.command else { panic!("not a comparison") };
        args.into_request().map_err(|error| error.to_string())
    }

    #[test]
    fn sides_are_two_folders_or_two_lists() {
        for (arguments, expected) in
            [("one two", [&["one"][..], &["two"]]), ("a1 a2 -- b1 b2 b3", [&["a1", "a2"], &["b1", "b2", "b3"]])]
        {
            let (CompareRequest::Folders { a, b }, question) = request(arguments).unwrap() else { panic!("live") };
            let paths = |names: &[&str]| names.iter().map(PathBuf::from).collect::<Vec<_>>();
            assert_eq!([a, b], expected.map(paths));
            assert_eq!((question.resolution, question.force), (0.1, false));
        }
        let (_, question) = request("a b --fail-on message.p99:+5%,cpu:+3% --fail-on slower --resolution 5%").unwrap();
        assert_eq!((question.fail_on.len(), question.resolution), (3, 0.05));
    }

    #[test]
    fn live_runs_have_the_options_of_run() {
        let line =
            "--live ws://127.0.0.1:1 ws://127.0.0.1:2 --rounds 3 --rate max --in-flight 2 --seed 7 --out none/here";
        let (CompareRequest::Live(live), _) = request(line).unwrap() else { panic!("not live") };
        assert_eq!(live.rounds, 3);
        let turn = |number, is_a| live.request(&Round { number, is_a, folder: PathBuf::from("x") }).unwrap();
        let (first, second) = (turn(1, true), turn(2, false));
        assert_eq!(first.workload.rate, Rate::Max { in_flight: 2 });
        assert_eq!((first.target.unwrap().address.port(), second.target.unwrap().address.port()), (1, 2));
        assert_eq!((first.workload.seed, second.workload.seed), (7, 8));
    }

    #[test]
    fn live_runs_spawn_two_builds() {
        let line = "--live --spawn-relay old/relay new/relay --out none/here --relay-args --shards=1";
        let (CompareRequest::Live(live), _) = request(line).unwrap() else { panic!("not live") };
        let spawned = |is_a| {
            let request = live.request(&Round { number: 1, is_a, folder: PathBuf::from("x/a/01") }).unwrap();
            let (spawn, _) = request.spawn.unwrap();
            (spawn.program, spawn.arguments, request.relay_log.unwrap())
        };
        let expected =
            |program: &str| (PathBuf::from(program), vec!["--shards=1".to_owned()], PathBuf::from("x/a/01/relay.log"));
        assert_eq!((spawned(true), spawned(false)), (expected("old/relay"), expected("new/relay")));
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for (arguments, why) in [
            ("", "required"),
            ("one", "two sides"),
            ("one two three", "two sides"),
            ("a b --clients 5", "--live"),
            ("a b --rounds 5", "--live"),
            ("a b --fail-on message.p99", "no bound"),
            ("a b --resolution 0", "percentage"),
            ("--live ws://127.0.0.1:1 --out x", "two relays in turns, and 1"),
            ("--live ws://127.0.0.1:1 ws://127.0.0.1:2", "--out DIR"),
            ("--live ws://127.0.0.1:1 nonsense --out none/here", "no URL"),
            ("--live --spawn-relay a b --relay-bin c --out none/here", "--spawn-relay RELAY1 RELAY2"),
        ] {
            let error = request(arguments).map(|_| ()).unwrap_err();
            assert!(error.contains(why), "{arguments}: {error}");
        }
    }

    #[test]
    fn a_folder_with_runs_is_not_used_again() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("b")).unwrap();
        let line = format!("--live ws://127.0.0.1:1 ws://127.0.0.1:2 --out {}", dir.path().display());
        let error = request(&line).map(|_| ()).unwrap_err();
        assert!(error.contains("holds runs already"), "{error}");
    }
}
