//! One WebSocket connection, cancel-safe: everything that waits for the network waits in
//! [`Connection::next`], which keeps its state in the connection and can be dropped at any point.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use protocol::limits::RELAY_FRAME_BYTES;
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::endpoint::Endpoint;

/// Bytes read at once. The library's default of 128 KiB would be most of a client's memory.
const READ_BYTES: usize = 4 * 1024;

/// Bytes that gather before a write; a frame is flushed at once anyway.
const WRITE_BYTES: usize = 4 * 1024;

/// Unwritten bytes at most: the largest frame a relay may allow, twice, and room for pongs.
const UNWRITTEN_BYTES_MAX: usize = 2 * RELAY_FRAME_BYTES + WRITE_BYTES;

/// The largest message taken from a relay, with slack for what a later version may add.
const MESSAGE_BYTES_MAX: usize = RELAY_FRAME_BYTES + 4 * 1024;

/// How long a polite close may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// Something the connection did.
#[derive(Debug)]
pub(super) enum Progress {
    /// All frames queued are with the operating system.
    Flushed,
    /// A text message came.
    Text(String),
    /// No more can be read at once, behind one or more texts.
    Drained,
    /// A sign of life came: ping or pong.
    Heard,
    /// The connection is over: the close code, if one came, and why.
    Ended(Option<u16>, String),
}

#[derive(Debug)]
pub(super) struct Connection {
    socket: WebSocketStream<TcpStream>,
    outgoing: VecDeque<Message>,
    is_unflushed: bool,
    /// Whether texts came since [`Progress::Drained`].
    has_texts: bool,
}

impl Connection {
    /// Connects and upgrades.
    pub(super) async fn open(endpoint: &Endpoint) -> Result<Self, String> {
        let address = endpoint.address();
        let stream = TcpStream::connect(address)
            .await
            .map_err(|error| format!("cannot connect to {}:{}: {error}", address.0, address.1))?;
        stream.set_nodelay(true).map_err(|error| format!("cannot set TCP_NODELAY: {error}"))?;
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BYTES)
            .write_buffer_size(WRITE_BYTES)
            .max_write_buffer_size(UNWRITTEN_BYTES_MAX)
            .max_message_size(Some(MESSAGE_BYTES_MAX))
            .max_frame_size(Some(MESSAGE_BYTES_MAX));
        let opened = tokio_tungstenite::client_async_with_config(endpoint.url(), stream, Some(config)).await;
        let (socket, _) = opened.map_err(|error| match error {
            Error::Http(response) => {
                format!("{} refused the upgrade with status {}", endpoint.url(), response.status())
            }
            error => format!("cannot open a WebSocket at {}: {error}", endpoint.url()),
        })?;
        Ok(Self { socket, outgoing: VecDeque::new(), is_unflushed: false, has_texts: false })
    }

    /// Queues a text message; [`Connection::next`] sends it.
    pub(super) fn queue(&mut self, text: String) {
        self.outgoing.push_back(Message::text(text));
    }

    /// Whether frames wait to be written. The driver takes no more from its user then.
    pub(super) fn is_backed_up(&self) -> bool {
        !self.outgoing.is_empty() || self.is_unflushed
    }

    /// Writes what is queued, and reads if `reads`, until something happens. Cancel-safe.
    pub(super) async fn next(&mut self, reads: bool) -> Progress {
        poll_fn(|cx| self.poll(reads, cx)).await
    }

    fn poll(&mut self, reads: bool, cx: &mut Context<'_>) -> Poll<Progress> {
        match self.poll_write(cx) {
            Poll::Ready(Some(progress)) => return Poll::Ready(progress),
            Poll::Ready(None) | Poll::Pending => {}
        }
        if !reads {
            return Poll::Pending;
        }
        match self.socket.poll_next_unpin(cx) {
            Poll::Pending if std::mem::take(&mut self.has_texts) => Poll::Ready(Progress::Drained),
            Poll::Pending => Poll::Pending,
            Poll::Ready(None) => Poll::Ready(Progress::Ended(None, String::new())),
            Poll::Ready(Some(Err(error))) => Poll::Ready(ended(&error)),
            Poll::Ready(Some(Ok(message))) => Poll::Ready(self.received(message)),
        }
    }

    /// `Ready(None)`: there is nothing to write.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<Option<Progress>> {
        if !self.is_backed_up() {
            return Poll::Ready(None);
        }
        while !self.outgoing.is_empty() {
            match self.socket.poll_ready_unpin(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(error)) => return Poll::Ready(Some(ended(&error))),
                Poll::Ready(Ok(())) => {}
            }
            if let Some(message) = self.outgoing.pop_front()
                && let Err(error) = self.socket.start_send_unpin(message)
            {
                return Poll::Ready(Some(ended(&error)));
            }
            self.is_unflushed = true;
        }
        match self.socket.poll_flush_unpin(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Err(error)) => Poll::Ready(Some(ended(&error))),
            Poll::Ready(Ok(())) => {
                self.is_unflushed = false;
                Poll::Ready(Some(Progress::Flushed))
            }
        }
    }

    fn received(&mut self, message: Message) -> Progress {
        match message {
            Message::Text(text) => {
                self.has_texts = true;
                Progress::Text(text.as_str().to_owned())
            }
            Message::Ping(_) => {
                // The answer is queued inside the socket; reading on sends it unless writes are blocked.
                self.is_unflushed = true;
                Progress::Heard
            }
            Message::Close(Some(frame)) => Progress::Ended(Some(frame.code.into()), frame.reason.as_str().to_owned()),
            Message::Close(None) => Progress::Ended(None, "the relay closed the connection".to_owned()),
            Message::Binary(_) | Message::Pong(_) | Message::Frame(_) => Progress::Heard,
        }
    }

    /// Closes politely: sends what is queued and a close frame, and waits a little for the relay's.
    pub(super) async fn close(mut self, code: u16) {
        let frame = CloseFrame { code: CloseCode::from(code), reason: Default::default() };
        let close = async {
            for message in std::mem::take(&mut self.outgoing) {
                self.socket.feed(message).await?;
            }
            self.socket.close(Some(frame)).await?;
            while let Some(message) = self.socket.next().await {
                message?;
            }
            Ok::<(), Error>(())
        };
        // Whether the relay answers or not, the connection is given up.
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, close).await;
    }
}

fn ended(error: &Error) -> Progress {
    let details = match error {
        Error::ConnectionClosed | Error::AlreadyClosed => String::new(),
        Error::Io(error) => format!("the connection broke: {error}"),
        Error::Protocol(error) => format!("the connection broke: {error}"),
        Error::Capacity(error) => format!("the relay sent too large a frame: {error}"),
        error => format!("the connection broke: {error}"),
    };
    Progress::Ended(None, details)
}
