//! fjall: one keyspace whose keys are user and seq, big-endian so that they sort.

use std::path::Path;

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};

use super::{Candidate, Entry, Outcome, text};

pub(crate) struct Fjall {
    database: Database,
    inbox: Keyspace,
}

fn key(user: &[u8; 32], seq: u64) -> [u8; 40] {
    let mut key = [0; 40];
    key[..32].copy_from_slice(user);
    key[32..].copy_from_slice(&seq.to_be_bytes());
    key
}

impl Candidate for Fjall {
    const NAME: &'static str = "fjall";

    fn open(dir: &Path) -> Outcome<Self> {
        let database = Database::builder(dir).open().map_err(text)?;
        let inbox = database.keyspace("inbox", KeyspaceCreateOptions::default).map_err(text)?;
        Ok(Self { database, inbox })
    }

    fn commit(&mut self, entries: &[Entry], removed: &[([u8; 32], u64)]) -> Outcome<()> {
        let mut batch = self.database.batch().durability(Some(PersistMode::SyncData));
        for Entry { user, seq, frame } in entries {
            batch.insert(&self.inbox, key(user, *seq), frame.as_slice());
        }
        // The relay knows the seqs that it keeps, so no range has to be read first.
        for (user, seq) in removed {
            batch.remove(&self.inbox, key(user, *seq));
        }
        batch.commit().map_err(text)
    }

    fn tidy(&mut self) -> Outcome<()> {
        // fjall flushes and compacts on threads of its own.
        Ok(())
    }

    fn scan(&self, mut each: impl FnMut([u8; 32], u64, usize)) -> Outcome<()> {
        for item in self.inbox.iter() {
            let (key, frame) = item.into_inner().map_err(text)?;
            let (user, seq) = key.split_first_chunk::<32>().ok_or("a short key")?;
            each(*user, u64::from_be_bytes(seq.try_into().map_err(text)?), frame.len());
        }
        Ok(())
    }

    fn has(&self, user: &[u8; 32], seq: u64) -> Outcome<bool> {
        self.inbox.contains_key(key(user, seq)).map_err(text)
    }
}
