//! The session, fed with texts and moments.

use std::time::{Duration, Instant};

use client::Event;
use client::event::{Dropped, ReceivedMessage};
use client::history::{Peer, Status};
use client::lobby::SYNC_INTERVAL;
use client::session::{ComposeError, Effect, Options, OptionsError, Session};
use protocol::decode::FrameDecoder;
use protocol::frame::{ClientFrame, LobbyMode};
use protocol::opening::check_auth;
use protocol::server_frame::Welcome;
use protocol::{PublicKey, Timestamp, encode};

use crate::frames::{self, NONCE, RELAY, RELAY_TIME_MS, key, signing_key};

const ME: u8 = 1;
const PEER: u8 = 2;
const OTHER: u8 = 3;

/// A session and its clock.
pub(crate) struct Fixture {
    pub(crate) session: Session,
    pub(crate) now: Instant,
}

impl Fixture {
    pub(crate) fn offline() -> Self {
        let options = Options::new(RELAY, "phone").expect("good names");
        Self::with(options)
    }

    pub(crate) fn with(options: Options) -> Self {
        let now = Instant::now();
        Self { session: Session::new(signing_key(ME), options, now, Timestamp::from_unix_ms(0)), now }
    }

    /// Connected and welcomed.
    pub(crate) fn open() -> Self {
        let mut fixture = Self::offline();
        fixture.open_with(&frames::welcome_frame(ME, "phone"));
        fixture
    }

    pub(crate) fn open_with(&mut self, welcome: &Welcome<'_>) {
        let effects = self.opened(welcome);
        assert!(matches!(effects[..], [Effect::Event(Event::Welcome { .. })]), "{effects:?}");
    }

    /// Connects, and gives what the welcome leads to.
    pub(crate) fn opened(&mut self, welcome: &Welcome<'_>) -> Vec<Effect> {
        self.session.connected(self.now);
        assert!(matches!(self.text(&frames::challenge(RELAY))[..], [Effect::Send(_)]));
        let effects = self.text(&frames::text(|out| encode::welcome(out, welcome)));
        assert!(self.session.is_open());
        effects
    }

    pub(crate) fn text(&mut self, text: &str) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.session.handle_text(text, self.now, &mut effects);
        effects
    }

    pub(crate) fn event(&mut self, text: &str) -> Event {
        match self.text(text).as_slice() {
            [Effect::Event(event)] => event.clone(),
            effects => panic!("expected one event, got {effects:?}"),
        }
    }

    /// Goes on by `by`, calling on the session whenever it asks for it.
    pub(crate) fn pass(&mut self, by: Duration) -> Vec<Effect> {
        let end = self.now + by;
        let mut effects = Vec::new();
        while let Some(at) = self.session.poll_timeout(self.now).filter(|&at| at <= end) {
            self.now = self.now.max(at);
            let before = effects.len();
            self.session.handle_timeout(self.now, &mut effects);
            assert!(effects.len() > before, "a timeout asked for does something");
            if matches!(effects.last(), Some(Effect::Close { .. })) {
                return effects;
            }
        }
        self.now = end;
        effects
    }

    pub(crate) fn end(&mut self, code: Option<u16>) -> (Option<Duration>, Vec<Event>) {
        let mut effects = Vec::new();
        let delay = self.session.disconnected(code, "", u32::MAX, self.now, &mut effects);
        let events = effects.into_iter().map(|effect| match effect {
            Effect::Event(event) => event,
            effect => panic!("no use without a connection: {effect:?}"),
        });
        (delay, events.collect())
    }

    pub(crate) fn compose(&mut self, text: &str) -> Result<(String, String), ComposeError> {
        let mut effects = Vec::new();
        let id = self.session.send(&key(PEER).into(), text, self.now, &mut effects)?;
        match &effects[..] {
            [Effect::Send(frame)] => Ok((id, frame.clone())),
            effects => panic!("expected one frame, got {effects:?}"),
        }
    }

    pub(crate) fn statuses(&self, with: u8) -> Vec<(String, Status)> {
        let entries = self.session.history().with(&Peer::User(key(with)));
        entries.map(|entry| (entry.text.clone(), entry.status)).collect()
    }
}

fn received(seq: u64, from: u8, to: u8, id: &str, message: &str) -> Event {
    Event::Message(ReceivedMessage {
        seq,
        sender_public_key: key(from),
        recipient_public_key: Some(key(to)),
        room_id: None,
        client_message_id: id.to_owned(),
        timestamp: frames::relay_time(),
        message: message.to_owned(),
    })
}

fn dropped(seq: u64, from: u8, id: &str) -> Dropped {
    Dropped { seq, sender_public_key: key(from), client_message_id: id.to_owned() }
}

#[test]
fn the_opening_signs_for_the_relay_expected() {
    let mut options = Options::new(RELAY, "phone").expect("good names");
    options.lobby = LobbyMode::None;
    let mut fixture = Fixture::with(options);
    fixture.session.connected(fixture.now);
    let effects = fixture.text(&frames::challenge(RELAY));
    let [Effect::Send(auth)] = &effects[..] else { panic!("{effects:?}") };
    let mut decoder = FrameDecoder::new();
    let ClientFrame::Auth(auth) = decoder.decode(auth).expect("a good frame") else { panic!("not an auth") };
    assert_eq!((auth.public_key, auth.device_id, auth.lobby), (key(ME), "phone", LobbyMode::None));
    check_auth(&auth, RELAY, &NONCE, &mut Vec::new()).expect("a good signature");
    assert!(!fixture.session.is_open());
    let event = fixture.event(&frames::welcome(ME, "phone"));
    assert_eq!(
        event,
        Event::Welcome {
            relay: RELAY.into(),
            public_key: key(ME),
            device_id: "phone".into(),
            time: frames::relay_time(),
            clock_moved_ms: RELAY_TIME_MS,
            epoch: 1,
            seq: 0,
            resumed_seq: None,
            recovered: false,
            heartbeat_ms: 20_000,
            frame_bytes: 16 * 1024,
            message_chars: 1000,
            messages_per_second: 10,
        }
    );
    assert!(fixture.session.is_open());
}

#[test]
fn another_relay_or_version_gets_no_signature_and_no_second_visit() {
    let other_version = frames::challenge(RELAY).replace("\"version\":1", "\"version\":2");
    for (challenge, what) in [(frames::challenge("evil.example"), "calls itself"), (other_version, "version 2")] {
        let mut fixture = Fixture::offline();
        fixture.session.connected(fixture.now);
        let effects = fixture.text(&challenge);
        assert!(
            matches!(&effects[..], [Effect::Close { code: 1008, details }] if details.contains(what)),
            "{effects:?}"
        );
        let (delay, events) = fixture.end(None);
        assert_eq!(delay, None);
        assert!(matches!(events[..], [Event::Closed { retry: false, .. }]), "{events:?}");
    }
}

#[test]
fn a_welcome_for_somebody_else_is_not_taken() {
    for welcome in [frames::welcome(PEER, "phone"), frames::welcome(ME, "desk")] {
        let mut fixture = Fixture::offline();
        fixture.session.connected(fixture.now);
        fixture.text(&frames::challenge(RELAY));
        assert!(matches!(fixture.text(&welcome)[..], [Effect::Close { .. }]));
        assert!(!fixture.session.is_open());
    }
}

#[test]
fn names_of_another_form_are_no_options() {
    assert_eq!(Options::new("Relay", "phone").err(), Some(OptionsError::RelayName));
    assert_eq!(Options::new("relay", "").err(), Some(OptionsError::DeviceId));
}

#[test]
fn a_signed_message_arrives_once() {
    let mut fixture = Fixture::open();
    let text = "Grüße\n\"👋🏽\" \\ \u{1}";
    let frame = frames::message(PEER, ME, "m-1", text);
    assert_eq!(fixture.event(&frames::pushed(1, &frame)), received(1, PEER, ME, "m-1", text));
    assert_eq!(fixture.event(&frames::pushed(1, &frame)), Event::Duplicate(dropped(1, PEER, "m-1")), "same seq");
    assert_eq!(fixture.event(&frames::pushed(2, &frame)), Event::Duplicate(dropped(2, PEER, "m-1")), "same id");
    let same_id = frames::message(OTHER, ME, "m-1", "hi");
    assert_eq!(fixture.event(&frames::pushed(3, &same_id)), received(3, OTHER, ME, "m-1", "hi"));
    assert_eq!(fixture.statuses(PEER), [(text.to_owned(), Status::Received)]);
    assert_eq!(fixture.session.history().peers().count(), 2);
}

#[test]
fn spacing_and_field_order_of_the_sender_do_not_matter() {
    let mut fixture = Fixture::open();
    let frame = frames::message(PEER, ME, "m-1", "hi").replace("\":", "\" :\t").replace(",\"", " ,\n \"");
    let event = fixture.event(&frames::pushed(1, &format!("  {frame} ")));
    assert_eq!(event, received(1, PEER, ME, "m-1", "hi"));
}

#[test]
fn a_forged_message_is_told_and_not_shown() {
    let honest = frames::message(PEER, ME, "m-1", "I owe you 10");
    let of_another = frames::message(OTHER, ME, "m-1", "I owe you 10")
        .replace(key(OTHER).to_hex().as_str(), key(PEER).to_hex().as_str());
    let at = honest.find("\"signature\":\"").expect("a signature") + 13;
    let mut zeroed = honest.clone();
    zeroed.replace_range(at..at + 128, &"0".repeat(128));
    for forged in [
        honest.replace("owe you 10", "owe you 99"),
        honest.replace("m-1", "m-2"),
        honest.replace("12:34:56", "12:34:57"),
        of_another,
        zeroed,
    ] {
        let mut fixture = Fixture::open();
        assert_ne!(forged, honest);
        let event = fixture.event(&frames::pushed(1, &forged));
        assert!(matches!(event, Event::BadSignature(_)), "{event:?}");
        assert_eq!(fixture.session.history().peers().count(), 0);
        // A forgery uses up its seq, and not the honest message's id.
        assert_eq!(fixture.event(&frames::pushed(2, &honest)), received(2, PEER, ME, "m-1", "I owe you 10"));
    }
}

#[test]
fn a_key_that_nobody_can_sign_with_verifies_nothing() {
    // y = 1: the identity, with which a signature of zeros and the identity fits any message.
    let identity = format!("01{}", "0".repeat(62));
    let honest = frames::message(PEER, ME, "m-1", "hi");
    let at = honest.find("\"signature\":\"").expect("a signature") + 13;
    let mut forged = honest.replace(key(PEER).to_hex().as_str(), &identity);
    forged.replace_range(at..at + 128, &format!("{identity}{}", "0".repeat(64)));
    let event = Fixture::open().event(&frames::pushed(1, &forged));
    assert!(matches!(event, Event::BadSignature(_)), "{event:?}");
}

#[test]
fn a_message_for_somebody_else_is_told_and_not_shown() {
    let mut fixture = Fixture::open();
    let frame = frames::message(PEER, OTHER, "m-1", "secret");
    assert_eq!(fixture.event(&frames::pushed(1, &frame)), Event::NotForMe(dropped(1, PEER, "m-1")));
    assert_eq!(fixture.session.history().peers().count(), 0);
}

#[test]
fn a_copy_from_another_own_device_is_in_its_conversation() {
    let mut fixture = Fixture::open();
    let frame = frames::message(ME, PEER, "m-1", "from my desk");
    assert_eq!(fixture.event(&frames::pushed(1, &frame)), received(1, ME, PEER, "m-1", "from my desk"));
    assert_eq!(fixture.statuses(PEER), [("from my desk".to_owned(), Status::Sent)]);
}

#[test]
fn history_follows_the_seq() {
    let mut fixture = Fixture::offline();
    fixture.open_with(&Welcome { seq: 4, ..frames::welcome_frame(ME, "phone") });
    for (seq, text) in [(2, "two"), (1, "one"), (4, "four"), (3, "three")] {
        let frame = frames::message(PEER, ME, text, text);
        assert_eq!(fixture.event(&frames::pushed(seq, &frame)), received(seq, PEER, ME, text, text));
    }
    let texts: Vec<_> = fixture.statuses(PEER).into_iter().map(|(text, _)| text).collect();
    assert_eq!(texts, ["one", "two", "three", "four"]);
}

#[test]
fn seqs_are_forgotten_with_their_epoch_and_ids_are_not() {
    let mut fixture = Fixture::open();
    let (first, second) = (frames::message(PEER, ME, "a", "1"), frames::message(PEER, ME, "b", "2"));
    fixture.text(&frames::pushed(1, &first));
    fixture.end(Some(1001));
    fixture.open_with(&frames::welcome_frame(ME, "phone"));
    assert_eq!(fixture.event(&frames::pushed(1, &second)), Event::Duplicate(dropped(1, PEER, "b")), "same epoch");
    fixture.end(Some(1001));
    fixture.open_with(&Welcome { epoch: 2, ..frames::welcome_frame(ME, "phone") });
    assert_eq!(fixture.event(&frames::pushed(1, &second)), received(1, PEER, ME, "b", "2"));
    assert_eq!(fixture.event(&frames::pushed(2, &first)), Event::Duplicate(dropped(2, PEER, "a")));
}

#[test]
fn the_lobby_comes_in_pages_and_goes_on_in_order() {
    let mut fixture = Fixture::open();
    assert_eq!(fixture.text(&frames::lobby(1, &[1, 2], None)), []);
    assert!(!fixture.session.lobby().agrees());
    let event = fixture.event(&frames::lobby(1, &[3], Some(&[1, 2, 3])));
    assert_eq!(event, Event::Lobby { rev: 1, users: frames::keys(&[1, 2, 3]) });
    assert_eq!(
        fixture.text(&frames::update(2, &[4], &[2], &[1, 3, 4])),
        [
            Effect::Event(Event::Left { rev: 2, public_key: key(2) }),
            Effect::Event(Event::Joined { rev: 2, public_key: key(4) })
        ]
    );
    let users: Vec<PublicKey> = fixture.session.lobby().users().iter().copied().collect();
    assert_eq!(users, frames::keys(&[1, 3, 4]));
    assert!(fixture.session.lobby().agrees());
    assert_eq!(fixture.pass(Duration::from_secs(30)), [], "nothing to repair");
}

#[test]
fn a_divergence_asks_for_a_snapshot_once_in_two_seconds() {
    let sync = Effect::Send("{\"type\":\"lobby_sync\"}".to_owned());
    let mut fixture = Fixture::open();
    fixture.text(&frames::lobby(1, &[1], Some(&[1])));
    let effects = fixture.text(&frames::update(2, &[], &[], &[1, 2]));
    assert!(matches!(effects[0], Effect::Event(Event::LobbyDiverged { rev: 2, .. })), "{effects:?}");
    assert_eq!(&effects[1..], std::slice::from_ref(&sync));
    // Still wrong, in other ways, within the two seconds.
    for rev in 3..9 {
        let effects = fixture.text(&frames::update(rev, &[], &[], &[1, 2]));
        assert!(matches!(effects[..], [Effect::Event(Event::LobbyDiverged { .. })]), "{effects:?}");
    }
    assert_eq!(fixture.pass(SYNC_INTERVAL - Duration::from_millis(1)), []);
    assert_eq!(fixture.pass(Duration::from_millis(1)), std::slice::from_ref(&sync));
    let event = fixture.event(&frames::lobby(9, &[1, 2], Some(&[1, 2])));
    assert_eq!(event, Event::Lobby { rev: 9, users: frames::keys(&[1, 2]) });
    assert_eq!(fixture.pass(Duration::from_secs(30)), []);
    // A new connection may ask at once.
    fixture.text(&frames::update(10, &[], &[], &[1]));
    fixture.end(None);
    fixture.open_with(&frames::welcome_frame(ME, "phone"));
    let effects = fixture.text(&frames::lobby(1, &[1], Some(&[1, 2])));
    assert_eq!(effects[1..], [sync]);
}

#[test]
fn own_messages_verify_and_follow_the_relays_clock() {
    let mut fixture = Fixture::open();
    fixture.now += Duration::from_millis(2500);
    let (id, frame) = fixture.compose("Hello,\n\"wörld\" 👋").expect("a good message");
    let mut recipient = Fixture::with(Options::new(RELAY, "phone").expect("good names"));
    recipient.session = Session::new(
        signing_key(PEER),
        Options::new(RELAY, "phone").expect("good names"),
        recipient.now,
        frames::relay_time(),
    );
    recipient.open_with(&frames::welcome_frame(PEER, "phone"));
    let Event::Message(message) = recipient.event(&frames::pushed(1, &frame)) else { panic!("not taken") };
    assert_eq!((message.client_message_id, message.message.as_str()), (id, "Hello,\n\"wörld\" 👋"));
    assert_eq!(message.timestamp.unix_ms(), RELAY_TIME_MS + 2500, "though the local clock said 1970");
}

#[test]
fn attempts_follow_ever_more_slowly_until_a_session_lasts() {
    let mut fixture = Fixture::offline();
    let seconds = |fixture: &mut Fixture| fixture.end(None).0.map(|delay| delay.as_secs());
    assert_eq!([1, 2, 4].map(|_| seconds(&mut fixture)), [Some(1), Some(2), Some(4)]);
    // Let in and thrown out at once.
    fixture.open_with(&frames::welcome_frame(ME, "phone"));
    assert_eq!(seconds(&mut fixture), Some(8));
    fixture.open_with(&frames::welcome_frame(ME, "phone"));
    fixture.now += Duration::from_secs(10);
    assert_eq!(seconds(&mut fixture), Some(1));
    let (_, events) = fixture.end(Some(4408));
    assert_eq!(
        events,
        [
            Event::Closed { code: Some(4408), details: "this client read too slowly".into(), retry: true },
            Event::Reconnecting { attempt: 2, delay_ms: 2000 },
        ]
    );
}

#[test]
fn a_device_taken_over_or_a_key_refused_stays_away() {
    let mut taken_over = Fixture::open();
    let mut refused = Fixture::offline();
    refused.session.connected(refused.now);
    refused.text(&frames::challenge(RELAY));
    refused.text(&frames::error("auth_failed", "No.", None, None));
    for (fixture, code) in [(&mut taken_over, 4409), (&mut refused, 4401)] {
        let (delay, events) = fixture.end(Some(code));
        assert_eq!(delay, None);
        assert!(matches!(events[..], [Event::Closed { retry: false, .. }]), "{events:?}");
        assert_eq!(fixture.end(None).0, None, "asked again");
    }
    // Too late is not refused: the relay or the network was slow.
    let mut late = Fixture::offline();
    late.session.connected(late.now);
    late.text(&frames::challenge(RELAY));
    let (delay, events) = late.end(Some(4401));
    assert!(delay.is_some() && matches!(&events[0], Event::Closed { details, .. } if details.contains("too long")));
}

#[test]
fn a_restarting_relay_says_when_to_come_back() {
    let mut fixture = Fixture::offline();
    for _ in 0..4 {
        fixture.end(None);
    }
    fixture.open_with(&frames::welcome_frame(ME, "phone"));
    let event = fixture.event("{\"type\":\"restarting\",\"reconnectInMs\":1234}");
    assert_eq!(event, Event::Restarting { reconnect_in_ms: 1234 });
    assert_eq!(fixture.end(Some(1001)).0, Some(Duration::from_millis(1234)));
    // That was for once, and a new start.
    assert_eq!(fixture.end(None).0, Some(Duration::from_secs(2)));
    fixture.open_with(&frames::welcome_frame(ME, "phone"));
    fixture.text("{\"type\":\"restarting\",\"reconnectInMs\":9007199254740991}");
    assert_eq!(fixture.end(Some(1001)).0, Some(Duration::from_secs(300)), "nobody is sent away for ever");
}

#[test]
fn three_silent_heartbeats_end_a_connection() {
    let silent = |effects: &[Effect]| matches!(effects, [Effect::Close { details, .. }] if details.contains("silent"));
    let mut fixture = Fixture::open();
    assert_eq!(fixture.pass(Duration::from_secs(59)), []);
    fixture.session.heard(fixture.now);
    assert_eq!(fixture.pass(Duration::from_secs(59)), []);
    fixture.text("{\"type\":\"pong\"}");
    assert_eq!(fixture.pass(Duration::from_millis(59_999)), []);
    assert!(silent(&fixture.pass(Duration::from_millis(1))));
    // A relay that says it does not ping may be silent.
    fixture.end(None);
    fixture.open_with(&Welcome { heartbeat_ms: 0, ..frames::welcome_frame(ME, "phone") });
    assert_eq!(fixture.pass(Duration::from_secs(1_000_000)), []);
}

#[test]
fn an_opening_takes_fifteen_seconds_at_most() {
    let mut fixture = Fixture::offline();
    assert_eq!(fixture.pass(Duration::from_secs(100)), []);
    fixture.session.connected(fixture.now);
    fixture.pass(Duration::from_secs(8));
    fixture.text(&frames::challenge(RELAY));
    assert_eq!(fixture.pass(Duration::from_millis(6999)), []);
    assert!(matches!(fixture.pass(Duration::from_millis(1))[..], [Effect::Close { .. }]));
}

#[test]
fn frames_unknown_malformed_or_out_of_place_do_no_harm() {
    let mut fixture = Fixture::open();
    assert_eq!(fixture.text("{\"type\":\"news\",\"of\":[\"tomorrow\"]}"), []);
    assert_eq!(fixture.text(&frames::ack("x").replacen('{', "{\"new\":{\"a\":null},", 1)).len(), 1);
    let frame = frames::message(PEER, ME, "m-1", "hi");
    for text in ["", "[]", "null", "{}", "{\"type\":7}", "\u{feff}{}", &frame, &frames::challenge(RELAY)] {
        let event = fixture.event(text);
        assert!(matches!(event, Event::BadFrame { .. }), "{text}: {event:?}");
    }
    // Before the session is open, nothing but its opening counts.
    let mut fixture = Fixture::offline();
    fixture.session.connected(fixture.now);
    for text in [frames::welcome(ME, "phone"), frames::pushed(1, &frame), frames::lobby(1, &[1], Some(&[1]))] {
        let event = fixture.event(&text);
        assert!(matches!(event, Event::BadFrame { .. }), "{text}: {event:?}");
    }
    assert_eq!(fixture.session.history().peers().count(), 0);
    let event = fixture.event(&frames::error("auth_failed", "No.", None, None));
    assert!(matches!(event, Event::Error { .. }));
}

#[test]
fn no_debug_output_shows_the_secret_key() {
    let mut fixture = Fixture::open();
    fixture.compose("hi").expect("a good message");
    let shown = format!("{:?}", fixture.session);
    let seed = signing_key(ME).to_bytes();
    assert!(!shown.contains(&format!("{seed:?}")) && !shown.contains(&"01".repeat(32)), "{shown}");
}
