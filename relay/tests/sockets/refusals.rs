//! Every reason to refuse a message, one by one: what the error says, that the session stays open,
//! and that nothing reaches the recipient.

use ed25519_dalek::VerifyingKey;
use protocol::Timestamp;

use crate::kit::client::text_of;
use crate::kit::user::{hex, timestamp_in};
use crate::kit::{Client, Draft, Engine, Relay, User, on_every_engine};

on_every_engine! {
    another_sender,
    too_long_or_empty,
    a_timestamp_too_far_off,
    a_signature_that_does_not_fit,
    a_recipient_without_a_usable_key,
    a_recipient_who_is_offline,
}

/// A sender, and a recipient who is online.
struct Pair {
    relay: Relay,
    sender: User,
    recipient: User,
    from: Client,
    to: Client,
}

impl Pair {
    fn new(engine: Engine) -> Self {
        let relay = Relay::with(engine, &["--rate-limit", "0"]);
        let [sender, recipient] = [0, 1].map(User::numbered);
        let (from, to) = (Client::login(&relay, &sender), Client::login(&relay, &recipient));
        Self { relay, sender, recipient, from, to }
    }

    fn draft(&self) -> Draft {
        self.sender.draft(&self.recipient, "hello")
    }

    /// The recipient has got one good message by now, with this seq, and nothing else.
    fn only_good_ones_arrive(mut self, seq: u64) {
        let draft = self.draft();
        self.from.say(&draft);
        assert_eq!(self.to.expect_push(), (seq, draft.frame()));
        self.to.expect_quiet();
        self.from.expect_quiet();
    }
}

fn another_sender(engine: Engine) {
    let mut pair = Pair::new(engine);
    // Rightly signed by somebody else; and signed here for somebody else.
    let others = pair.recipient.draft(&pair.recipient, "not mine");
    pair.from.send(&others.frame());
    pair.from.expect_refusal("sender_mismatch", &others.id);
    let draft = pair.draft();
    pair.from.send(&draft.frame().replace(&pair.sender.key, &pair.recipient.key));
    pair.from.expect_refusal("sender_mismatch", &draft.id);
    pair.only_good_ones_arrive(1);
}

fn too_long_or_empty(engine: Engine) {
    let mut pair = Pair::new(engine);
    for text in ["a".repeat(1001), "😀".repeat(1001), "e\u{301}".repeat(501)] {
        let draft = Draft { text, ..pair.draft() };
        pair.from.send(&draft.frame());
        pair.from.expect_refusal("message_too_large", &draft.id);
    }
    let draft = Draft { text: String::new(), ..pair.draft() };
    pair.from.send(&draft.frame());
    pair.from.expect_refusal("malformed", &draft.id);

    // Scalar values count, neither bytes nor UTF-16 units nor graphemes.
    let longest = Draft { text: "😀".repeat(1000), ..pair.draft() };
    // Escaped, it is three times as long.
    let frame = longest.frame().replace('😀', "\\ud83d\\ude00");
    pair.from.send(&frame);
    pair.from.expect_ack(&longest.id, false);
    assert_eq!(pair.to.expect_push(), (1, frame));
    pair.only_good_ones_arrive(2);
}

fn a_timestamp_too_far_off(engine: Engine) {
    let mut pair = Pair::new(engine);
    let now_ms = || Timestamp::parse(&timestamp_in(0)).expect("a timestamp").unix_ms();
    for (off_ms, is_fine) in [(-330_000, false), (-270_000, true), (270_000, true), (330_000, false)] {
        let draft = Draft { timestamp: timestamp_in(off_ms), ..pair.draft() };
        pair.from.send(&draft.frame());
        if is_fine {
            pair.from.expect_ack(&draft.id, false);
            pair.to.expect_push();
        } else {
            let before_ms = now_ms() - 30_000;
            let error = pair.from.expect_refusal("stale_timestamp", &draft.id);
            let time = Timestamp::parse(text_of(&error, "time")).expect("time is a timestamp").unix_ms();
            assert!((before_ms..=now_ms()).contains(&time), "{error}");
        }
    }
    pair.only_good_ones_arrive(3);
}

fn a_signature_that_does_not_fit(engine: Engine) {
    let mut pair = Pair::new(engine);
    let draft = pair.draft();
    let right = draft.signature();
    let altered = |at: usize| {
        let digit = if right.as_bytes()[at] == b'0' { "1" } else { "0" };
        format!("{}{digit}{}", &right[..at], &right[at + 1..])
    };
    let sender = &pair.sender;
    let signed = |text: &str| sender.sign(text);
    let Draft { recipient, id, timestamp, text, .. } = &draft;
    let key = &sender.key;
    for (what, signature) in [
        ("R altered", altered(3)),
        ("S altered", altered(70)),
        ("zeros", "0".repeat(128)),
        ("S raised by the group's order", raise_s(&right)),
        ("another's", pair.recipient.draft(&pair.recipient, "hello").signature()),
        ("for another purpose", signed(&format!("relay-auth/v1\n{key}\nuser:{recipient}\n{id}\n{timestamp}\n{text}"))),
        ("for a room", signed(&format!("relay-message/v1\n{key}\nroom:{recipient}\n{id}\n{timestamp}\n{text}"))),
        (
            "a line feed behind",
            signed(&format!("relay-message/v1\n{key}\nuser:{recipient}\n{id}\n{timestamp}\n{text}\n")),
        ),
        (
            "with CR LF",
            signed(&format!("relay-message/v1\r\n{key}\r\nuser:{recipient}\r\n{id}\r\n{timestamp}\r\n{text}")),
        ),
        ("of the JSON", signed(&draft.frame())),
    ] {
        println!("{what}");
        pair.from.send(&draft.frame_with(&signature));
        pair.from.expect_refusal("signature_invalid", &draft.id);
    }
    // The text as signed and the text as sent differ in their normal form only.
    let composed = Draft { text: "\u{e9}".to_owned(), ..pair.draft() };
    let decomposed = Draft { text: "e\u{301}".to_owned(), ..composed.clone() };
    pair.from.send(&decomposed.frame_with(&composed.signature()));
    pair.from.expect_refusal("signature_invalid", &composed.id);
    pair.only_good_ones_arrive(1);
}

/// Adds the order of the group to S: the same signature for a verifier that does not look closely.
fn raise_s(signature: &str) -> String {
    // L = 2^252 + 27742317777372353535851937790883648493, little-endian.
    const ORDER: [u8; 32] = [
        0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 0, 0, 0, 0, 0,
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
    ];
    let mut carry = 0;
    let mut raised = signature[..64].to_owned();
    for (at, order) in ORDER.into_iter().enumerate() {
        let digits = &signature[64 + 2 * at..66 + 2 * at];
        let sum = u16::from_str_radix(digits, 16).expect("hex") + u16::from(order) + carry;
        raised += &hex(&[sum as u8]);
        carry = sum >> 8;
    }
    raised
}

fn a_recipient_without_a_usable_key(engine: Engine) {
    let mut pair = Pair::new(engine);
    let order_two = "ec".to_owned() + &"ff".repeat(30) + "7f";
    let mixed = {
        let point = |digits: &str| {
            let bytes = protocol::keys::read_hex(digits).expect("64 digits");
            VerifyingKey::from_bytes(&bytes).expect("a point of the curve").to_edwards()
        };
        hex(&(point(&pair.recipient.key) + point(&order_two)).compress().to_bytes())
    };
    for (what, recipient) in [
        ("no point", "02".to_owned() + &"00".repeat(31)),
        ("the identity", "01".to_owned() + &"00".repeat(31)),
        ("not canonical", "ee".to_owned() + &"ff".repeat(30) + "7f"),
        ("order two", order_two),
        ("mixed order", mixed),
    ] {
        println!("{what}");
        let draft = Draft { recipient, ..pair.draft() };
        pair.from.send(&draft.frame());
        pair.from.expect_refusal("invalid_recipient", &draft.id);
    }
    pair.only_good_ones_arrive(1);
}

fn a_recipient_who_is_offline(engine: Engine) {
    let mut pair = Pair::new(engine);
    // Never seen, on either shard.
    for absent in (2..10).map(User::numbered) {
        let draft = pair.sender.draft(&absent, "are you there?");
        pair.from.send(&draft.frame());
        pair.from.expect_refusal("offline", &draft.id);
        // Now they are: the id of a refused message is free.
        let mut client = Client::login(&pair.relay, &absent);
        pair.from.say(&draft);
        assert_eq!(client.expect_push(), (1, draft.frame()));
        client.leave();
        let draft = pair.sender.draft(&absent, "and now?");
        pair.from.send(&draft.frame());
        pair.from.expect_refusal("offline", &draft.id);
    }
    pair.only_good_ones_arrive(1);
}
