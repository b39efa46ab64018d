//! The head of the page: what the run came to, by each target, and what casts doubt on it.

use maud::{Markup, html};

use super::Run;
use crate::recorder::{Metric, quantile};
use crate::slo::{Judgement, TermVerdict};
use crate::summary::Summary;
use crate::units::{show_ns, trim_zeros};
use crate::validity::{Finding, Severity};

/// The header of the page.
pub(super) fn render(run: &Run<'_>) -> Markup {
    let summary = run.summary;
    let verdict = &summary.verdict;
    html! {
        header #top .verdict.(class(verdict.judgement)) {
            p.kicker { "loadgen · " (summary.target.url) }
            h1 { (mark(verdict.judgement)) (verdict.judgement.to_string()) }
            p.sentence { (sentence(summary)) }
            p.about {
                (summary.workload.sentence())
                " Relay “" (summary.target.relay_name) "”, "
                time datetime=(summary.started) { (summary.started.replace('T', " ").replace('Z', " UTC")) }
                ", exit code " (verdict.exit_code) "."
            }
            @if !verdict.terms.is_empty() { (targets(run)) }
            (findings(&summary.findings))
            (notes(&summary.notes))
        }
    }
}

/// The class of a verdict in the style sheet.
fn class(judgement: Judgement) -> &'static str {
    match judgement {
        Judgement::Pass => "pass",
        Judgement::Fail => "fail",
        Judgement::Invalid => "invalid",
    }
}

/// A shape for each verdict, so that it is not told by colour alone.
fn mark(judgement: Judgement) -> Markup {
    html! {
        svg.mark viewBox="0 0 24 24" aria-hidden="true" {
            circle cx="12" cy="12" r="11" {}
            @match judgement {
                Judgement::Pass => { path d="M6.5 12.5 10.5 16.5 17.5 8.5" {} }
                Judgement::Fail => { path d="M8 8 16 16M16 8 8 16" {} }
                Judgement::Invalid => { path d="M12 6V13.5M12 17.2V17.3" {} }
            }
        }
    }
}

fn sentence(summary: &Summary) -> String {
    let terms = &summary.verdict.terms;
    let spoiled = summary.findings.iter().any(Finding::spoils_run);
    let missed = terms.iter().filter(|term| term.judgement == Judgement::Fail).count();
    let sentence = match (summary.verdict.judgement, terms.len()) {
        (Judgement::Pass, 0) => "No targets were given.".to_owned(),
        (Judgement::Pass, 1) => "The target is met.".to_owned(),
        (Judgement::Pass, count) => format!("All {count} targets are met."),
        (Judgement::Fail, 1) => "The target is missed.".to_owned(),
        (Judgement::Fail, count) => format!("{missed} of {count} targets missed."),
        (Judgement::Invalid, _) if spoiled => {
            "This run says nothing about the relay. Change what is named below, and run again.".to_owned()
        }
        (Judgement::Invalid, _) => "The run says nothing about a target.".to_owned(),
    };
    if spoiled && summary.verdict.judgement == Judgement::Fail {
        // What a generator in trouble cannot have done.
        format!("{sentence} What is missed is the relay’s doing; of the rest the run says nothing.")
    } else {
        sentence
    }
}

fn targets(run: &Run<'_>) -> Markup {
    html! {
        div.scroll {
            table {
                caption.unseen { "Targets" }
                thead {
                    tr {
                        th scope="col" { "Verdict" }
                        th scope="col" { "Target" }
                        th.number scope="col" { "Measured" }
                        th.number.extra scope="col" { "Of the limit" }
                    }
                }
                tbody {
                    @for term in &run.summary.verdict.terms {
                        tr.(class(term.judgement)) {
                            td { span.badge { (mark(term.judgement)) (term.judgement.to_string()) } }
                            th scope="row" { code { (term.term) } }
                            td.number { (term.measured) }
                            td.number.extra.quiet { (used(run, term).unwrap_or_else(|| "–".to_owned())) }
                        }
                    }
                }
            }
        }
    }
}

/// How much of a target about a time was used.
fn used(run: &Run<'_>, term: &TermVerdict) -> Option<String> {
    let bound = run.bounds.iter().find(|bound| bound.term == term.term)?;
    let measured = if bound.metric == "lobby" {
        let infinite = run.summary.metrics.get("lobby").map_or(0, |lobby| lobby.infinite);
        quantile(&run.recorder.lobby(), infinite, bound.share)
    } else {
        let metric = Metric::ALL.into_iter().find(|metric| metric.name() == bound.metric)?;
        run.samples(metric).at(bound.share)
    }?;
    Some(show_used(measured as f64 / bound.bound_ns))
}

fn show_used(share: f64) -> String {
    let percent = share * 100.0;
    match percent {
        ..0.1 => "below 0.1 %".to_owned(),
        ..10.0 => format!("{} %", trim_zeros(&format!("{percent:.1}"))),
        ..1000.0 => format!("{percent:.0} %"),
        _ => format!("{share:.0} times"),
    }
}

fn findings(findings: &[Finding]) -> Markup {
    let (invalid, warnings): (Vec<_>, Vec<_>) =
        findings.iter().partition(|finding| finding.severity == Severity::Invalid);
    let list = |heading: &str, id: &str, findings: &[&Finding]| {
        html! {
            @if !findings.is_empty() {
                section.findings.(id) aria-labelledby=(id) {
                    h2 id=(id) { (heading) }
                    ul {
                        @for finding in findings {
                            li {
                                p { (finding.text) }
                                p.fix { strong { "Fix: " } (finding.fix) }
                            }
                        }
                    }
                }
            }
        }
    };
    html! {
        (list("Why it says nothing", "doubts", &invalid))
        (list("Read with care", "warnings", &warnings))
    }
}

fn notes(notes: &[String]) -> Markup {
    html! {
        @if !notes.is_empty() {
            section.findings aria-labelledby="notes" {
                h2 #notes { "To know" }
                ul { @for note in notes { li { p { (note) } } } }
            }
        }
    }
}

/// The warnings about a figure, to stand beside it; the fix is at the head of the page.
pub(super) fn warnings(run: &Run<'_>, figure: &str) -> Markup {
    let touched = |finding: &&Finding| finding.metric.as_deref() == Some(figure);
    html! {
        @for finding in run.summary.findings.iter().filter(touched) {
            p.warning { (mark(Judgement::Invalid)) a href="#top" { (finding.text) } }
        }
    }
}

/// A time, or that it never came.
pub(super) fn show_time(ns: Option<u64>) -> String {
    ns.map_or_else(|| "never".to_owned(), show_ns)
}

#[cfg(test)]
mod tests {
    use super::show_used;

    #[test]
    fn what_is_used_of_a_limit_is_told_in_a_few_digits() {
        for (share, shown) in [
            (0.000_01, "below 0.1 %"),
            (0.0093, "0.9 %"),
            (0.05, "5 %"),
            (0.426, "43 %"),
            (2.0, "200 %"),
            (42.0, "42 times"),
        ] {
            assert_eq!(show_used(share), shown);
        }
    }
}
