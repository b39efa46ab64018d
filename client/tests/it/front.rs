//! The tokio front against a scripted relay on a real socket.

use std::time::Duration;

use client::endpoint::Endpoint;
use client::event::CLOSED;
use client::front::{AskError, SendError};
use client::history::{Peer as HistoryPeer, Status};
use client::session::{ComposeError, Options, RequestError};
use client::{Client, Config, Event, EventStream, Handle, Recipient};
use protocol::frame::{Resume, RoomAction};
use protocol::server_frame::{LobbyTotals, Welcome};
use protocol::{PublicKey, encode};
use tokio::io::AsyncWriteExt;
use tokio_tungstenite::tungstenite::Message;

use crate::fake_relay::{FakeRelay, Peer, within};
use crate::frames::{self, RELAY, key, signing_key};

const ME: u8 = 1;
const PEER: u8 = 2;

fn config(url: &str) -> Config {
    let endpoint = Endpoint::parse(url).expect("a good URL");
    let options = Options::new(&endpoint.relay_name(), "phone").expect("good names");
    Config::new(endpoint, options, signing_key(ME))
}

/// A client welcomed by a relay.
async fn opened() -> (FakeRelay, Peer, Handle, EventStream) {
    let relay = FakeRelay::start().await;
    let (handle, mut events) = Client::connect(config(&relay.url()));
    let peer = relay.accept_open(ME).await;
    assert!(matches!(next(&mut events).await, Event::Welcome { .. }));
    (relay, peer, handle, events)
}

async fn next(events: &mut EventStream) -> Event {
    within("an event", events.next()).await.expect("the client has not ended")
}

/// The last event, behind anything else.
async fn last(events: &mut EventStream) -> Event {
    let mut last = None;
    while let Some(event) = within("the end of the events", events.next()).await {
        last = Some(event);
    }
    last.expect("at least one event")
}

fn is_final(event: &Event, what: &str) -> bool {
    matches!(event, Event::Closed { details, retry: false, .. } if details.contains(what))
}

#[tokio::test]
async fn messages_go_both_ways_and_answers_find_their_sender() {
    let (_relay, mut peer, handle, mut events) = opened().await;
    let (sent, ()) = tokio::join!(handle.send(key(PEER), "Grüße"), async {
        let sent = peer.next_message().await;
        assert_eq!((sent.from, sent.text.as_str()), (key(ME), "Grüße"));
        assert_eq!(sent.target, format!("user:{}", key(PEER)));
        peer.send(&frames::ack(&sent.id)).await;
    });
    let acked = sent.expect("an ack");
    assert!(acked.recipient_online);
    assert!(
        matches!(next(&mut events).await, Event::Ack { client_message_id, .. } if client_message_id == acked.client_message_id)
    );

    let (refused, ()) = tokio::join!(handle.send(key(PEER), "hi"), async {
        let id = peer.next_message().await.id;
        peer.send(&frames::error("offline", "They are offline.", Some(&id), None)).await;
    });
    let refused = refused.expect_err("an error");
    assert_eq!(refused.to_string(), "They are offline. (offline)");
    assert!(matches!(next(&mut events).await, Event::Failed { reason, .. } if reason == "offline"));

    assert_eq!(handle.send(key(PEER), "").await, Err(SendError::Compose(ComposeError::Empty)));

    peer.send(&frames::pushed(1, &frames::message(PEER, ME, "m-1", "hello"))).await;
    assert!(matches!(next(&mut events).await, Event::Message(message) if message.message == "hello"));
    let history = handle.history(HistoryPeer::User(key(PEER))).await.expect("a live client");
    let history: Vec<_> = history.into_iter().map(|entry| (entry.text, entry.status)).collect();
    let expected = [("Grüße", Status::Sent), ("hi", Status::Failed), ("hello", Status::Received)];
    assert_eq!(history, expected.map(|(text, status)| (text.to_owned(), status)));

    peer.send(&frames::lobby(1, &[ME, PEER], Some(&[ME, PEER]))).await;
    assert!(matches!(next(&mut events).await, Event::Lobby { .. }));
    assert_eq!(handle.lobby().await, Ok(frames::keys(&[ME, PEER])));
}

#[tokio::test]
async fn a_lost_connection_is_made_again() {
    let (relay, mut peer, handle, mut events) = opened().await;
    let id = handle.submit(key(PEER), "hi").await.expect("a live client");
    let first = peer.next_text().await;
    // No close frame, no ack.
    drop(peer);
    let closed = next(&mut events).await;
    assert!(matches!(closed, Event::Closed { code: None, retry: true, .. }), "{closed:?}");
    assert!(matches!(next(&mut events).await, Event::Reconnecting { attempt: 1, delay_ms: 0..=1000 }));
    let while_away = handle.submit(key(PEER), "again").await.expect("a live client");
    let mut peer = relay.accept_open(ME).await;
    assert!(matches!(next(&mut events).await, Event::Welcome { .. }));
    assert_eq!(peer.next_text().await, first, "byte for byte");
    peer.send(&frames::ack(&id)).await;
    assert!(matches!(next(&mut events).await, Event::Ack { client_message_id, .. } if client_message_id == id));
    assert_eq!(peer.next_message().await.id, while_away);
}

#[tokio::test]
async fn a_message_is_confirmed_once_the_user_asks_for_more_and_the_next_connection_goes_on_there() {
    let (relay, mut peer, handle, mut events) = opened().await;
    for seq in 1..=3 {
        peer.send(&frames::pushed(seq, &frames::message(PEER, ME, &format!("m-{seq}"), "hello"))).await;
    }
    for _ in 1..=3 {
        assert!(matches!(next(&mut events).await, Event::Message(_)));
    }
    // Two are done with. Nothing else makes the client speak, so a confirmation of the third would show.
    assert_eq!(peer.next_text().await, r#"{"type":"received","seq":2}"#);
    drop(peer);
    let mut peer = relay.accept().await;
    assert_eq!(peer.challenge_resume().await, Some(Resume { epoch: 1, seq: 2 }));
    peer.send(&frames::text(|out| {
        encode::welcome(out, &Welcome { seq: 3, recovered: true, ..frames::welcome_frame(ME, "phone") });
    }))
    .await;
    peer.send(&frames::pushed(3, &frames::message(PEER, ME, "m-3", "hello"))).await;
    while !matches!(next(&mut events).await, Event::Duplicate(_)) {}
    // It came twice and was handled once; it is confirmed when the second is done with too.
    let more = tokio::spawn(async move { events.next().await });
    assert_eq!(peer.next_text().await, r#"{"type":"received","seq":3}"#);
    handle.close().await;
    assert!(within("the last event", more).await.expect("no panic").is_some());
}

#[tokio::test]
async fn requests_go_out_and_their_answers_come_back() {
    let (_relay, mut peer, handle, mut events) = opened().await;
    handle.room("tea", RoomAction::Join).await.expect("an open session");
    assert_eq!(peer.next_text().await, r#"{"type":"room_join","roomId":"tea"}"#);
    peer.send(&frames::text(|out| encode::room(out, "tea", &key(PEER), true, [key(ME)].iter()))).await;
    assert!(matches!(next(&mut events).await, Event::Room { room_id, .. } if room_id == "tea"));
    handle.typing(HistoryPeer::Room("tea".into()), true).await.expect("an open session");
    assert_eq!(peer.next_text().await, r#"{"type":"typing","roomId":"tea","isTyping":true}"#);
    handle.read(7).await.expect("an open session");
    assert_eq!(peer.next_text().await, r#"{"type":"read","seq":7}"#);
    handle.request_history(HistoryPeer::Room("tea".into()), None, 10).await.expect("an open session");
    assert_eq!(peer.next_text().await, r#"{"type":"history","roomId":"tea","limit":10}"#);
    peer.send(r#"{"type":"history","messages":[],"more":false}"#).await;
    assert!(matches!(next(&mut events).await, Event::History { .. }));
    let refused = handle.room("no tea", RoomAction::Join).await;
    assert_eq!(refused, Err(AskError::Request(RequestError::Room)));
    handle.submit(Recipient::RoomMember("tea".into(), key(PEER)), "psst").await.expect("a live client");
    assert_eq!(peer.next_message().await.target, format!("room:tea:{}", key(PEER)));
}

#[tokio::test]
async fn a_relay_that_is_down_is_tried_again() {
    let relay = FakeRelay::start().await;
    let (_handle, mut events) = Client::connect(config(&relay.url()));
    // Accepted, and thrown out before the upgrade.
    drop(relay.accept_tcp().await);
    let closed = next(&mut events).await;
    assert!(
        matches!(&closed, Event::Closed { details, retry: true, .. } if details.contains("cannot open")),
        "{closed:?}"
    );
    assert!(matches!(next(&mut events).await, Event::Reconnecting { .. }));
    relay.accept_open(ME).await;
    assert!(matches!(next(&mut events).await, Event::Welcome { .. }));
}

#[tokio::test]
async fn a_device_taken_over_or_a_key_refused_does_not_come_back() {
    let (_relay, peer, handle, mut events) = opened().await;
    peer.close(4409, "").await;
    let closed = last(&mut events).await;
    assert!(is_final(&closed, "a newer connection"), "{closed:?}");
    assert_eq!(handle.send(key(PEER), "hi").await, Err(SendError::Ended));

    let relay = FakeRelay::start().await;
    let (handle, mut events) = Client::connect(config(&relay.url()));
    let mut peer = relay.accept().await;
    peer.challenge().await;
    peer.send(&frames::error("auth_failed", "This key is banned.", None, None)).await;
    peer.close(4401, "").await;
    let closed = last(&mut events).await;
    assert!(is_final(&closed, "authenticate"), "{closed:?}");
    assert_eq!(handle.send(key(PEER), "hi").await, Err(SendError::Ended));
}

#[tokio::test]
async fn another_relays_challenge_is_not_answered() {
    let relay = FakeRelay::start().await;
    let (_handle, mut events) = Client::connect(config(&relay.url()));
    let mut peer = relay.accept().await;
    peer.send(&frames::challenge("evil.example")).await;
    match peer.next().await {
        Some(Message::Close(Some(frame))) => assert_eq!(u16::from(frame.code), 1008),
        other => panic!("expected a close, got {other:?}"),
    }
    let closed = last(&mut events).await;
    assert!(is_final(&closed, "calls itself"), "{closed:?}");
}

#[tokio::test]
async fn without_reconnect_the_first_end_is_the_last() {
    let relay = FakeRelay::start().await;
    let mut config = config(&relay.url());
    config.reconnect = false;
    let (_handle, mut events) = Client::connect(config.clone());
    relay.accept_open(ME).await.close(1001, "maintenance \u{1b}[2J").await;
    let closed = last(&mut events).await;
    assert!(is_final(&closed, "maintenance") && matches!(closed, Event::Closed { code: Some(1001), .. }), "{closed:?}");

    drop(relay);
    let (handle, mut events) = Client::connect(config);
    let closed = last(&mut events).await;
    assert!(is_final(&closed, "cannot connect to 127.0.0.1:"), "{closed:?}");
    assert_eq!(handle.submit(key(PEER), "hi").await, Err(SendError::Ended));
}

#[tokio::test]
async fn a_refused_upgrade_is_told() {
    let relay = FakeRelay::start().await;
    let mut config = config(&relay.url());
    config.reconnect = false;
    let (_handle, mut events) = Client::connect(config);
    let mut stream = relay.accept_tcp().await;
    stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n").await.expect("a live connection");
    let closed = last(&mut events).await;
    assert!(is_final(&closed, "status 404"), "{closed:?}");
}

#[tokio::test]
async fn pings_are_answered() {
    let (_relay, mut peer, _handle, _events) = opened().await;
    peer.send_message(Message::Ping("beat".into())).await;
    assert_eq!(peer.next().await, Some(Message::Pong("beat".into())));
}

#[tokio::test]
async fn a_silent_relay_is_left() {
    let relay = FakeRelay::start().await;
    let (_handle, mut events) = Client::connect(config(&relay.url()));
    let peer = relay.accept_open_with_heartbeat(ME, 50).await;
    assert!(matches!(next(&mut events).await, Event::Welcome { .. }));
    assert_eq!(peer.close_code().await, Some(1001));
    let closed = next(&mut events).await;
    assert!(matches!(&closed, Event::Closed { details, retry: true, .. } if details.contains("silent")), "{closed:?}");
    relay.accept_open(ME).await;
}

#[tokio::test]
async fn a_frame_beyond_all_measure_ends_the_connection() {
    let (_relay, mut peer, _handle, mut events) = opened().await;
    peer.send(&format!("{{\"type\":\"{}\"}}", "x".repeat(80 * 1024))).await;
    let closed = next(&mut events).await;
    assert!(matches!(&closed, Event::Closed { details, .. } if details.contains("too large")), "{closed:?}");
}

/// More than the queue of events holds, less than the sockets' buffers do.
const MANY: u64 = 2000;

/// A key for the list of who is online, which nobody can sign with.
fn listed(n: u64) -> PublicKey {
    let mut bytes = [0; 32];
    bytes[24..].copy_from_slice(&n.to_be_bytes());
    PublicKey::from_bytes(bytes)
}

#[tokio::test]
async fn untaken_events_stop_the_reading_and_not_the_sending_and_none_is_lost() {
    let (_relay, mut peer, handle, mut events) = opened().await;
    peer.send(&frames::text(|out| encode::lobby(out, 0, &[], Some(LobbyTotals::default())))).await;
    let pushing = tokio::spawn(async move {
        for rev in 1..=MANY {
            // All digests are zero: the first bytes of the keys are.
            let totals = LobbyTotals { count: rev, digest: 0 };
            peer.send(&frames::text(|out| encode::lobby_update(out, rev, &[listed(rev)], &[], totals))).await;
        }
        peer
    });
    let online = async || handle.lobby().await.expect("a live client").len();
    within("the queue to fill", async { while online().await < 1020 {} }).await;
    // Each question is a turn in which the client could read on.
    for _ in 0..200 {
        let online = online().await;
        assert!(online < 1030, "the client read on though nobody took its events: {online}");
    }
    let id = within("the submit", handle.submit(key(PEER), "still here")).await.expect("an open session");

    assert!(matches!(next(&mut events).await, Event::Lobby { .. }));
    let taking = async {
        let mut seen = 0;
        while seen < MANY {
            // Dropped over and over while it waits: nothing gets lost.
            let Ok(event) = tokio::time::timeout(Duration::ZERO, events.next()).await else { continue };
            seen += 1;
            assert_eq!(event, Some(Event::Joined { rev: seen, public_key: listed(seen) }));
        }
    };
    within("all events", taking).await;
    let mut peer = within("the last update", pushing).await.expect("no panic");
    assert_eq!(peer.next_message().await.id, id);
}

#[tokio::test]
async fn closing_is_polite_and_final() {
    let (_relay, peer, handle, mut events) = opened().await;
    handle.close().await;
    assert_eq!(peer.close_code().await, Some(1000));
    let closed = last(&mut events).await;
    assert!(is_final(&closed, "this client closed"), "{closed:?}");
    handle.close().await;
}

#[tokio::test]
async fn closing_while_waiting_to_reconnect_is_final_too() {
    let relay = FakeRelay::start().await;
    let (handle, mut events) = Client::connect(config(&relay.url()));
    let mut peer = relay.accept_open(ME).await;
    // A long wait, so that the close comes within it.
    peer.send("{\"type\":\"restarting\",\"reconnectInMs\":200000}").await;
    peer.close(1001, "").await;
    while !matches!(next(&mut events).await, Event::Reconnecting { delay_ms: 200_000, .. }) {}
    let id = handle.submit(key(PEER), "hi").await.expect("a live client");
    handle.close().await;
    let failed = next(&mut events).await;
    assert!(
        matches!(&failed, Event::Failed { client_message_id, reason, .. } if *client_message_id == id && reason == CLOSED),
        "{failed:?}"
    );
    let closed = last(&mut events).await;
    assert!(is_final(&closed, "this client closed"), "{closed:?}");
}

#[tokio::test]
async fn a_client_lives_while_handle_or_events_do() {
    let (_relay, mut peer, handle, events) = opened().await;
    drop(events);
    let id = handle.submit(key(PEER), "nobody listens").await.expect("an open session");
    assert_eq!(peer.next_message().await.id, id);
    drop(handle);
    assert_eq!(peer.close_code().await, Some(1000));

    let (_relay, mut peer, handle, mut events) = opened().await;
    drop(handle);
    peer.send(&frames::pushed(1, &frames::message(PEER, ME, "m-1", "hello"))).await;
    assert!(matches!(next(&mut events).await, Event::Message(_)));
    drop(events);
    assert_eq!(peer.close_code().await, Some(1000));
}

#[test]
fn a_config_shows_no_secret() {
    let shown = format!("{:?}", config(&format!("ws://{RELAY}:1")));
    assert!(!shown.contains("01010101") && !shown.contains("1, 1, 1, 1"), "{shown}");
}
