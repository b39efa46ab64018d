//! The hand-over of a connection to its key's home shard: what lies behind the `auth` goes with it,
//! wherever the bytes are cut.
//!
//! With two shards, half of the keys are at home where they were accepted and half are not: sixteen
//! keys miss neither half but once in 32,768 runs.

use std::thread;

use crate::kit::client::text_of;
use crate::kit::{Client, Draft, Engine, Got, Relay, User, on_every_engine, wire};
use wire::{BINARY, CLOSE, CONTINUATION, FIN, PING, TEXT};

on_every_engine! {
    messages_behind_the_auth_are_kept_in_order,
    a_frame_cut_by_the_hand_over_goes_on,
    a_message_in_pieces_goes_on,
    an_auth_byte_by_byte,
    more_bytes_than_one_read_takes_wait_behind_the_auth,
    control_frames_behind_the_auth_are_answered,
    a_fault_behind_the_auth_closes,
    many_hand_overs_at_once,
}

const KEYS: usize = 16;

/// Reads acks and pushes of these messages, in any mixture of the two; each kind is in order.
fn expect_all(client: &mut Client, ids: &[String]) {
    let (mut acked, mut pushed) = (Vec::new(), Vec::new());
    while acked.len() < ids.len() || pushed.len() < ids.len() {
        let frame = client.frame();
        let id = text_of(&frame, "clientMessageId").to_owned();
        if frame["type"] == "ack" {
            acked.push(id);
        } else {
            pushed.push(id);
            assert_eq!(frame["seq"], pushed.len(), "seq counts without gaps: {frame}");
        }
    }
    assert_eq!(acked, ids, "acks");
    assert_eq!(pushed, ids, "pushes");
}

/// Messages to oneself: their ids and frames. Twenty of them pass the rate limit at once.
fn messages(user: &User, count: usize) -> (Vec<String>, Vec<String>) {
    let drafts: Vec<_> = (0..count).map(|n| user.draft(user, &format!("message {n}"))).collect();
    (drafts.iter().map(|draft| draft.id.clone()).collect(), drafts.iter().map(Draft::frame).collect())
}

fn messages_behind_the_auth_are_kept_in_order(engine: Engine) {
    let relay = Relay::start(engine);
    for user in User::several(KEYS) {
        let mut client = Client::open(&relay);
        let mut bytes = wire::text(&client.answer(&user, "phone", "none"));
        let (ids, frames) = messages(&user, 20);
        bytes.extend(wire::texts(&frames));
        client.raw(&bytes);
        client.expect("welcome");
        expect_all(&mut client, &ids);
        client.expect_quiet();
    }
}

fn a_frame_cut_by_the_hand_over_goes_on(engine: Engine) {
    let relay = Relay::start(engine);
    let frame_bytes = wire::texts(&messages(&User::numbered(0), 1).1).len();
    // Cut in the header, behind it, in the payload, before the last byte, and between two frames.
    for (number, cut) in [1, 2, 3, 4, 7, 8, 9, 200, frame_bytes - 1, frame_bytes].into_iter().enumerate() {
        for user in [User::numbered(2 * number), User::numbered(2 * number + 1)] {
            let mut client = Client::open(&relay);
            let auth = wire::text(&client.answer(&user, "phone", "none"));
            let (ids, frames) = messages(&user, 2);
            let behind = wire::texts(&frames);
            client.raw(&[&auth, &behind[..cut]].concat());
            // The welcome comes from home: only then is the rest sent.
            client.expect("welcome");
            client.raw(&behind[cut..]);
            expect_all(&mut client, &ids);
            client.leave();
        }
    }
}

fn a_message_in_pieces_goes_on(engine: Engine) {
    let relay = Relay::start(engine);
    for user in User::several(KEYS) {
        let mut client = Client::open(&relay);
        let mut bytes = wire::text(&client.answer(&user, "phone", "none"));
        let (ids, frames) = messages(&user, 1);
        let (first, rest) = frames[0].as_bytes().split_at(100);
        bytes.extend(wire::frame(TEXT, first));
        client.raw(&bytes);
        client.expect("welcome");
        let (second, third) = rest.split_at(100);
        client.raw(&[wire::frame(CONTINUATION, second), wire::frame(FIN | CONTINUATION, third)].concat());
        expect_all(&mut client, &ids);
    }
}

fn an_auth_byte_by_byte(engine: Engine) {
    let relay = Relay::start(engine);
    for user in User::several(KEYS) {
        let mut client = Client::open(&relay);
        let auth = wire::text(&client.answer(&user, "phone", "none"));
        for byte in &auth[..auth.len() - 1] {
            client.raw(&[*byte]);
        }
        let (ids, frames) = messages(&user, 1);
        let (last, message) = (&auth[auth.len() - 1..], wire::texts(&frames));
        client.raw(&[last, &message].concat());
        client.expect("welcome");
        expect_all(&mut client, &ids);
    }
}

fn more_bytes_than_one_read_takes_wait_behind_the_auth(engine: Engine) {
    let relay = Relay::with(engine, &["--rate-limit", "0"]);
    for user in User::several(KEYS) {
        let mut client = Client::open(&relay);
        let mut bytes = wire::text(&client.answer(&user, "phone", "none"));
        // About 200 KB.
        let (ids, frames) = messages(&user, 400);
        bytes.extend(wire::texts(&frames));
        client.raw(&bytes);
        client.expect("welcome");
        expect_all(&mut client, &ids);
    }
}

fn control_frames_behind_the_auth_are_answered(engine: Engine) {
    let relay = Relay::start(engine);
    for user in User::several(KEYS) {
        let mut client = Client::open(&relay);
        let auth = wire::text(&client.answer(&user, "phone", "none"));
        let ping = wire::frame(FIN | PING, b"behind");
        let close = wire::frame(FIN | CLOSE, &1000u16.to_be_bytes());
        client.raw(&[auth, ping, close].concat());
        client.expect("welcome");
        assert_eq!(client.next(), Got::Pong(b"behind".to_vec()));
        client.expect_close(1000);
    }
}

fn a_fault_behind_the_auth_closes(engine: Engine) {
    let relay = Relay::start(engine);
    for user in User::several(KEYS) {
        let mut client = Client::open(&relay);
        let auth = wire::text(&client.answer(&user, "phone", "none"));
        let again = wire::text(r#"{"type":"auth","version":1}"#);
        client.raw(&[auth, again, wire::frame(FIN | BINARY, b"")].concat());
        client.expect("welcome");
        client.expect_error("malformed");
        client.expect_close(1003);
    }
}

fn many_hand_overs_at_once(engine: Engine) {
    let relay = Relay::with(engine, &["--rate-limit", "0"]);
    let users = User::several(64);
    thread::scope(|scope| {
        for chunk in users.chunks(16) {
            let relay = &relay;
            scope.spawn(move || {
                // All of them open before the first of them answers.
                let clients: Vec<(Client, &User)> = chunk.iter().map(|user| (Client::open(relay), user)).collect();
                let mut sessions = Vec::new();
                for (mut client, user) in clients {
                    let auth = wire::text(&client.answer(user, "phone", "none"));
                    let (ids, frames) = messages(user, 10);
                    client.raw(&[auth, wire::texts(&frames)].concat());
                    sessions.push((client, ids));
                }
                for (client, ids) in &mut sessions {
                    client.expect("welcome");
                    expect_all(client, ids);
                }
            });
        }
    });
}
