//! The test vectors for client writers: `vectors.json` is what this code signs and reads.

use ed25519_dalek::{Signer, SigningKey};
use protocol::decode::FrameDecoder;
use protocol::frame::ClientFrame;
use protocol::opening::check_auth;
use protocol::signature::verify_strict;
use protocol::{PublicKey, signed_bytes};
use serde_json::Value;

fn vectors() -> Value {
    serde_json::from_str(include_str!("vectors.json")).expect("the vectors are JSON")
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_else(|| panic!("{field} is text"))
}

fn key(vectors: &Value) -> SigningKey {
    SigningKey::from_bytes(&protocol::keys::read_hex(text(vectors, "seed")).expect("64 hex digits"))
}

#[test]
fn the_seed_gives_the_key() {
    let vectors = vectors();
    assert_eq!(PublicKey::from(&key(&vectors).verifying_key()).to_string(), text(&vectors, "publicKey"));
}

#[test]
fn auth_signs_these_bytes() {
    let vectors = vectors();
    let auth_vector = &vectors["auth"];
    let mut decoder = FrameDecoder::new();
    let Ok(ClientFrame::Auth(auth)) = decoder.decode(text(auth_vector, "frame")) else { panic!("an auth frame") };
    let nonce = protocol::keys::read_hex(text(auth_vector, "nonce")).expect("64 hex digits");
    let mut signed = Vec::new();
    signed_bytes::auth(&mut signed, text(auth_vector, "relay"), &nonce, &auth.public_key, auth.device_id);
    assert_eq!(String::from_utf8(signed.clone()).expect("text"), text(auth_vector, "signed"));
    assert_eq!(key(&vectors).sign(&signed).to_bytes(), *auth.signature.as_bytes());
    assert!(check_auth(&auth, text(auth_vector, "relay"), &nonce, &mut signed).is_ok());
}

#[test]
fn messages_sign_these_bytes() {
    let vectors = vectors();
    let messages = vectors["messages"].as_array().expect("a list");
    assert!(messages.len() >= 3);
    for vector in messages {
        let mut decoder = FrameDecoder::new();
        let Ok(ClientFrame::Message(message)) = decoder.decode(text(vector, "frame")) else { panic!("{vector}") };
        let mut signed = Vec::new();
        signed_bytes::message(&mut signed, &message);
        assert_eq!(String::from_utf8(signed.clone()).expect("text"), text(vector, "signed"));
        assert_eq!(key(&vectors).sign(&signed).to_bytes(), *message.signature.as_bytes());
        assert!(verify_strict(&key(&vectors).verifying_key(), &signed, &message.signature));
    }
}
