//! What happened, as lines.

use anyhow::anyhow;
use client::Event;
use client::Recipient;
use client::escape::ForTerminal;
use client::event::{CLOSED, NO_ANSWER, ReceivedMessage};
use client::history::Peer;
use client::history_file::PastMessage;
use protocol::server_frame::ReceiptStatus;
use protocol::{PublicKey, limits};

use super::{Page, ROOMS_MAX, RoomView, Screen, say, short};

impl Screen {
    pub(super) async fn show(&mut self, event: Event) -> anyhow::Result<()> {
        match event {
            Event::Welcome { relay, public_key, resumed_seq, recovered, .. } => {
                self.is_connected = true;
                say(format_args!("* connected to {relay} as {public_key}"))?;
                if resumed_seq.is_some() && !recovered {
                    say(format_args!("! the relay cannot tell whether messages were missed meanwhile"))?;
                }
                Ok(())
            }
            Event::Lobby { users, .. } => {
                self.online = users.into_iter().collect();
                say(format_args!("* {} online; /help explains", self.online.len()))?;
                self.check_selected()
            }
            Event::Joined { public_key, .. } => {
                self.online.insert(public_key);
                say(format_args!("* {} joined", short(&public_key)))
            }
            Event::Left { public_key, .. } => {
                self.online.remove(&public_key);
                say(format_args!("* {} left", short(&public_key)))?;
                self.check_selected()
            }
            Event::Message(message) => self.message(&message).await,
            Event::BadSignature(dropped) => {
                let sender = short(&dropped.sender_public_key);
                say(format_args!("! dropped a message that {sender} is said to have sent, but did not sign"))
            }
            Event::NotForMe(_) => say(format_args!("! dropped a message that is for somebody else")),
            Event::BadFrame { details } => say(format_args!("! dropped a frame: {}", ForTerminal(&details))),
            Event::Gap { missing, .. } => say(format_args!("! {missing} messages are missing: the relay lost them")),
            Event::Ack { .. } | Event::Delayed { .. } | Event::Failed { .. } | Event::Receipt { .. } => {
                self.fate(event)
            }
            Event::Typing { sender_public_key, room_id, is_typing: true } => {
                let place = room_id.map_or(String::new(), |room| format!(" in {room}"));
                say(format_args!("* {} is typing{place}", short(&sender_public_key)))
            }
            Event::Room { room_id, owner, open, members } => self.room(&room_id, owner, open, &members),
            Event::RoomUpdate { room_id, joined, left, owner } => self.room_update(&room_id, &joined, &left, owner),
            Event::History { with, room_id, messages, dropped, more } => {
                self.history_page(with, room_id, &messages, dropped, more)
            }
            Event::Error { details, .. } => say(format_args!("! the relay says: {}", ForTerminal(&details))),
            Event::Restarting { .. } => say(format_args!("* the relay restarts")),
            Event::Closed { details, retry: false, .. } => Err(anyhow!(details)),
            Event::Closed { details, .. } => {
                self.is_connected = false;
                say(format_args!("* disconnected: {}", ForTerminal(&details)))
            }
            Event::Reconnecting { delay_ms, .. } => {
                say(format_args!("* next attempt in {}.{} s", delay_ms / 1000, delay_ms % 1000 / 100))
            }
            _ => Ok(()),
        }
    }

    /// What becomes of own messages.
    fn fate(&mut self, event: Event) -> anyhow::Result<()> {
        match event {
            Event::Ack { client_message_id: id, recipient_online, .. } => {
                self.answered(&id);
                self.note_status(&id, "sent", None)?;
                let Some(label) = self.label_of(&id) else { return Ok(()) };
                let note = if recipient_online { "" } else { ", kept until they come online" };
                say(format_args!("✓ sent{note}: {label}"))
            }
            Event::Delayed { client_message_id: id, retry_after_ms, .. } => {
                let Some(label) = self.label_of(&id) else { return Ok(()) };
                say(format_args!(
                    "… waits {}.{} s for the relay: {label}",
                    retry_after_ms / 1000,
                    retry_after_ms % 1000 / 100
                ))
            }
            Event::Failed { client_message_id: id, reason, details, .. } => {
                self.answered(&id);
                self.note_status(&id, "failed", Some(&reason))?;
                let Some(label) = self.label_of(&id) else { return Ok(()) };
                let perhaps = if matches!(reason.as_str(), NO_ANSWER | CLOSED) { "perhaps " } else { "" };
                say(format_args!("! {perhaps}not sent: {label}: {}", ForTerminal(&details)))
            }
            Event::Receipt { status, client_message_ids, recipient_public_key, room_id } => {
                let by = room_id.map_or(String::new(), |_| format!(" by {}", short(&recipient_public_key)));
                for id in &client_message_ids {
                    // Of others than the latest nothing is known, not even that they are own ones.
                    if self.label_of(id).is_none() {
                        continue;
                    }
                    self.note_status(id, status.name(), None)?;
                    let Some(label) = self.label_of(id) else { continue };
                    match status {
                        ReceiptStatus::Delivered => say(format_args!("✓✓ delivered{by}: {label}"))?,
                        ReceiptStatus::Read => say(format_args!("✓✓ read{by}: {label}"))?,
                    }
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    async fn message(&mut self, message: &ReceivedMessage) -> anyhow::Result<()> {
        // Kept before it is confirmed to the relay, which happens once the next event is asked for.
        if let Some(file) = &mut self.file {
            file.received(message)?;
        }
        self.show_message(message, "")?;
        if self.reads && message.sender_public_key != self.handle.public_key() {
            // Without a connection nobody is told; that is no fault of the reader's.
            let _ = self.handle.read(message.seq).await;
        }
        Ok(())
    }

    fn show_message(&self, message: &ReceivedMessage, indent: &str) -> anyhow::Result<()> {
        let place = self.place(message.room_id.as_deref(), message.recipient_public_key);
        let sender = self.name(&message.sender_public_key);
        say(format_args!("{indent}{sender}{place}> {}", ForTerminal(&message.message)))
    }

    pub(super) fn show_past(&self, past: &PastMessage) -> anyhow::Result<()> {
        let place = match &past.to {
            Recipient::User(user) => self.place(None, Some(*user)),
            Recipient::Room(room) => self.place(Some(room), None),
            Recipient::RoomMember(room, member) => self.place(Some(room), Some(*member)),
        };
        let sender = self.name(&past.sender);
        let status = past.status.as_ref().map_or(String::new(), |status| format!(" ({})", ForTerminal(status)));
        say(format_args!("  {} {sender}{place}> {}{status}", past.timestamp, ForTerminal(&past.text)))
    }

    fn name(&self, key: &PublicKey) -> String {
        if *key == self.handle.public_key() { "you".to_owned() } else { short(key) }
    }

    fn place(&self, room: Option<&str>, recipient: Option<PublicKey>) -> String {
        match (room, recipient) {
            (Some(room), Some(_)) => format!(" in {room}, privately"),
            (Some(room), None) => format!(" in {room}"),
            (None, Some(recipient)) if recipient != self.handle.public_key() => format!(" to {}", short(&recipient)),
            (None, _) => String::new(),
        }
    }

    fn room(&mut self, room: &str, owner: PublicKey, open: bool, members: &[PublicKey]) -> anyhow::Result<()> {
        let is_member = members.contains(&self.handle.public_key());
        if is_member {
            let how = if open { "open" } else { "by invitation" };
            let names = self.names(members.iter());
            say(format_args!("* {room}: {how}, owned by {}: {names}", self.name(&owner)))?;
            if self.rooms.len() < ROOMS_MAX || self.rooms.contains_key(room) {
                let members = members.iter().copied().collect();
                self.rooms.insert(room.to_owned(), RoomView { owner, members });
            }
        } else {
            self.rooms.remove(room);
        }
        self.select_room(room, is_member)
    }

    fn room_update(
        &mut self,
        room: &str,
        joined: &[PublicKey],
        left: &[PublicKey],
        owner: PublicKey,
    ) -> anyhow::Result<()> {
        if !joined.is_empty() {
            say(format_args!("* joined {room}: {}", self.names(joined.iter())))?;
        }
        if !left.is_empty() {
            say(format_args!("* left {room}: {}", self.names(left.iter())))?;
        }
        if left.contains(&self.handle.public_key()) {
            self.rooms.remove(room);
            return self.select_room(room, false);
        }
        let name = self.name(&owner);
        if let Some(view) = self.rooms.get_mut(room) {
            view.members.extend(joined);
            view.members.retain(|member| !left.contains(member));
            if view.members.len() > limits::ROOM_MEMBERS {
                // No room has so many: nothing is known of it then.
                view.members.clear();
            }
            if std::mem::replace(&mut view.owner, owner) != owner {
                say(format_args!("* {room} is owned by {name} now"))?;
            }
        }
        Ok(())
    }

    fn history_page(
        &mut self,
        with: Option<PublicKey>,
        room: Option<String>,
        messages: &[ReceivedMessage],
        dropped: u64,
        more: bool,
    ) -> anyhow::Result<()> {
        for message in messages {
            self.show_message(message, &format!("  {} ", message.timestamp))?;
        }
        if dropped > 0 {
            say(format_args!("! dropped {dropped} messages that are not what their senders signed"))?;
        }
        let what = if more { "/older shows what came before" } else { "nothing older is kept" };
        say(format_args!("* {} messages; {what}", messages.len()))?;
        let oldest_seq = messages.first().map(|message| message.seq);
        let with = with.map(Peer::User).or(room.map(Peer::Room));
        self.page = with.map(|with| Page { with, oldest_seq });
        Ok(())
    }
}
