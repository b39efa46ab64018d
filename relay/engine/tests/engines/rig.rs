//! An engine under test, with what it told so far.

use std::collections::VecDeque;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use relay_engine::{
    ConnectionId, Disconnect, Engine, EngineConfig, EngineKind, Event, ReadMode, SocketOptions, listen,
};
use socket2::SockRef;

/// Past this a wait has failed. No test needs more than a fraction of it.
const PATIENCE: Duration = Duration::from_secs(20);

/// Descriptors belong to the process: tests that count them run alone, the others side by side.
static PROCESS: RwLock<()> = RwLock::new(());

/// Held by a test that does not mind others.
pub(crate) fn among_others() -> RwLockReadGuard<'static, ()> {
    PROCESS.read().unwrap_or_else(PoisonError::into_inner)
}

/// Held by a test that counts what the whole process has.
pub(crate) fn alone() -> RwLockWriteGuard<'static, ()> {
    PROCESS.write().unwrap_or_else(PoisonError::into_inner)
}

/// Makes a test of each named function, once for every engine. `among_others` or `alone` says
/// whether the test minds other tests in the process.
macro_rules! for_every_engine {
    ($guard:ident: $($test:ident),+ $(,)?) => {
        for_every_engine! { @engine ring, Ring, $guard: $($test),+ }
        for_every_engine! { @engine epoll, Epoll, $guard: $($test),+ }
        for_every_engine! { @engine tokio_uring, TokioUring, $guard: $($test),+ }
    };
    (@engine $module:ident, $kind:ident, $guard:ident: $($test:ident),+) => {
        mod $module {
            $(#[test]
            fn $test() {
                let _guard = crate::rig::$guard();
                super::$test(relay_engine::EngineKind::$kind);
            })+
        }
    };
}
pub(crate) use for_every_engine;

fn make(kind: EngineKind, config: &EngineConfig) -> Box<dyn Engine> {
    match kind {
        EngineKind::Ring => Box::new(relay_engine::ring::Ring::new(config).unwrap()),
        EngineKind::TokioUring => Box::new(relay_engine::tokio_uring::TokioUring::new(config).unwrap()),
        EngineKind::Epoll => Box::new(relay_engine::epoll::Epoll::new(config).unwrap()),
    }
}

/// Small enough that many engines fit side by side.
pub(crate) fn small() -> EngineConfig {
    EngineConfig {
        submission_entries: 256,
        completion_entries: 1024,
        receive_buffers: 64,
        receive_buffer_bytes: 4096,
        ..EngineConfig::default()
    }
}

/// An [`Event`] that outlives its poll.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Told {
    Accepted(ConnectionId, SocketAddr),
    AcceptFailed(i32),
    Received(ConnectionId, Vec<u8>),
    Written(ConnectionId, Vec<u8>),
    Disconnected(ConnectionId, Disconnect),
}

impl Told {
    /// The connection that the event names.
    pub(crate) fn connection(&self) -> Option<ConnectionId> {
        match self {
            Self::Accepted(id, _) | Self::Received(id, _) | Self::Written(id, _) | Self::Disconnected(id, _) => {
                Some(*id)
            }
            Self::AcceptFailed(_) => None,
        }
    }
}

impl fmt::Debug for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Accepted(id, peer) => write!(f, "{id:?} accepted from {peer}"),
            Self::AcceptFailed(error) => write!(f, "accept failed: {error}"),
            Self::Received(id, bytes) => write!(f, "{id:?} received {}", bytes.len()),
            Self::Written(id, buffer) => write!(f, "{id:?} written {}", buffer.len()),
            Self::Disconnected(id, reason) => write!(f, "{id:?} disconnected: {reason:?}"),
        }
    }
}

impl From<Event<'_>> for Told {
    fn from(event: Event<'_>) -> Self {
        match event {
            Event::Accepted { connection, peer } => Self::Accepted(connection, peer),
            Event::AcceptFailed { error } => Self::AcceptFailed(error),
            Event::Received { connection, bytes } => {
                assert!(!bytes.is_empty(), "an empty Received");
                let copy = bytes.to_vec();
                // The sink may write into the buffer: the engine must not mind.
                bytes.fill(0xEE);
                Self::Received(connection, copy)
            }
            Event::Written { connection, buffer } => Self::Written(connection, buffer),
            Event::Disconnected { connection, reason } => Self::Disconnected(connection, reason),
        }
    }
}

/// An engine and the events that no test has looked at yet.
pub(crate) struct Rig {
    pub(crate) engine: Box<dyn Engine>,
    pub(crate) told: VecDeque<Told>,
}

impl Rig {
    pub(crate) fn new(kind: EngineKind) -> Self {
        Self::with(kind, &small())
    }

    pub(crate) fn with(kind: EngineKind, config: &EngineConfig) -> Self {
        let engine = make(kind, config);
        assert_eq!(engine.kind(), kind);
        Self { engine, told: VecDeque::new() }
    }

    /// Starts to listen, on a port of the kernel's choice.
    pub(crate) fn listen(&mut self) -> SocketAddr {
        let listener = listener();
        let address = listener.local_addr().unwrap();
        self.engine.listen(listener).unwrap();
        address
    }

    /// One poll.
    pub(crate) fn poll(&mut self, timeout: Duration) {
        let told = &mut self.told;
        self.engine.poll(Some(timeout), &mut |event| told.push_back(event.into())).unwrap();
    }

    /// Polls until `look` finds something in what was told.
    ///
    /// # Panics
    /// When patience ends; `what` then says what did not come.
    pub(crate) fn until<T>(&mut self, what: &str, mut look: impl FnMut(&mut Self) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = look(self) {
                return found;
            }
            assert!(Instant::now() < deadline, "waited in vain for {what}; told: {:?}", self.told);
            self.poll(Duration::from_millis(50));
        }
    }

    /// Polls until an event satisfies `choose`, and takes it out.
    pub(crate) fn event<T>(&mut self, what: &str, choose: impl Fn(&Told) -> Option<T>) -> T {
        self.until(what, |rig| {
            let position = rig.told.iter().position(|told| choose(told).is_some())?;
            rig.told.remove(position).and_then(|told| choose(&told))
        })
    }

    pub(crate) fn accepted(&mut self) -> ConnectionId {
        self.event("Accepted", |told| match told {
            Told::Accepted(id, _) => Some(*id),
            _ => None,
        })
    }

    pub(crate) fn received(&mut self, id: ConnectionId) -> Vec<u8> {
        self.event("Received", |told| match told {
            Told::Received(of, bytes) if *of == id => Some(bytes.clone()),
            _ => None,
        })
    }

    /// Collects `count` bytes, however they are cut, reading continuously or one by one as asked.
    pub(crate) fn collect(&mut self, id: ConnectionId, count: usize, mode: ReadMode) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(count);
        self.engine.read(id, mode);
        while bytes.len() < count {
            bytes.extend(self.received(id));
            if mode == ReadMode::Once && bytes.len() < count {
                self.engine.read(id, mode);
            }
        }
        bytes
    }

    pub(crate) fn written(&mut self, id: ConnectionId) -> Vec<u8> {
        self.event("Written", |told| match told {
            Told::Written(of, buffer) if *of == id => Some(buffer.clone()),
            _ => None,
        })
    }

    pub(crate) fn disconnected(&mut self, id: ConnectionId) -> Disconnect {
        self.event("Disconnected", |told| match told {
            Told::Disconnected(of, reason) if *of == id => Some(*reason),
            _ => None,
        })
    }

    /// A client and the engine's side of its connection.
    pub(crate) fn pair(&mut self, address: SocketAddr) -> (TcpStream, ConnectionId) {
        let client = connect(address);
        let local = client.local_addr().unwrap();
        let id = self.event("Accepted", |told| match told {
            Told::Accepted(id, peer) if *peer == local => Some(*id),
            _ => None,
        });
        (client, id)
    }

    /// Polls until the engine has seen everything that was sent before: a connection made later
    /// has been accepted and its byte received.
    pub(crate) fn settle(&mut self, address: SocketAddr) {
        use std::io::Write;
        for _ in 0..2 {
            let (mut client, id) = self.pair(address);
            client.write_all(b".").unwrap();
            assert_eq!(self.collect(id, 1, ReadMode::Once), b".");
            self.engine.close(id);
        }
    }

    /// Asserts that nothing told, and not yet looked at, names the connection.
    #[track_caller]
    pub(crate) fn assert_silent(&self, id: ConnectionId) {
        let about: Vec<_> = self.told.iter().filter(|told| told.connection() == Some(id)).collect();
        assert!(about.is_empty(), "told of {id:?}: {about:?}");
    }
}

/// A listener on a port of the kernel's choice.
pub(crate) fn listener() -> TcpListener {
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    listen(any, false, 1024, &SocketOptions::default()).unwrap()
}

/// A blocking client whose reads and writes end by themselves.
pub(crate) fn connect(address: SocketAddr) -> TcpStream {
    let client = TcpStream::connect(address).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.set_write_timeout(Some(PATIENCE)).unwrap();
    client.set_nodelay(true).unwrap();
    client
}

/// Closes a connection by RST.
pub(crate) fn reset(client: TcpStream) {
    SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
    drop(client);
}

/// A connected pair outside any engine.
pub(crate) fn socket_pair() -> (TcpStream, OwnedFd) {
    let listener = listener();
    let client = connect(listener.local_addr().unwrap());
    let (server, _) = listener.accept().unwrap();
    (client, server.into())
}

/// Bytes in which a loss, a repetition or a swap shows.
pub(crate) fn pattern(count: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut bytes = Vec::with_capacity(count + 8);
    while bytes.len() < count {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(count);
    bytes
}
