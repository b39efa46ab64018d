//! Lists of names and values out of a summary, whatever fields it has: a field that is added to the
//! workload or the environment is on the page without a line here.

use maud::{Markup, html};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::units::{show_bytes, show_count, show_ms, show_ns, trim_zeros};

/// The fields of `record` in its order, then a list of its own for each field that has fields itself.
pub(super) fn list(record: &impl Serialize) -> Markup {
    // What is already JSON in summary.json can be JSON again.
    let Ok(Value::Object(fields)) = serde_json::to_value(record) else { return html! {} };
    let (groups, plain): (Vec<_>, Vec<_>) = fields.iter().partition(|(_, value)| value.is_object());
    html! {
        (plain_list(plain.into_iter()))
        @for (name, group) in groups {
            @if let Some(fields) = group.as_object().filter(|fields| !fields.is_empty()) {
                h3 { (heading(name)) }
                (group_list(fields))
            }
        }
    }
}

fn group_list(fields: &Map<String, Value>) -> Markup {
    plain_list(fields.iter())
}

fn plain_list<'a>(fields: impl Iterator<Item = (&'a String, &'a Value)>) -> Markup {
    html! {
        dl.facts {
            @for (name, value) in fields {
                @if let Some(shown) = show(name, value) {
                    div { dt { (breakable(&label(name))) } dd { (shown) } }
                }
            }
        }
    }
}

/// A value as its name's unit wants it; `None` is not worth a line.
fn show(name: &str, value: &Value) -> Option<String> {
    Some(match value {
        Value::Null => return None,
        Value::Bool(yes) => if *yes { "yes" } else { "no" }.to_owned(),
        Value::String(text) if text.is_empty() => return None,
        Value::String(text) => text.clone(),
        Value::Array(items) if items.is_empty() => return None,
        Value::Array(items) => items.iter().filter_map(|item| show(name, item)).collect::<Vec<_>>().join(", "),
        Value::Object(fields) => fields
            .iter()
            .filter_map(|(name, value)| Some(format!("{} {}", label(name), show(name, value)?)))
            .collect::<Vec<_>>()
            .join(", "),
        Value::Number(number) => {
            let whole = number.as_u64();
            match whole {
                Some(ms) if name.ends_with("_ms") => show_ms(ms),
                Some(ns) if name.ends_with("_ns") => show_ns(ns),
                Some(bytes) if name.ends_with("_bytes") => show_bytes(bytes),
                // A seed is a name.
                Some(_) if name == "seed" => number.to_string(),
                Some(count) => show_count(count),
                None => number
                    .as_f64()
                    .map_or_else(|| number.to_string(), |number| trim_zeros(&format!("{number:.2}")).to_owned()),
            }
        }
    })
}

/// A field's name for people: `clock_source` is `clock source`, and what the value's unit says is left out.
fn label(name: &str) -> String {
    let name = ["_ms", "_ns", "_bytes"].iter().find_map(|unit| name.strip_suffix(unit)).unwrap_or(name);
    // Settings of the kernel keep their names.
    if name.contains('.') { name.to_owned() } else { name.replace('_', " ") }
}

/// Lets a long name with dots in it break behind them.
fn breakable(name: &str) -> Markup {
    html! {
        @for part in name.split_inclusive('.') { (part) @if part.ends_with('.') { wbr; } }
    }
}

fn heading(name: &str) -> String {
    let label = label(name);
    let mut letters = label.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::{heading, list};
    use serde_json::json;

    #[test]
    fn values_are_shown_by_the_unit_of_their_name() {
        let record = json!({
            "drain_ms": 5000, "memory_bytes": 25_000_000_000_u64, "message_bytes": 100, "clients": 15_000, "seed": 1234567,
            "lobby": true, "in_flight": null, "governor": "", "cores": [0, 2], "churn_per_second": 0.5,
            "sysctls": { "net.core.somaxconn": "4096", "a_b.c": "<b>" }, "mitigations": {},
        });
        let html = list(&record).into_string();
        for part in [
            "<dt>drain</dt><dd>5 s</dd>",
            "<dt>memory</dt><dd>23.3 GiB</dd>",
            "<dt>message</dt><dd>100 B</dd>",
            "<dd>15,000</dd>",
            "<dd>1234567</dd>",
            "<dd>yes</dd>",
            "<dd>0, 2</dd>",
            "<dt>churn per second</dt><dd>0.5</dd>",
            "<h3>Sysctls</h3>",
            "<dt>a_b.<wbr>c</dt><dd>&lt;b&gt;</dd>",
        ] {
            assert!(html.contains(part), "{part}: {html}");
        }
        for part in ["in flight", "governor", "Mitigations"] {
            assert!(!html.contains(part), "{part}: {html}");
        }
        assert_eq!(heading("clock_source"), "Clock source");
    }
}
