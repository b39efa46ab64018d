//! Notes what the relay is built from, for `/version`. The commit is `RELAY_COMMIT` from the environment,
//! for builds outside a git checkout, else git's own answer, else none.

use std::env;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-env-changed=RELAY_COMMIT");
    for path in ["build.rs", "src", "core/src", "engine/src", "../protocol/src", "../.git/HEAD", "../.git/index"] {
        println!("cargo::rerun-if-changed={path}");
    }
    for (name, cargo_name) in [
        ("RELAY_TARGET", "TARGET"),
        ("RELAY_PROFILE", "PROFILE"),
        ("RELAY_TARGET_FEATURES", "CARGO_CFG_TARGET_FEATURE"),
    ] {
        println!("cargo::rustc-env={name}={}", env::var(cargo_name).unwrap_or_default());
    }
    let compiler = env::var("RUSTC").ok().and_then(|rustc| output(&rustc, &["--version"]));
    println!("cargo::rustc-env=RELAY_RUSTC={}", compiler.unwrap_or_default());
    if env::var_os("RELAY_COMMIT").is_some() {
        return;
    }
    if let Some(commit) = output("git", &["rev-parse", "HEAD"]) {
        println!("cargo::rustc-env=RELAY_COMMIT={commit}");
    }
    if let Some(changes) = output("git", &["status", "--porcelain", "--untracked-files=no"]) {
        println!("cargo::rustc-env=RELAY_DIRTY={}", !changes.is_empty());
    }
}

/// Runs a command; `None` if it cannot be run or fails, as outside a git checkout.
fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
