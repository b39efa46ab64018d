//! Frames: decoding what clients send, encoding what the relay answers, splicing `seq`, and the
//! bytes that are signed. JSON only; the WebSocket around it is in `websocket.rs`.

use std::hint::black_box;

use benches::user::{Draft, User, emoji, escape_non_ascii, plain_text, text_to_escape};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use protocol::decode::FrameDecoder;
use protocol::frame::LobbyMode;
use protocol::server_frame::{Ack, Challenge, ErrorFrame, LobbyTotals, ServerFrameDecoder};
use protocol::{PublicKey, encode, opening, signed_bytes, splice};

/// Messages that differ in what their text costs, with the names they are reported under.
fn drafts() -> [(&'static str, Draft); 4] {
    let recipient = User::nth(1).public_key;
    let texts = [
        ("message-100", plain_text(100)),
        ("message-1000", plain_text(1000)),
        ("message-1000-escapes", text_to_escape(1000)),
        ("message-1000-emoji", emoji(1000)),
    ];
    texts.map(|(name, text)| (name, Draft::new(recipient, text, 1)))
}

fn decode(c: &mut Criterion) {
    let mut group = c.benchmark_group("decode");
    let sender = User::nth(0);
    let mut inputs: Vec<(&str, String)> = drafts().map(|(name, draft)| (name, draft.frame(&sender))).to_vec();
    // The longest frame of an honest client: twelve bytes a character.
    let escaped = drafts().map(|(_, draft)| escape_non_ascii(&draft.frame(&sender)));
    inputs.push(("message-1000-surrogates", escaped[3].clone()));
    let challenge = Challenge { version: 1, relay: "localhost", nonce: [7; 32] };
    let auth = opening::answer(&challenge, "localhost", &sender.signing_key, "phone", LobbyMode::All, None)
        .expect("the challenge has the expected name");
    inputs.push(("auth", json(|out| encode::auth(out, &auth))));
    inputs.push(("received", "{\"type\":\"received\",\"seq\":123456}".to_owned()));
    inputs.push(("malformed", inputs[0].1.replace("clientMessageId", "clientMessageIds")));
    let mut decoder = FrameDecoder::new();
    for (name, text) in &inputs {
        assert_eq!(decoder.decode(text).is_err(), *name == "malformed", "{name}");
        group.throughput(Throughput::Bytes(text.len() as u64));
        group.bench_function(*name, |b| b.iter(|| black_box(decoder.decode(black_box(text)).is_ok())));
    }
    group.finish();

    // The client's side: what a recipient and the load generator decode.
    let mut group = c.benchmark_group("decode-client");
    let mut pushed = Vec::new();
    splice::splice_seq(&mut pushed, inputs[0].1.as_bytes(), 123_456);
    let pushed = String::from_utf8(pushed).expect("frames are UTF-8");
    let ack = json(|out| encode::ack(out, &ACK));
    let mut decoder = ServerFrameDecoder::new();
    for (name, text) in [("message-100", &pushed), ("ack", &ack)] {
        assert!(decoder.decode(text).is_ok(), "{text}");
        group.throughput(Throughput::Bytes(text.len() as u64));
        group.bench_function(name, |b| b.iter(|| black_box(decoder.decode(black_box(text)).is_ok())));
    }
    group.finish();
}

const ACK: Ack<'static> = Ack { id: "00000000-0000-4000-8000-000000000001", online: true, duplicate: false, seq: None };

const REFUSAL: ErrorFrame<'static> = ErrorFrame {
    reason: "offline",
    details: "The recipient is not connected.",
    id: Some(ACK.id),
    room: None,
    retry_after_ms: None,
    time: None,
};

fn json(write: impl FnOnce(&mut Vec<u8>)) -> String {
    let mut out = Vec::new();
    write(&mut out);
    String::from_utf8(out).expect("frames are UTF-8")
}

fn encode(c: &mut Criterion) {
    let mut group = c.benchmark_group("encode");
    let mut bench = |name: &str, write: &dyn Fn(&mut Vec<u8>)| {
        let mut out = Vec::new();
        write(&mut out);
        group.throughput(Throughput::Bytes(out.len() as u64));
        group.bench_function(name, |b| {
            b.iter(|| {
                out.clear();
                write(black_box(&mut out));
            });
        });
    };
    let sender = User::nth(0);
    for (name, draft) in &drafts() {
        let message = draft.sign(&sender);
        bench(name, &|out| encode::message(out, black_box(&message)));
    }
    bench("ack", &|out| encode::ack(out, black_box(&ACK)));
    bench("error", &|out| encode::error(out, black_box(&REFUSAL), None));
    let page: Vec<PublicKey> = (0..encode::LOBBY_PAGE_USERS).map(|n| PublicKey::from_bytes([n as u8; 32])).collect();
    let totals = LobbyTotals { count: 800, digest: 0x0123_4567_89ab_cdef };
    bench("lobby-update-1", &|out| encode::lobby_update(out, 123_456, black_box(&page[..1]), &[], totals));
    bench("lobby-page-800", &|out| encode::lobby(out, 123_456, black_box(&page), Some(totals)));
    group.finish();
}

fn forward(c: &mut Criterion) {
    let sender = User::nth(0);
    let mut out = Vec::new();
    let mut group = c.benchmark_group("splice");
    for (name, draft) in &drafts()[..2] {
        let frame = draft.frame(&sender);
        group.throughput(Throughput::Bytes(frame.len() as u64));
        group.bench_with_input(BenchmarkId::from_parameter(name), &frame, |b, frame| {
            b.iter(|| {
                out.clear();
                splice::splice_seq(&mut out, black_box(frame.as_bytes()), black_box(123_456));
            });
        });
    }
    group.finish();

    let mut group = c.benchmark_group("signed-bytes");
    for (name, draft) in &drafts()[..2] {
        let message = draft.sign(&sender);
        group.throughput(Throughput::Bytes(draft.signed_bytes(&sender).len() as u64));
        group.bench_with_input(BenchmarkId::from_parameter(name), &message, |b, message| {
            b.iter(|| {
                out.clear();
                signed_bytes::message(&mut out, black_box(message));
            });
        });
    }
    group.finish();
}

criterion_group! {
    name = frames;
    config = benches::settings();
    targets = decode, encode, forward
}
criterion_main!(frames);
