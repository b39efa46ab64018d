//! What is not the same in runs that are compared: workload, machine, generator, relay.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::Serialize;
use serde_json::Value;

use crate::summary::Summary;

/// One thing that is not the same in all runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Dissimilarity {
    /// What.
    pub name: String,
    /// What it is in A's runs.
    pub a: Vec<String>,
    /// What it is in B's.
    pub b: Vec<String>,
}

impl fmt::Display for Dissimilarity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: A {}, B {}", self.name, self.a.join(" and "), self.b.join(" and "))
    }
}

/// Everything that is not the same.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Likeness {
    /// In what was asked of the relay.
    pub workload: Vec<Dissimilarity>,
    /// In the machine of the generator.
    pub machine: Vec<Dissimilarity>,
    /// In the generator: how it was built, and what it ran on.
    pub generator: Vec<Dissimilarity>,
    /// In the relay, which is what is compared.
    pub relay: Vec<Dissimilarity>,
}

/// What tells machines apart.
const MACHINE: [&str; 10] = [
    "host",
    "cpu",
    "microcode",
    "cores",
    "memory_bytes",
    "governor",
    "clock_source",
    "mitigations",
    "kernel",
    "sysctls",
];

impl Likeness {
    /// Looks for what differs between the runs of A and of B, or among them.
    #[must_use]
    pub fn of(a: &[&Summary], b: &[&Summary]) -> Self {
        let differences = |facts: fn(&Summary) -> BTreeMap<String, String>| {
            let (a, b) = (facts_of(a, facts), facts_of(b, facts));
            let names: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
            names
                .into_iter()
                .filter_map(|name| {
                    let values = |side: &BTreeMap<String, BTreeSet<String>>| {
                        side.get(name)
                            .map_or_else(|| vec![NOTHING.to_owned()], |values| values.iter().cloned().collect())
                    };
                    let (a, b): (Vec<String>, Vec<String>) = (values(&a), values(&b));
                    (a != b || a.len() > 1).then(|| Dissimilarity { name: name.clone(), a, b })
                })
                .collect()
        };
        Self {
            workload: differences(workload),
            machine: differences(machine),
            generator: differences(generator),
            relay: differences(relay),
        }
    }
}

/// The value of a fact that a run does not have.
const NOTHING: &str = "nothing";

/// Options of a relay that say where it listens.
const ADDRESSES: [&str; 2] = ["config.listen", "config.admin"];

/// Each fact with all the values it has in runs.
fn facts_of(runs: &[&Summary], facts: fn(&Summary) -> BTreeMap<String, String>) -> BTreeMap<String, BTreeSet<String>> {
    let by_run: Vec<_> = runs.iter().map(|run| facts(run)).collect();
    let names: BTreeSet<&String> = by_run.iter().flat_map(BTreeMap::keys).collect();
    let values = |name: &String| {
        by_run.iter().map(|facts| facts.get(name).cloned().unwrap_or_else(|| NOTHING.to_owned())).collect()
    };
    names.into_iter().map(|name| (name.clone(), values(name))).collect()
}

/// The seed may differ: it makes other keys, not another load.
fn workload(run: &Summary) -> BTreeMap<String, String> {
    let mut facts = leaves(&serde_json::to_value(&run.workload).unwrap_or_default());
    facts.remove("seed");
    facts
}

fn machine(run: &Summary) -> BTreeMap<String, String> {
    let environment = serde_json::to_value(&run.environment).unwrap_or_default();
    let known = MACHINE.into_iter().filter_map(|name| Some((name.to_owned(), environment.get(name)?.clone())));
    leaves(&Value::Object(known.collect()))
}

fn generator(run: &Summary) -> BTreeMap<String, String> {
    let mut facts = leaves(&serde_json::to_value(&run.environment.build).unwrap_or_default());
    facts.insert("engine".to_owned(), run.generator.engine.clone());
    facts.insert("pin_cores".to_owned(), format!("{:?}", run.generator.pin_cores));
    facts.insert("workers".to_owned(), run.generator.workers.len().to_string());
    facts
}

fn relay(run: &Summary) -> BTreeMap<String, String> {
    let mut facts = BTreeMap::new();
    match &run.relay {
        None => _ = facts.insert("url".to_owned(), run.target.url.clone()),
        Some(relay) => {
            facts.insert("program".to_owned(), relay.program.clone());
            facts.insert("arguments".to_owned(), relay.arguments.join(" "));
        }
    }
    let said = run.relay.as_ref().and_then(|relay| relay.version.as_deref());
    if let Some(about) = &run.relay_about {
        facts.extend(leaves(&about.version));
        facts.extend(leaves(&about.config).into_iter().map(|(name, value)| (format!("config.{name}"), value)));
        // Spawned relays listen wherever there is room.
        facts.retain(|name, _| !ADDRESSES.contains(&name.as_str()));
    } else if let Some(version) = said {
        match serde_json::from_str::<Value>(version) {
            Ok(version) => facts.extend(leaves(&version)),
            Err(_) => _ = facts.insert("version".to_owned(), version.to_owned()),
        }
    }
    facts
}

/// The values of a tree by their path, those that are nothing left out.
fn leaves(value: &Value) -> BTreeMap<String, String> {
    fn walk(path: &str, value: &Value, found: &mut BTreeMap<String, String>) {
        match value {
            Value::Null => {}
            Value::Object(fields) => {
                for (name, value) in fields {
                    walk(&if path.is_empty() { name.clone() } else { format!("{path}.{name}") }, value, found);
                }
            }
            Value::String(text) => {
                found.insert(path.to_owned(), text.clone());
            }
            other => {
                found.insert(path.to_owned(), other.to_string());
            }
        }
    }
    let mut found = BTreeMap::new();
    walk("", value, &mut found);
    found
}

#[cfg(test)]
mod tests {
    use super::{Likeness, leaves};
    use crate::summary::Summary;
    use serde_json::{Value, json};

    fn stored() -> Value {
        let file =
            concat!(env!("CARGO_MANIFEST_DIR"), "/../results/2026-11-21-first-figures/latency.ring.1/summary.json");
        serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap()
    }

    /// The stored run with one field changed.
    fn with(path: &[&str], value: Value) -> Summary {
        let mut run = stored();
        let mut field = &mut run;
        for name in path {
            field = &mut field[*name];
        }
        *field = value;
        serde_json::from_value(run).unwrap()
    }

    #[test]
    fn what_differs_is_named_where_it_belongs() {
        let same: Summary = serde_json::from_value(stored()).unwrap();
        let runs = [
            same.clone(),
            with(&["workload", "clients"], json!(7)),
            with(&["environment", "cpu"], json!("another")),
            with(&["environment", "build", "profile"], json!("debug")),
            with(&["relay", "version"], json!("{\"commit\":\"abc\",\"shards\":1}")),
            with(&["workload", "seed"], json!(99)),
        ];
        let shown = runs.each_ref().map(|run| {
            let Likeness { workload, machine, generator, relay } = Likeness::of(&[&same], &[run]);
            [workload, machine, generator, relay]
                .map(|found| found.iter().map(|found| found.name.clone()).collect::<Vec<_>>().join(" "))
        });
        assert_eq!(shown[0], ["", "", "", ""]);
        assert_eq!(shown[1], ["clients", "", "", ""]);
        assert_eq!(shown[2], ["", "cpu", "", ""]);
        assert_eq!(shown[3], ["", "", "profile", ""]);
        assert_eq!(shown[4], ["", "", "", "commit engine version"]);
        assert_eq!(shown[5], ["", "", "", ""]);
    }

    #[test]
    fn runs_of_one_side_that_differ_are_told_too() {
        let same: Summary = serde_json::from_value(stored()).unwrap();
        let other = with(&["environment", "kernel"], json!("Linux 7"));
        let likeness = Likeness::of(&[&same, &other], &[&same, &other]);
        let kernel = &likeness.machine[0];
        assert_eq!((kernel.name.as_str(), kernel.a.len(), kernel.b.len()), ("kernel", 2, 2));
        assert!(kernel.to_string().contains(" and Linux 7, B "), "{kernel}");
    }

    #[test]
    fn leaves_have_their_paths() {
        let tree = json!({"a": {"b": 1, "c": null}, "d": "x", "e": [1, 2]});
        let found: Vec<_> = leaves(&tree).into_iter().collect();
        let expected = [("a.b", "1"), ("d", "x"), ("e", "[1,2]")];
        assert_eq!(found, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }
}
