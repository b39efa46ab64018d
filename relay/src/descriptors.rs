//! The limit of open files: one for each connection.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::{info, warn};

/// Fewer than this is worth a warning: an operator who expects many users will meet it.
const FEW: u64 = 10_000;

/// Raises the process's soft limit of open files to its hard limit, and logs both. A limit that
/// cannot be raised is no reason to stop: accepting pauses when it is met.
pub(crate) fn raise_limit() {
    let before = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: before.maximum, maximum: before.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        warn!(%error, "the limit of open files could not be raised");
    }
    let after = getrlimit(Resource::Nofile);
    let shown = |limit: Option<u64>| limit.map_or_else(|| "unlimited".to_owned(), |limit| limit.to_string());
    info!(
        before = shown(before.current),
        now = shown(after.current),
        hard = shown(after.maximum),
        "limit of open files"
    );
    if after.current.is_some_and(|limit| limit < FEW) {
        warn!("at most {} connections: raise the hard limit (ulimit -Hn, LimitNOFILE=)", shown(after.current));
    }
}
