//! Frames as a relay writes them, and keys to write them with.

use client::session::sign_message;
use ed25519_dalek::SigningKey;
use protocol::frame::Target;
use protocol::server_frame::{Ack, Challenge, ErrorFrame, LobbyTotals, ReceiptStatus, Welcome, WelcomeLimits};
use protocol::splice::splice_seq;
use protocol::{PublicKey, Timestamp, encode};

pub(crate) const NONCE: [u8; 32] = [7; 32];
pub(crate) const RELAY: &str = "localhost";
pub(crate) const LIMITS: WelcomeLimits =
    WelcomeLimits { frame_bytes: 16 * 1024, message_chars: 1000, messages_per_second: 10 };

/// 2026-11-21T12:34:56.789Z.
pub(crate) const RELAY_TIME_MS: i64 = 1_795_264_496_789;

/// The secret key that `seed` stands for.
pub(crate) fn signing_key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

/// The public key that `seed` stands for.
pub(crate) fn key(seed: u8) -> PublicKey {
    PublicKey::from(&signing_key(seed).verifying_key())
}

pub(crate) fn relay_time() -> Timestamp {
    Timestamp::from_unix_ms(RELAY_TIME_MS)
}

pub(crate) fn text(write: impl FnOnce(&mut Vec<u8>)) -> String {
    let mut bytes = Vec::new();
    write(&mut bytes);
    String::from_utf8(bytes).expect("a frame is UTF-8")
}

pub(crate) fn challenge(relay: &str) -> String {
    text(|out| encode::challenge(out, &Challenge { version: 1, relay, nonce: NONCE }))
}

pub(crate) fn welcome_frame(seed: u8, device_id: &str) -> Welcome<'_> {
    Welcome {
        public_key: key(seed),
        device_id,
        time: relay_time(),
        epoch: 1,
        seq: 0,
        recovered: false,
        heartbeat_ms: 20_000,
        limits: LIMITS,
    }
}

pub(crate) fn welcome(seed: u8, device_id: &str) -> String {
    text(|out| encode::welcome(out, &welcome_frame(seed, device_id)))
}

pub(crate) fn keys(seeds: &[u8]) -> Vec<PublicKey> {
    let mut keys: Vec<_> = seeds.iter().copied().map(key).collect();
    keys.sort();
    keys
}

pub(crate) fn totals(seeds: &[u8]) -> LobbyTotals {
    let digest = seeds.iter().fold(0, |digest, &seed| digest ^ key(seed).digest_part());
    LobbyTotals { count: seeds.len() as u64, digest }
}

/// A page of a snapshot; the last one if `all` says who is online.
pub(crate) fn lobby(rev: u64, page: &[u8], all: Option<&[u8]>) -> String {
    text(|out| encode::lobby(out, rev, &keys(page), all.map(totals)))
}

pub(crate) fn update(rev: u64, joined: &[u8], left: &[u8], all: &[u8]) -> String {
    text(|out| encode::lobby_update(out, rev, &keys(joined), &keys(left), totals(all)))
}

/// A message from one key to another, as the sender writes it.
pub(crate) fn message(from: u8, to: u8, id: &str, message: &str) -> String {
    message_to(from, Target::User(key(to)), id, message)
}

pub(crate) fn message_to(from: u8, target: Target<'_>, id: &str, message: &str) -> String {
    sign_message(&signing_key(from), target, message, id, relay_time())
}

/// A sender's frame as the relay pushes it.
pub(crate) fn pushed(seq: u64, frame: &str) -> String {
    text(|out| splice_seq(out, frame.as_bytes(), seq))
}

pub(crate) fn ack(id: &str) -> String {
    ack_with(id, None)
}

/// An ack of a relay with a store.
pub(crate) fn ack_with(id: &str, seq: Option<u64>) -> String {
    text(|out| encode::ack(out, &Ack { id, online: true, duplicate: false, seq }))
}

pub(crate) fn receipt(status: ReceiptStatus, ids: &[&str], recipient: u8) -> String {
    text(|out| encode::receipt(out, status, ids.iter().copied(), &key(recipient), None))
}

/// An error that says when to try again.
pub(crate) fn not_yet(reason: &str, id: &str, retry_after_ms: u64) -> String {
    let frame = ErrorFrame {
        reason,
        details: "Not yet.",
        id: Some(id),
        room: None,
        retry_after_ms: Some(retry_after_ms),
        time: None,
    };
    text(|out| encode::error(out, &frame, None))
}

pub(crate) fn error(reason: &str, details: &str, id: Option<&str>, time: Option<Timestamp>) -> String {
    text(|out| encode::error(out, &ErrorFrame { reason, details, id, room: None, retry_after_ms: None, time }, None))
}
