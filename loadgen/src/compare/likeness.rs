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
                        side.get(name).map(|values| values.iter().cloned().collect()).unwrap_or_default()
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

/// Each fact with all the values it has in runs; a run without it has the value `nothing`.
fn facts_of(runs: &[&Summary], facts: fn(&Summary) -> BTreeMap<String, String>) -> BTreeMap<String, BTreeSet<String>> {
    let by_run: Vec<_> = runs.iter().map(|run| facts(run)).collect();
    let names: BTreeSet<&String> = by_run.iter().flat_map(BTreeMap::keys).collect();
    let values = |name: &String| {
        by_run.iter().map(|facts| facts.get(name).cloned().unwrap_or_else(|| "nothing".to_owned())).collect()
    };
    names.into_iter().map(|name| (name.clone(), values(name))).collect()
}

/// The seed may differ: it makes other keys, not another load.
fn workload(run: &Summary) -> BTreeMap<String, String> {
    let mut facts = leaves(&serde_json::to_value(&run.workload).unwrap_or_default());
    facts.remove("seed");
    facts
}

/// Whether one second of the steady phase is like another: nothing rises, bursts or breaks off.
pub(super) fn seconds_alike(run: &Summary) -> bool {
    let facts = workload(run);
    let has = |name| facts.contains_key(name);
    !(has("burst") || has("storm") || has("slow_readers") || facts.get("rate").is_some_and(|rate| rate.contains("..")))
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
    let Some(relay) = &run.relay else {
        return BTreeMap::from([("url".to_owned(), run.target.url.clone())]);
    };
    let mut facts = BTreeMap::from([
        ("program".to_owned(), relay.program.clone()),
        ("arguments".to_owned(), relay.arguments.join(" ")),
    ]);
    match relay.version.as_deref().map(serde_json::from_str::<Value>) {
        Some(Ok(version)) => facts.extend(leaves(&version)),
        _ => facts.extend(relay.version.iter().map(|version| ("version".to_owned(), version.clone()))),
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
