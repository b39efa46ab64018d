//! A client that stops reading is closed with 4408, and nobody else waits for it.

use std::thread;

use crate::kit::{Client, Draft, Engine, Got, Relay, User, Watcher, on_every_engine, wire};

on_every_engine! {
    who_stops_reading_is_dropped_and_nobody_waits,
    who_does_not_read_the_answers_is_dropped,
}

/// More than the outbox and both kernels' buffers hold: 40 MB.
const MESSAGES_MAX: usize = 10_000;

fn who_stops_reading_is_dropped_and_nobody_waits(engine: Engine) {
    let relay = Relay::with(engine, &["--rate-limit", "0"]);
    let mut watcher = Watcher::login(&relay, &User::numbered(100));
    // At home on either shard.
    for (round, slow) in User::several(3).into_iter().enumerate() {
        let [flooder, other, peer] = [101, 102, 103].map(|number| User::numbered(number + 10 * round));
        let (mut stopped, _) = Client::open_narrow(&relay).with_session(&slow, "phone", "none");
        watcher.wait_joined(&slow);
        let (mut from, mut to) = (Client::login(&relay, &other), Client::login(&relay, &peer));
        thread::scope(|scope| {
            let flood = scope.spawn(|| {
                let mut client = Client::login(&relay, &flooder);
                let mut sent = 0;
                while sent < MESSAGES_MAX {
                    let drafts: Vec<Draft> = (0..50).map(|_| flooder.draft(&slow, &"😀".repeat(1000))).collect();
                    client.raw(&wire::texts(&drafts.iter().map(Draft::frame).collect::<Vec<_>>()));
                    sent += drafts.len();
                    for _ in &drafts {
                        let answer = client.frame();
                        if answer["type"] == "error" {
                            assert_eq!(answer["reason"], "offline", "{answer}");
                            return sent;
                        }
                    }
                }
                panic!("{sent} messages wait for a client that does not read");
            });
            // Meanwhile others talk: each message has the whole deadline, the flood is not over.
            let mut exchanged = 0;
            while !flood.is_finished() || exchanged == 0 {
                let draft = other.draft(&peer, "not for the slow one");
                from.say(&draft);
                assert_eq!(to.expect_push().1, draft.frame());
                exchanged += 1;
            }
            let sent = flood.join().expect("the slow reader is dropped");
            println!("{exchanged} messages of others beside {sent} of the flood");
        });
        watcher.wait_left(&slow);
        // What it was sent before is whole and in order; then the close, if it still got through.
        let mut expected_seq = 0;
        loop {
            match stopped.next() {
                Got::Text(text) => {
                    expected_seq += 1;
                    assert!(text.starts_with(&format!("{{\"seq\":{expected_seq},")), "{}", &text[..40]);
                }
                Got::Close(code) => assert_eq!(code, Some(4408)),
                Got::End => break,
                other => panic!("expected messages and a close, got {other:?}"),
            }
        }
        assert!(expected_seq > 0);
    }
}

fn who_does_not_read_the_answers_is_dropped(engine: Engine) {
    let relay = Relay::with(engine, &["--rate-limit", "0"]);
    let mut watcher = Watcher::login(&relay, &User::numbered(100));
    let user = User::numbered(0);
    let (mut client, _) = Client::open_narrow(&relay).with_session(&user, "phone", "none");
    watcher.wait_joined(&user);
    thread::scope(|scope| {
        // Writes and never reads: its own acks and messages fill its outbox.
        let (user, mut sent, mut is_open) = (&user, 0, true);
        scope.spawn(move || {
            while is_open && sent < 10 * MESSAGES_MAX {
                let frames: Vec<String> = (0..50).map(|_| user.draft(user, &"😀".repeat(1000)).frame()).collect();
                is_open = client.try_raw(&wire::texts(&frames));
                sent += frames.len();
            }
        });
        watcher.wait_left(user);
    });
}
