//! Where a run's news goes while it goes on: drawn in place on a terminal, plain lines elsewhere. It goes
//! to standard error; results go to standard output.

use std::fmt;
use std::io::{IsTerminal, Write};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use console::Term;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::live::{self, Figures, Stage};

/// How often a terminal is drawn anew.
const DRAW_EVERY: Duration = Duration::from_millis(250);

/// How often a line is written where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// Shows how far a run has come.
#[derive(Debug)]
pub enum Progress {
    /// Drawn in place on a terminal, else a line now and then.
    Shown(Box<Mutex<View>>),
    /// Nothing.
    Silent,
}

/// What is shown now.
pub struct View {
    /// Nothing is drawn without one.
    screen: Option<ProgressBar>,
    name: &'static str,
    about: String,
    began: Instant,
    steps: u64,
    step: u64,
    figures: Option<Figures>,
    shown: Instant,
}

impl fmt::Debug for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("View").field("name", &self.name).field("figures", &self.figures).finish_non_exhaustive()
    }
}

impl Progress {
    /// Drawn if standard error is a terminal that can, else lines.
    #[must_use]
    pub fn to_stderr() -> Self {
        let can_draw = std::io::stderr().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
        let screen = can_draw.then(|| {
            let screen = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(10));
            // The frame is one message of several lines.
            screen
                .set_style(ProgressStyle::with_template("{msg}").unwrap_or_else(|_| ProgressStyle::default_spinner()));
            screen
        });
        Self::Shown(Box::new(Mutex::new(View::new(screen))))
    }

    /// Whether it is drawn in place, and so takes no room.
    #[must_use]
    pub fn is_drawn(&self) -> bool {
        let mut drawn = false;
        self.with(|view| drawn = view.screen.is_some());
        drawn
    }

    /// A phase begins, of so many steps; of one step if nobody can tell how far it is.
    pub fn phase(&self, name: &'static str, steps: u64, about: &str) {
        self.with(|view| {
            let now = Instant::now();
            (view.name, view.steps, view.step, view.began) = (name, steps, 0, now);
            about.clone_into(&mut view.about);
            view.shown = now;
            match &view.screen {
                Some(screen) => {
                    // A run before this one may have taken it away.
                    screen.reset();
                    view.draw();
                }
                None => say(&format!("{name}: {about}")),
            }
        });
    }

    /// The phase has come so far.
    pub fn at(&self, step: u64) {
        self.with(|view| {
            view.step = step;
            view.show_if_due();
        });
    }

    /// How the run stands. To be told as often as one likes: it is shown now and then.
    pub fn show(&self, figures: &Figures) {
        self.with(|view| {
            view.figures = Some(figures.clone());
            view.show_if_due();
        });
    }

    /// Something worth a line of its own.
    pub fn line(&self, line: &str) {
        self.with(|view| match &view.screen {
            Some(screen) => screen.println(line),
            None => say(line),
        });
    }

    /// The run is over: takes away what is drawn.
    pub fn finish(&self) {
        self.with(|view| {
            view.figures = None;
            if let Some(screen) = &view.screen {
                screen.finish_and_clear();
            }
        });
    }

    fn with(&self, change: impl FnOnce(&mut View)) {
        match self {
            Self::Shown(view) => change(&mut view.lock().unwrap_or_else(PoisonError::into_inner)),
            Self::Silent => {}
        }
    }
}

impl View {
    fn new(screen: Option<ProgressBar>) -> Self {
        let now = Instant::now();
        Self { screen, name: "", about: String::new(), began: now, steps: 1, step: 0, figures: None, shown: now }
    }

    fn stage(&self) -> Stage<'_> {
        let done = (self.steps > 1).then(|| self.step as f64 / self.steps as f64);
        Stage { name: self.name, about: &self.about, elapsed: self.began.elapsed(), done }
    }

    fn show_if_due(&mut self) {
        let every = if self.screen.is_some() { DRAW_EVERY } else { LINE_EVERY };
        if self.shown.elapsed() < every {
            return;
        }
        self.shown = Instant::now();
        if self.screen.is_some() {
            self.draw();
        } else if let Some(figures) = &self.figures {
            say(&live::line(&self.stage(), figures));
        }
    }

    fn draw(&self) {
        let Some(screen) = &self.screen else { return };
        let columns = usize::from(Term::stderr().size().1);
        // One column stays free: some terminals break a line that fills the last one.
        let columns = columns.saturating_sub(1).max(1);
        screen.set_message(live::frame(
            &self.stage(),
            self.figures.as_ref(),
            columns,
            console::colors_enabled_stderr(),
        ));
        screen.tick();
    }
}

fn say(line: &str) {
    // Nobody reads what a closed standard error would have shown.
    let _ = writeln!(std::io::stderr(), "{line}");
}
