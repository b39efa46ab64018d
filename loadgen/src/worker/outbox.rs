//! Bytes that wait to be written, by client.
//!
//! An engine writes one buffer at a time on a connection. What is queued meanwhile is gathered and
//! goes with the next write; messages are put into it only then, by `writing`. Buffers go round: no allocation once enough of them exist.

use relay_engine::{ConnectionId, Engine};

/// Spare buffers that are kept: 4,096 × 512 bytes = 2 MB.
const SPARE_MAX: usize = 4096;

/// What a new buffer has room for.
const BUFFER_BYTES: usize = 512;

/// A buffer that grew beyond this is freed instead of kept.
const SPARE_BYTES_MAX: usize = 20 * 1024;

/// Answers to pings wait for a write up to so many bytes: a relay that pings and does not read gets no more.
const PONG_BYTES_MAX: usize = 4 * 1024;

#[derive(Debug, Default)]
struct Lane {
    waiting: Vec<u8>,
    in_flight: bool,
    /// Messages wait as well.
    wanted: bool,
}

/// The lanes of all clients of a worker.
#[derive(Debug)]
pub(crate) struct Outbox {
    lanes: Vec<Lane>,
    /// Clients with something waiting and nothing in flight; some perhaps twice, or no longer.
    ready: Vec<u32>,
    spare: Vec<Vec<u8>>,
}

impl Outbox {
    pub(crate) fn new(clients: usize) -> Self {
        Self { lanes: (0..clients).map(|_| Lane::default()).collect(), ready: Vec::new(), spare: Vec::new() }
    }

    /// The buffer to append to what a client is to send.
    pub(crate) fn append_to(&mut self, place: u32) -> &mut Vec<u8> {
        let lane = &mut self.lanes[place as usize];
        if lane.waiting.is_empty() {
            if lane.waiting.capacity() == 0 {
                lane.waiting = self.spare.pop().unwrap_or_else(|| Vec::with_capacity(BUFFER_BYTES));
            }
            if !lane.in_flight {
                self.ready.push(place);
            }
        }
        &mut lane.waiting
    }

    /// Whether a write of this client is under way.
    pub(crate) fn is_writing(&self, place: u32) -> bool {
        self.lanes[place as usize].in_flight
    }

    /// Whether one more ping of this client is answered. It need not be: an answer to a later one says the same
    /// (RFC 6455, 5.5.3).
    pub(crate) fn takes_pong(&self, place: u32) -> bool {
        self.lanes[place as usize].waiting.len() < PONG_BYTES_MAX
    }

    /// Messages of this client wait to be written.
    pub(crate) fn want(&mut self, place: u32) {
        let lane = &mut self.lanes[place as usize];
        if !lane.wanted {
            lane.wanted = true;
            if !lane.in_flight {
                self.ready.push(place);
            }
        }
    }

    /// A write of this client has ended; its buffer comes back.
    pub(crate) fn written(&mut self, place: u32, buffer: Vec<u8>) {
        keep(&mut self.spare, buffer);
        let lane = &mut self.lanes[place as usize];
        lane.in_flight = false;
        if lane.wanted || !lane.waiting.is_empty() {
            self.ready.push(place);
        }
    }

    /// Forgets what waits for a client whose connection is gone.
    pub(crate) fn forget(&mut self, place: u32) {
        self.lanes[place as usize] = Lane::default();
    }

    /// Hands everything that can be written to the engine. `fill` appends a client's messages and
    /// says whether more of them wait. Returns how many writes that are.
    pub(crate) fn flush(
        &mut self,
        engine: &mut dyn Engine,
        connection: impl Fn(u32) -> Option<ConnectionId>,
        mut fill: impl FnMut(u32, &mut Vec<u8>) -> bool,
    ) -> usize {
        let mut writes = 0;
        for place in self.ready.drain(..) {
            let lane = &mut self.lanes[place as usize];
            if lane.in_flight || (!lane.wanted && lane.waiting.is_empty()) {
                continue;
            }
            let Some(connection) = connection(place) else { continue };
            let mut buffer = std::mem::take(&mut lane.waiting);
            if lane.wanted {
                if buffer.capacity() == 0 {
                    buffer = self.spare.pop().unwrap_or_else(|| Vec::with_capacity(BUFFER_BYTES));
                }
                lane.wanted = fill(place, &mut buffer);
            }
            // What waited may have been given up.
            if buffer.is_empty() {
                keep(&mut self.spare, buffer);
            } else {
                engine.write(connection, buffer);
                lane.in_flight = true;
                writes += 1;
            }
        }
        writes
    }
}

fn keep(spare: &mut Vec<Vec<u8>>, mut buffer: Vec<u8>) {
    if spare.len() < SPARE_MAX && buffer.capacity() <= SPARE_BYTES_MAX {
        buffer.clear();
        spare.push(buffer);
    }
}

#[cfg(test)]
mod tests {
    use super::{Outbox, PONG_BYTES_MAX};

    #[test]
    fn who_pings_without_reading_fills_no_memory() {
        let mut outbox = Outbox::new(2);
        while outbox.takes_pong(1) {
            outbox.append_to(1).extend_from_slice(&[0; 131]);
        }
        assert!(outbox.append_to(1).len() < PONG_BYTES_MAX + 131);
        assert!(outbox.takes_pong(0));
    }
}
