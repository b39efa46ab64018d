//! Own messages: what becomes of them, whatever the relay and the connection do.

use std::time::{Duration, Instant};

use client::Event;
use client::event::{CLOSED, NO_ANSWER};
use client::history::{Peer, Status};
use client::session::{ComposeError, Effect, Options, Recipient};
use protocol::decode::FrameDecoder;
use protocol::frame::ClientFrame;
use protocol::server_frame::{Ack, ReceiptStatus, Welcome, WelcomeLimits};
use protocol::{Timestamp, encode};

use crate::frames::{self, LIMITS, RELAY, RELAY_TIME_MS, key};
use crate::session::Fixture;

const ME: u8 = 1;
const PEER: u8 = 2;

/// A fixture whose relay takes any number of messages.
fn unlimited() -> Fixture {
    let mut fixture = Fixture::offline();
    fixture.open_with(&unlimited_welcome());
    fixture
}

fn unlimited_welcome() -> Welcome<'static> {
    Welcome {
        limits: WelcomeLimits { messages_per_second: 0, ..LIMITS },
        heartbeat_ms: 0,
        ..frames::welcome_frame(ME, "phone")
    }
}

impl Fixture {
    /// Sends without a look at the effects.
    fn write(&mut self, text: &str) -> (String, Vec<Effect>) {
        let mut effects = Vec::new();
        let id = self.session.send(&key(PEER).into(), text, self.now, &mut effects).expect("a good message");
        (id, effects)
    }

    /// Goes on by `by` and gives when, since the start of that, which frames were sent, and the events.
    fn sends(&mut self, by: Duration) -> (Vec<(u64, String)>, Vec<Event>) {
        let (start, mut sent, mut events) = (self.now, Vec::new(), Vec::new());
        let end = start + by;
        let mut turns = 0;
        while let Some(at) = self.session.poll_timeout(self.now).filter(|&at| at <= end) {
            turns += 1;
            assert!(turns < 10_000, "the session asks for time without end");
            self.now = self.now.max(at);
            let mut effects = Vec::new();
            self.session.handle_timeout(self.now, &mut effects);
            for effect in effects {
                match effect {
                    Effect::Send(frame) => sent.push((millis(start, self.now), frame)),
                    Effect::Event(event) => events.push(event),
                    effect @ Effect::Close { .. } => panic!("{effect:?}"),
                }
            }
        }
        self.now = end;
        (sent, events)
    }
}

fn millis(from: Instant, to: Instant) -> u64 {
    u64::try_from((to - from).as_millis()).expect("a short time")
}

fn failed(id: &str, reason: &str, details: &str) -> Event {
    Event::Failed {
        client_message_id: id.to_owned(),
        reason: reason.to_owned(),
        details: details.to_owned(),
        retry_after_ms: None,
    }
}

fn texts(effects: &[Effect]) -> Vec<String> {
    let mut decoder = FrameDecoder::new();
    let sent = effects.iter().filter_map(|effect| match effect {
        Effect::Send(frame) => Some(frame),
        _ => None,
    });
    sent.filter_map(|frame| match decoder.decode(frame) {
        Ok(ClientFrame::Message(message)) => Some(message.text.to_owned()),
        _ => None,
    })
    .collect()
}

#[test]
fn without_an_answer_the_same_bytes_go_after_5_then_1_and_2_s_and_fail_after_4() {
    let mut fixture = unlimited();
    let (id, frame) = fixture.compose("hi").expect("a good message");
    let (sent, events) = fixture.sends(Duration::from_secs(60));
    assert_eq!(sent, [(5000, frame.clone()), (6000, frame.clone()), (8000, frame)]);
    assert_eq!(events, [failed(&id, NO_ANSWER, "the relay did not answer")]);
    assert_eq!(fixture.statuses(PEER), [("hi".to_owned(), Status::Failed)]);
    // A late answer is the truth all the same.
    assert!(matches!(fixture.event(&frames::ack(&id)), Event::Ack { .. }));
    assert_eq!(fixture.statuses(PEER), [("hi".to_owned(), Status::Sent)]);
}

#[test]
fn an_answer_that_may_lie_unread_is_not_missed() {
    let mut fixture = unlimited();
    let (id, frame) = fixture.compose("hi").expect("a good message");
    // The user takes no events for a minute, so nothing is read.
    for _ in 0..60 {
        fixture.session.unread(fixture.now);
        assert_eq!(fixture.sends(Duration::from_millis(900)), (vec![], vec![]));
    }
    // It does again, and the answer is not there.
    fixture.session.unread(fixture.now);
    assert_eq!(fixture.sends(Duration::from_millis(1500)).0, [(1000, frame)]);
    assert!(matches!(fixture.event(&frames::ack(&id)), Event::Ack { .. }));
}

#[test]
fn an_answer_ends_the_sending() {
    let mut fixture = unlimited();
    let (first, frame) = fixture.compose("first").expect("a good message");
    let (second, _) = fixture.compose("second").expect("a good message");
    let (sent, _) = fixture.sends(Duration::from_millis(5500));
    assert_eq!(sent.len(), 2);
    assert_eq!(sent[0].1, frame);
    assert!(matches!(fixture.event(&frames::ack(&first)), Event::Ack { .. }));
    assert_eq!(
        fixture.event(&frames::error("inbox_full", "No room.", Some(&second), None)),
        failed(&second, "inbox_full", "No room.")
    );
    assert_eq!(fixture.sends(Duration::from_secs(60)), (vec![], vec![]));
    // The same error again is about no message of ours.
    let again = fixture.event(&frames::error("inbox_full", "No room.", Some(&second), None));
    assert!(matches!(again, Event::Error { .. }), "{again:?}");
}

#[test]
fn what_is_written_offline_waits_and_goes_in_order_with_the_time_of_its_sending() {
    let mut fixture = Fixture::offline();
    let ids = ["one", "two", "three"].map(|text| {
        let (id, effects) = fixture.write(text);
        assert_eq!(effects, []);
        id
    });
    let sending = ["one", "two", "three"].map(|text| (text.to_owned(), Status::Sending));
    assert_eq!(fixture.statuses(PEER), sending);
    // An hour offline: signed then, it would be refused now.
    fixture.now += Duration::from_secs(3600);
    let effects = fixture.opened(&unlimited_welcome());
    assert_eq!(texts(&effects), ["one", "two", "three"]);
    let Effect::Send(frame) = &effects[1] else { panic!("{effects:?}") };
    let mut decoder = FrameDecoder::new();
    let Ok(ClientFrame::Message(message)) = decoder.decode(frame) else { panic!("{frame}") };
    assert_eq!((message.id, message.timestamp), (ids[0].as_str(), frames::relay_time()));
    let entries: Vec<_> = fixture.session.history().with(&Peer::User(key(PEER))).collect();
    assert_eq!(entries[0].timestamp, frames::relay_time(), "as it was signed");
}

#[test]
fn a_reconnect_sends_the_same_bytes_again_before_what_is_new() {
    let mut fixture = unlimited();
    let (acked, _) = fixture.compose("acked").expect("a good message");
    let (lost, frame) = fixture.compose("lost").expect("a good message");
    fixture.text(&frames::ack(&acked));
    let (delay, events) = fixture.end(None);
    assert!(delay.is_some() && events.len() == 2, "{events:?}");
    let (_, effects) = fixture.write("new");
    assert_eq!(effects, []);
    // Nothing fails for want of a connection.
    assert_eq!(fixture.sends(Duration::from_secs(600)), (vec![], vec![]));
    let effects = fixture.opened(&unlimited_welcome());
    assert_eq!(texts(&effects), ["lost", "new"]);
    assert_eq!(effects[1], Effect::Send(frame.clone()));
    let ack = Ack { id: &lost, online: false, duplicate: true, seq: None };
    let event = fixture.event(&frames::text(|out| encode::ack(out, &ack)));
    assert_eq!(event, Event::Ack { client_message_id: lost, recipient_online: false, duplicate: true, seq: None });
    let statuses: Vec<_> = fixture.statuses(PEER).into_iter().map(|(_, status)| status).collect();
    assert_eq!(statuses, [Status::Sent, Status::Sent, Status::Sending]);
}

#[test]
fn four_connections_that_break_over_a_message_are_enough() {
    let mut fixture = unlimited();
    let (id, frame) = fixture.compose("poison").expect("a good message");
    for _ in 0..3 {
        fixture.end(None);
        let effects = fixture.opened(&unlimited_welcome());
        assert_eq!(effects[1..], [Effect::Send(frame.clone())]);
    }
    fixture.end(None);
    let effects = fixture.opened(&unlimited_welcome());
    assert_eq!(effects[1..], [Effect::Event(failed(&id, NO_ANSWER, "the relay did not answer"))]);
}

#[test]
fn copies_on_a_new_connection_wait_for_their_answer_as_the_first_did() {
    let mut fixture = unlimited();
    let (_, frame) = fixture.compose("hi").expect("a good message");
    fixture.sends(Duration::from_secs(5));
    fixture.end(None);
    // The third copy.
    fixture.opened(&unlimited_welcome());
    let (sent, events) = fixture.sends(Duration::from_secs(60));
    assert_eq!(sent, [(5000, frame)]);
    assert_eq!(events.len(), 1);
}

#[test]
fn what_the_relay_does_not_want_yet_is_sent_again_when_it_says() {
    let mut fixture = unlimited();
    let (id, frame) = fixture.compose("hi").expect("a good message");
    let delayed =
        |reason: &str| Event::Delayed { client_message_id: id.clone(), reason: reason.to_owned(), retry_after_ms: 700 };
    assert_eq!(fixture.event(&frames::not_yet("rate_limited", &id, 700)), delayed("rate_limited"));
    let (_, effects) = fixture.write("behind it");
    assert_eq!(effects, [], "the order stays");
    let (sent, _) = fixture.sends(Duration::from_millis(700));
    assert_eq!(sent[0], (700, frame.clone()));
    assert_eq!(sent.len(), 2);
    for _ in 0..2 {
        assert_eq!(fixture.event(&frames::not_yet("overloaded", &id, 700)), delayed("overloaded"));
        let (sent, _) = fixture.sends(Duration::from_millis(700));
        assert_eq!(sent, [(700, frame.clone())]);
    }
    let last = fixture.event(&frames::not_yet("overloaded", &id, 700));
    assert!(
        matches!(&last, Event::Failed { reason, retry_after_ms: Some(700), .. } if reason == "overloaded"),
        "{last:?}"
    );
    // Nor is a message kept for hours.
    let (id, _) = fixture.compose("later").expect("a good message");
    let refused = fixture.event(&frames::not_yet("rate_limited", &id, 3_600_000));
    assert!(matches!(refused, Event::Failed { .. }), "{refused:?}");
}

#[test]
fn the_relays_rate_is_kept() {
    let mut fixture = Fixture::offline();
    let written: Vec<_> = (0..50).map(|n| n.to_string()).collect();
    for text in &written {
        fixture.write(text);
    }
    let start = fixture.now;
    let effects = fixture.opened(&Welcome { heartbeat_ms: 0, ..frames::welcome_frame(ME, "phone") });
    let mut sent = texts(&effects);
    assert_eq!(sent, written[..20], "a burst of two seconds' worth");
    let mut decoder = FrameDecoder::new();
    let mut ids = Vec::new();
    while sent.len() < 50 {
        let (more, _) = fixture.sends(Duration::from_millis(100));
        for (_, frame) in more {
            let Ok(ClientFrame::Message(message)) = decoder.decode(&frame) else { panic!("{frame}") };
            sent.push(message.text.to_owned());
            ids.push(message.id.to_owned());
        }
        for id in ids.drain(..) {
            fixture.text(&frames::ack(&id));
        }
        // The answers to the first twenty.
        for effect in &effects {
            if let Effect::Send(frame) = effect
                && let Ok(ClientFrame::Message(message)) = decoder.decode(frame)
            {
                fixture.text(&frames::ack(message.id));
            }
        }
    }
    assert_eq!(sent, written);
    assert_eq!(millis(start, fixture.now), 3000, "30 more at 10 a second");
}

#[test]
fn a_stale_timestamp_corrects_the_clock_and_is_never_signed_anew() {
    let mut fixture = unlimited();
    let (id, _) = fixture.compose("hi").expect("a good message");
    let hour_later = Timestamp::from_unix_ms(RELAY_TIME_MS + 3_600_000);
    let event = fixture.event(&frames::error("stale_timestamp", "Too old.", Some(&id), Some(hour_later)));
    assert_eq!(event, failed(&id, "stale_timestamp", "Too old."));
    assert_eq!(fixture.statuses(PEER), [("hi".to_owned(), Status::Failed)]);
    assert_eq!(fixture.session.time(fixture.now), hour_later);
}

#[test]
fn receipts_move_a_message_on_and_never_back() {
    let mut fixture = unlimited();
    let (id, _) = fixture.compose("hi").expect("a good message");
    let status = |fixture: &Fixture| fixture.statuses(PEER)[0].1;
    fixture.text(&frames::ack(&id));
    assert_eq!(status(&fixture), Status::Sent);
    let event = fixture.event(&frames::receipt(ReceiptStatus::Delivered, &[&id, "unknown"], PEER));
    assert_eq!(
        event,
        Event::Receipt {
            status: ReceiptStatus::Delivered,
            client_message_ids: vec![id.clone(), "unknown".to_owned()],
            recipient_public_key: key(PEER),
            room_id: None,
        }
    );
    assert_eq!(status(&fixture), Status::Delivered);
    // Somebody else cannot have read it.
    fixture.text(&frames::receipt(ReceiptStatus::Read, &[&id], ME));
    assert_eq!(status(&fixture), Status::Delivered);
    fixture.text(&frames::receipt(ReceiptStatus::Read, &[&id], PEER));
    fixture.text(&frames::receipt(ReceiptStatus::Delivered, &[&id], PEER));
    assert_eq!(status(&fixture), Status::Read);
}

#[test]
fn a_message_that_grew_too_large_for_the_relay_is_not_sent() {
    let mut fixture = unlimited();
    fixture.end(None);
    let (id, _) = fixture.write(&"x".repeat(800));
    let limits = WelcomeLimits { frame_bytes: 700, ..LIMITS };
    let effects = fixture.opened(&Welcome { limits, ..unlimited_welcome() });
    let [_, Effect::Event(event)] = &effects[..] else { panic!("{effects:?}") };
    assert_eq!(*event, failed(&id, "message_too_large", "the frame is larger than the relay takes"));
}

#[test]
fn the_end_for_good_fails_what_has_no_answer() {
    let mut fixture = unlimited();
    let (id, _) = fixture.compose("hi").expect("a good message");
    let (_, events) = fixture.end(Some(4409));
    let details = "a newer connection of this key and device took over";
    assert_eq!(events[0], failed(&id, CLOSED, details));
    assert!(matches!(&events[1..], [Event::Closed { retry: false, .. }]), "{events:?}");
    let again = fixture.session.send(&key(PEER).into(), "hi", fixture.now, &mut Vec::new());
    assert_eq!(again, Err(ComposeError::Ended));

    let mut fixture = Fixture::offline();
    let (id, _) = fixture.write("hi");
    let mut effects = Vec::new();
    fixture.session.give_up("no time", &mut effects);
    assert_eq!(effects, [Effect::Event(failed(&id, CLOSED, "no time"))]);
}

#[test]
fn what_the_relay_would_refuse_is_not_taken() {
    let mut options = Options::new(RELAY, "phone").expect("good names");
    options.unacked_max = 2;
    let mut fixture = Fixture::with(options);
    fixture.open_with(&Welcome {
        limits: WelcomeLimits { frame_bytes: 700, ..LIMITS },
        ..frames::welcome_frame(ME, "phone")
    });
    assert_eq!(fixture.compose(""), Err(ComposeError::Empty));
    // Scalar values count, not bytes.
    let long = "é".repeat(1001);
    assert_eq!(fixture.compose(&long), Err(ComposeError::TooLong { chars: 1001, chars_max: 1000 }));
    let large = fixture.compose(&"é".repeat(300));
    assert!(matches!(large, Err(ComposeError::TooLarge { bytes: 701.., bytes_max: 700 })), "{large:?}");
    let room = || Recipient::Room("room".to_owned());
    let send_as = |fixture: &mut Fixture, id: &str, to: Recipient| {
        fixture.session.send_as(id.to_owned(), &to, "hi", fixture.now, &mut Vec::new()).err()
    };
    assert_eq!(send_as(&mut fixture, "a b", key(PEER).into()), Some(ComposeError::Id));
    assert_eq!(send_as(&mut fixture, "ok", Recipient::Room("no room".to_owned())), Some(ComposeError::Room));
    assert_eq!(fixture.session.history().peers().count(), 0, "nothing of it is in the history");
    assert_eq!(send_as(&mut fixture, "ok", room()), None);
    assert_eq!(send_as(&mut fixture, "ok", key(PEER).into()), Some(ComposeError::Id));
    let member = Recipient::RoomMember("room".to_owned(), key(PEER));
    assert_eq!(send_as(&mut fixture, "ok2", member), None);
    assert_eq!(send_as(&mut fixture, "ok3", key(PEER).into()), Some(ComposeError::TooManyUnacked(2)));
    fixture.text(&frames::ack("ok"));
    assert_eq!(send_as(&mut fixture, "ok3", key(PEER).into()), None);
}
