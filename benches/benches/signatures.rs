//! Signatures: what a client pays to sign, and the relay to check, alone, in batches, and at login.
//! Texts are the signed bytes of a message of 100 characters.

use std::hint::black_box;

use benches::user::{Draft, User, plain_text};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ed25519_dalek::{Signature as DalekSignature, Signer, VerifyingKey};
use protocol::frame::LobbyMode;
use protocol::server_frame::Challenge;
use protocol::signature::{is_candidate, verify_batch, verify_strict};
use protocol::{Signature, opening};

/// Signatures by as many users, as a batch takes them.
struct Signed {
    keys: Vec<VerifyingKey>,
    texts: Vec<Vec<u8>>,
    signatures: Vec<DalekSignature>,
}

impl Signed {
    fn by(users: usize) -> Self {
        let mut signed = Self { keys: Vec::new(), texts: Vec::new(), signatures: Vec::new() };
        let recipient = User::nth(u64::MAX).public_key;
        for (user, n) in User::all().take(users).zip(0..) {
            let text = Draft::new(recipient, plain_text(100), n).signed_bytes(&user);
            signed.keys.push(user.signing_key.verifying_key());
            signed.signatures.push(user.signing_key.sign(&text));
            signed.texts.push(text);
        }
        signed
    }
}

fn single(c: &mut Criterion) {
    let user = User::nth(0);
    let Signed { keys, texts, signatures } = Signed::by(1);
    let signature = Signature::from_bytes(signatures[0].to_bytes());
    let mut group = c.benchmark_group("sign");
    group.throughput(Throughput::Elements(1));
    group.bench_function("message-100", |b| b.iter(|| user.signing_key.sign(black_box(&texts[0]))));
    group.finish();

    let mut group = c.benchmark_group("verify");
    group.throughput(Throughput::Elements(1));
    assert!(verify_strict(&keys[0], &texts[0], &signature));
    group.bench_function("strict", |b| b.iter(|| verify_strict(black_box(&keys[0]), &texts[0], black_box(&signature))));
    group.bench_function("is-candidate", |b| b.iter(|| is_candidate(black_box(&signature))));
    group.finish();
}

fn batch(c: &mut Criterion) {
    let mut group = c.benchmark_group("verify-batch");
    // 2 and 3 besides the sizes that count: they show where a batch begins to be worth it.
    for count in [2, 3, 4, 8, 16, 32, 64] {
        let Signed { keys, texts, signatures } = Signed::by(count);
        let texts: Vec<&[u8]> = texts.iter().map(Vec::as_slice).collect();
        assert!(verify_batch(&keys, &texts, &signatures));
        group.throughput(Throughput::Elements(count as u64));
        group.bench_function(count.to_string(), |b| {
            b.iter(|| verify_batch(black_box(&keys), black_box(&texts), black_box(&signatures)));
        });
    }
    group.finish();
}

fn login(c: &mut Criterion) {
    let user = User::nth(0);
    let challenge = Challenge { version: 1, relay: "localhost", nonce: [7; 32] };
    let answer = || opening::answer(&challenge, "localhost", &user.signing_key, "phone", LobbyMode::All, None);
    let auth = answer().expect("the challenge has the expected name");
    let mut scratch = Vec::new();
    assert!(opening::check_auth(&auth, "localhost", &challenge.nonce, &mut scratch).is_ok());
    let mut group = c.benchmark_group("login");
    group.throughput(Throughput::Elements(1));
    group.bench_function("key-check", |b| b.iter(|| black_box(&user.public_key).to_verifying_key()));
    group.bench_function("check-auth", |b| {
        b.iter(|| opening::check_auth(black_box(&auth), "localhost", &challenge.nonce, &mut scratch).is_ok());
    });
    group.finish();
}

criterion_group! {
    name = signatures;
    config = benches::settings();
    targets = single, batch, login
}
criterion_main!(signatures);
