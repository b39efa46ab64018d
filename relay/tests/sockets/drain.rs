//! The end of the relay: everybody is told, then closed, then it exits.

use std::net::TcpStream;

use crate::kit::{Client, Engine, Got, Relay, User, Watcher, on_every_engine, wire};

on_every_engine! {
    everybody_is_told_and_closed_with_1001,
    what_was_acked_is_delivered_before_the_close,
    clients_that_do_not_answer_do_not_hold_it_up,
}

fn everybody_is_told_and_closed_with_1001(engine: Engine) {
    let mut relay = Relay::start(engine);
    let mut clients: Vec<Client> = User::several(16).iter().map(|user| Client::login(&relay, user)).collect();
    relay.terminate();
    let mut waits = Vec::new();
    for client in &mut clients {
        let restarting = client.expect("restarting");
        waits.push(restarting["reconnectInMs"].as_u64().expect("a number"));
        client.expect_close(1001);
    }
    waits.dedup();
    assert!(waits.len() > 1, "all clients come back at once: {waits:?}");
    assert_eq!(relay.wait().code(), Some(0));
    assert!(TcpStream::connect(relay.address()).is_err(), "nobody listens any more");
}

fn what_was_acked_is_delivered_before_the_close(engine: Engine) {
    let mut relay = Relay::with(engine, &["--rate-limit", "0"]);
    let users = User::several(8);
    let recipient = User::numbered(100);
    let mut to = Client::login(&relay, &recipient);
    let mut senders: Vec<Client> = users.iter().map(|user| Client::login(&relay, user)).collect();
    for (user, client) in users.iter().zip(&mut senders) {
        let frames: Vec<String> = (0..50).map(|_| user.draft(&recipient, "in time?").frame()).collect();
        client.raw(&wire::texts(&frames));
    }
    relay.terminate();
    let mut acked = 0;
    for client in &mut senders {
        loop {
            match client.next() {
                Got::Text(text) => acked += u64::from(text.contains(r#""type":"ack""#)),
                Got::Close(code) => break assert_eq!(code, Some(1001)),
                other => panic!("expected acks and a close, got {other:?}"),
            }
        }
        client.expect_end();
    }
    let mut pushed = 0;
    loop {
        match to.next() {
            Got::Text(text) => pushed += u64::from(text.starts_with("{\"seq\":")),
            Got::Close(code) => break assert_eq!(code, Some(1001)),
            other => panic!("expected messages and a close, got {other:?}"),
        }
    }
    assert!(pushed >= acked, "{acked} messages were acked and {pushed} delivered");
    assert_eq!(relay.wait().code(), Some(0));
}

fn clients_that_do_not_answer_do_not_hold_it_up(engine: Engine) {
    let mut relay = Relay::start(engine);
    let mut watcher = Watcher::login(&relay, &User::numbered(100));
    // Not a word, half a request, half a session, and sessions that read nothing.
    let _silent = TcpStream::connect(relay.address()).expect("the relay takes connections");
    let mut halting = TcpStream::connect(relay.address()).expect("the relay takes connections");
    std::io::Write::write_all(&mut halting, b"GET /ws HT").expect("the relay takes bytes");
    let mut challenged = Client::open(&relay);
    challenged.expect("challenge");
    let users = User::several(8);
    let _deaf: Vec<Client> = users.iter().map(|user| Client::login(&relay, user)).collect();
    for user in &users {
        watcher.wait_joined(user);
    }
    relay.terminate();
    // Ends by itself within the deadline, though none of these has ended theirs.
    assert_eq!(relay.wait().code(), Some(0));
    while matches!(challenged.next(), Got::Text(_) | Got::Close(Some(1001))) {}
}
