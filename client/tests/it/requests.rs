//! Rooms, history, typing and `read`, as a session sends and takes them.

use std::time::Duration;

use client::Event;
use client::event::{NO_ANSWER, ReceivedMessage};
use client::history::{Peer, Status};
use client::session::{Effect, RequestError};
use protocol::encode;
use protocol::frame::{RoomAction, Target};
use protocol::server_frame::{ErrorFrame, Welcome};

use crate::frames::{self, key};
use crate::session::Fixture;

const ME: u8 = 1;
const PEER: u8 = 2;
const OTHER: u8 = 3;

/// What a request sends, as frames.
macro_rules! sent {
    ($fixture:expr, $method:ident $(, $argument:expr)*) => {{
        let mut effects = Vec::new();
        let now = $fixture.now;
        $fixture.session.$method($($argument,)* now, &mut effects).map(|()| frames_of(effects))
    }};
}

fn frames_of(effects: Vec<Effect>) -> Vec<String> {
    effects
        .into_iter()
        .map(|effect| match effect {
            Effect::Send(frame) => frame,
            effect => panic!("expected frames only, got {effect:?}"),
        })
        .collect()
}

fn room_error(reason: &str, room: Option<&str>) -> String {
    let frame = ErrorFrame { reason, details: "No.", id: None, room, retry_after_ms: None, time: None };
    frames::text(|out| encode::error(out, &frame, None))
}

fn page(messages: &[(u64, String)], more: bool) -> String {
    frames::text(|out| encode::history(out, messages.iter().map(|(seq, frame)| (*seq, frame.as_bytes())), more))
}

fn received(seq: u64, from: u8, target: Target<'_>, id: &str) -> ReceivedMessage {
    let (recipient, room) = match target {
        Target::User(user) => (Some(user), None),
        Target::Room(room) => (None, Some(room)),
        Target::RoomMember(room, member) => (Some(member), Some(room)),
    };
    ReceivedMessage {
        seq,
        sender_public_key: key(from),
        recipient_public_key: recipient,
        room_id: room.map(str::to_owned),
        client_message_id: id.to_owned(),
        timestamp: frames::relay_time(),
        message: "hi".to_owned(),
    }
}

#[test]
fn rooms_are_asked_about_and_tell_their_changes() {
    let mut fixture = Fixture::open();
    assert_eq!(
        sent!(fixture, room, "tea", &RoomAction::Create { open: true }),
        Ok(vec![r#"{"type":"room_create","roomId":"tea","open":true}"#.to_owned()])
    );
    let invite = sent!(fixture, room, "tea", &RoomAction::Invite(key(PEER)));
    assert_eq!(invite, Ok(vec![format!(r#"{{"type":"room_invite","roomId":"tea","publicKey":"{}"}}"#, key(PEER))]));
    assert_eq!(sent!(fixture, room, "no tea", &RoomAction::Join), Err(RequestError::Room));
    let event = fixture.event(&frames::text(|out| encode::room(out, "tea", &key(ME), true, [key(ME)].iter())));
    let expected = Event::Room { room_id: "tea".into(), owner: key(ME), open: true, members: vec![key(ME)] };
    assert_eq!(event, expected);
    let event = fixture.event(&frames::text(|out| encode::room_update(out, "tea", &[key(PEER)], &[], &key(ME))));
    let expected = Event::RoomUpdate { room_id: "tea".into(), joined: vec![key(PEER)], left: vec![], owner: key(ME) };
    assert_eq!(event, expected);
    let event = fixture.event(&room_error("no_such_room", Some("tea")));
    assert!(matches!(event, Event::Error { room_id: Some(room), .. } if room == "tea"));
    fixture.end(None);
    assert_eq!(sent!(fixture, room, "tea", &RoomAction::Join), Err(RequestError::NotOpen));
}

#[test]
fn messages_of_a_room_are_verified_and_private_ones_are_for_their_member() {
    let mut fixture = Fixture::open();
    let whole = frames::message_to(PEER, Target::Room("tea"), "m-1", "hi");
    let event = fixture.event(&frames::pushed(1, &whole));
    assert_eq!(event, Event::Message(received(1, PEER, Target::Room("tea"), "m-1")));
    let mine = frames::message_to(PEER, Target::RoomMember("tea", key(ME)), "m-2", "hi");
    let event = fixture.event(&frames::pushed(2, &mine));
    assert_eq!(event, Event::Message(received(2, PEER, Target::RoomMember("tea", key(ME)), "m-2")));
    let anothers = frames::message_to(PEER, Target::RoomMember("tea", key(OTHER)), "m-3", "hi");
    assert!(matches!(fixture.event(&frames::pushed(3, &anothers)), Event::NotForMe(_)));
    let forged = frames::message_to(PEER, Target::Room("tea"), "m-4", "hi").replace("\"tea\"", "\"tee\"");
    assert!(matches!(fixture.event(&frames::pushed(4, &forged)), Event::BadSignature(_)));
    assert_eq!(fixture.session.history().with(&Peer::Room("tea".into())).count(), 2);
}

#[test]
fn typing_is_said_every_three_seconds_and_when_it_ends() {
    let mut fixture = Fixture::open();
    let peer = Peer::User(key(PEER));
    let frame = |is_typing: bool| frames::text(|out| encode::typing(out, &Target::User(key(PEER)), is_typing, None));
    assert_eq!(sent!(fixture, typing, &peer, false), Ok(vec![]), "it did not type");
    assert_eq!(sent!(fixture, typing, &peer, true), Ok(vec![frame(true)]));
    for _ in 0..29 {
        fixture.now += Duration::from_millis(100);
        assert_eq!(sent!(fixture, typing, &peer, true), Ok(vec![]));
    }
    fixture.now += Duration::from_millis(100);
    assert_eq!(sent!(fixture, typing, &peer, true), Ok(vec![frame(true)]));
    assert_eq!(sent!(fixture, typing, &peer, false), Ok(vec![frame(false)]));
    assert_eq!(sent!(fixture, typing, &peer, false), Ok(vec![]));
    // A message says it too.
    assert_eq!(sent!(fixture, typing, &peer, true), Ok(vec![frame(true)]));
    fixture.compose("done").expect("a good message");
    assert_eq!(sent!(fixture, typing, &peer, false), Ok(vec![]));
    let room = Peer::Room("tea".into());
    assert_eq!(
        sent!(fixture, typing, &room, true),
        Ok(vec![r#"{"type":"typing","roomId":"tea","isTyping":true}"#.to_owned()])
    );
    // Rooms without end are no memory without end.
    for n in 0..100 {
        sent!(fixture, typing, &Peer::Room(format!("r{n}")), true).expect("an open session");
    }
}

#[test]
fn typing_of_others_is_told() {
    let mut fixture = Fixture::open();
    let typing = |target, is_typing| frames::text(|out| encode::typing(out, &target, is_typing, Some(&key(PEER))));
    let event = |room_id, is_typing| Event::Typing { sender_public_key: key(PEER), room_id, is_typing };
    assert_eq!(fixture.event(&typing(Target::User(key(ME)), true)), event(None, true));
    assert_eq!(fixture.event(&typing(Target::Room("tea"), false)), event(Some("tea".to_owned()), false));
    assert_eq!(fixture.text(&typing(Target::User(key(OTHER)), true)), [], "to somebody else");
}

#[test]
fn read_goes_at_once_and_frames_keep_to_the_relays_limit() {
    let mut fixture = Fixture::open();
    assert_eq!(sent!(fixture, read, 7), Ok(vec![r#"{"type":"read","seq":7}"#.to_owned()]));
    let mut taken = 0;
    let mut sent = 0;
    let refused = loop {
        match sent!(fixture, read, taken) {
            Ok(frames) => sent += frames.len(),
            Err(error) => break error,
        }
        taken += 1;
        assert!(taken < 10_000);
    };
    assert_eq!((refused, taken, sent), (RequestError::TooMany, 79 + 256, 79));
    // Two heartbeats would end the connection by then.
    let later = fixture.pass(Duration::from_secs(5));
    assert_eq!(later.len(), 5 * 40);
    fixture.end(None);
    assert_eq!(sent!(fixture, read, 1), Err(RequestError::NotOpen));
}

#[test]
fn pages_of_history_are_asked_for_one_at_a_time_and_verified() {
    let mut fixture = Fixture::offline();
    fixture.open_with(&Welcome { seq: 9, ..frames::welcome_frame(ME, "phone") });
    let (peer, room) = (Peer::User(key(PEER)), Peer::Room("tea".to_owned()));
    let ask = |target, before| vec![frames::text(|out| encode::history_request(out, &target, before, 20))];
    assert_eq!(sent!(fixture, request_history, peer.clone(), Some(9), 20), Ok(ask(Target::User(key(PEER)), Some(9))));
    assert_eq!(sent!(fixture, request_history, room.clone(), None, 20), Ok(vec![]), "the first has no answer yet");
    for limit in [0, 101] {
        assert_eq!(sent!(fixture, request_history, room.clone(), None, limit), Err(RequestError::Limit));
    }

    let theirs = frames::message(PEER, ME, "m-3", "hi");
    let mine = frames::message(ME, PEER, "m-5", "hi");
    let forged = frames::message(PEER, ME, "m-6", "hi").replace("m-6", "m-7");
    let of_another = frames::message(OTHER, ME, "m-7", "hi");
    let answer = page(&[(3, theirs.clone()), (5, mine), (6, forged), (7, of_another)], true);
    let effects = fixture.text(&answer);
    assert_eq!(
        effects,
        [
            Effect::Send(ask(Target::Room("tea"), None).remove(0)),
            Effect::Event(Event::History {
                with: Some(key(PEER)),
                room_id: None,
                messages: vec![
                    received(3, PEER, Target::User(key(ME)), "m-3"),
                    received(5, ME, Target::User(key(PEER)), "m-5"),
                ],
                dropped: 2,
                more: true,
            })
        ]
    );
    let entries = |fixture: &Fixture| -> Vec<_> {
        fixture.session.history().with(&peer).map(|entry| (entry.seq, entry.status)).collect()
    };
    let expected = [(Some(3), Status::Received), (Some(5), Status::Sent)];
    assert_eq!(entries(&fixture), expected);

    // A room's own page, empty; then the first again, which adds nothing.
    let event = fixture.event(&page(&[], false));
    assert!(matches!(event, Event::History { room_id: Some(_), dropped: 0, more: false, .. }), "{event:?}");
    sent!(fixture, request_history, peer.clone(), None, 20).expect("an open session");
    fixture.text(&page(&[(3, theirs)], false));
    assert_eq!(entries(&fixture), expected);
    let event = fixture.event(&page(&[], false));
    assert!(matches!(event, Event::BadFrame { .. }), "nobody asked: {event:?}");
    // A page is not the push: that is still to come.
    let event = fixture.event(&frames::pushed(3, &frames::message(PEER, ME, "m-3", "hi")));
    assert!(matches!(event, Event::Message(_)), "{event:?}");
}

#[test]
fn a_page_that_does_not_come_is_given_up_and_the_next_one_asked_for() {
    let mut fixture = Fixture::open();
    let room = |name: &str| Peer::Room(name.to_owned());
    let ask = |fixture: &mut Fixture, name| sent!(fixture, request_history, room(name), None, 50);
    assert!(ask(&mut fixture, "a").is_ok_and(|frames| frames.len() == 1));
    assert!(ask(&mut fixture, "b").is_ok_and(|frames| frames.is_empty()));
    // Refused.
    let effects = fixture.text(&room_error("not_member", Some("a")));
    assert!(matches!(&effects[..], [Effect::Send(ask), Effect::Event(Event::Error { .. })] if ask.contains("\"b\"")));
    // An error about another room is no answer.
    fixture.event(&room_error("not_member", Some("c")));
    // Silence.
    assert_eq!(fixture.pass(Duration::from_millis(14_999)), []);
    let effects = fixture.pass(Duration::from_millis(1));
    assert!(
        matches!(&effects[..], [Effect::Event(Event::Error { reason, room_id: Some(room), .. })]
            if reason == NO_ANSWER && room == "b"),
        "{effects:?}"
    );
    // What waits is bounded, and goes with the connection.
    for _ in 0..17 {
        ask(&mut fixture, "d").expect("room for it");
    }
    assert_eq!(ask(&mut fixture, "d"), Err(RequestError::TooMany));
    fixture.end(None);
    fixture.open_with(&frames::welcome_frame(ME, "phone"));
    assert_eq!(ask(&mut fixture, "d").map(|frames| frames.len()), Ok(1));
}
