//! Several connections of one key: devices beside each other, and a device that comes again.

use std::thread;

use crate::kit::{Client, Engine, Got, Relay, User, Watcher, on_every_engine, wire};

on_every_engine! {
    a_message_reaches_all_devices_of_its_recipient,
    the_newest_connection_of_a_device_wins,
    the_lobby_sees_nothing_of_a_replacement,
    of_many_connections_at_once_one_stays,
    a_key_leaves_with_its_last_device,
    the_ninth_device_is_refused,
    welcome_tells_the_highest_seq,
}

const DEVICES: usize = 8;

fn a_message_reaches_all_devices_of_its_recipient(engine: Engine) {
    let relay = Relay::start(engine);
    let sender = User::numbered(100);
    let mut from = Client::login(&relay, &sender);
    for recipient in User::several(8) {
        let mut devices: Vec<Client> =
            (0..DEVICES).map(|n| Client::login_as(&relay, &recipient, &format!("device-{n}"))).collect();
        let draft = sender.draft(&recipient, "to all of you");
        from.say(&draft);
        for device in &mut devices {
            assert_eq!(device.expect_push(), (1, draft.frame()));
        }
        // To oneself as well, from one of them.
        let draft = recipient.draft(&recipient, "to myself");
        devices[0].send(&draft.frame());
        let mut answers = [devices[0].text(), devices[0].text()];
        answers.sort();
        assert_eq!(answers[0], draft.frame().replacen('{', "{\"seq\":2,", 1));
        for device in &mut devices[1..] {
            assert_eq!(device.expect_push(), (2, draft.frame()));
        }
        for device in &mut devices {
            device.expect_quiet();
        }
    }
}

fn the_newest_connection_of_a_device_wins(engine: Engine) {
    let relay = Relay::with(engine, &["--rate-limit", "0"]);
    let sender = User::numbered(100);
    let mut from = Client::login(&relay, &sender);
    for user in User::several(8) {
        let mut beside = Client::login_as(&relay, &user, "tablet");
        let mut device = Client::login(&relay, &user);
        let mut unconfirmed = Vec::new();
        for seq in 1..=4 {
            let mut newer = Client::login(&relay, &user);
            device.expect_close(4409);
            for (earlier, frame) in (1..).zip(&unconfirmed) {
                assert_eq!(newer.expect_push(), (earlier, String::clone(frame)), "the device never confirmed it");
            }
            let draft = sender.draft(&user, "to the newest");
            from.say(&draft);
            unconfirmed.push(draft.frame());
            assert_eq!(newer.expect_push(), (seq, draft.frame()));
            assert_eq!(beside.expect_push(), (seq, draft.frame()));
            device = newer;
        }
        beside.expect_quiet();
    }
}

fn the_lobby_sees_nothing_of_a_replacement(engine: Engine) {
    let relay = Relay::start(engine);
    let mut watcher = Watcher::login(&relay, &User::numbered(100));
    for user in User::several(8) {
        let mut older = Client::login(&relay, &user);
        watcher.wait_joined(&user);
        let mut newer = Client::login(&relay, &user);
        older.expect_close(4409);
        drop(older);
        // Users at home on either shard come behind it: what went before them has been told.
        let markers: Vec<User> = (200..208).map(User::numbered).collect();
        let clients: Vec<Client> = markers.iter().map(|marker| Client::login(&relay, marker)).collect();
        let is_there = |key: &String| markers.iter().any(|marker| marker.key == *key);
        let mut seen = 0;
        while seen < markers.len() {
            let frame = watcher.client.expect("lobby_update");
            let text = frame.to_string();
            assert!(!text.contains(&user.key), "the lobby tells of a replacement: {text}");
            assert!(watcher.lobby.apply(&frame));
            seen = watcher.lobby.users.iter().filter(|key| is_there(key)).count();
        }
        clients.into_iter().for_each(Client::leave);
        for marker in &markers {
            watcher.wait_left(marker);
        }
        newer.expect_quiet();
        newer.leave();
        watcher.wait_left(&user);
    }
}

fn of_many_connections_at_once_one_stays(engine: Engine) {
    let relay = Relay::start(engine);
    let user = User::numbered(0);
    for _ in 0..4 {
        let mut clients: Vec<Client> = thread::scope(|scope| {
            let logins: Vec<_> = (0..8).map(|_| scope.spawn(|| Client::login(&relay, &user))).collect();
            logins.into_iter().map(|login| login.join().expect("each gets its welcome")).collect()
        });
        // The one that stays gets no close: it is found by what it answers.
        for client in &mut clients {
            client.try_raw(&wire::text(r#"{"type":"ping"}"#));
        }
        let mut open = Vec::new();
        for mut client in clients {
            match client.next() {
                Got::Text(text) => {
                    assert!(text.contains("pong"), "{text}");
                    open.push(client);
                }
                got => assert_eq!(got, Got::Close(Some(4409))),
            }
        }
        assert_eq!(open.len(), 1, "one connection of a device stays");
        open[0].expect_quiet();
    }
}

fn a_key_leaves_with_its_last_device(engine: Engine) {
    let relay = Relay::start(engine);
    let mut watcher = Watcher::login(&relay, &User::numbered(100));
    let mut other = Client::login(&relay, &User::numbered(101));
    for user in User::several(8) {
        let first = Client::login_as(&relay, &user, "first");
        watcher.wait_joined(&user);
        let mut second = Client::login_as(&relay, &user, "second");
        first.leave();
        // Still there: messages arrive, and no delta tells of a change until another user comes.
        let draft = User::numbered(101).draft(&user, "still there?");
        other.say(&draft);
        assert_eq!(second.expect_push(), (1, draft.frame()));
        let marker = User::numbered(102);
        let client = Client::login(&relay, &marker);
        watcher.wait("the marker, and the user as before", |lobby| {
            assert!(lobby.users.contains(&user.key), "a key leaves before its last device");
            lobby.users.contains(&marker.key)
        });
        client.leave();
        watcher.wait_left(&marker);
        second.leave();
        watcher.wait_left(&user);
    }
}

fn the_ninth_device_is_refused(engine: Engine) {
    let relay = Relay::start(engine);
    for user in User::several(4) {
        let login = |n: usize| Client::login_as(&relay, &user, &format!("device-{n}"));
        let mut devices: Vec<Client> = (0..DEVICES).map(login).collect();
        for _ in 0..2 {
            let mut ninth = Client::open(&relay);
            let auth = ninth.answer(&user, "ninth", "none");
            ninth.send(&auth);
            ninth.expect_error("overloaded");
            ninth.expect_close(4429);
        }
        // The same device again is no ninth.
        let again = login(0);
        devices[0].expect_close(4409);
        devices[0] = again;
        for device in &mut devices {
            device.expect_quiet();
        }
        // One goes, another may come, as soon as the relay knows.
        devices.pop().expect("eight").leave();
        Client::login_as(&relay, &user, "ninth").expect_quiet();
    }
}

fn welcome_tells_the_highest_seq(engine: Engine) {
    let relay = Relay::start(engine);
    for user in User::several(8) {
        let mut first = Client::login_as(&relay, &user, "first");
        for seq in 1..=3 {
            let draft = user.draft(&user, "to myself");
            first.send(&draft.frame());
            let mut answers = [first.text(), first.text()];
            answers.sort();
            assert_eq!(answers[0], draft.frame().replacen('{', &format!("{{\"seq\":{seq},"), 1));
            let (_, welcome) = Client::open(&relay).with_session(&user, "second", "none");
            assert_eq!(welcome["seq"], seq, "{welcome}");
        }
    }
}
