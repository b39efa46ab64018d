//! A scenario's file: options of a command, in TOML.
//!
//! ```toml
//! clients = 2000                # every option that takes a value, by its long name
//! rate = "2000/s"
//! [storm]                       # the options with parts can be tables
//! share = "100%"
//! at = "10s"
//! ```
//! A file becomes arguments, which are put before those of the command line: so it can say what the
//! command line can, in the same words, and nothing else. What the command line names itself is left
//! out of the file.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::path::Path;

use clap::error::ContextValue;
use clap::parser::ValueSource;
use clap::{ArgAction, ArgMatches, Command};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// The option that names the file.
const OPTION: &str = "scenario";

/// Why a file cannot be used: where, what, and the fix.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file}{}: {what}", line.map(|line| format!(":{line}")).unwrap_or_default())]
pub struct FileError {
    file: String,
    line: Option<usize>,
    what: String,
}

/// An option whose value has parts, which a file may write as a table.
struct Form {
    option: &'static str,
    /// In the order in which they are put together: a separator and the part's name. An absent part
    /// at the end is left out, one before another has its default.
    parts: &'static [Part],
    /// Stands behind the value of the last of the first so many parts.
    unit: &'static str,
    unit_after: usize,
}

struct Part {
    before: &'static str,
    name: &'static str,
    /// What stands there without it; `None` if it must be given.
    default: Option<&'static str>,
}

const fn needed(before: &'static str, name: &'static str) -> Part {
    Part { before, name, default: None }
}

const fn optional(before: &'static str, name: &'static str, default: &'static str) -> Part {
    Part { before, name, default: Some(default) }
}

const FORMS: [Form; 5] = [
    Form {
        option: "rate",
        parts: &[needed("", "from"), needed("..", "to"), optional(":", "steps", "")],
        unit: "/s",
        unit_after: 2,
    },
    Form {
        option: "burst",
        parts: &[needed("", "factor"), needed("x/", "for"), needed("/", "every")],
        unit: "",
        unit_after: 0,
    },
    Form { option: "skew", parts: &[needed("", "keys"), needed(":", "share")], unit: "", unit_after: 0 },
    Form {
        option: "storm",
        parts: &[needed("", "share"), needed("@", "at"), optional("/", "back-over", "")],
        unit: "",
        unit_after: 0,
    },
    Form {
        option: "slow-readers",
        parts: &[needed("", "share"), optional("@", "from", "0s"), optional("/", "for", "")],
        unit: "",
        unit_after: 0,
    },
];

/// Puts the arguments of the file that `--scenario` names into a command line. Without that option,
/// or where the command line is wrong anyway, it stays as it is.
///
/// # Errors
/// [`FileError`], for a file that cannot be read, or holds what the command does not know.
pub fn expand(mut arguments: Vec<OsString>, command: &Command) -> Result<Vec<OsString>, FileError> {
    let lenient = command.clone().ignore_errors(true).try_get_matches_from(&arguments);
    let Ok(matches) = lenient else { return Ok(arguments) };
    let Some((name, given)) = matches.subcommand() else { return Ok(arguments) };
    let Ok(Some(path)) = given.try_get_one::<std::path::PathBuf>(OPTION) else { return Ok(arguments) };
    let Some(command) = command.find_subcommand(name) else { return Ok(arguments) };
    let at = arguments.iter().position(|argument| *argument == *name).map_or(1, |at| at + 1);
    let from_file = read(path, command, given)?;
    arguments.splice(at..at, from_file.into_iter().map(OsString::from));
    Ok(arguments)
}

/// Reads a file into arguments of `command`, without the options that `given` holds already.
///
/// # Errors
/// [`FileError`].
pub fn read(path: &Path, command: &Command, given: &ArgMatches) -> Result<Vec<String>, FileError> {
    let file = path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|error| FileError {
        file: file.clone(),
        line: None,
        what: error.to_string(),
    })?;
    parse(&text, command, given).map_err(|fault| {
        let line = fault.at.map(|at| text[..at.min(text.len())].matches('\n').count() + 1);
        FileError { file, line, what: fault.what }
    })
}

/// What is wrong, and at which byte.
struct Fault {
    at: Option<usize>,
    what: String,
}

fn fault<T>(spanned: &Spanned<T>, what: impl Into<String>) -> Fault {
    Fault { at: Some(spanned.span().start), what: what.into() }
}

fn parse(text: &str, command: &Command, given: &ArgMatches) -> Result<Vec<String>, Fault> {
    let table = DeTable::parse(text)
        .map_err(|error| Fault { at: error.span().map(|span| span.start), what: error.message().to_owned() })?;
    let mut entries: Vec<_> = table.get_ref().iter().collect();
    entries.sort_unstable_by_key(|(key, _)| key.span().start);
    let mut arguments = Vec::new();
    for (key, value) in entries {
        let option = command
            .get_arguments()
            .find(|option| option.get_long() == Some(key.get_ref()) && key.get_ref() != OPTION)
            .ok_or_else(|| unknown(key, "option", options(command)))?;
        let argument = match (value.get_ref(), option.get_action()) {
            (DeValue::Boolean(true), ArgAction::SetTrue) => Some(format!("--{}", key.get_ref())),
            (DeValue::Boolean(false), ArgAction::SetTrue) => None,
            (DeValue::Table(parts), _) => {
                let form = FORMS
                    .iter()
                    .find(|form| form.option == key.get_ref())
                    .ok_or_else(|| fault(key, format!("`{}` has no parts: write it as {0} = VALUE", key.get_ref())))?;
                Some(format!("--{}={}", key.get_ref(), form.compose(key, parts)?))
            }
            _ => Some(format!("--{}={}", key.get_ref(), scalar(key, value)?)),
        };
        let Some(argument) = argument else { continue };
        try_alone(command, &argument).map_err(|what| fault(value, what))?;
        if given.value_source(option.get_id().as_str()) != Some(ValueSource::CommandLine) {
            arguments.push(argument);
        }
    }
    Ok(arguments)
}

/// The options that a file may hold.
fn options(command: &Command) -> impl Iterator<Item = &str> {
    command.get_arguments().filter_map(|option| option.get_long()).filter(|&name| name != OPTION)
}

fn unknown<'a>(key: &Spanned<impl AsRef<str>>, what: &str, known: impl Iterator<Item = &'a str>) -> Fault {
    let name = key.get_ref().as_ref();
    let mut text = format!("there is no {what} `{name}`");
    let alike = known.map(|known| (strsim::jaro(known, name), known)).filter(|&(alike, _)| alike > 0.7);
    if let Some((_, nearest)) = alike.max_by(|one, two| one.0.total_cmp(&two.0)) {
        // Writing to a String cannot fail.
        let _ = write!(text, "; did you mean `{nearest}`?");
    }
    fault(key, text)
}

/// The value of an option as it would stand on the command line.
fn scalar(key: &Spanned<impl AsRef<str>>, value: &Spanned<DeValue<'_>>) -> Result<String, Fault> {
    match value.get_ref() {
        DeValue::String(text) => Ok(text.to_string()),
        DeValue::Integer(number) if number.radix() == 10 => Ok(number.as_str().replace('_', "")),
        DeValue::Float(number) => Ok(number.as_str().replace('_', "")),
        DeValue::Boolean(value) => Ok(value.to_string()),
        DeValue::Array(items) => {
            let items: Result<Vec<_>, _> = items.iter().map(|item| scalar(key, item)).collect();
            Ok(items?.join(","))
        }
        DeValue::Integer(_) | DeValue::Datetime(_) | DeValue::Table(_) => {
            Err(fault(value, format!("`{}` is a text or a decimal number", key.get_ref().as_ref())))
        }
    }
}

impl Form {
    /// Puts the parts of a table together to the option's value.
    fn compose(&self, key: &Spanned<impl AsRef<str>>, table: &DeTable<'_>) -> Result<String, Fault> {
        let strange = table.iter().find(|(name, _)| self.parts.iter().all(|part| part.name != name.get_ref()));
        if let Some((name, _)) = strange {
            return Err(unknown(
                name,
                &format!("part of `{}` called", self.option),
                self.parts.iter().map(|part| part.name),
            ));
        }
        let given = |part: &Part| table.iter().find(|(name, _)| name.get_ref() == part.name);
        let last = self.parts.iter().rposition(|part| part.default.is_none() || given(part).is_some());
        let mut text = String::new();
        for (at, part) in self.parts.iter().enumerate().take(last.map_or(0, |last| last + 1)) {
            text.push_str(part.before);
            match (given(part), part.default) {
                (Some((name, value)), _) => text.push_str(&scalar(name, value)?),
                (None, Some(default)) => text.push_str(default),
                (None, None) => {
                    return Err(fault(key, format!("[{}] needs `{}`", self.option, part.name)));
                }
            }
            if at + 1 == self.unit_after {
                text.push_str(self.unit);
            }
        }
        Ok(text)
    }
}

/// Lets the command judge one argument, so that a wrong value is found where it stands. What is
/// missing beside it does not matter here.
fn try_alone(command: &Command, argument: &str) -> Result<(), String> {
    use clap::error::{ContextKind, ErrorKind};

    let line = [command.get_name(), argument];
    match command.clone().try_get_matches_from(line) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == ErrorKind::MissingRequiredArgument => Ok(()),
        Err(error) => {
            use std::error::Error as _;
            let why = match (error.source(), error.get(ContextKind::ValidValue)) {
                (Some(source), _) => source.to_string(),
                (None, Some(ContextValue::Strings(values))) if !values.is_empty() => {
                    format!("it is one of {}", values.join(", "))
                }
                _ => "it does not fit".to_owned(),
            };
            let (option, value) = argument.trim_start_matches('-').split_once('=').unwrap_or((argument, ""));
            Err(format!("`{option}` cannot be `{value}`: {why}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::expand;
    use crate::cli::Cli;
    use clap::CommandFactory;
    use std::ffi::OsString;
    use std::fs;

    /// What `loadgen run` and these arguments become when the file holds `text`.
    fn expanded(text: &str, arguments: &[&str]) -> Result<Vec<String>, String> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("some.toml");
        fs::write(&path, text).unwrap();
        let line = ["loadgen", "run", "ws://localhost:1", "--scenario", path.to_str().unwrap()];
        let line: Vec<OsString> = line.into_iter().chain(arguments.iter().copied()).map(OsString::from).collect();
        let expanded = expand(line.clone(), &Cli::command()).map_err(|error| {
            let error = error.to_string();
            error.split_once("some.toml").map_or(error.clone(), |(_, rest)| rest.to_owned())
        })?;
        assert_eq!((&expanded[..2], &expanded[expanded.len() + 2 - line.len()..]), (&line[..2], &line[2..]));
        let added = expanded.len() - line.len();
        Ok(expanded[2..2 + added].iter().map(|argument| argument.to_str().unwrap().to_owned()).collect())
    }

    #[test]
    fn options_and_tables_become_arguments_in_their_order() {
        let text = "# a comment\nclients = 2_000\nchurn = '20/s'\nwarmup = \"1s\"\nlobby = 'all'\nspawn-relay = false\n\
                    source-ip = ['127.0.0.1', '127.0.0.2']\n[rate]\nto = 500\nfrom = 100\nsteps = 5\n\
                    [burst]\nfactor = 2.5\nfor = '1s'\nevery = '5s'\n[skew]\nkeys = 0.01\nshare = '80%'\n";
        let arguments = [
            "--clients=2000",
            "--churn=20/s",
            "--warmup=1s",
            "--lobby=all",
            "--source-ip=127.0.0.1,127.0.0.2",
            "--rate=100..500/s:5",
            "--burst=2.5x/1s/5s",
            "--skew=0.01:80%",
        ];
        assert_eq!(expanded(text, &[]), Ok(arguments.map(str::to_owned).to_vec()));
        assert_eq!(expanded("rate = '5/s'\nspawn-relay = true", &[]).unwrap(), ["--rate=5/s", "--spawn-relay"]);
    }

    #[test]
    fn the_command_line_wins() {
        let text = "clients = 50\nsource-ip = '127.0.0.1'\n[rate]\nfrom = 1\nto = 2\n";
        let arguments = expanded(text, &["--rate", "7/s", "--source-ip=127.0.0.9"]).unwrap();
        assert_eq!(arguments, ["--clients=50"]);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line_and_a_fix() {
        for (text, line, named) in [
            ("clients = 5\nclints = 7", ":2: ", "did you mean `clients`?"),
            ("\n\nfrobnicate = 7", ":3: ", "there is no option `frobnicate`"),
            ("scenario = 'x'", ":1: ", "there is no option `scenario`"),
            ("clients = 5\nclients = 7", ":2: ", "duplicate key"),
            ("rate = ", ":1: ", ""),
            ("clients = 5\nstay = '5'", ":2: ", "`stay` cannot be `5`: `5` is no duration; write it as 5s or 500ms"),
            ("clients = -5", ":1: ", "`clients` cannot be `-5`"),
            ("arrivals = 'odd'", ":1: ", "it is one of constant, poisson"),
            ("[stay]\nfor = 5", ":1: ", "`stay` has no parts"),
            ("[rate]\nfrom = 5", ":1: ", "[rate] needs `to`"),
            ("[rate]\nfrom = 5\nto = 9\nstep = 5", ":4: ", "did you mean `steps`?"),
            ("[burst]\nfactor = 2\nfor = '5'\nevery = '10s'", ":1: ", "no duration"),
            ("stay = 1979-05-27", ":1: ", "text or a decimal number"),
            ("slo = 'mesage.p99<1s'", ":1: ", "mesage.p99<1s"),
        ] {
            let error = expanded(text, &[]).unwrap_err();
            assert!(error.starts_with(line) && error.contains(named), "{text}: {error}");
        }
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let line = ["loadgen", "run", "--scenario", "/no/such.toml"].map(OsString::from).to_vec();
        let error = expand(line, &Cli::command()).unwrap_err().to_string();
        assert!(error.starts_with("/no/such.toml: "), "{error}");
    }

    #[test]
    fn a_command_line_without_a_file_stays_as_it_is() {
        for line in [&["loadgen"][..], &["loadgen", "run", "--clints"], &["loadgen", "--version"], &["loadgen", "fly"]]
        {
            let line: Vec<OsString> = line.iter().map(OsString::from).collect();
            assert_eq!(expand(line.clone(), &Cli::command()).unwrap(), line);
        }
    }
}
