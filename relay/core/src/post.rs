//! Puts frames into outboxes, and remembers which connections have to be flushed or closed for it.

use protocol::websocket;

use crate::connection::Link;
use crate::event::ConnectionId;
use crate::outbox::Pool;

/// The sending half of a shard: everything a frame needs on its way into an outbox.
#[derive(Debug)]
pub(crate) struct Post {
    pub(crate) pool: Pool,
    /// Slots of connections with something to flush.
    pub(crate) dirty: Vec<u32>,
    /// Connections whose outbox overflowed.
    pub(crate) overflowed: Vec<ConnectionId>,
    bytes_max: usize,
    json: Vec<u8>,
    head: Vec<u8>,
}

impl Post {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self {
            pool: Pool::default(),
            dirty: Vec::new(),
            overflowed: Vec::new(),
            bytes_max,
            json: Vec::new(),
            head: Vec::new(),
        }
    }

    /// Puts one whole WebSocket frame, given in two parts, into the outbox. `false` if it did not
    /// fit: the connection is then noted to be closed.
    pub(crate) fn push(&mut self, link: &mut Link, head: &[u8], body: &[u8]) -> bool {
        self.push_bounded(link, head, body, self.bytes_max)
    }

    fn push_bounded(&mut self, link: &mut Link, head: &[u8], body: &[u8], bytes_max: usize) -> bool {
        if link.overflowed {
            return false;
        }
        match link.outbox.push(head, body, bytes_max, &mut self.pool) {
            Ok(is_first) => {
                if is_first {
                    self.dirty.push(link.id.index);
                }
                true
            }
            Err(crate::outbox::Full) => {
                link.overflowed = true;
                self.overflowed.push(link.id);
                false
            }
        }
    }

    /// Puts a text message into the outbox; `write` appends its JSON.
    pub(crate) fn text(&mut self, link: &mut Link, write: impl FnOnce(&mut Vec<u8>)) -> bool {
        let (mut json, mut head) = (std::mem::take(&mut self.json), std::mem::take(&mut self.head));
        json.clear();
        write(&mut json);
        head.clear();
        websocket::text_header(json.len(), &mut head);
        let fits = self.push(link, &head, &json);
        (self.json, self.head) = (json, head);
        fits
    }

    /// Puts a frame that `write` makes, header and all, into the outbox.
    pub(crate) fn raw(&mut self, link: &mut Link, write: impl FnOnce(&mut Vec<u8>)) -> bool {
        let mut json = std::mem::take(&mut self.json);
        json.clear();
        write(&mut json);
        let fits = self.push(link, &json, &[]);
        self.json = json;
        fits
    }

    /// Puts a connection's last frame, its close, into the outbox. It always fits: a full outbox is
    /// what it may have to tell of.
    pub(crate) fn last(&mut self, link: &mut Link, write: impl FnOnce(&mut Vec<u8>)) {
        let mut close = Vec::new();
        write(&mut close);
        self.push_bounded(link, &close, &[], usize::MAX);
    }

    /// Notes that the connection has to be looked at when the batch is flushed.
    pub(crate) fn touch(&mut self, link: &mut Link) {
        if link.outbox.mark_dirty() {
            self.dirty.push(link.id.index);
        }
    }
}
