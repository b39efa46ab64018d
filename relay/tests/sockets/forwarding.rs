//! A message reaches its recipient as the sender's own bytes, with `seq` spliced in, from any shard to
//! any shard.

use std::thread;

use crate::kit::{Client, Draft, Engine, Relay, User, on_every_engine, wire};

on_every_engine! {
    bytes_stay_as_they_are_from_any_shard_to_any_shard,
    on_one_shard,
    on_more_shards_than_cores,
    on_shards_that_poll_busily,
    seq_counts_without_gaps_over_all_senders,
    a_bad_signature_among_good_ones_stops_only_itself,
    so_it_does_when_each_is_checked_alone,
    without_checks_all_pass,
    what_came_before_a_close_is_delivered,
}

/// Texts and their spellings in JSON, both without the quotes.
const SPELLINGS: [(&str, &str); 9] = [
    ("plain", "plain"),
    ("two\nlines\tand \"quotes\" \\ / \u{8}\u{c}\r", r#"two\nlines\tand \"quotes\" \\ \/ \b\f\r"#),
    ("two\nlines", r"\u0074wo\u000alines"),
    ("😀 escaped, 😀 raw", r"\ud83d\ude00 escaped, 😀 raw"),
    ("é, e\u{301}, \u{fb01}, ſ, \u{212b}", "é, e\u{301}, \\ufb01, ſ, \u{212b}"),
    ("\u{0}\u{1f}\u{7f}\u{80}", "\\u0000\\u001F\u{7f}\u{80}"),
    ("\u{2028}\u{2029}\u{feff}\u{fffe}\u{ffff}\u{10ffff}", "\u{2028}\\u2029\u{feff}\\ufffe\u{ffff}\u{10ffff}"),
    ("{\"seq\":7,\"type\":\"ping\"}", r#"{\"seq\":7,\"type\":\"ping\"}"#),
    ("مرحبا 你好 👩‍👩‍👧‍👦", "مرحبا 你好 👩‍👩‍👧‍👦"),
];

/// Frames of one meaning each and many forms: order of fields, white space, escapes in names and values.
fn forms(sender: &User, recipient: &User) -> Vec<(Draft, String)> {
    let mut forms = Vec::new();
    for (number, (text, spelling)) in SPELLINGS.into_iter().enumerate() {
        let draft = sender.draft(recipient, text);
        let signature = draft.signature();
        let mut fields = [
            ("type", "message"),
            ("recipientPublicKey", &recipient.key),
            ("message", spelling),
            ("senderPublicKey", &sender.key),
            ("clientMessageId", &draft.id),
            ("timestamp", &draft.timestamp),
            ("signature", &signature),
        ];
        fields.rotate_left(number % 7);
        if number % 2 == 1 {
            fields.reverse();
        }
        // White space before, between and behind, as JSON has it: space, tab, line feed, return.
        let (open, colon, comma, close) = match number % 4 {
            0 => ("{", ":", ",", "}"),
            1 => (" \t\r\n{\n", " : ", " ,\n\t", "\r\n}"),
            2 => ("{   ", ":\t", ", ", " } \n\n"),
            _ => ("\n{", " :", "\r,", "}"),
        };
        let field = |(name, value): (&str, &str)| {
            let name = if number % 3 == 2 { escape_first(name) } else { name.to_owned() };
            format!("\"{name}\"{colon}\"{value}\"")
        };
        forms.push((draft.clone(), format!("{open}{}{close}", fields.map(field).join(comma))));
    }
    forms
}

/// Spells the first character as an escape.
fn escape_first(name: &str) -> String {
    format!("\\u{:04X}{}", u32::from(name.as_bytes()[0]), &name[1..])
}

/// Reads acks and pushes until there are as many of both; gives the pushes.
fn read_acks_and_pushes(client: &mut Client, mut acks: usize, pushes: usize) -> Vec<String> {
    let mut pushed = Vec::new();
    while acks > 0 || pushed.len() < pushes {
        let text = client.text();
        if text.starts_with(r#"{"type":"ack""#) {
            acks -= 1;
        } else {
            pushed.push(text);
        }
    }
    pushed
}

/// With two shards, all pairs of eight keys hold every case of sender's and recipient's home, but once
/// in 128 runs, when all eight keys are at home on one shard.
fn bytes_stay_as_they_are_from_any_shard_to_any_shard(engine: Engine) {
    all_to_all(engine, &["--shards", "2"]);
}

fn on_one_shard(engine: Engine) {
    all_to_all(engine, &["--shards", "1"]);
}

fn on_more_shards_than_cores(engine: Engine) {
    all_to_all(engine, &["--shards", "5"]);
}

fn on_shards_that_poll_busily(engine: Engine) {
    all_to_all(engine, &["--shards", "2", "--busy-poll", "200us"]);
}

fn all_to_all(engine: Engine, options: &[&str]) {
    let relay = Relay::with(engine, &[options, &["--rate-limit", "0"]].concat());
    let users = User::several(8);
    let mut clients: Vec<Client> = users.iter().map(|user| Client::login(&relay, user)).collect();
    let mut seqs = vec![0; users.len()];
    for from in 0..users.len() {
        for to in 0..users.len() {
            let forms = forms(&users[from], &users[to]);
            for (_, frame) in &forms {
                clients[from].send(frame);
            }
            let pushed = if from == to {
                read_acks_and_pushes(&mut clients[from], forms.len(), forms.len())
            } else {
                read_acks_and_pushes(&mut clients[from], forms.len(), 0);
                read_acks_and_pushes(&mut clients[to], 0, forms.len())
            };
            for ((_, frame), pushed) in forms.iter().zip(pushed) {
                seqs[to] += 1;
                assert_eq!(pushed, frame.replacen('{', &format!("{{\"seq\":{},", seqs[to]), 1));
            }
        }
    }
}

fn seq_counts_without_gaps_over_all_senders(engine: Engine) {
    let relay = Relay::with(engine, &["--rate-limit", "0"]);
    let users = User::several(8);
    let (recipient, senders) = users.split_first().expect("eight users");
    let mut client = Client::login(&relay, recipient);
    let each = 40;
    thread::scope(|scope| {
        for sender in senders {
            let relay = &relay;
            scope.spawn(move || {
                let mut client = Client::login(relay, sender);
                let drafts: Vec<Draft> = (0..each).map(|n| sender.draft(recipient, &n.to_string())).collect();
                // Some in flight, and some one by one.
                for draft in &drafts[..each / 2] {
                    client.send(&draft.frame());
                }
                for draft in &drafts[..each / 2] {
                    client.expect_ack(&draft.id, false);
                }
                for draft in &drafts[each / 2..] {
                    client.say(draft);
                }
            });
        }
        let mut next_of = std::collections::BTreeMap::new();
        for expected in 1..=(each * senders.len()) as u64 {
            let (seq, text) = client.expect_push();
            assert_eq!(seq, expected);
            let message: serde_json::Value = serde_json::from_str(&text).expect("the sender's JSON");
            let next = next_of.entry(message["senderPublicKey"].to_string()).or_insert(0);
            assert_eq!(message["message"], next.to_string(), "one sender's messages stay in order");
            *next += 1;
        }
    });
    client.expect_quiet();
}

fn a_bad_signature_among_good_ones_stops_only_itself(engine: Engine) {
    bad_among_good(&Relay::with(engine, &["--rate-limit", "0"]));
}

fn so_it_does_when_each_is_checked_alone(engine: Engine) {
    bad_among_good(&Relay::with(engine, &["--rate-limit", "0", "--verify", "strict"]));
}

fn bad_among_good(relay: &Relay) {
    // Bad in that it is the neighbour's; or in that R is the identity, or of order two, four or
    // eight, which a batch alone would not see.
    let order_eight = "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05";
    let order_two = "ec".to_owned() + &"ff".repeat(30) + "7f";
    let identity = "01".to_owned() + &"00".repeat(31);
    let order_four = "00".repeat(32);
    let kinds = [None, Some(order_eight), Some(&*order_two), Some(&*identity), Some(&*order_four)];
    let users = User::several(2 * kinds.len());
    for (pair, small_order_r) in users.chunks(2).zip(kinds) {
        let [sender, recipient] = pair else { unreachable!("chunks of two") };
        let mut from = Client::login(relay, sender);
        let mut to = Client::login(relay, recipient);
        let drafts: Vec<Draft> = (0..64).map(|n| sender.draft(recipient, &n.to_string())).collect();
        let is_bad = |n: usize| n == 0 || n == 7 || n == 40 || n == 63;
        let frames: Vec<String> = drafts
            .iter()
            .enumerate()
            .map(|(n, draft)| {
                let signature = draft.signature();
                draft.frame_with(&match small_order_r {
                    _ if !is_bad(n) => signature,
                    Some(r) => r.to_owned() + &signature[64..],
                    None => drafts[n ^ 1].signature(),
                })
            })
            .collect();
        from.raw(&wire::texts(&frames));
        let mut seq = 0;
        for (n, draft) in drafts.iter().enumerate().filter(|(n, _)| !is_bad(*n)) {
            seq += 1;
            let (pushed_seq, pushed) = to.expect_push();
            assert_eq!((pushed_seq, &pushed), (seq, &frames[n]), "message {}", draft.text);
        }
        let (mut acked, mut refused) = (Vec::new(), Vec::new());
        for _ in &drafts {
            let answer = from.frame();
            let id = answer["clientMessageId"].as_str().expect("an answer names the message").to_owned();
            if answer["type"] == "ack" {
                acked.push(id);
            } else {
                assert_eq!(answer["reason"], "signature_invalid", "{answer}");
                refused.push(id);
            }
        }
        let ids = |bad| -> Vec<String> {
            drafts.iter().enumerate().filter(|(n, _)| is_bad(*n) == bad).map(|(_, draft)| draft.id.clone()).collect()
        };
        assert_eq!((acked, refused), (ids(false), ids(true)));
        to.expect_quiet();
    }
}

fn without_checks_all_pass(engine: Engine) {
    let relay = Relay::with(engine, &["--verify", "off"]);
    for n in 0..4 {
        let [sender, recipient] = [2 * n, 2 * n + 1].map(User::numbered);
        let (mut from, mut to) = (Client::login(&relay, &sender), Client::login(&relay, &recipient));
        let draft = sender.draft(&recipient, "believe me");
        let frame = draft.frame_with(&"ab".repeat(64));
        from.send(&frame);
        from.expect_ack(&draft.id, false);
        assert_eq!(to.expect_push(), (1, frame));
    }
}

fn what_came_before_a_close_is_delivered(engine: Engine) {
    let relay = Relay::start(engine);
    let recipient = User::numbered(100);
    let mut to = Client::login(&relay, &recipient);
    let mut next_seq = 1;
    for sender in User::several(8) {
        // All in one piece: the opening, the messages and the close.
        let mut from = Client::open(&relay);
        let auth = wire::text(&from.answer(&sender, "phone", "none"));
        let frames: Vec<String> = (0..5).map(|_| sender.draft(&recipient, "last words").frame()).collect();
        let close = wire::frame(wire::FIN | wire::CLOSE, &1000u16.to_be_bytes());
        from.raw(&[auth, wire::texts(&frames), close].concat());
        for frame in frames {
            assert_eq!(to.expect_push(), (next_seq, frame));
            next_seq += 1;
        }
    }
}
