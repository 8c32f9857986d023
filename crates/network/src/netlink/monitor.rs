//! Hearing of changes to this host's addresses (rtnetlink's multicast group), instead of looking again and again.

use super::NetlinkError;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recv, socket_with};
use tokio::sync::watch;

/// RTMGRP_IPV4_IFADDR of linux/rtnetlink.h.
const IPV4_ADDRESSES: u32 = 0x10;

/// A counter that rises with every change of an IPv4 address of this network namespace. Its thread sleeps in the
/// kernel and ends with the process.
pub fn address_changes() -> Result<watch::Receiver<u64>, NetlinkError> {
    let fd = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    bind(&fd, &SocketAddrNetlink::new(0, IPV4_ADDRESSES))?;
    let (changed, changes) = watch::channel(0);
    let listen = move || {
        let mut buffer = [0; 8192];
        // A burst that overflows the socket's buffer is reported as an error, and is a change too.
        while !changed.is_closed() {
            let _ = recv(&fd, &mut buffer[..], RecvFlags::empty());
            changed.send_modify(|count| *count += 1);
        }
    };
    let thread =
        std::thread::Builder::new().name("address-monitor".to_owned()).stack_size(64 * 1024).spawn(listen);
    thread.map_err(|error| NetlinkError::Refused { what: "start the address monitor".to_owned(), error })?;
    Ok(changes)
}
