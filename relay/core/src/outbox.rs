//! What waits for one connection: bounded, and written by at most one write at a time.
//!
//! Frames are appended whole, and a flush takes everything that waits, so the bytes handed to the
//! network always end at a frame's end. An idle outbox holds no memory; buffers come from a pool
//! that all connections of a shard share and go back to it once written.

/// Buffers kept for use again: 1,024 of at most 4 KiB, 4 MiB a shard.
const POOLED_BUFFERS_MAX: usize = 1024;
const POOLED_BYTES_MAX: usize = 4 * 1024;

/// Spare buffers of a shard.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    spare: Vec<Vec<u8>>,
}

impl Pool {
    /// An empty buffer, used before if there is one.
    pub(crate) fn take(&mut self) -> Vec<u8> {
        self.spare.pop().unwrap_or_default()
    }

    /// Takes a buffer back, or frees it if it is large or there are enough.
    pub(crate) fn put(&mut self, mut buffer: Vec<u8>) {
        if buffer.capacity() <= POOLED_BYTES_MAX && buffer.capacity() > 0 && self.spare.len() < POOLED_BUFFERS_MAX {
            buffer.clear();
            self.spare.push(buffer);
        }
    }
}

/// The outbox of one connection.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    pending: Vec<u8>,
    in_flight_bytes: usize,
    is_dirty: bool,
}

/// An outbox would hold more than it may.
#[derive(Debug)]
pub(crate) struct Full;

impl Outbox {
    /// Appends one whole frame given in two parts. Says whether the connection has to be put on the
    /// list of those to flush.
    pub(crate) fn push(&mut self, head: &[u8], body: &[u8], bytes_max: usize, pool: &mut Pool) -> Result<bool, Full> {
        if self.bytes() + head.len() + body.len() > bytes_max {
            return Err(Full);
        }
        if self.pending.capacity() == 0 {
            self.pending = pool.take();
        }
        self.pending.extend_from_slice(head);
        self.pending.extend_from_slice(body);
        Ok(self.mark_dirty())
    }

    /// Marks the connection as one to flush; says whether it was not marked before.
    pub(crate) fn mark_dirty(&mut self) -> bool {
        !std::mem::replace(&mut self.is_dirty, true)
    }

    /// What waits to be written, if no write is in flight. Takes the mark away.
    pub(crate) fn take_write(&mut self) -> Option<Vec<u8>> {
        self.is_dirty = false;
        if self.in_flight_bytes > 0 || self.pending.is_empty() {
            return None;
        }
        self.in_flight_bytes = self.pending.len();
        Some(std::mem::take(&mut self.pending))
    }

    /// The write in flight is done.
    pub(crate) fn written(&mut self) {
        self.in_flight_bytes = 0;
    }

    /// Drops what waits; what is in flight stays.
    pub(crate) fn discard_pending(&mut self) {
        self.pending = Vec::new();
    }

    /// Nothing waits and nothing is in flight.
    pub(crate) fn is_empty(&self) -> bool {
        self.bytes() == 0
    }

    /// Bytes that wait, those in flight left out.
    pub(crate) fn pending_bytes(&self) -> usize {
        self.pending.len()
    }

    /// Bytes that wait or are in flight.
    pub(crate) fn bytes(&self) -> usize {
        self.pending.len() + self.in_flight_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_write_at_a_time_and_never_past_the_bound() {
        let (mut outbox, mut pool) = (Outbox::default(), Pool::default());
        assert!(outbox.push(b"ab", b"cd", 10, &mut pool).is_ok_and(|first| first));
        assert!(outbox.push(b"", b"ef", 10, &mut pool).is_ok_and(|first| !first));
        let write = outbox.take_write().expect("there is something");
        assert_eq!(write, b"abcdef");
        assert!(outbox.push(b"", b"12345", 10, &mut pool).is_err(), "what is in flight counts");
        assert!(outbox.push(b"", b"1234", 10, &mut pool).is_ok_and(|first| first));
        assert_eq!(outbox.take_write(), None);
        outbox.written();
        assert_eq!(outbox.take_write().as_deref(), Some(&b"1234"[..]));
        outbox.written();
        assert!(outbox.is_empty() && outbox.take_write().is_none());
    }

    #[test]
    fn the_pool_keeps_small_buffers_only() {
        let mut pool = Pool::default();
        pool.put(Vec::with_capacity(POOLED_BYTES_MAX * 2));
        assert_eq!(pool.take().capacity(), 0);
        pool.put(Vec::with_capacity(100));
        assert!(pool.take().capacity() >= 100);
    }
}
