//! What a person sees while a run goes on: a bar on a terminal, plain lines elsewhere. It goes to
//! standard error; results go to standard output.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// Shows how far a run has come.
#[derive(Debug)]
pub enum Progress {
    /// A bar that is redrawn.
    Bar(ProgressBar),
    /// A line now and then.
    Lines,
    /// Nothing.
    Silent,
}

impl Progress {
    /// A bar if standard error is a terminal, else lines.
    #[must_use]
    pub fn to_stderr() -> Self {
        if std::io::stderr().is_terminal() {
            let bar = ProgressBar::new(0);
            if let Ok(style) = ProgressStyle::with_template("{prefix:>8} {bar:30} {elapsed_precise} {msg}") {
                bar.set_style(style);
            }
            Self::Bar(bar)
        } else {
            Self::Lines
        }
    }

    /// A phase begins, of so many steps.
    pub fn phase(&self, name: &'static str, steps: u64, message: &str) {
        match self {
            Self::Bar(bar) => {
                bar.reset();
                bar.set_prefix(name);
                bar.set_length(steps.max(1));
                bar.set_message(message.to_owned());
                bar.enable_steady_tick(Duration::from_millis(200));
            }
            Self::Lines => say(&format!("{name}: {message}")),
            Self::Silent => {}
        }
    }

    /// The phase has come so far. Redraws a bar; says nothing elsewhere.
    pub fn at(&self, step: u64) {
        if let Self::Bar(bar) = self {
            bar.set_position(step);
        }
    }

    /// News of the phase, about once a second: into the bar, or as a line.
    pub fn news(&self, news: &str) {
        match self {
            Self::Bar(bar) => bar.set_message(news.to_owned()),
            Self::Lines => say(news),
            Self::Silent => {}
        }
    }

    /// Something worth a line of its own.
    pub fn line(&self, line: &str) {
        match self {
            Self::Bar(bar) => bar.println(line),
            Self::Lines => say(line),
            Self::Silent => {}
        }
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        if let Self::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }
}

fn say(line: &str) {
    // Nobody reads what a closed standard error would have shown.
    let _ = writeln!(std::io::stderr(), "{line}");
}
