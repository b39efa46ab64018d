//! What is typed.

use client::Recipient;
use client::escape::ForTerminal;
use client::history::Peer;
use protocol::PublicKey;
use protocol::frame::RoomAction;
use protocol::keys::is_id;

use super::{Next, Screen, say, short};

/// Messages of a page of history, unless the command says.
const PAGE: u64 = 20;

const HELP: &[(&str, &str)] = &[
    ("/who", "who is online"),
    ("/to KEY", "write to a user; the first digits of a key are enough, if they are online"),
    ("/room ROOM", "write to a room"),
    ("/msg KEY TEXT", "write once to a user, in a room privately to a member"),
    ("/create ROOM [closed]", "make a room, open to all or by invitation"),
    ("/join ROOM, /leave [ROOM]", "join or leave a room"),
    ("/invite KEY, /remove KEY", "of the room written to, by its owner"),
    ("/members [ROOM]", "who is in a room"),
    ("/history [COUNT], /older", "what the relay keeps of the conversation, and what came before that"),
    ("/quit", "end"),
    ("//TEXT", "send a text that starts with /"),
];

impl Screen {
    pub(super) async fn line(&mut self, line: &str) -> anyhow::Result<Next> {
        let (command, rest) = line.split_once(' ').unwrap_or((line, ""));
        let rest = rest.trim();
        match (command, rest) {
            ("", "") => {}
            ("/quit", "") => return Ok(Next::Quit),
            ("/help", "") => {
                for (command, what) in HELP {
                    say(format_args!("* {command:<26} {what}"))?;
                }
            }
            ("/who", "") => self.who()?,
            ("/to", prefix) => {
                if let Some(user) = self.user(prefix)? {
                    self.selected = Some(Peer::User(user));
                    say(format_args!("* writing to {user}"))?;
                }
            }
            ("/room", room) => {
                self.wanted = Some(room.to_owned());
                self.ask(room, RoomAction::Members).await?;
            }
            ("/create", rest) => {
                let (room, open) = match rest.split_once(' ') {
                    Some((room, "closed")) => (room, false),
                    _ => (rest, true),
                };
                self.wanted = Some(room.to_owned());
                self.ask(room, RoomAction::Create { open }).await?;
            }
            ("/join", room) => {
                self.wanted = Some(room.to_owned());
                self.ask(room, RoomAction::Join).await?;
            }
            ("/leave", room) => self.ask_selected(room, RoomAction::Leave).await?,
            ("/members", room) => self.ask_selected(room, RoomAction::Members).await?,
            ("/invite", prefix) => {
                if let Some(user) = self.user(prefix)? {
                    self.ask_selected("", RoomAction::Invite(user)).await?;
                }
            }
            ("/remove", prefix) => {
                if let Some(user) = self.user(prefix)? {
                    self.ask_selected("", RoomAction::Remove(user)).await?;
                }
            }
            ("/msg", rest) => self.message_once(rest).await?,
            ("/history", count) => self.history(count).await?,
            ("/older", "") => self.older().await?,
            (command, _) if command.starts_with('/') && !command.starts_with("//") => {
                say(format_args!("! there is no {}: /help lists the commands", ForTerminal(line)))?;
            }
            _ => {
                let text = if line.starts_with("//") { &line[1..] } else { line };
                match self.selected.clone() {
                    Some(Peer::User(user)) => self.send(Recipient::User(user), text).await?,
                    Some(Peer::Room(room)) => self.send(Recipient::Room(room), text).await?,
                    None => say(format_args!(
                        "! nobody is selected: /who lists who is online, /to KEY or /room ROOM selects"
                    ))?,
                }
            }
        }
        Ok(Next::GoOn)
    }

    fn who(&self) -> anyhow::Result<()> {
        for key in &self.online {
            let note = if *key == self.handle.public_key() { " (you)" } else { "" };
            let mark = if self.selected == Some(Peer::User(*key)) { ">" } else { "*" };
            say(format_args!("{mark} {key}{note}"))?;
        }
        Ok(())
    }

    /// The user whose key starts so, among those online and those in known rooms; or any whole key.
    fn user(&self, prefix: &str) -> anyhow::Result<Option<PublicKey>> {
        let members = self.rooms.values().flat_map(|room| &room.members);
        let mut matches: Vec<_> =
            self.online.iter().chain(members).filter(|key| key.to_hex().as_str().starts_with(prefix)).collect();
        matches.sort_unstable();
        matches.dedup();
        match (prefix, &matches[..]) {
            ("", _) => say(format_args!("! the first digits of a key are needed; /who lists them"))?,
            (_, [key]) => return Ok(Some(**key)),
            (_, [_, _, ..]) => say(format_args!("! several keys start so: give more digits"))?,
            (whole, []) => match PublicKey::from_hex(whole) {
                Some(key) => return Ok(Some(key)),
                None => say(format_args!("! nobody online has a key that starts so"))?,
            },
        }
        Ok(None)
    }

    /// Asks about a room, by default the one written to.
    async fn ask_selected(&mut self, room: &str, action: RoomAction) -> anyhow::Result<()> {
        match (room, &self.selected) {
            ("", Some(Peer::Room(selected))) => {
                let room = selected.clone();
                self.ask(&room, action).await
            }
            ("", _) => say(format_args!("! no room is selected: /room ROOM selects")),
            (room, _) => self.ask(room, action).await,
        }
    }

    async fn ask(&mut self, room: &str, action: RoomAction) -> anyhow::Result<()> {
        if !is_id(room) {
            return say(format_args!("! a room's name is 1 to 64 of A-Z a-z 0-9 - _ . :"));
        }
        match self.handle.room(room, action).await {
            Ok(()) => Ok(()),
            Err(error) => say(format_args!("! not asked: {error}")),
        }
    }

    async fn message_once(&mut self, rest: &str) -> anyhow::Result<()> {
        let Some((prefix, text)) = rest.split_once(' ') else {
            return say(format_args!("! /msg needs the first digits of a key, and a text"));
        };
        let Some(user) = self.user(prefix)? else { return Ok(()) };
        let to = match &self.selected {
            Some(Peer::Room(room)) => Recipient::RoomMember(room.clone(), user),
            _ => Recipient::User(user),
        };
        self.send(to, text).await
    }

    async fn history(&mut self, count: &str) -> anyhow::Result<()> {
        let limit = match count {
            "" => PAGE,
            count => match count.parse() {
                Ok(limit) => limit,
                Err(_) => return say(format_args!("! /history takes a number")),
            },
        };
        match self.selected.clone() {
            Some(with) => self.page_of(with, None, limit).await,
            None => say(format_args!("! nobody is selected: /to KEY or /room ROOM selects")),
        }
    }

    async fn older(&mut self) -> anyhow::Result<()> {
        match &self.page {
            Some(page) => self.page_of(page.with.clone(), page.oldest_seq, PAGE).await,
            None => say(format_args!("! /history comes first")),
        }
    }

    async fn page_of(&mut self, with: Peer, before_seq: Option<u64>, limit: u64) -> anyhow::Result<()> {
        match self.handle.request_history(with, before_seq, limit).await {
            Ok(()) => Ok(()),
            Err(error) => say(format_args!("! not asked: {error}")),
        }
    }

    /// Forgets a selected user who is not online.
    pub(super) fn check_selected(&mut self) -> anyhow::Result<()> {
        match self.selected {
            Some(Peer::User(selected)) if !self.online.contains(&selected) => {
                self.selected = None;
                say(format_args!("* recipient went offline: nobody is selected now"))
            }
            _ => Ok(()),
        }
    }

    /// Selects a room, or forgets it.
    pub(super) fn select_room(&mut self, room: &str, is_member: bool) -> anyhow::Result<()> {
        let is_wanted = self.wanted.as_deref() == Some(room);
        let is_selected = self.selected == Some(Peer::Room(room.to_owned()));
        if is_wanted {
            self.wanted = None;
        }
        match (is_member, is_wanted, is_selected) {
            (true, true, _) => {
                self.selected = Some(Peer::Room(room.to_owned()));
                say(format_args!("* writing to room {room}"))
            }
            (false, _, true) => {
                self.selected = None;
                say(format_args!("* you are not in {room} any more: nobody is selected now"))
            }
            (false, _, false) => say(format_args!("* you are not in {room}")),
            (true, false, _) => Ok(()),
        }
    }

    /// Names of some, and how many more there are.
    pub(super) fn names<'a>(&self, keys: impl Iterator<Item = &'a PublicKey>) -> String {
        const NAMED: usize = 20;
        let own = self.handle.public_key();
        let keys: Vec<_> = keys.collect();
        let named = keys.iter().take(NAMED).map(|&key| if *key == own { "you".to_owned() } else { short(key) });
        let mut names = named.collect::<Vec<_>>().join(", ");
        if keys.len() > NAMED {
            names.push_str(&format!(" and {} more", keys.len() - NAMED));
        }
        names
    }
}
