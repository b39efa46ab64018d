//! WebSocket over memory: a client's masked frames in, the relay's frames out.

use std::hint::black_box;

use benches::user::{plain_text, push_client_text};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use protocol::limits;
use protocol::websocket::{self, Decoder, Incoming, Role};

/// A message frame of some 80 characters; the size at which WebSocket libraries were compared.
const PAYLOAD_BYTES: usize = 411;

/// Frames that one read brings from a client that pipelines.
const FRAMES_IN_ONE_READ: usize = 16;

/// Bytes of text in the messages that `input` completes.
fn decode_all(decoder: &mut Decoder, mut input: &mut [u8]) -> usize {
    let mut bytes = 0;
    while let Some(incoming) = decoder.next(&mut input).expect("the frames are well-formed") {
        let Incoming::Text(text) = black_box(incoming) else { panic!("not a text message") };
        bytes += text.len();
    }
    bytes
}

fn decode(c: &mut Criterion) {
    let mut group = c.benchmark_group("websocket-in");
    let mut bench = |name: &str, payload_bytes: usize, frames: usize, cut_at: Option<usize>| {
        let mut bytes = Vec::new();
        (0..frames).for_each(|_| push_client_text(&mut bytes, &plain_text(payload_bytes)));
        let mut decoder = Decoder::new(Role::Server, limits::FRAME_BYTES);
        let mut scratch = bytes.clone();
        group.throughput(Throughput::Bytes((payload_bytes * frames) as u64));
        // The decoder unmasks in place, so each turn begins with a copy, as a read does.
        group.bench_function(name, |b| {
            b.iter(|| {
                scratch.copy_from_slice(&bytes);
                let (first, second) = scratch.split_at_mut(cut_at.unwrap_or(bytes.len()));
                let text_bytes = decode_all(&mut decoder, first) + decode_all(&mut decoder, second);
                assert_eq!(text_bytes, payload_bytes * frames);
            });
        });
    };
    bench("411", PAYLOAD_BYTES, 1, None);
    bench("411-cut-in-payload", PAYLOAD_BYTES, 1, Some(PAYLOAD_BYTES / 2));
    bench("411-cut-in-header", PAYLOAD_BYTES, 1, Some(3));
    bench("411-x16", PAYLOAD_BYTES, FRAMES_IN_ONE_READ, None);
    bench("16384", limits::FRAME_BYTES, 1, None);
    group.finish();
}

fn encode(c: &mut Criterion) {
    let payload = plain_text(PAYLOAD_BYTES);
    let mut out = Vec::new();
    let mut group = c.benchmark_group("websocket-out");
    group.throughput(Throughput::Bytes(PAYLOAD_BYTES as u64));
    group.bench_function("411", |b| {
        b.iter(|| {
            out.clear();
            websocket::push_text(black_box(&mut out), black_box(&payload));
        });
    });
    group.bench_function("411-masked", |b| {
        b.iter(|| {
            out.clear();
            push_client_text(black_box(&mut out), black_box(&payload));
        });
    });
    // The payload is copied from where all recipients share it, which is not part of this one.
    group.throughput(Throughput::Elements(1));
    group.bench_function("411-header-only", |b| {
        b.iter(|| {
            out.clear();
            websocket::text_header(black_box(PAYLOAD_BYTES), black_box(&mut out));
        });
    });
    group.finish();
}

criterion_group! {
    name = websocket;
    config = benches::settings();
    targets = decode, encode
}
criterion_main!(websocket);
