//! The listening sockets: one per shard, all on one address, the kernel spreading connections over
//! them (SO_REUSEPORT, Linux 3.9).

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sys::socket::{
    self, AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, sockopt,
};

/// A bound and listening socket of one shard. Connections inherit TCP_NODELAY from it, so no model
/// spends a system call on it.
#[derive(Debug)]
pub struct Listener {
    socket: OwnedFd,
}

/// Connections that may wait to be accepted; the kernel caps it at net.core.somaxconn.
const BACKLOG: i32 = 4096;

/// An address that is held for several processes of one server; it takes no connections.
#[derive(Debug)]
pub struct Reservation {
    _socket: OwnedFd,
}

/// One listener per shard, all on `address`; port 0 is chosen once, for all of them. Also returns
/// the address in force.
///
/// # Errors
/// What socket(2), bind(2) or listen(2) said; EADDRINUSE also when the port's other user shares it
/// willingly, since SO_REUSEPORT would otherwise let two servers take each other's connections.
pub fn bind(address: SocketAddr, shards: usize) -> io::Result<(Vec<Listener>, SocketAddr)> {
    let (first, in_force) = claim(address)?;
    Ok((listen(first, in_force, shards)?, in_force))
}

/// Holds `address` for processes that will [`join`] it. Also returns the address in force.
///
/// # Errors
/// As [`bind`].
pub fn reserve(address: SocketAddr) -> io::Result<(Reservation, SocketAddr)> {
    let (socket, in_force) = claim(address)?;
    Ok((Reservation { _socket: socket }, in_force))
}

/// One listener per shard on an address that another process of the same server holds.
///
/// # Errors
/// What socket(2), bind(2) or listen(2) said.
pub fn join(address: SocketAddr, shards: usize) -> io::Result<Vec<Listener>> {
    listen(bound(address, true)?, address, shards)
}

/// A socket on an address that nobody else had, and that address, its port as chosen.
fn claim(address: SocketAddr) -> io::Result<(OwnedFd, SocketAddr)> {
    if address.port() != 0 {
        drop(bound(address, false)?);
    }
    let socket = bound(address, true)?;
    let name: SockaddrStorage = socket::getsockname(socket.as_raw_fd())?;
    let mut in_force = address;
    in_force.set_port(port_of(&name));
    Ok((socket, in_force))
}

/// Has `first` and what it takes besides listen on `address`, one for each shard.
fn listen(first: OwnedFd, address: SocketAddr, shards: usize) -> io::Result<Vec<Listener>> {
    let mut sockets = vec![first];
    for _ in 1..shards {
        sockets.push(bound(address, true)?);
    }
    // A socket joins its group when it listens (reuseport_alloc in net/core/sock_reuseport.c);
    // nobody knows the address yet.
    for socket in &sockets {
        socket::listen(socket, Backlog::new(BACKLOG)?)?;
    }
    let listeners = sockets.into_iter().map(|socket| Listener { socket });
    Ok(listeners.collect())
}

/// Whether accept(2) failed for the waiting client alone: it left, or its network did. The manual
/// page says to treat these like EAGAIN.
pub(super) fn is_the_clients(errno: Errno) -> bool {
    use Errno::*;
    matches!(
        errno,
        ECONNABORTED
            | EINTR
            | EPROTO
            | ENETDOWN
            | ENOPROTOOPT
            | EHOSTDOWN
            | ENONET
            | EHOSTUNREACH
            | EOPNOTSUPP
            | ENETUNREACH
    )
}

fn bound(address: SocketAddr, shared: bool) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket::socket(family, SockType::Stream, flags, None)?;
    socket::setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    socket::setsockopt(&socket, sockopt::TcpNoDelay, &true)?;
    if shared {
        socket::setsockopt(&socket, sockopt::ReusePort, &true)?;
    }
    socket::bind(socket.as_raw_fd(), &SockaddrStorage::from(address))?;
    Ok(socket)
}

fn port_of(name: &SockaddrStorage) -> u16 {
    match (name.as_sockaddr_in(), name.as_sockaddr_in6()) {
        (Some(v4), _) => v4.port(),
        (_, Some(v6)) => v6.port(),
        _ => 0,
    }
}

impl Listener {
    pub(super) fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl From<Listener> for TcpListener {
    fn from(listener: Listener) -> Self {
        listener.socket.into()
    }
}

impl From<TcpListener> for Listener {
    fn from(listener: TcpListener) -> Self {
        Self {
            socket: listener.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_zero_is_chosen_once_for_all_shards() {
        let (listeners, address) = bind("127.0.0.1:0".parse().unwrap(), 3).unwrap();
        assert_eq!(listeners.len(), 3);
        for listener in &listeners {
            let name: SockaddrStorage = socket::getsockname(listener.as_raw_fd()).unwrap();
            assert_eq!(port_of(&name), address.port());
        }
    }

    #[test]
    fn a_port_in_use_is_refused_even_if_its_user_would_share_it() {
        let (_held, address) = bind("127.0.0.1:0".parse().unwrap(), 1).unwrap();
        let error = bind(address, 1).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }
}
