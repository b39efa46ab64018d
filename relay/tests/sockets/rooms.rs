//! Rooms of a relay with a store: members, messages, private ones and pages of history, through a kill and
//! with another number of shards.

use serde_json::{Value, json};
use tempfile::tempdir;

use crate::kit::user::timestamp_in;
use crate::kit::{Client, Engine, Relay, User, on_every_engine};
use crate::store::{relay, run};

on_every_engine! {
    a_room_outlives_a_kill,
    history_comes_in_pages,
    without_a_store_a_room_lasts_as_long_as_the_relay,
}

/// The frame of a message to a room, private if it names a member.
fn to_room(sender: &User, room: &str, to: Option<&User>, id: &str, text: &str) -> String {
    let timestamp = timestamp_in(0);
    let target = to.map_or_else(|| format!("room:{room}"), |to| format!("room:{room}:{}", to.key));
    let signature = sender.sign(&format!("relay-message/v1\n{}\n{target}\n{id}\n{timestamp}\n{text}", sender.key));
    let mut frame = json!({
        "type": "message", "roomId": room, "message": text, "senderPublicKey": sender.key,
        "clientMessageId": id, "timestamp": timestamp, "signature": signature,
    });
    if let Some(to) = to {
        frame["recipientPublicKey"] = json!(to.key);
    }
    frame.to_string()
}

/// Asks something of a room and reads its answer, passing over updates.
fn ask(client: &mut Client, ask: &Value) -> Value {
    client.send(&ask.to_string());
    loop {
        let frame = client.frame();
        if frame["type"] != "room_update" {
            return frame;
        }
    }
}

fn members(room: &Value) -> Vec<&str> {
    assert_eq!(room["type"], "room", "{room}");
    room["members"].as_array().expect("a list").iter().map(|user| user["publicKey"].as_str().expect("a key")).collect()
}

/// Logs in and asks about the room.
fn enter(relay: &Relay, user: &User, kind: &str) -> (Client, Value) {
    let mut client = Client::login(relay, user);
    let frame = if kind == "room_create" {
        json!({ "type": kind, "roomId": "den", "open": true })
    } else {
        json!({ "type": kind, "roomId": "den" })
    };
    let room = ask(&mut client, &frame);
    (client, room)
}

/// Reads the next frame that is no update of a room.
fn expect(client: &mut Client, kind: &str) -> Value {
    loop {
        let frame = client.frame();
        if frame["type"] != "room_update" {
            assert_eq!(frame["type"], kind, "{frame}");
            return frame;
        }
    }
}

fn a_room_outlives_a_kill(engine: Engine) {
    let dir = tempdir().expect("a directory");
    let [anna, ben, carol] = [0, 1, 2].map(User::numbered);
    let first = relay(engine, dir.path(), "2");
    let (mut from, made) = enter(&first, &anna, "room_create");
    assert_eq!((members(&made), &made["owner"]), (vec![&*anna.key], &json!(anna.key)));
    let (mut to, _) = enter(&first, &ben, "room_join");
    let (away, joined) = enter(&first, &carol, "room_join");
    assert_eq!(members(&joined), [&anna.key, &ben.key, &carol.key]);
    away.leave();
    let said = to_room(&anna, "den", None, "to-all", "hello");
    from.send(&said);
    let pushed = expect(&mut to, "message");
    assert_eq!((&pushed["seq"], &pushed["clientMessageId"]), (&json!(1), &json!("to-all")));
    let ack = expect(&mut from, "ack");
    assert_eq!((&ack["recipient"], &ack["duplicate"]), (&json!("online"), &json!(false)), "{ack}");
    from.send(&to_room(&anna, "den", Some(&ben), "to-ben", "between us"));
    assert_eq!(expect(&mut to, "message")["clientMessageId"], "to-ben");
    expect(&mut from, "ack");
    first.kill();

    let second = relay(engine, dir.path(), "3");
    let (mut away, room) = enter(&second, &carol, "room_members");
    // What waits for her comes with the login, before or behind the answer.
    let (pushed, room) = if room["type"] == "message" {
        (room, expect(&mut away, "room"))
    } else {
        (expect(&mut away, "message"), room)
    };
    assert_eq!(pushed["clientMessageId"], "to-all");
    assert_eq!((members(&room), &room["owner"]), (vec![&*anna.key, &ben.key, &carol.key], &json!(anna.key)));
    away.expect_quiet();
    // The id is known still, in the room as elsewhere, and gives nobody anything again.
    let mut from = Client::login(&second, &anna);
    from.send(&said);
    assert_eq!(expect(&mut from, "ack")["duplicate"], true);
    away.expect_quiet();
    let removed = ask(&mut from, &json!({ "type": "room_remove", "roomId": "den", "publicKey": carol.key }));
    assert_eq!(members(&removed), [&anna.key, &ben.key]);
    let update = away.expect("room_update");
    assert_eq!((&update["left"], &update["joined"]), (&json!([{ "publicKey": carol.key }]), &json!([])), "{update}");
    from.send(&to_room(&anna, "den", None, "without-her", "she is gone"));
    expect(&mut from, "ack");
    away.expect_quiet();
    away.send(&to_room(&carol, "den", None, "let-me-in", "hello?"));
    let refusal = away.expect_refusal("not_member", "let-me-in");
    assert_eq!(refusal["roomId"], "den");
    second.kill();
    let (status, text) = run(&["store", "check", dir.path().to_str().expect("a path of text")]);
    assert!(status == Some(0) && text.contains("no problem found"), "{text}");
}

fn history_comes_in_pages(engine: Engine) {
    let dir = tempdir().expect("a directory");
    let [anna, ben] = [0, 1].map(User::numbered);
    let first = Relay::with(
        engine,
        &["--data", dir.path().to_str().expect("a path of text"), "--shards", "2", "--rate-limit", "0"],
    );
    let (mut from, _) = enter(&first, &anna, "room_create");
    let (mut to, _) = enter(&first, &ben, "room_join");
    let text = "x".repeat(900);
    let frames: Vec<String> = (0..120).map(|n| to_room(&anna, "den", None, &format!("n-{n}"), &text)).collect();
    for frame in &frames {
        from.send(frame);
    }
    for _ in &frames {
        expect(&mut from, "ack");
        expect(&mut to, "message");
    }
    to.send(&json!({ "type": "received", "seq": frames.len() }).to_string());
    // Asked by a device that was never there, and after a kill.
    read_all(&first, &ben);
    first.kill();
    read_all(&relay(engine, dir.path(), "3"), &ben);
}

/// Reads the whole history of the room back, page by page.
fn read_all(relay: &Relay, user: &User) {
    let mut reader = Client::login_as(relay, user, "tablet");
    let mut read: Vec<String> = Vec::new();
    let mut before = Value::Null;
    loop {
        let mut request = json!({ "type": "history", "roomId": "den", "limit": 100 });
        if !before.is_null() {
            request["beforeSeq"] = before;
        }
        reader.send(&request.to_string());
        let page = loop {
            // After a kill the device may be given again what was not written down as confirmed.
            let text = reader.text();
            if !text.starts_with("{\"seq\":") {
                break text;
            }
        };
        assert!(page.len() <= 64 * 1024 && page.starts_with("{\"type\":\"history\""), "{page}");
        let page: Value = serde_json::from_str(&page).expect("JSON");
        let messages = page["messages"].as_array().expect("a list");
        before = messages[0]["seq"].clone();
        let ids = messages.iter().map(|message| message["clientMessageId"].as_str().expect("an id").to_owned());
        read.splice(0..0, ids);
        if page["more"] == false {
            break;
        }
    }
    assert_eq!(read, (0..120).map(|n| format!("n-{n}")).collect::<Vec<_>>());
}

fn without_a_store_a_room_lasts_as_long_as_the_relay(engine: Engine) {
    let relay = Relay::with(engine, &["--ephemeral", "--shards", "2"]);
    let [anna, ben] = [0, 1].map(User::numbered);
    let (mut from, _) = enter(&relay, &anna, "room_create");
    let (to, _) = enter(&relay, &ben, "room_join");
    to.leave();
    from.send(&to_room(&anna, "den", None, "while-away", "hello"));
    assert_eq!(expect(&mut from, "ack")["recipient"], "offline", "rooms answer no offline");
    let (mut to, room) = enter(&relay, &ben, "room_members");
    // What waited for him is in memory, and comes before or behind the answer.
    let (pushed, room) =
        if room["type"] == "message" { (room, expect(&mut to, "room")) } else { (expect(&mut to, "message"), room) };
    assert_eq!(pushed["clientMessageId"], "while-away");
    assert_eq!(members(&room), [&anna.key, &ben.key]);
}
