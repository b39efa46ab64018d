//! What comes in: confirmed once it is handled, resumed where it ended, and never missing in silence.

use std::time::Duration;

use client::Event;
use client::session::Effect;
use protocol::decode::FrameDecoder;
use protocol::frame::{ClientFrame, Resume};
use protocol::server_frame::Welcome;

use crate::frames::{self, RELAY};
use crate::session::Fixture;

const ME: u8 = 1;
const PEER: u8 = 2;

const EPOCH: u64 = 1;

fn received(seq: u64) -> Effect {
    Effect::Send(format!("{{\"type\":\"received\",\"seq\":{seq}}}"))
}

fn gap(first_seq: u64, last_seq: u64, missing: u64) -> Event {
    Event::Gap { first_seq, last_seq, missing }
}

fn welcome(seq: u64, recovered: bool) -> Welcome<'static> {
    Welcome { seq, recovered, heartbeat_ms: 0, ..frames::welcome_frame(ME, "phone") }
}

impl Fixture {
    /// A message of the peer's arrives under `seq`.
    fn push(&mut self, seq: u64) -> Vec<Effect> {
        self.text(&frames::pushed(seq, &frames::message(PEER, ME, &format!("m-{seq}"), "hi")))
    }

    fn pushes(&mut self, seqs: impl IntoIterator<Item = u64>) {
        for seq in seqs {
            let effects = self.push(seq);
            assert!(matches!(effects[..], [Effect::Event(Event::Message(_))]), "{effects:?}");
        }
    }

    fn handle(&mut self, seq: u64) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.session.handled(EPOCH, seq, self.now, &mut effects);
        effects
    }

    fn drained(&mut self) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.session.drained(self.now, &mut effects);
        effects
    }

    /// What the next connection asks to go on from.
    fn resume(&mut self) -> Option<Resume> {
        self.end(None);
        self.session.connected(self.now);
        let effects = self.text(&frames::challenge(RELAY));
        let [Effect::Send(auth)] = &effects[..] else { panic!("{effects:?}") };
        let mut decoder = FrameDecoder::new();
        let Ok(ClientFrame::Auth(auth)) = decoder.decode(auth) else { panic!("{auth}") };
        auth.resume
    }
}

fn opened(seq: u64) -> Fixture {
    let mut fixture = Fixture::offline();
    fixture.open_with(&welcome(seq, false));
    fixture
}

#[test]
fn what_arrives_together_is_confirmed_together_once_it_is_handled() {
    let mut fixture = opened(0);
    fixture.pushes(1..=5);
    assert_eq!(fixture.drained(), [], "nobody has seen them");
    assert_eq!(fixture.handle(4), []);
    assert_eq!(fixture.handle(5), [received(5)]);
    // Handled before all of it was read.
    fixture.pushes(6..=7);
    assert_eq!(fixture.handle(7), []);
    fixture.pushes(8..=8);
    assert_eq!(fixture.handle(8), []);
    assert_eq!(fixture.drained(), [received(8)]);
    assert_eq!(fixture.drained(), []);
    assert_eq!(fixture.pass(Duration::from_secs(60)), [], "nothing is left");
}

#[test]
fn a_confirmation_waits_50_ms_and_for_32_messages_at_most() {
    let mut fixture = opened(0);
    fixture.pushes(1..=3);
    fixture.handle(1);
    assert_eq!(fixture.pass(Duration::from_millis(49)), []);
    assert_eq!(fixture.handle(2), []);
    assert_eq!(fixture.pass(Duration::from_millis(1)), [received(2)]);
    fixture.pushes(4..=100);
    assert_eq!(fixture.handle(33), []);
    assert_eq!(fixture.handle(34), [received(34)]);
    assert_eq!(fixture.handle(99), [received(99)]);
    assert_eq!(fixture.pass(Duration::from_secs(1)), []);
    assert_eq!(fixture.handle(100), []);
    assert_eq!(fixture.pass(Duration::from_millis(50)), [received(100)]);
}

#[test]
fn confirmations_keep_within_the_relays_limit_on_frames() {
    let mut fixture = opened(0);
    let mut sent = Vec::new();
    // Ten seconds of a message a millisecond, each alone.
    for seq in 1..=10_000 {
        fixture.pushes([seq]);
        sent.extend(fixture.handle(seq));
        sent.extend(fixture.drained());
        sent.extend(fixture.pass(Duration::from_millis(1)));
    }
    assert!((400..=500).contains(&sent.len()), "{} frames in 10 s, where the relay takes 50 a second", sent.len());
    sent.extend(fixture.pass(Duration::from_secs(1)));
    assert_eq!(sent.last(), Some(&received(10_000)));
}

#[test]
fn without_confirmation_nothing_is_said() {
    let mut options = client::session::Options::new(RELAY, "phone").expect("good names");
    options.confirm = false;
    let mut fixture = Fixture::with(options);
    fixture.open_with(&welcome(0, false));
    fixture.pushes(1..=40);
    assert_eq!(fixture.handle(40), []);
    assert_eq!(fixture.drained(), []);
    assert_eq!(fixture.pass(Duration::from_secs(60)), []);
}

#[test]
fn a_connection_goes_on_after_what_was_handled() {
    let mut fixture = opened(0);
    assert_eq!(fixture.resume(), Some(Resume { epoch: 1, seq: 0 }));
    fixture.open_with(&welcome(0, true));
    fixture.pushes(1..=3);
    fixture.handle(2);
    assert_eq!(fixture.resume(), Some(Resume { epoch: 1, seq: 2 }));
    let effects = fixture.text(&frames::text(|out| protocol::encode::welcome(out, &welcome(4, true))));
    assert!(
        matches!(effects[..], [Effect::Event(Event::Welcome { resumed_seq: Some(2), recovered: true, .. })]),
        "{effects:?}"
    );
    let again = fixture.push(3);
    assert!(matches!(again[..], [Effect::Event(Event::Duplicate(_))]), "{again:?}");
    fixture.pushes([4]);
    fixture.drained();
    assert_eq!(fixture.handle(4), [received(4)], "the one that came twice too");
}

#[test]
fn own_messages_take_seqs_too() {
    let mut fixture = opened(0);
    let (id, _) = fixture.compose("hi").expect("a good message");
    fixture.pushes([2]);
    fixture.drained();
    assert_eq!(fixture.handle(2), [], "1 may still come");
    let effects = fixture.text(&frames::ack_with(&id, Some(1)));
    assert_eq!(effects[1..], [received(2)]);
    assert_eq!(fixture.resume(), Some(Resume { epoch: 1, seq: 2 }));
}

#[test]
fn a_backlog_that_was_not_asked_for_may_begin_anywhere() {
    let mut fixture = opened(100);
    assert_eq!(fixture.resume(), None, "what is in it is unknown");
    fixture.open_with(&welcome(100, false));
    fixture.pushes([40, 41, 90]);
    fixture.drained();
    assert_eq!(fixture.handle(90), [received(90)]);
    fixture.pushes([101]);
    fixture.drained();
    assert_eq!(fixture.handle(101), [received(101)]);
    assert_eq!(fixture.resume(), Some(Resume { epoch: 1, seq: 101 }));
}

#[test]
fn a_gap_under_a_promise_is_told_once_and_loudly() {
    let mut fixture = opened(0);
    fixture.pushes(1..=2);
    fixture.handle(2);
    assert_eq!(fixture.resume(), Some(Resume { epoch: 1, seq: 2 }));
    fixture.text(&frames::text(|out| protocol::encode::welcome(out, &welcome(6, true))));
    fixture.pushes([3]);
    let effects = fixture.push(6);
    assert!(matches!(effects[0], Effect::Event(Event::Message(_))), "{effects:?}");
    assert_eq!(effects[1..], [Effect::Event(gap(4, 5, 2))]);
    fixture.drained();
    assert_eq!(fixture.handle(6), [received(6)], "it holds nothing up");
    // And on a live connection.
    let effects = fixture.push(8);
    assert_eq!(effects[1..], [Effect::Event(gap(7, 7, 1))]);
    // What comes late is a message all the same.
    fixture.pushes([5]);
}

#[test]
fn a_hole_is_no_gap_while_an_own_message_may_explain_it() {
    let mut fixture = opened(0);
    let (first, _) = fixture.compose("first").expect("a good message");
    fixture.pushes([2]);
    let (second, _) = fixture.compose("second").expect("a good message");
    fixture.pushes([4]);
    let effects = fixture.text(&frames::ack_with(&first, Some(1)));
    assert!(matches!(effects[..], [Effect::Event(Event::Ack { .. })]), "{effects:?}");
    let effects = fixture.text(&frames::ack_with(&second, Some(9)));
    assert_eq!(effects[1..], [Effect::Event(gap(3, 3, 1))], "it was not the second");
    // One that is never answered explains one hole.
    let (_, _) = fixture.compose("third").expect("a good message");
    fixture.pushes([6]);
    let effects = fixture.pass(Duration::from_secs(60));
    assert!(matches!(
        effects[..],
        [Effect::Send(_), Effect::Send(_), Effect::Send(_), Effect::Event(Event::Failed { .. })]
    ));
    fixture.drained();
    assert_eq!(fixture.handle(6), [received(6)]);
}

#[test]
fn a_relay_that_cannot_go_on_says_so_and_the_user_is_told() {
    let mut fixture = opened(0);
    fixture.pushes(1..=3);
    fixture.handle(3);
    assert!(fixture.resume().is_some());
    let anew = Welcome { epoch: 2, ..welcome(7, false) };
    let effects = fixture.text(&frames::text(|out| protocol::encode::welcome(out, &anew)));
    assert!(
        matches!(effects[..], [Effect::Event(Event::Welcome { resumed_seq: Some(3), recovered: false, .. })]),
        "{effects:?}"
    );
    // An event of the old epoch, handled late, says nothing of the new one.
    let effects = fixture.text(&frames::pushed(2, &frames::message(PEER, ME, "new", "hi")));
    assert!(matches!(effects[..], [Effect::Event(Event::Message(_))]), "{effects:?}");
    assert_eq!(fixture.handle(3), []);
    assert_eq!(fixture.drained(), []);
    assert_eq!(fixture.resume(), Some(Resume { epoch: 2, seq: 1 }));
}

#[test]
fn messages_of_an_earlier_run_are_not_shown_again() {
    let mut fixture = Fixture::offline();
    fixture.session.remember(frames::key(PEER), "m-7");
    fixture.open_with(&welcome(7, false));
    let effects = fixture.push(7);
    assert!(matches!(effects[..], [Effect::Event(Event::Duplicate(_))]), "{effects:?}");
    fixture.drained();
    assert_eq!(fixture.handle(7), [received(7)]);
}

#[test]
fn seqs_beyond_all_measure_do_no_harm() {
    let end = (1 << 53) - 1;
    let mut fixture = opened(0);
    fixture.text(&frames::ack_with("never sent", Some(end)));
    fixture.pushes([1]);
    let effects = fixture.push(end - 1);
    assert_eq!(effects[1..], [Effect::Event(gap(2, end - 2, end - 3))]);
    let effects = fixture.push(0);
    assert!(matches!(effects[..], [Effect::Event(Event::Message(_))]), "{effects:?}");
    fixture.pushes([2]);
    for seq in (4..20_000).step_by(2) {
        fixture.push(seq);
    }
    fixture.drained();
    fixture.handle(end);
    assert!(fixture.resume().is_some());
}
