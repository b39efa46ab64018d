//! Who is there, and who is told of it.

use protocol::server_frame::LobbyTotals;
use protocol::websocket::push_text;
use protocol::{PublicKey, encode};
use relay_engine::ConnectionId;

use super::{Server, send};

impl Server {
    fn listed(&self) -> Vec<PublicKey> {
        self.online.keys().chain(&self.ghosts).copied().collect()
    }

    pub(super) fn snapshot(&mut self, connection: ConnectionId) {
        let listed = self.listed();
        let peer = self.peers.get_mut(&connection).unwrap();
        peer.stale = false;
        if !peer.lobby {
            return;
        }
        let pages: Vec<_> = listed.chunks(3).collect();
        for (at, page) in pages.iter().enumerate() {
            let totals = (at + 1 == pages.len()).then(|| totals(&listed));
            send(peer, |out| encode::lobby(out, self.rev, page, totals));
        }
    }

    /// Tells everybody who is online of a change.
    pub(super) fn update(&mut self, joined: &[PublicKey], left: &[PublicKey]) {
        self.rev += 1;
        let mut listed = self.listed();
        listed.extend(joined);
        let mut text = Vec::new();
        encode::lobby_update(&mut text, self.rev, joined, left, totals(&listed));
        for connection in self.online.values().flatten() {
            let peer = self.peers.get_mut(connection).unwrap();
            if peer.lobby {
                push_text(&mut peer.out, std::str::from_utf8(&text).unwrap());
                self.counts.disagreements += u64::from(std::mem::take(&mut peer.stale));
            }
        }
    }

    pub(super) fn leave(&mut self, connection: ConnectionId) {
        let Some(key) = self.peers.get(&connection).and_then(|peer| peer.key) else { return };
        let Some(devices) = self.online.get_mut(&key) else { return };
        let Some(at) = devices.iter().position(|&device| device == connection) else { return };
        devices.remove(at);
        if !devices.is_empty() {
            return;
        }
        self.online.remove(&key);
        self.counts.leaves += 1;
        let first = self.counts.leaves == 1;
        if first && self.faults.keep_ghost {
            self.ghosts.push(key);
        } else if first && self.faults.forget_leave {
            for connection in self.online.values().flatten() {
                self.peers.get_mut(connection).unwrap().stale = true;
            }
        } else {
            self.update(&[], &[key]);
        }
    }
}

fn totals(keys: &[PublicKey]) -> LobbyTotals {
    let digest = keys.iter().fold(0, |digest, key| digest ^ key.digest_part());
    LobbyTotals { count: keys.len() as u64, digest }
}
