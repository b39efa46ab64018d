//! The listening sockets.
//!
//! With `SO_REUSEPORT` every shard has a socket of its own on the same address, and the kernel
//! spreads connections over them by a hash of the addresses.
//!
//! # Invariants
//! - Sharing is for the shards of one relay: an address that another process listens on is refused,
//!   though the kernel would let a second relay of the same user join in.

use std::io;
use std::net::{SocketAddr, TcpListener};

use relay_engine::listen;
use socket2::{Domain, Protocol, Socket, Type};

use crate::config::{Accept, Config};

/// Binds one socket for each shard that is to accept, all to one address, which it returns with the
/// port that was taken.
///
/// # Errors
/// The operating system's.
pub(crate) fn bind(config: &Config, shards: u16) -> io::Result<(Vec<TcpListener>, SocketAddr)> {
    let options = config.socket_options();
    let count = match config.accept {
        Accept::Reuseport => shards,
        Accept::Single => 1,
    };
    let is_shared = count > 1;
    if is_shared && config.listen.port() != 0 {
        claim(config.listen)?;
    }
    let first = listen(config.listen, is_shared, config.backlog, &options)?;
    let address = first.local_addr()?;
    let mut sockets = vec![first];
    for _ in 1..count {
        sockets.push(listen(address, is_shared, config.backlog, &options)?);
    }
    Ok((sockets, address))
}

/// Fails if another process listens on the address, whether it shares or not.
fn claim(address: SocketAddr) -> io::Result<()> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // A predecessor's connections in TIME_WAIT do not matter.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())
}

/// What would help, to be written behind the error.
pub(crate) fn fix(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => ": another process listens there; end it, or take another port",
        io::ErrorKind::PermissionDenied => ": take a port from 1024 on, or give the capability CAP_NET_BIND_SERVICE",
        io::ErrorKind::AddrNotAvailable => ": this machine has no such address; 0.0.0.0 listens on all it has",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::bind;
    use crate::config::{Accept, Config};
    use std::io::ErrorKind;
    use std::net::{Ipv4Addr, SocketAddr};

    fn config(listen: SocketAddr) -> Config {
        Config { listen, ..Config::default() }
    }

    fn any_port() -> Config {
        config((Ipv4Addr::LOCALHOST, 0).into())
    }

    #[test]
    fn all_shards_listen_on_the_port_that_was_taken() {
        let (sockets, address) = bind(&any_port(), 3).unwrap();
        assert_eq!(sockets.len(), 3);
        assert_ne!(address.port(), 0);
        for socket in sockets {
            assert_eq!(socket.local_addr().unwrap(), address);
        }
    }

    #[test]
    fn a_single_acceptor_has_the_only_socket() {
        let (sockets, _) = bind(&Config { accept: Accept::Single, ..any_port() }, 3).unwrap();
        assert_eq!(sockets.len(), 1);
    }

    #[test]
    fn an_address_in_use_is_refused_also_when_it_is_shared() {
        for shards in [1, 2] {
            let (_sockets, address) = bind(&any_port(), shards).unwrap();
            for others in [1, 2] {
                let error = bind(&config(address), others).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::AddrInUse, "{others} shards beside {shards}");
            }
        }
    }

    #[test]
    fn an_address_is_free_again_at_once() {
        let (sockets, address) = bind(&any_port(), 2).unwrap();
        drop(sockets);
        bind(&config(address), 2).unwrap();
    }
}
