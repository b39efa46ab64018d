//! What a person sees of a run while it goes on: some lines that are drawn anew in place, or one line now
//! and then where nobody can draw.
//!
//! Figures are [`Figures`], gathered by the coordinator; this module only writes them down.
//!
//! # Invariants
//! - No line is wider than the terminal: what does not fit is left out, from the right.
//! - Nothing is told by colour alone.

use std::time::Duration;

use console::{Style, measure_text_width, truncate_str};

use crate::units::{show_count, show_ns, show_rate};
use crate::validity::{BUSY_MAX, SEND_LAG_MAX_NS};

/// The percentiles of one metric so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Glance {
    /// Samples.
    pub n: u64,
    /// Half of them took no longer.
    pub p50_ns: u64,
    /// 99 of 100 took no longer.
    pub p99_ns: u64,
    /// The longest.
    pub max_ns: u64,
}

/// How a run stands. Rates are of the last second or two; percentiles of the steady phase so far, of
/// what has arrived: what is lost is known at the end.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Figures {
    /// Clients that are connected.
    pub connected: u64,
    /// Messages due a second; `None` if acks set the pace.
    pub due_per_second: Option<f64>,
    /// Messages sent a second.
    pub sent_per_second: f64,
    /// Messages delivered a second.
    pub delivered_per_second: f64,
    /// Response time of messages.
    pub message: Option<Glance>,
    /// Joins and leaves as watchers saw them.
    pub lobby: Option<Glance>,
    /// How late messages left.
    pub send_lag_p99_ns: Option<u64>,
    /// The share of each worker's core that it used.
    pub busy: Vec<f64>,
    /// Messages sent in the whole run.
    pub sent: u64,
    /// Messages delivered in the whole run.
    pub delivered: u64,
    /// Errors from the relay in the whole run.
    pub errors: u64,
}

/// How far a phase has come.
#[derive(Clone, Copy, Debug)]
pub struct Stage<'a> {
    /// The phase.
    pub name: &'a str,
    /// What it is about.
    pub about: &'a str,
    /// How long it has lasted.
    pub elapsed: Duration,
    /// How much of it is done, 0 to 1; `None` where nobody knows.
    pub done: Option<f64>,
}

/// What stands before a line.
const HEADING_WIDTH: usize = 10;

/// The bar of the first line, where there is room.
const BAR_WIDTH: usize = 24;

/// Draws all lines for a terminal of so many columns, with or without colours.
#[must_use]
pub fn frame(stage: &Stage<'_>, figures: Option<&Figures>, columns: usize, colours: bool) -> String {
    let paint = Paint { colours };
    let mut lines = vec![paint.stage(stage, columns)];
    if let Some(figures) = figures {
        lines.extend(paint.figures(figures, columns));
    }
    lines.join("\n")
}

/// Says the same in one line without any drawing.
#[must_use]
pub fn line(stage: &Stage<'_>, figures: &Figures) -> String {
    let mut parts = vec![format!("{} {:.0} s", stage.name, stage.elapsed.as_secs_f64())];
    if figures.sent > 0 {
        parts.push(rates(figures).join(" "));
    }
    for (name, glance) in [("message", figures.message), ("lobby", figures.lobby)] {
        if let Some(Glance { p50_ns, p99_ns, max_ns, .. }) = glance {
            parts.push(format!("{name} p50 {} p99 {} max {}", show_ns(p50_ns), show_ns(p99_ns), show_ns(max_ns)));
        }
    }
    if let Some(lag_ns) = figures.send_lag_p99_ns {
        parts.push(format!("send lag p99 {}", show_ns(lag_ns)));
    }
    if !figures.busy.is_empty() {
        parts.push(format!("busy {}", busy(&figures.busy).join(" ")));
    }
    parts.push(format!("{} errors", show_count(figures.errors)));
    parts.join(", ")
}

fn rates(figures: &Figures) -> Vec<String> {
    let due = figures.due_per_second.map(|due| format!("{}/s due", show_rate(due)));
    let sent = format!("{}/s sent", show_rate(figures.sent_per_second));
    let delivered = format!("{}/s delivered", show_rate(figures.delivered_per_second));
    due.into_iter().chain([sent, delivered]).collect()
}

fn busy(shares: &[f64]) -> Vec<String> {
    shares.iter().map(|share| format!("{:.0} %", share * 100.0)).collect()
}

/// `75 s` as `1:15`.
fn show_clock(time: Duration) -> String {
    let seconds = time.as_secs();
    format!("{}:{:02}", seconds / 60, seconds % 60)
}

/// How parts of a line look.
struct Paint {
    colours: bool,
}

impl Paint {
    fn style(&self, style: Style, text: &str) -> String {
        style.for_stderr().force_styling(self.colours).apply_to(text).to_string()
    }

    fn quiet(&self, text: &str) -> String {
        self.style(Style::new().dim(), text)
    }

    /// Something to look at.
    fn alarm(&self, text: &str) -> String {
        self.style(Style::new().red().bold(), &format!("! {text}"))
    }

    fn stage(&self, stage: &Stage<'_>, columns: usize) -> String {
        let heading = self.style(Style::new().bold(), &format!("{:<HEADING_WIDTH$}", stage.name));
        let mut parts = Vec::new();
        if let Some(done) = stage.done {
            let done = done.clamp(0.0, 1.0);
            let width = if columns < 60 { BAR_WIDTH / 3 } else { BAR_WIDTH };
            let filled = (done * width as f64).round() as usize;
            let bar = self.style(Style::new().cyan(), &"█".repeat(filled)) + &self.quiet(&"░".repeat(width - filled));
            parts.push(bar);
            parts.push(format!("{:>3.0} %", done * 100.0));
        }
        parts.push(show_clock(stage.elapsed));
        // What is left is guessed from what it took so far.
        if let Some(done) = stage.done.filter(|&done| done > 0.02 && done < 1.0) {
            parts.push(self.quiet(&format!("{} left", show_clock(stage.elapsed.mul_f64(1.0 / done - 1.0)))));
        }
        parts.push(self.quiet(stage.about));
        fit(&heading, parts, "  ", columns)
    }

    fn figures(&self, figures: &Figures, columns: usize) -> Vec<String> {
        let row =
            |name: &str, parts: Vec<String>| fit(&self.quiet(&format!("{name:<HEADING_WIDTH$}")), parts, "  ", columns);
        let mut lines = vec![row("clients", vec![format!("{} connected", show_count(figures.connected))])];
        if figures.sent > 0 {
            lines.push(row("rate", rates(figures)));
        }
        if figures.message.is_some() || figures.lobby.is_some() {
            let headings = ["p50", "p99", "max", "samples"].map(|name| self.quiet(&format!("{name:>11}")));
            lines.push(fit(&" ".repeat(HEADING_WIDTH), headings.to_vec(), "", columns));
        }
        for (name, glance) in [("message", figures.message), ("lobby", figures.lobby)] {
            if let Some(Glance { n, p50_ns, p99_ns, max_ns }) = glance {
                let times = [p50_ns, p99_ns, max_ns].map(|ns| format!("{:>11}", show_ns(ns)));
                let parts = times.into_iter().chain([format!("{:>11}", show_count(n))]).collect();
                lines.push(fit(&format!("{name:<HEADING_WIDTH$}"), parts, "", columns));
            }
        }
        let health = self.health(figures);
        if !health.is_empty() {
            lines.push(row("generator", health));
        }
        if figures.sent > 0 {
            let errors = format!("{} errors", show_count(figures.errors));
            let parts = vec![
                if figures.errors > 0 { self.alarm(&errors) } else { errors },
                format!("{} sent", show_count(figures.sent)),
                format!("{} delivered", show_count(figures.delivered)),
            ];
            lines.push(row("so far", parts));
        }
        lines
    }

    fn health(&self, figures: &Figures) -> Vec<String> {
        let mut parts = Vec::new();
        if !figures.busy.is_empty() {
            let text = format!("busy {}", busy(&figures.busy).join(" "));
            let overloaded = figures.busy.iter().any(|&share| share > BUSY_MAX);
            parts.push(if overloaded { self.alarm(&text) } else { text });
        }
        if let Some(lag_ns) = figures.send_lag_p99_ns {
            let text = format!("send lag p99 {}", show_ns(lag_ns));
            parts.push(if lag_ns > SEND_LAG_MAX_NS { self.alarm(&text) } else { text });
        }
        parts
    }
}

/// Puts parts behind a heading as long as they fit; what does not fit is left out, and so is all behind it.
fn fit(heading: &str, parts: Vec<String>, between: &str, columns: usize) -> String {
    let mut line = heading.to_owned();
    for (at, part) in parts.into_iter().enumerate() {
        let gap = if at == 0 { "" } else { between };
        if measure_text_width(&line) + gap.len() + measure_text_width(&part) > columns {
            break;
        }
        line.push_str(gap);
        line.push_str(&part);
    }
    truncate_str(&line, columns, "").into_owned()
}

#[cfg(test)]
mod tests {
    use super::{Figures, Glance, Stage, frame, line};
    use console::measure_text_width;
    use std::time::Duration;

    fn stage() -> Stage<'static> {
        Stage { name: "steady", about: "20 s", elapsed: Duration::from_secs(75), done: Some(0.75) }
    }

    fn figures() -> Figures {
        Figures {
            connected: 1020,
            due_per_second: Some(2000.0),
            sent_per_second: 1999.6,
            delivered_per_second: 1998.0,
            message: Some(Glance { n: 20_000, p50_ns: 136_000, p99_ns: 4_660_000, max_ns: 10_500_000 }),
            lobby: Some(Glance { n: 400_000, p50_ns: 3_600_000, p99_ns: 9_080_000, max_ns: 26_200_000 }),
            send_lag_p99_ns: Some(70_000),
            busy: vec![0.2, 0.31],
            sent: 24_000,
            delivered: 23_998,
            errors: 0,
        }
    }

    #[test]
    fn a_frame_has_all_figures() {
        let expected = "\
steady    ██████████████████░░░░░░   75 %  1:15  0:25 left  20 s
clients   1,020 connected
rate      2,000/s due  2,000/s sent  1,998/s delivered
                  p50        p99        max    samples
message        136 µs    4.66 ms    10.5 ms     20,000
lobby         3.60 ms    9.08 ms    26.2 ms    400,000
generator busy 20 % 31 %  send lag p99 70.0 µs
so far    0 errors  24,000 sent  23,998 delivered";
        assert_eq!(frame(&stage(), Some(&figures()), 80, false), expected);
    }

    #[test]
    fn a_narrow_terminal_shows_less_and_never_breaks_a_line() {
        for colours in [false, true] {
            for columns in 1..100 {
                let figures = Figures { busy: vec![0.95; 64], errors: 3, ..figures() };
                for line in frame(&stage(), Some(&figures), columns, colours).lines() {
                    assert!(measure_text_width(line) <= columns, "{columns}: {line}");
                }
            }
        }
        let narrow = frame(&stage(), Some(&figures()), 36, false);
        assert!(narrow.contains("4.66 ms") && !narrow.contains("10.5 ms"), "{narrow}");
    }

    #[test]
    fn without_colours_there_are_none() {
        let busy = Figures { busy: vec![0.95], errors: 3, send_lag_p99_ns: Some(9_000_000), ..figures() };
        let plain = frame(&stage(), Some(&busy), 80, false);
        assert!(!plain.contains('\x1b'), "{plain:?}");
        for alarm in ["! busy 95 %", "! send lag p99 9.00 ms", "! 3 errors"] {
            assert!(plain.contains(alarm), "{alarm}: {plain}");
        }
        assert!(frame(&stage(), Some(&busy), 80, true).contains('\x1b'));
    }

    #[test]
    fn what_is_not_known_is_left_out() {
        let stage = Stage { name: "connect", about: "1,000 clients over 5 s", done: None, ..stage() };
        let figures = Figures { connected: 17, ..Figures::default() };
        let shown = frame(&stage, Some(&figures), 80, false);
        assert_eq!(shown, "connect   1:15  1,000 clients over 5 s\nclients   17 connected");
        assert_eq!(frame(&stage, None, 80, false).lines().count(), 1);
    }

    #[test]
    fn a_plain_line_says_the_same() {
        assert_eq!(
            line(&stage(), &figures()),
            "steady 75 s, 2,000/s due 2,000/s sent 1,998/s delivered, message p50 136 µs p99 4.66 ms max 10.5 ms, \
             lobby p50 3.60 ms p99 9.08 ms max 26.2 ms, send lag p99 70.0 µs, busy 20 % 31 %, 0 errors"
        );
    }
}
