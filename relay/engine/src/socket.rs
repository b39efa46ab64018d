//! Makes the sockets that engines work on.
//!
//! Engines take sockets in blocking mode: io_uring then waits for readiness inside the kernel
//! instead of handing `EAGAIN` back (an engine that needs another mode sets it itself).
//!
//! # Invariants
//! - Every socket closes on exec.
//! - What [`SocketOptions`] set on a listener holds for every accepted connection: the kernel
//!   copies it, so that accepting costs no further system calls. A test checks each of them.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::time::Duration;

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

/// What accepted connections inherit from their listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketOptions {
    /// Bytes of unsent data that the kernel keeps for a connection (`SO_SNDBUF`; the kernel
    /// doubles it for its own overhead). `None`: the kernel's choice, which grows.
    pub send_buffer_bytes: Option<usize>,
    /// How long sent data may stay unacknowledged before the connection fails with `ETIMEDOUT`
    /// (`TCP_USER_TIMEOUT`, RFC 5482). `None`: the kernel's choice, minutes.
    pub user_timeout: Option<Duration>,
    /// Sends small segments at once (`TCP_NODELAY`).
    pub nodelay: bool,
}

impl Default for SocketOptions {
    /// No delay; the kernel's choice for the rest.
    fn default() -> Self {
        Self { send_buffer_bytes: None, user_timeout: None, nodelay: true }
    }
}

/// Opens a listening socket. `reuse_port` lets several of them share one address, with the kernel
/// spreading connections over them (`SO_REUSEPORT`); `backlog` is how many connections may wait to
/// be accepted (the kernel's `somaxconn` caps it).
///
/// # Errors
/// The operating system's: `EADDRINUSE`, `EACCES` for a low port, `EADDRNOTAVAIL`.
pub fn listen(address: SocketAddr, reuse_port: bool, backlog: u32, options: &SocketOptions) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // A restart finds connections of its predecessor in TIME_WAIT.
    socket.set_reuse_address(true)?;
    if reuse_port {
        socket.set_reuse_port(true)?;
    }
    if let Some(bytes) = options.send_buffer_bytes {
        socket.set_send_buffer_size(bytes)?;
    }
    if options.user_timeout.is_some() {
        socket.set_tcp_user_timeout(options.user_timeout)?;
    }
    socket.set_tcp_nodelay(options.nodelay)?;
    socket.bind(&SockAddr::from(address))?;
    socket.listen(i32::try_from(backlog).unwrap_or(i32::MAX))?;
    Ok(socket.into())
}

/// Starts to connect and returns at once, mostly before the connection is there: adopt the socket,
/// then write and read; both wait for the connection, and a refusal comes as
/// [`Event::Disconnected`](crate::Event::Disconnected). The socket sends without delay.
///
/// `source` chooses the local address; its port is then picked while connecting
/// (`IP_BIND_ADDRESS_NO_PORT`), so that one source address reaches as many connections as there
/// are ports for each destination.
///
/// # Errors
/// The operating system's, when the attempt fails at once: `ENETUNREACH`, `EADDRNOTAVAIL` when all
/// local ports are taken, now and then `ECONNREFUSED`.
pub fn connect_start(address: SocketAddr, source: Option<IpAddr>) -> io::Result<OwnedFd> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    socket.set_tcp_nodelay(true)?;
    if let Some(source) = source {
        bind_address_no_port(&socket)?;
        socket.bind(&SockAddr::from(SocketAddr::new(source, 0)))?;
    }
    match socket.connect(&SockAddr::from(address)) {
        Ok(()) => {}
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
        Err(error) => return Err(error),
    }
    socket.set_nonblocking(false)?;
    Ok(socket.into())
}

/// Sets `IP_BIND_ADDRESS_NO_PORT`, which holds for both address families.
fn bind_address_no_port(socket: &Socket) -> io::Result<()> {
    use std::os::fd::AsRawFd;

    let on: libc::c_int = 1;
    // SAFETY: the value points to a live c_int and the length is its size.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_BIND_ADDRESS_NO_PORT,
            (&raw const on).cast(),
            size_of_val(&on) as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::{SocketOptions, connect_start, listen};
    use socket2::{SockRef, Socket};
    use std::net::{Ipv4Addr, SocketAddr, TcpStream};
    use std::os::fd::{AsFd, AsRawFd};
    use std::time::Duration;

    const ANY_PORT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

    #[test]
    fn accepted_sockets_inherit_every_option() {
        let options = SocketOptions {
            send_buffer_bytes: Some(50_000),
            user_timeout: Some(Duration::from_millis(12_345)),
            nodelay: true,
        };
        let listener = listen(ANY_PORT, false, 16, &options).unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        let accepted = SockRef::from(&accepted);
        // The kernel doubles SO_SNDBUF.
        assert_eq!(accepted.send_buffer_size().unwrap(), 100_000);
        assert_eq!(accepted.tcp_user_timeout().unwrap(), options.user_timeout);
        assert!(accepted.tcp_nodelay().unwrap());
    }

    #[test]
    fn without_options_the_kernel_chooses() {
        let options = SocketOptions { nodelay: false, ..SocketOptions::default() };
        let listener = listen(ANY_PORT, false, 16, &options).unwrap();
        let listener = SockRef::from(&listener);
        assert!(!listener.tcp_nodelay().unwrap());
        assert_eq!(listener.tcp_user_timeout().unwrap(), None);
    }

    #[test]
    fn one_port_is_shared_only_when_asked() {
        let options = SocketOptions::default();
        let first = listen(ANY_PORT, true, 16, &options).unwrap();
        let address = first.local_addr().unwrap();
        let second = listen(address, true, 16, &options).unwrap();
        assert_eq!(second.local_addr().unwrap(), address);

        let alone = listen(ANY_PORT, false, 16, &options).unwrap();
        let error = listen(alone.local_addr().unwrap(), false, 16, &options).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EADDRINUSE));
    }

    #[test]
    fn connecting_sockets_block_are_undelayed_and_keep_their_source() {
        let listener = listen(ANY_PORT, false, 16, &SocketOptions::default()).unwrap();
        let source = Ipv4Addr::new(127, 0, 0, 2).into();
        let fd = connect_start(listener.local_addr().unwrap(), Some(source)).unwrap();
        // SAFETY: F_GETFL takes no pointers and the descriptor is open.
        let flags = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFL) };
        assert_eq!(flags & libc::O_NONBLOCK, 0);
        assert!(SockRef::from(&fd.as_fd()).tcp_nodelay().unwrap());
        let (_, peer) = listener.accept().unwrap();
        assert_eq!(peer.ip(), source);
        let socket = Socket::from(fd);
        assert!(socket.take_error().unwrap().is_none());
    }
}
