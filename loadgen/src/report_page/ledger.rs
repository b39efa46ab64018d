//! What became of every message: each count, those of faults that did not happen in a quiet voice.

use std::collections::BTreeMap;

use maud::{Markup, html};

use super::Run;
use crate::ledger::Ledger;
use crate::units::show_count;

/// The section.
pub(super) fn render(run: &Run<'_>) -> Markup {
    // Taken apart by name: a count that is added cannot be left out here.
    let Ledger {
        sent,
        not_sent,
        blocked,
        overdue,
        acked,
        unacked,
        ack_duplicates,
        delivered,
        lost,
        refused,
        duplicates,
        out_of_order,
        altered,
        bad_signature,
        altered_unrepaired,
        misdelivered,
        delivered_though_refused,
        unknown,
        leftover,
        seq_gaps,
        seq_backward,
        unreadable,
        errors,
        disconnects,
    } = &run.summary.ledger;
    let devices = run.summary.workload.devices();
    let flow = [("sent", *sent), ("acked", *acked), ("delivered", *delivered)];
    let faults = [
        ("lost", *lost),
        ("refused by the relay", *refused),
        ("not sent: no connection", *not_sent),
        ("not sent: the relay took no more", *blocked),
        ("not sent: the generator did not come to them", *overdue),
        ("duplicates", *duplicates),
        ("out of order", *out_of_order),
        ("altered", *altered),
        ("… with a bad signature", *bad_signature),
        ("… and never right", *altered_unrepaired),
        ("delivered to somebody else", *misdelivered),
        ("delivered though refused", *delivered_though_refused),
        ("sent by nobody here", *unknown),
        ("neither acked nor refused", *unacked),
        ("acked twice", *ack_duplicates),
        ("inbox numbers skipped", *seq_gaps),
        ("inbox numbers that fell", *seq_backward),
        ("unreadable frames", *unreadable),
    ];
    html! {
        section aria-labelledby="ledger" {
            h2 #ledger { "Delivery ledger" }
            p {
                "Every message of the whole run, warm-up included, compared byte for byte: "
                @if devices == 1 {
                    (show_count(*sent)) " sent = " (show_count(*delivered)) " delivered + " (show_count(*lost))
                    " lost + " (show_count(*refused)) " refused + " (show_count(*altered_unrepaired))
                    " altered for good."
                } @else {
                    "each of " (show_count(*sent)) " is due at " (devices) " devices of its recipient and, from a relay with \
                     a store, at the other devices of its sender. Delivered and lost count each device."
                }
            }
            dl.counts {
                @for (name, count) in flow { (cell(name, count, "")) }
                @for (name, count) in faults { (cell(name, count, if count == 0 { "zero" } else { "bad" })) }
            }
            (by_name("Errors by reason", errors))
            (by_name("Broken connections by cause", disconnects))
            @if *leftover > 0 {
                p.quiet.below {
                    (show_count(*leftover)) " messages of earlier runs with this seed had waited for these clients."
                }
            }
            @if errors.is_empty() && disconnects.is_empty() {
                p.quiet.below { "No errors from the relay, no broken connections." }
            }
        }
    }
}

fn cell(name: &str, count: u64, class: &str) -> Markup {
    html! {
        div.(class) { dt { (name) } dd { (show_count(count)) } }
    }
}

fn by_name(heading: &str, counts: &BTreeMap<String, u64>) -> Markup {
    html! {
        @if !counts.is_empty() {
            h3 { (heading) }
            ul.tally.bad {
                @for (name, count) in counts {
                    li { b { (show_count(*count)) " ×" } " " (name) }
                }
            }
        }
    }
}
