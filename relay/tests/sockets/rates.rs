//! The message rate of a key.

use std::thread;
use std::time::Duration;

use crate::kit::{Client, Draft, Engine, Relay, User, on_every_engine, wire};

on_every_engine! {
    a_burst_of_twice_the_rate_passes,
    a_refused_message_passes_after_the_time_told,
    all_devices_of_a_key_share_its_rate,
    zero_is_unlimited,
    messages_of_one_id_share_no_token,
}

/// Sends messages to oneself in one piece and gives what was acked and what was refused, in order.
fn send_all(client: &mut Client, drafts: &[Draft]) -> (Vec<String>, Vec<(String, u64)>) {
    let frames: Vec<String> = drafts.iter().map(Draft::frame).collect();
    client.raw(&wire::texts(&frames));
    let (mut acked, mut refused) = (Vec::new(), Vec::new());
    while acked.len() + refused.len() < drafts.len() {
        let frame = client.frame();
        let id = frame["clientMessageId"].as_str().expect("an id").to_owned();
        if frame["type"] == "ack" {
            acked.push(id);
        } else if frame["type"] == "error" {
            assert_eq!(frame["reason"], "rate_limited", "{frame}");
            refused.push((id, frame["retryAfterMs"].as_u64().expect("retryAfterMs is a number")));
        }
    }
    (acked, refused)
}

fn a_burst_of_twice_the_rate_passes(engine: Engine) {
    for (options, rate) in [(&[][..], 10), (&["--rate-limit", "2"][..], 2)] {
        let relay = Relay::with(engine, options);
        for user in User::several(4) {
            let mut client = Client::login(&relay, &user);
            let drafts: Vec<Draft> = (0..2 * rate + 20).map(|_| user.draft(&user, "hello")).collect();
            let (acked, refused) = send_all(&mut client, &drafts);
            // More pass only if the bucket fills while they are read.
            assert!(acked.len() >= 2 * rate, "{} of a burst of {}", acked.len(), 2 * rate);
            assert!(drafts.iter().zip(&acked).take(2 * rate).all(|(draft, id)| draft.id == *id));
            assert!(!refused.is_empty(), "no message was refused");
            for (_, retry_after_ms) in refused {
                // Until the next token: at most a whole one.
                assert!((1..=1000 / rate as u64).contains(&retry_after_ms), "{retry_after_ms}");
            }
        }
    }
}

fn a_refused_message_passes_after_the_time_told(engine: Engine) {
    let relay = Relay::with(engine, &["--rate-limit", "2"]);
    let user = User::numbered(0);
    let mut client = Client::login(&relay, &user);
    let drafts: Vec<Draft> = (0..8).map(|_| user.draft(&user, "hello")).collect();
    let (_, refused) = send_all(&mut client, &drafts);
    let (id, retry_after_ms) = refused.last().expect("eight are too many");
    // The contract's own time, counted from later than the relay's.
    thread::sleep(Duration::from_millis(*retry_after_ms));
    let draft = drafts.iter().find(|draft| draft.id == *id).expect("one of them").clone();
    let (acked, _) = send_all(&mut client, &[draft]);
    assert_eq!(acked, std::slice::from_ref(id));
}

fn all_devices_of_a_key_share_its_rate(engine: Engine) {
    let relay = Relay::with(engine, &["--rate-limit", "1"]);
    let mut has_shared = false;
    // A bucket fills up by one a second: on a machine that stands still between the two, the second
    // device finds a message free. Not for eight users.
    for user in User::several(8) {
        let mut phone = Client::login_as(&relay, &user, "phone");
        let mut tablet = Client::login_as(&relay, &user, "tablet");
        let drafts: Vec<Draft> = (0..6).map(|_| user.draft(&user, "hello")).collect();
        let (_, refused) = send_all(&mut phone, &drafts[..5]);
        assert!(!refused.is_empty());
        let (acked, _) = send_all(&mut tablet, &drafts[5..]);
        has_shared |= acked.is_empty();
    }
    assert!(has_shared, "each device has a rate of its own");
}

fn zero_is_unlimited(engine: Engine) {
    let relay = Relay::with(engine, &["--rate-limit", "0"]);
    let user = User::numbered(0);
    let mut client = Client::login(&relay, &user);
    let drafts: Vec<Draft> = (0..400).map(|_| user.draft(&user, "hello")).collect();
    let (acked, refused) = send_all(&mut client, &drafts);
    assert_eq!((acked.len(), refused.len()), (400, 0));
}

fn messages_of_one_id_share_no_token(engine: Engine) {
    let relay = Relay::with(engine, &["--rate-limit", "1"]);
    let user = User::numbered(0);
    let mut client = Client::login(&relay, &user);
    let draft = user.draft(&user, "hello");
    // Each is refused behind the rate check and leaves the id free for the next: in one piece, while
    // the relay still checks the first one's signature.
    let frames: Vec<String> = (0..60).map(|n| draft.frame_with(&format!("{n:0128x}"))).collect();
    client.raw(&wire::texts(&frames));
    let mut reasons = Vec::new();
    for _ in &frames {
        let error = client.expect("error");
        assert_eq!(error["retryAfterMs"].is_u64(), error["reason"] == "rate_limited", "{error}");
        reasons.push(error["reason"].as_str().expect("a reason").to_owned());
    }
    let checked = reasons.iter().filter(|reason| *reason == "signature_invalid").count();
    // A burst of two; the others take a second each, and all of them took less than the deadline.
    assert!((2..15).contains(&checked), "{checked} signatures were checked at a rate of one a second");
}
