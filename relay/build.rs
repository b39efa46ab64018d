//! Notes the commit that the relay is built from, for `/version`: `RELAY_COMMIT` from the environment,
//! for builds outside a git checkout, else git's own answer, else none.

use std::process::Command;

fn main() {
    println!("cargo::rerun-if-env-changed=RELAY_COMMIT");
    for path in ["build.rs", "src", "core/src", "engine/src", "../protocol/src", "../.git/HEAD", "../.git/index"] {
        println!("cargo::rerun-if-changed={path}");
    }
    if std::env::var_os("RELAY_COMMIT").is_some() {
        return;
    }
    let answer = Command::new("git").args(["rev-parse", "HEAD"]).output();
    if let Some(output) = answer.ok().filter(|output| output.status.success()) {
        println!("cargo::rustc-env=RELAY_COMMIT={}", String::from_utf8_lossy(&output.stdout).trim());
    }
}
