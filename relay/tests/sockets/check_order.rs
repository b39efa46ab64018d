//! The order of the relay's checks: of two things that are wrong, the earlier one is named.

use serde_json::{Value, json};

use crate::kit::user::timestamp_in;
use crate::kit::{Client, Draft, Engine, Relay, User, on_every_engine, wire};

on_every_engine! {
    the_earlier_fault_is_named,
    refusals_behind_the_rate_check_cost_a_message,
    refusals_before_the_rate_check_cost_none,
}

/// What may be wrong with a message, in the order in which the relay looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    Malformed,
    SenderMismatch,
    IdConflict,
    MessageTooLarge,
    RateLimited,
    StaleTimestamp,
    SignatureInvalid,
    InvalidRecipient,
    Offline,
}

const FAULTS: [(Fault, &str); 9] = [
    (Fault::Malformed, "malformed"),
    (Fault::SenderMismatch, "sender_mismatch"),
    (Fault::IdConflict, "id_conflict"),
    (Fault::MessageTooLarge, "message_too_large"),
    (Fault::RateLimited, "rate_limited"),
    (Fault::StaleTimestamp, "stale_timestamp"),
    (Fault::SignatureInvalid, "signature_invalid"),
    (Fault::InvalidRecipient, "invalid_recipient"),
    (Fault::Offline, "offline"),
];

/// A message with these faults but for the rate, which is no property of a message.
fn faulty(sender: &User, known_id: &str, faults: &[Fault]) -> (String, String) {
    let has = |fault| faults.contains(&fault);
    let mut draft = sender.draft(sender, "hello");
    if has(Fault::IdConflict) {
        draft.id = known_id.to_owned();
    }
    if has(Fault::MessageTooLarge) {
        draft.text = "a".repeat(1001);
    }
    if has(Fault::StaleTimestamp) {
        draft.timestamp = timestamp_in(-400_000);
    }
    if has(Fault::InvalidRecipient) {
        draft.recipient = "02".to_owned() + &"00".repeat(31);
    } else if has(Fault::Offline) {
        draft.recipient = User::numbered(1000).key;
    }
    let signature = if has(Fault::SignatureInvalid) { "ab".repeat(64) } else { draft.signature() };
    let mut frame: Value = serde_json::from_str(&draft.frame_with(&signature)).expect("the kit makes JSON");
    if has(Fault::SenderMismatch) {
        frame["senderPublicKey"] = json!(User::numbered(1001).key);
    }
    if has(Fault::Malformed) {
        frame["color"] = json!("red");
    }
    (draft.id, frame.to_string())
}

fn the_earlier_fault_is_named(engine: Engine) {
    let unlimited = Relay::with(engine, &["--rate-limit", "0"]);
    let slow = Relay::with(engine, &["--rate-limit", "1"]);
    let mut number = 0;
    for (at, (first, reason)) in FAULTS.into_iter().enumerate() {
        // Each fault alone too, then with each that is looked for later.
        for (second, _) in FAULTS[at..].iter().copied() {
            println!("{first:?} before {second:?}");
            let has_rate = first == Fault::RateLimited || second == Fault::RateLimited;
            number += 1;
            let user = User::numbered(number);
            let mut client = Client::login(if has_rate { &slow } else { &unlimited }, &user);
            let known = user.draft(&user, "known");
            let (id, frame) = faulty(&user, &known.id, &[first, second]);
            let mut frames = vec![known.frame()];
            if has_rate {
                // In one piece with these, the message finds the bucket of two empty.
                frames.extend((0..3).map(|_| user.draft(&user, "filler").frame()));
            }
            frames.push(frame);
            client.raw(&wire::texts(&frames));
            let error = loop {
                let frame = client.frame();
                if frame["clientMessageId"] == id && frame["type"] == "error" {
                    break frame;
                }
            };
            assert_eq!(error["reason"], reason, "{error}");
        }
    }
}

/// Sends them in one piece and gives the last one's answer.
fn last_answer(client: &mut Client, drafts: &[(Draft, String)]) -> Value {
    let frames: Vec<String> = drafts.iter().map(|(_, frame)| frame.clone()).collect();
    client.raw(&wire::texts(&frames));
    let (last, _) = drafts.last().expect("one at least");
    loop {
        let frame = client.frame();
        if frame["clientMessageId"] == last.id && frame["type"] != "message" {
            return frame;
        }
    }
}

fn refusals_behind_the_rate_check_cost_a_message(engine: Engine) {
    let relay = Relay::with(engine, &["--rate-limit", "1"]);
    let absent = User::numbered(1000);
    for (number, what) in ["stale", "signature", "recipient", "offline"].into_iter().enumerate() {
        println!("{what}");
        let user = User::numbered(number);
        let mut client = Client::login(&relay, &user);
        let refused = |_| {
            let mut draft = user.draft(&user, "no");
            match what {
                "stale" => draft.timestamp = timestamp_in(-400_000),
                "recipient" => draft.recipient = "02".to_owned() + &"00".repeat(31),
                "offline" => draft.recipient = absent.key.clone(),
                _ => {}
            }
            let signature = if what == "signature" { "ab".repeat(64) } else { draft.signature() };
            let frame = draft.frame_with(&signature);
            (draft, frame)
        };
        let good = user.draft(&user, "yes");
        let frame = good.frame();
        let drafts: Vec<_> = (0..2).map(refused).chain([(good, frame)]).collect();
        let answer = last_answer(&mut client, &drafts);
        assert_eq!(answer["reason"], "rate_limited", "{answer}");
    }
}

fn refusals_before_the_rate_check_cost_none(engine: Engine) {
    let relay = Relay::with(engine, &["--rate-limit", "1"]);
    for (number, what) in ["malformed", "sender", "long", "duplicate"].into_iter().enumerate() {
        println!("{what}");
        let user = User::numbered(number);
        let mut client = Client::login(&relay, &user);
        let known = user.draft(&user, "known");
        client.send(&known.frame());
        while client.frame()["type"] != "ack" {}
        let refused = |_| {
            let mut draft = user.draft(&user, "no");
            if what == "long" {
                draft.text = "a".repeat(1001);
            }
            let frame = match what {
                "malformed" => draft.frame().replacen('{', "{\"color\":1,", 1),
                "sender" => draft.frame().replace(&user.key, &User::numbered(1001).key),
                "duplicate" => known.frame(),
                _ => draft.frame(),
            };
            (draft, frame)
        };
        // One of two is used up; ten refusals later the other one is there.
        let good = user.draft(&user, "yes");
        let frame = good.frame();
        let drafts: Vec<_> = (0..10).map(refused).chain([(good, frame)]).collect();
        let answer = last_answer(&mut client, &drafts);
        assert_eq!(answer["type"], "ack", "{answer}");
    }
}
