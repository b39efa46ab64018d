//! Known message ids: the same message again is acknowledged and not delivered, another one under
//! the same id is refused, and a refused message leaves its id free.

use crate::kit::{Client, Draft, Engine, Relay, User, on_every_engine, wire};

on_every_engine! {
    the_same_again_is_acknowledged_and_not_delivered,
    another_message_of_the_same_id_is_refused,
    ids_belong_to_their_sender,
    ids_outlive_the_connection,
    ids_are_known_while_the_first_is_still_being_checked,
    a_refused_message_leaves_its_id_free,
}

/// Pairs of users, so that sender and recipient are at home on the same shard and on two.
fn pairs() -> impl Iterator<Item = (User, User)> {
    (0..8).map(|n| (User::numbered(2 * n), User::numbered(2 * n + 1)))
}

/// A marker is the recipient's next message, with this seq.
fn arrives_next(from: &mut Client, to: &mut Client, marker: &Draft, seq: u64) {
    from.say(marker);
    assert_eq!(to.expect_push(), (seq, marker.frame()));
}

fn the_same_again_is_acknowledged_and_not_delivered(engine: Engine) {
    let relay = Relay::start(engine);
    for (sender, recipient) in pairs() {
        let (mut from, mut to) = (Client::login(&relay, &sender), Client::login(&relay, &recipient));
        let draft = sender.draft(&recipient, "once");
        from.say(&draft);
        assert_eq!(to.expect_push(), (1, draft.frame()));
        for again in [draft.frame(), draft.frame().replace("\":\"", "\" : \"")] {
            from.send(&again);
            from.expect_ack(&draft.id, true);
        }
        // The signature tells: what else changed is not looked at.
        let changed = Draft { text: "x".repeat(1001), ..draft.clone() };
        from.send(&changed.frame_with(&draft.signature()));
        from.expect_ack(&draft.id, true);
        // From another device of the same key as well.
        let mut tablet = Client::login_as(&relay, &sender, "tablet");
        tablet.send(&draft.frame());
        tablet.expect_ack(&draft.id, true);
        arrives_next(&mut from, &mut to, &sender.draft(&recipient, "twice"), 2);
    }
}

fn another_message_of_the_same_id_is_refused(engine: Engine) {
    let relay = Relay::start(engine);
    for (sender, recipient) in pairs() {
        let (mut from, mut to) = (Client::login(&relay, &sender), Client::login(&relay, &recipient));
        let draft = sender.draft(&recipient, "first");
        from.say(&draft);
        assert_eq!(to.expect_push(), (1, draft.frame()));
        let other = Draft { text: "second".to_owned(), ..draft.clone() };
        from.send(&other.frame());
        from.expect_refusal("id_conflict", &draft.id);
        from.send(&draft.frame_with(&"ab".repeat(64)));
        from.expect_refusal("id_conflict", &draft.id);
        arrives_next(&mut from, &mut to, &sender.draft(&recipient, "third"), 2);
    }
}

fn ids_belong_to_their_sender(engine: Engine) {
    let relay = Relay::start(engine);
    let users = User::several(8);
    let recipient = User::numbered(100);
    let mut to = Client::login(&relay, &recipient);
    for (seq, sender) in (1..).zip(&users) {
        let draft = Draft { id: "the-same".to_owned(), ..sender.draft(&recipient, "mine") };
        Client::login(&relay, sender).say(&draft);
        assert_eq!(to.expect_push(), (seq, draft.frame()));
    }
}

fn ids_outlive_the_connection(engine: Engine) {
    let relay = Relay::start(engine);
    for (sender, recipient) in pairs() {
        let mut to = Client::login(&relay, &recipient);
        let draft = sender.draft(&recipient, "once");
        let mut from = Client::login(&relay, &sender);
        from.say(&draft);
        assert_eq!(to.expect_push(), (1, draft.frame()));
        from.leave();
        let mut from = Client::login(&relay, &sender);
        from.send(&draft.frame());
        from.expect_ack(&draft.id, true);
        from.send(&Draft { text: "other".to_owned(), ..draft.clone() }.frame());
        from.expect_refusal("id_conflict", &draft.id);
        arrives_next(&mut from, &mut to, &sender.draft(&recipient, "twice"), 2);
        // Even when the recipient is gone: the relay has answered for this one.
        to.leave();
        from.send(&draft.frame());
        let ack = from.expect("ack");
        assert_eq!((&ack["clientMessageId"], &ack["duplicate"]), (&draft.id.as_str().into(), &true.into()), "{ack}");
    }
}

fn ids_are_known_while_the_first_is_still_being_checked(engine: Engine) {
    let relay = Relay::with(engine, &["--rate-limit", "0"]);
    for (sender, recipient) in pairs() {
        let (mut from, mut to) = (Client::login(&relay, &sender), Client::login(&relay, &recipient));
        let good = sender.draft(&recipient, "good");
        let other = Draft { text: "other".to_owned(), ..good.clone() };
        let forged = sender.draft(&recipient, "forged first");
        // All in one piece, so that they wait for their signatures together.
        from.raw(&wire::texts(&[
            good.frame(),
            good.frame(),
            other.frame(),
            forged.frame_with(&"ab".repeat(64)),
            forged.frame(),
            forged.frame(),
        ]));
        let mut answers: Vec<String> = (0..6)
            .map(|_| {
                let answer = from.frame();
                let id = if answer["clientMessageId"] == good.id.as_str() { "good" } else { "forged" };
                match answer["type"].as_str() {
                    Some("ack") => format!("{id} ack duplicate {}", answer["duplicate"]),
                    _ => format!("{id} {}", answer["reason"].as_str().expect("a reason")),
                }
            })
            .collect();
        answers.sort();
        assert_eq!(
            answers,
            [
                "forged ack duplicate false",
                "forged ack duplicate true",
                "forged signature_invalid",
                "good ack duplicate false",
                "good ack duplicate true",
                "good id_conflict",
            ]
        );
        let mut pushed = [to.expect_push().1, to.expect_push().1];
        pushed.sort();
        let mut expected = [good.frame(), forged.frame()];
        expected.sort();
        assert_eq!(pushed, expected);
        arrives_next(&mut from, &mut to, &sender.draft(&recipient, "last"), 3);
    }
}

fn a_refused_message_leaves_its_id_free(engine: Engine) {
    let relay = Relay::start(engine);
    let id = || "the-same".to_owned();
    for (sender, recipient) in pairs() {
        let mut from = Client::login(&relay, &sender);
        let good = Draft { id: id(), ..sender.draft(&recipient, "good") };
        let refuse = |from: &mut Client, reason: &str, frame: &str| {
            from.send(frame);
            from.expect_refusal(reason, "the-same");
        };
        refuse(&mut from, "malformed", &good.frame().replacen('{', "{\"color\":1,", 1));
        refuse(&mut from, "sender_mismatch", &good.frame().replace(&sender.key, &User::numbered(100).key));
        refuse(&mut from, "message_too_large", &Draft { text: "a".repeat(1001), ..good.clone() }.frame());
        let stale = Draft { timestamp: "2020-02-29T12:00:00.000Z".to_owned(), ..good.clone() };
        refuse(&mut from, "stale_timestamp", &stale.frame());
        refuse(&mut from, "signature_invalid", &good.frame_with(&"ab".repeat(64)));
        let nobody = Draft { recipient: "02".to_owned() + &"00".repeat(31), ..good.clone() };
        refuse(&mut from, "invalid_recipient", &nobody.frame());
        refuse(&mut from, "offline", &good.frame());
        let mut to = Client::login(&relay, &recipient);
        from.say(&good);
        assert_eq!(to.expect_push(), (1, good.frame()));
    }
}
