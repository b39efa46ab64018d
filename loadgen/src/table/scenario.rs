//! What a run prints of what was not steady.

use std::fmt::{Result, Write};

use crate::summary::{MetricSummary, Summary};
use crate::units::{show_count, show_ns};

pub(super) fn render(out: &mut String, summary: &Summary) -> Result {
    steps(out, summary)?;
    storm(out, summary)?;
    slow_readers(out, summary)?;
    offline(out, summary)?;
    crash(out, summary)?;
    aside(out, summary)
}

fn show(value: Option<u64>) -> String {
    value.map_or_else(|| "never".to_owned(), show_ns)
}

fn steps(out: &mut String, summary: &Summary) -> Result {
    if summary.steps.is_empty() {
        return Ok(());
    }
    let headings = ["due/s", "received", "p50", "p99", "max", "lag p99"];
    write!(out, "\n{:<17}", "step")?;
    for heading in headings {
        write!(out, "{heading:>11}")?;
    }
    writeln!(out)?;
    for step in &summary.steps {
        let [from_s, to_s] = [step.start_ms, step.start_ms + step.length_ms].map(|ms| ms as f64 / 1000.0);
        write!(out, "{:<17}", format!("{from_s} to {to_s} s"))?;
        write!(out, "{:>11}{:>11}", show_count(step.due_per_second.round() as u64), show_count(step.message.n))?;
        let percentile = |metric: &MetricSummary, value: Option<u64>| match metric.n {
            0 => "-".to_owned(),
            _ => show(value),
        };
        let (message, lag) = (&step.message, &step.send_lag);
        for value in [message.p50, message.p99, message.max] {
            write!(out, "{:>11}", percentile(message, value))?;
        }
        writeln!(out, "{:>11}", percentile(lag, lag.p99))?;
    }
    Ok(())
}

fn storm(out: &mut String, summary: &Summary) -> Result {
    let Some(storm) = &summary.storm else { return Ok(()) };
    write!(out, "storm      {} clients dropped, {} came back", show_count(storm.dropped), show_count(storm.back))?;
    if let (Some(last_login), Some(rate)) = (storm.last_login, storm.logins_per_second) {
        let rate = show_count(rate.round() as u64);
        write!(out, ", the last login {} after the drop, {rate} logins/s", show_ns(last_login))?;
    }
    if storm.login_errors > 0 {
        write!(out, ", {} attempts failed", show_count(storm.login_errors))?;
    }
    match (storm.converged, storm.converge_time) {
        (Some(true), Some(ns)) => writeln!(out, "; all lobbies right {} after it", show_ns(ns))?,
        (Some(_), _) => writeln!(out, "; NOT all lobbies became right")?,
        (None, _) => writeln!(out)?,
    }
    let message = &storm.message;
    if message.n + message.infinite > 0 {
        writeln!(
            out,
            "           {} messages between those who stayed, meanwhile: p50 {}, p99 {}, max {}",
            show_count(message.n + message.infinite),
            show(message.p50),
            show(message.p99),
            show(message.max),
        )?;
    }
    Ok(())
}

fn slow_readers(out: &mut String, summary: &Summary) -> Result {
    let Some(slow) = &summary.slow_readers else { return Ok(()) };
    writeln!(
        out,
        "slow       {} clients stopped reading, {} were still connected at the end",
        show_count(slow.clients),
        show_count(slow.stayed)
    )?;
    for (how, count) in &slow.ended {
        writeln!(out, "           {} × {how}", show_count(*count))?;
    }
    Ok(())
}

fn offline(out: &mut String, summary: &Summary) -> Result {
    let Some(offline) = &summary.offline else { return Ok(()) };
    writeln!(
        out,
        "offline    {} clients, {} of them came back, {} without a gap: {} messages sent to them, {} acked, {} refused, \
         {} came",
        show_count(offline.clients),
        show_count(offline.back),
        show_count(offline.recovered),
        show_count(offline.sent),
        show_count(offline.acked),
        show_count(offline.refused),
        show_count(offline.delivered),
    )?;
    if let (Some(ns), Some(rate)) = (offline.catch_up_time, offline.caught_up_per_second) {
        let rate = show_count(rate.round() as u64);
        writeln!(out, "           {} from the first of them coming back to the last message, {rate}/s", show_ns(ns))?;
    }
    for (when, message) in [("before", &offline.before), ("meanwhile", &offline.meanwhile), ("after", &offline.after)] {
        if message.n + message.infinite > 0 {
            writeln!(
                out,
                "           {} messages between others {when}: p50 {}, p99 {}, max {}",
                show_count(message.n + message.infinite),
                show(message.p50),
                show(message.p99),
                show(message.max),
            )?;
        }
    }
    Ok(())
}

fn crash(out: &mut String, summary: &Summary) -> Result {
    let Some(crash) = &summary.crash else { return Ok(()) };
    writeln!(
        out,
        "crash      killed and started again {} times, {} at most until it listened; {} times a client came back, {} \
         without a gap",
        show_count(crash.kills),
        show_ns(crash.down_longest_ns),
        show_count(crash.reconnects),
        show_count(crash.recovered),
    )?;
    writeln!(
        out,
        "           {} messages acked, {} of them lost; {} sent again, {} of them acked as known; {} came again on a \
         later connection",
        show_count(crash.acked),
        show_count(crash.lost),
        show_count(crash.sent_again),
        show_count(crash.duplicate_acks),
        show_count(crash.repeated),
    )?;
    for id in &crash.lost_ids {
        writeln!(out, "           LOST {id}")?;
    }
    if crash.lost > crash.lost_ids.len() as u64 {
        writeln!(out, "           and {} more", show_count(crash.lost - crash.lost_ids.len() as u64))?;
    }
    Ok(())
}

fn aside(out: &mut String, summary: &Summary) -> Result {
    let aside = &summary.aside;
    if aside.due == 0 {
        return Ok(());
    }
    writeln!(
        out,
        "not judged {} messages from or to clients that were away or read slowly: {} not sent, {} delivered, {} refused, \
         {} lost",
        show_count(aside.due),
        show_count(aside.not_sent),
        show_count(aside.delivered),
        show_count(aside.refused),
        show_count(aside.lost),
    )
}
