//! The HTTP endpoint for operators, on a thread of its own.
//!
//! | path | answer |
//! |---|---|
//! | `/healthz` | 200 `ok`, or 503 `draining` while the relay goes away |
//! | `/readyz` | 200 `ready`; 503 while it drains, its disk is full or its store has failed, and why |
//! | `/version` | JSON: version, commit (of the build, or null), engine, shards, how it was built |
//! | `/config` | JSON: the configuration in effect, by option |
//! | `/stats` | JSON: the counts of all shards, in total and each; 503 if a shard does not answer |
//! | other | 404 |
//!
//! # Invariants
//! - Shards are asked, never looked into: a request costs each of them one answer between passes.
//! - A request is answered within [`PATIENCE`], whatever the shards do.
//!
//! Absent on purpose: authentication and TLS. It listens on loopback unless told otherwise.

use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::runtime;
use tokio::sync::oneshot;
use tokio::time::timeout;
use tracing::error;

use crate::control::{Control, Snapshot};
use crate::store::{Condition, Health};

pub(crate) use about::About;

mod about;
mod counts;

/// How long the shards have to answer. A pass takes milliseconds at the very most.
const PATIENCE: Duration = Duration::from_secs(2);

/// The endpoint's thread. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct AdminThread {
    thread: Option<JoinHandle<()>>,
    /// Ends the thread when it is dropped.
    stop: Option<oneshot::Sender<()>>,
}

#[derive(Clone)]
struct Context {
    about: Arc<About>,
    control: Control,
    /// `None` without a store.
    store: Option<Arc<Health>>,
}

/// Starts the endpoint on a bound socket.
///
/// # Errors
/// The operating system's, when it gives no thread or descriptors.
pub(crate) fn start(
    socket: TcpListener,
    about: About,
    control: Control,
    store: Option<Arc<Health>>,
) -> io::Result<AdminThread> {
    socket.set_nonblocking(true)?;
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    let socket = {
        let _entered = runtime.enter();
        tokio::net::TcpListener::from_std(socket)?
    };
    let router = router(Context { about: Arc::new(about), control, store });
    let (stop, stopped) = oneshot::channel();
    let serve = async move {
        tokio::select! {
            // Open connections are dropped: no operator's answer takes long.
            _ = stopped => {}
            result = axum::serve(socket, router) => {
                if let Err(error) = result {
                    error!(%error, "the admin endpoint failed");
                }
            }
        }
    };
    let thread = thread::Builder::new().name("admin".to_owned()).spawn(move || runtime.block_on(serve))?;
    Ok(AdminThread { thread: Some(thread), stop: Some(stop) })
}

impl Drop for AdminThread {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // A panic of the endpoint was logged and harms no one.
            let _ = thread.join();
        }
    }
}

fn router(context: Context) -> Router {
    Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/version", get(version))
        .route("/config", get(config))
        .route("/stats", get(stats))
        .with_state(context)
}

async fn healthz(State(context): State<Context>) -> (StatusCode, &'static str) {
    if context.control.is_draining() { (StatusCode::SERVICE_UNAVAILABLE, "draining") } else { (StatusCode::OK, "ok") }
}

async fn readyz(State(context): State<Context>) -> (StatusCode, String) {
    let not_ready = |sentence| (StatusCode::SERVICE_UNAVAILABLE, sentence);
    if context.control.is_draining() {
        return not_ready("draining".to_owned());
    }
    match context.store.map(|store| store.condition()).unwrap_or_default() {
        Condition::Well => (StatusCode::OK, "ready".to_owned()),
        Condition::Full => not_ready("disk full: messages that have to be stored are refused".to_owned()),
        Condition::Failed(sentence) => not_ready(format!("store failed: {sentence}; nothing is acked any more")),
    }
}

async fn version(State(context): State<Context>) -> Response {
    json_response(&context.about.version())
}

async fn config(State(context): State<Context>) -> Response {
    json_response(&context.about.config)
}

async fn stats(State(context): State<Context>) -> Response {
    match timeout(PATIENCE, snapshots(&context.control)).await {
        Ok(Some(snapshots)) => {
            let store = context.store.map(|store| store.stats());
            json_response(&counts::to_json(&snapshots, context.about.engine, store))
        }
        Ok(None) | Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "a shard does not answer").into_response(),
    }
}

/// The counts of all shards, or `None` if one has ended or is swamped.
async fn snapshots(control: &Control) -> Option<Vec<Snapshot>> {
    let mut snapshots = Vec::new();
    for answered in control.ask() {
        snapshots.push(answered.await.ok()?);
    }
    Some(snapshots)
}

fn json_response(value: &serde_json::Value) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], value.to_string()).into_response()
}
