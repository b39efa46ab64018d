//! The trace of a run: a hash over every event and effect, and on request the last ones as text.

use std::collections::VecDeque;
use std::hash::Hasher;

use relay_core::{Batch, Effect, Envelope, Event, Nanos, Outcome, StoreFault};
use siphasher::sip::SipHasher13;

/// Lines kept to be shown behind a violation.
const LINES_MAX: usize = 60;

/// Bytes of a masked, empty pong: at rest there is nothing but pings and pongs, which would push out
/// of the last lines what led there.
const HEARTBEAT_BYTES_MAX: usize = 6;

/// Gathers what happened. The hash does not depend on whether text is kept.
pub(crate) struct Trace {
    hasher: SipHasher13,
    /// Events and effects so far.
    pub(crate) count: u64,
    lines: Option<VecDeque<String>>,
    print: bool,
}

impl Trace {
    /// Starts a trace; `keep` keeps the last lines, `print` writes every line to standard error.
    pub(crate) fn new(keep: bool, print: bool) -> Self {
        Self { hasher: SipHasher13::new_with_keys(0, 0), count: 0, lines: (keep || print).then(VecDeque::new), print }
    }

    /// The hash so far.
    pub(crate) fn hash(&self) -> u64 {
        self.hasher.finish()
    }

    /// The last lines, oldest first.
    pub(crate) fn into_lines(self) -> Vec<String> {
        self.lines.map(Vec::from).unwrap_or_default()
    }

    /// Adds a line that is not hashed: what a client did or saw.
    pub(crate) fn note(&mut self, now: Nanos, text: impl FnOnce() -> String) {
        self.line(now, false, text);
    }

    fn line(&mut self, now: Nanos, is_heartbeat: bool, text: impl FnOnce() -> String) {
        let Some(lines) = &mut self.lines else {
            return;
        };
        if is_heartbeat && !self.print {
            return;
        }
        let line = format!("{:>10.3} ms  {}", now as f64 / 1e6, text());
        if self.print {
            eprintln!("{line}");
        }
        if lines.len() == LINES_MAX {
            lines.pop_front();
        }
        lines.push_back(line);
    }

    /// Adds an event of a shard.
    pub(crate) fn event(&mut self, now: Nanos, shard: usize, event: &Event<'_>) {
        self.head(now, shard, event_tag(event));
        match event {
            Event::Accepted { nonce, .. } => self.hasher.write(nonce),
            Event::Arrived { connection, arrival } => {
                self.number(u64::from(connection.index));
                self.hasher.write(arrival.public_key.as_bytes());
                self.bytes(&arrival.unread);
            }
            Event::Received { connection, bytes } => {
                self.number(u64::from(connection.index));
                self.bytes(bytes);
            }
            Event::Written { connection, buffer } => {
                self.number(u64::from(connection.index));
                self.number(buffer.len() as u64);
            }
            Event::Disconnected { connection, .. } => self.number(u64::from(connection.index)),
            Event::FromShard { from, envelope } => {
                self.number(u64::from(from.0));
                self.envelope(envelope);
            }
            Event::Congestion { to, full } => self.number(u64::from(to.0) * 2 + u64::from(*full)),
            Event::Stored { batch, result } => {
                self.number(batch.number);
                self.hasher.write(&[match result {
                    Ok(()) => 0,
                    Err(StoreFault::Full) => 1,
                    Err(StoreFault::Failed) => 2,
                }]);
            }
            Event::Loaded { page } => {
                self.number(page.entries.len() as u64);
                self.bytes(&page.bytes);
            }
            Event::Drain => {}
        }
        let is_heartbeat = match event {
            Event::Received { bytes, .. } => bytes.len() <= HEARTBEAT_BYTES_MAX,
            Event::Written { buffer, .. } => buffer.len() <= HEARTBEAT_BYTES_MAX,
            _ => false,
        };
        self.line(now, is_heartbeat, || format!("shard {shard} <- {}", describe_event(event)));
    }

    /// Adds an effect of a shard.
    pub(crate) fn effect(&mut self, now: Nanos, shard: usize, effect: &Effect) {
        self.head(now, shard, effect_tag(effect));
        match effect {
            Effect::Read { connection, .. }
            | Effect::ShutdownWrite { connection }
            | Effect::Close { connection }
            | Effect::HandOver { connection, .. } => self.number(u64::from(connection.index)),
            Effect::Write { connection, buffer } => {
                self.number(u64::from(connection.index));
                self.bytes(buffer);
            }
            Effect::Send { to, envelope } => {
                self.number(u64::from(to.0));
                self.envelope(envelope);
            }
            Effect::Store(batch) => {
                let counts = [batch.entries.len(), batch.removals.len(), batch.users.len(), batch.ids.len()];
                self.number(batch.number);
                counts.into_iter().for_each(|count| self.number(count as u64));
                self.bytes(&batch.bytes);
            }
            // Rare beside messages: its debug text stands for all of it.
            Effect::Load(request) => self.bytes(format!("{request:?}").as_bytes()),
        }
        let is_heartbeat = matches!(effect, Effect::Write { buffer, .. } if buffer.len() <= HEARTBEAT_BYTES_MAX);
        self.line(now, is_heartbeat, || format!("shard {shard} -> {}", describe_effect(effect)));
    }

    fn head(&mut self, now: Nanos, shard: usize, tag: u8) {
        self.count += 1;
        self.number(now);
        self.hasher.write(&[shard as u8, tag]);
    }

    fn envelope(&mut self, envelope: &Envelope) {
        match envelope {
            Envelope::Deliver { ticket, parcel } => {
                self.hasher.write(&[0]);
                self.number(u64::from(ticket.slot));
                self.number(u64::from(ticket.generation));
                self.hasher.write(parcel.recipient.as_bytes());
                self.hasher.write(parcel.sender.as_bytes());
                self.bytes(parcel.id.as_str().as_bytes());
                self.bytes(&parcel.frame);
            }
            Envelope::Delivered { ticket, outcome, .. } => {
                self.hasher.write(&[1]);
                self.number(u64::from(ticket.slot));
                self.number(u64::from(ticket.generation));
                self.hasher.write(&match *outcome {
                    Outcome::Offline => [0; 4],
                    Outcome::InvalidRecipient => [1, 0, 0, 0],
                    Outcome::InboxFull => [2, 0, 0, 0],
                    Outcome::Overloaded => [3, 0, 0, 0],
                    Outcome::Refused(fault) => [5, fault as u8, 0, 0],
                    Outcome::Accepted { online, stored, id_stored, unseen } => {
                        [4, u8::from(online), u8::from(stored) + 2 * u8::from(id_stored), u8::from(unseen)]
                    }
                });
            }
            Envelope::Receipt { to, receipts } => {
                self.hasher.write(&[3]);
                self.hasher.write(to.as_bytes());
                self.bytes(format!("{receipts:?}").as_bytes());
            }
            Envelope::Typing { from, to, is_typing } => {
                self.hasher.write(&[5, u8::from(*is_typing)]);
                self.hasher.write(from.as_bytes());
                self.hasher.write(to.as_bytes());
            }
            Envelope::Unseen { senders, wait } => {
                self.hasher.write(&[4, u8::from(*wait)]);
                for &(sender, count) in senders {
                    self.number(sender);
                    self.number(u64::from(count));
                }
            }
            // Rare beside messages: the debug text stands for all of it.
            Envelope::RoomMessage { .. }
            | Envelope::RoomDeliver { .. }
            | Envelope::RoomDelivered { .. }
            | Envelope::RoomAsk { .. }
            | Envelope::RoomAnswer { .. }
            | Envelope::RoomTyping { .. }
            | Envelope::Tell { .. } => {
                self.hasher.write(&[6]);
                self.bytes(format!("{envelope:?}").as_bytes());
            }
            Envelope::Lobby { joined, left } => {
                self.hasher.write(&[2]);
                for keys in [joined, left] {
                    self.number(keys.len() as u64);
                    for key in keys {
                        self.hasher.write(key.as_bytes());
                    }
                }
            }
        }
    }

    fn number(&mut self, number: u64) {
        self.hasher.write(&number.to_le_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.hasher.write(bytes);
    }
}

fn event_tag(event: &Event<'_>) -> u8 {
    match event {
        Event::Accepted { .. } => 0,
        Event::Arrived { .. } => 1,
        Event::Received { .. } => 2,
        Event::Written { .. } => 3,
        Event::Disconnected { .. } => 4,
        Event::FromShard { .. } => 5,
        Event::Congestion { .. } => 6,
        Event::Drain => 7,
        Event::Stored { .. } => 8,
        Event::Loaded { .. } => 9,
    }
}

fn effect_tag(effect: &Effect) -> u8 {
    match effect {
        Effect::Read { .. } => 16,
        Effect::Write { .. } => 17,
        Effect::ShutdownWrite { .. } => 18,
        Effect::Close { .. } => 19,
        Effect::HandOver { .. } => 20,
        Effect::Send { .. } => 21,
        Effect::Store(_) => 22,
        Effect::Load(_) => 23,
    }
}

fn describe_event(event: &Event<'_>) -> String {
    match event {
        Event::Accepted { connection, .. } => format!("accepted {connection:?}"),
        Event::Arrived { connection, arrival } => {
            format!("arrived {connection:?} of {:?} with {} bytes unread", arrival.public_key, arrival.unread.len())
        }
        Event::Received { connection, bytes } => format!("received {connection:?}, {} bytes", bytes.len()),
        Event::Written { connection, buffer } => format!("written {connection:?}, {} bytes", buffer.len()),
        Event::Disconnected { connection, gone } => format!("disconnected {connection:?} {gone:?}"),
        Event::FromShard { from, envelope } => format!("from shard {}: {}", from.0, describe_envelope(envelope)),
        Event::Congestion { to, full } => format!("congestion towards {}: {full}", to.0),
        Event::Stored { batch, result } => format!("stored batch {}: {result:?}", batch.number),
        Event::Loaded { page } => {
            format!("loaded {} entries for {:?}, fault {:?}", page.entries.len(), page.request.connection, page.fault)
        }
        Event::Drain => "drain".to_owned(),
    }
}

fn describe_effect(effect: &Effect) -> String {
    match effect {
        Effect::Read { connection, mode } => format!("read {connection:?} {mode:?}"),
        Effect::Write { connection, buffer } => {
            format!("write {connection:?}, {} bytes: {}", buffer.len(), printable(buffer))
        }
        Effect::ShutdownWrite { connection } => format!("shut down {connection:?}"),
        Effect::Close { connection } => format!("close {connection:?}"),
        Effect::HandOver { connection, to, .. } => format!("hand over {connection:?} to {}", to.0),
        Effect::Send { to, envelope } => format!("send to {}: {}", to.0, describe_envelope(envelope)),
        Effect::Store(batch) => describe_batch(batch),
        Effect::Load(request) => format!("load {request:?}"),
    }
}

fn describe_batch(batch: &Batch) -> String {
    let list = |items: Vec<String>| items.join(", ");
    let entries = batch.entries.iter().map(|entry| format!("{} of {:?} is {:?}", entry.seq, entry.user, entry.id));
    let removals = batch.removals.iter().map(|removal| format!("{:?} through {}", removal.user, removal.through));
    let users = batch.users.iter().map(|user| {
        let devices = user.devices.iter().map(|device| format!("{} {}", device.id, device.cursor));
        let (seq, exact, removed) = (user.seq, user.exact, user.removed_through);
        format!("{:?} seq {seq} exact {exact} removed {removed} [{}]", user.key, list(devices.collect()))
    });
    format!(
        "store batch {}: entries [{}], removals [{}], users [{}], {} rooms, {} ids",
        batch.number,
        list(entries.collect()),
        list(removals.collect()),
        list(users.collect()),
        batch.rooms.len(),
        batch.ids.len()
    )
}

fn describe_envelope(envelope: &Envelope) -> String {
    match envelope {
        Envelope::Deliver { ticket, parcel } => {
            let (recipient, bytes) = (parcel.recipient, parcel.frame.len());
            format!("deliver {}.{} to {recipient:?}, {bytes} bytes", ticket.slot, ticket.generation)
        }
        Envelope::Delivered { ticket, outcome, .. } => {
            format!("delivered {}.{} {outcome:?}", ticket.slot, ticket.generation)
        }
        Envelope::Receipt { to, receipts } => format!("receipts for {to:?}: {receipts:?}"),
        Envelope::Typing { from, to, is_typing } => format!("{from:?} types to {to:?}: {is_typing}"),
        Envelope::Unseen { senders, wait } => format!("unseen mail of {senders:?} waits: {wait}"),
        Envelope::RoomMessage { .. }
        | Envelope::RoomDeliver { .. }
        | Envelope::RoomDelivered { .. }
        | Envelope::RoomAsk { .. }
        | Envelope::RoomAnswer { .. }
        | Envelope::RoomTyping { .. }
        | Envelope::Tell { .. } => format!("{envelope:?}"),
        Envelope::Lobby { joined, left } => format!("lobby joined {joined:?} left {left:?}"),
    }
}

/// The start of some bytes, for a person.
pub(crate) fn printable(bytes: &[u8]) -> String {
    const SHOWN: usize = 120;
    let shown = bytes.len().min(SHOWN);
    let text: String =
        bytes[..shown].iter().map(|&byte| if byte.is_ascii_graphic() { byte as char } else { '.' }).collect();
    if bytes.len() > SHOWN { format!("{text}…") } else { text }
}
