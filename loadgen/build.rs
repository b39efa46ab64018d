//! Notes what the binary is built from, for the environment record of every run.

use std::env;
use std::process::Command;

fn main() {
    for path in
        ["build.rs", "src", "Cargo.toml", "../protocol/src", "../relay/engine/src", "../.git/HEAD", "../.git/index"]
    {
        println!("cargo::rerun-if-changed={path}");
    }
    let commit = output("git", &["rev-parse", "HEAD"]).unwrap_or_default();
    let status = output("git", &["status", "--porcelain", "--untracked-files=no"]);
    let dirty = status.is_none_or(|status| !status.is_empty());
    let compiler = env::var("RUSTC").ok().and_then(|rustc| output(&rustc, &["--version"])).unwrap_or_default();
    println!("cargo::rustc-env=LOADGEN_COMMIT={commit}");
    println!("cargo::rustc-env=LOADGEN_DIRTY={dirty}");
    println!("cargo::rustc-env=LOADGEN_RUSTC={compiler}");
    for (name, cargo_name) in [
        ("LOADGEN_TARGET", "TARGET"),
        ("LOADGEN_PROFILE", "PROFILE"),
        ("LOADGEN_TARGET_FEATURES", "CARGO_CFG_TARGET_FEATURE"),
    ] {
        println!("cargo::rustc-env={name}={}", env::var(cargo_name).unwrap_or_default());
    }
}

/// Runs a command; `None` if it cannot be run or fails, as outside a git checkout.
fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
