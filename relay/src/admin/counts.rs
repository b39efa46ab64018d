//! Counts as JSON.
//!
//! Names are those of the structs' fields. A count that is added to one of them and not here does
//! not compile: nothing is forgotten.

use relay_core::Stats;
use relay_core::stats::Reason;
use relay_engine::{EngineKind, EngineStats};
use serde_json::{Map, Value, json};

use crate::control::Snapshot;
use crate::mesh::MeshStats;
use crate::shard_loop::LoopStats;
use crate::store::StoreStats;

/// Makes an object of all fields of a struct but those behind `not`.
macro_rules! object {
    ($struct:ident $from:ident: $($field:ident)+ $(, not $other:ident)?) => {{
        let $struct { $($field,)+ $($other: _,)? } = $from;
        Value::Object(Map::from_iter([$((stringify!($field).to_owned(), Value::from(*$field))),+]))
    }};
}

/// `{"engine": …, "store": {…} or null, "total": {"core": {…}, "engine": {…}, "mesh": {…}, "thread": {…}}, "shards":
/// [{"shard": 0, "lobby": {"count": …, "digest": …}, "counts": {as in total}}, …]}`.
pub(super) fn to_json(snapshots: &[Snapshot], engine: EngineKind, store: Option<StoreStats>) -> Value {
    let mut total = json!({});
    let mut shards = Vec::new();
    for snapshot in snapshots {
        let counts = json!({
            "core": core(&snapshot.core),
            "engine": self::engine(&snapshot.engine),
            "mesh": mesh(&snapshot.mesh),
            "thread": thread(&snapshot.thread),
        });
        add(&mut total, &counts);
        let lobby = snapshot.lobby;
        shards.push(json!({
            "shard": snapshot.shard.0,
            "lobby": { "count": lobby.count, "digest": format!("{:016x}", lobby.digest) },
            "counts": counts,
        }));
    }
    let store = store.as_ref().map(self::store);
    json!({ "engine": engine.to_string(), "store": store, "total": total, "shards": shards })
}

/// Adds counts to those of the same place.
fn add(total: &mut Value, counts: &Value) {
    match counts {
        Value::Object(counts) => {
            for (name, counts) in counts {
                add(&mut total[name], counts);
            }
        }
        count => *total = (total.as_u64().unwrap_or(0) + count.as_u64().unwrap_or(0)).into(),
    }
}

fn core(stats: &Stats) -> Value {
    let mut counts = object!(Stats stats:
        connections sessions users accepted handed_over logins messages_in messages_delivered messages_acked
        messages_duplicate messages_refused dropped_too_slow dropped_closing closed_too_slow closed_silent replaced
        closed_too_many verified_single verified_batched batches batches_failed lobby_flushes lobby_snapshots
        lobby_merged ids_evicted users_known rooms room_changes room_messages room_missed inbox_entries inbox_bytes tail_bytes memory_evicted inbox_full
        copies_dropped batches_given_out entries_given_out entries_stored entries_never_stored store_full store_failed
        loads loads_failed history_pages entries_loaded entries_missing expired users_forgotten recovered typing_dropped receipts_sent bytes_in
        bytes_out, not refused);
    let refused =
        Reason::ALL.iter().zip(stats.refused).map(|(reason, count)| (reason.as_str().to_owned(), count.into()));
    counts["refused"] = refused.collect::<Map<_, _>>().into();
    counts
}

fn engine(stats: &EngineStats) -> Value {
    object!(EngineStats stats: enters submissions completions completion_overflows buffer_shortages)
}

fn mesh(stats: &MeshStats) -> Value {
    object!(MeshStats stats:
        pending_items items_sent batches_sent items_received rings inbox_full congestions dropped_ended)
}

fn thread(stats: &LoopStats) -> Value {
    object!(LoopStats stats: passes sleeps events accepts_failed adopts_failed cpu_ns)
}

fn store(stats: &StoreStats) -> Value {
    object!(StoreStats stats: commits batches entries pages failures commit_us commit_us_max)
}

#[cfg(test)]
mod tests {
    use super::to_json;
    use crate::control::Snapshot;
    use crate::mesh::MeshStats;
    use crate::shard_loop::LoopStats;
    use protocol::server_frame::LobbyTotals;
    use relay_core::stats::Reason;
    use relay_core::{ShardId, Stats};
    use relay_engine::{EngineKind, EngineStats};

    fn snapshot(shard: u16, factor: u64) -> Snapshot {
        let mut core = Stats { users: factor, bytes_in: 10 * factor, ..Stats::default() };
        core.refused[Reason::Offline as usize] = factor;
        Snapshot {
            shard: ShardId(shard),
            core,
            lobby: LobbyTotals { count: 3, digest: 0xab },
            engine: EngineStats { enters: 100 * factor, ..EngineStats::default() },
            mesh: MeshStats { items_sent: factor, ..MeshStats::default() },
            thread: LoopStats { passes: factor, ..LoopStats::default() },
        }
    }

    #[test]
    fn counts_are_told_for_each_shard_and_in_total() {
        let json = to_json(&[snapshot(0, 1), snapshot(1, 2)], EngineKind::Epoll, None);
        assert_eq!(json["engine"], "epoll");
        let total = &json["total"];
        assert_eq!(total["core"]["users"], 3);
        assert_eq!(total["core"]["bytes_in"], 30);
        assert_eq!(total["core"]["refused"]["offline"], 3);
        assert_eq!(total["core"]["refused"]["malformed"], 0);
        assert_eq!(total["engine"]["enters"], 300);
        assert_eq!(total["mesh"]["items_sent"], 3);
        assert_eq!(total["thread"]["passes"], 3);
        assert!(json["store"].is_null());
        let second = &json["shards"][1];
        assert_eq!(second["shard"], 1);
        assert_eq!(second["lobby"]["digest"], "00000000000000ab");
        assert_eq!(second["counts"]["core"]["users"], 2);
    }
}
