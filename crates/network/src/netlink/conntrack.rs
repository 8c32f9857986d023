//! Connection tracking: forgetting flows that lead to where nobody is any more. UDP has no end of connection, so a
//! client that keeps its port (a resolver, say) would go on talking to a pod that is gone.

use super::{ACK, DUMP, Message, NetlinkError, Socket, attributes};
use std::collections::HashSet;
use std::net::Ipv4Addr;

const SUBSYSTEM: u16 = 1;
const GET: u16 = 1;
const DELETE: u16 = 2;
const FAMILY_V4: u8 = 2;
const ORIGINAL: u16 = 1;
const REPLY: u16 = 2;
const NESTED: u16 = 0x8000;

/// Forgets the UDP flows that were sent on to one of `gone` (address and port) from another destination.
pub fn forget_udp(socket: &mut Socket, gone: &HashSet<(Ipv4Addr, u16)>) -> Result<usize, NetlinkError> {
    let dump = Message::new((SUBSYSTEM << 8) | GET, DUMP, &[FAMILY_V4, 0, 0, 0]);
    let flows = socket.call(dump, "list connections")?;
    let mut forgotten = 0;
    for flow in flows {
        let body = flow.body.get(4..).unwrap_or_default();
        let tuple = |kind: u16| attributes(body).find(|(k, _)| *k == kind).map(|(_, v)| v);
        let (Some(original), Some(reply)) = (tuple(ORIGINAL), tuple(REPLY)) else { continue };
        let (Some((_, to, to_port, protocol)), Some((from, _, _, _))) = (read(original), read(reply)) else {
            continue;
        };
        let from_port = source_port(reply).unwrap_or_default();
        if protocol != 17 || !gone.contains(&(from, from_port)) || (to, to_port) == (from, from_port) {
            continue;
        }
        let mut delete = Message::new((SUBSYSTEM << 8) | DELETE, ACK, &[FAMILY_V4, 0, 0, 0]);
        delete.attr(ORIGINAL | NESTED, original);
        match socket.call(delete, "forget a connection") {
            Err(error) if !error.is_absent() => return Err(error),
            _ => forgotten += 1,
        }
    }
    Ok(forgotten)
}

/// Source, destination, destination port and protocol of a tuple.
fn read(tuple: &[u8]) -> Option<(Ipv4Addr, Ipv4Addr, u16, u8)> {
    let find = |bytes, kind| attributes(bytes).find(|(k, _)| *k == kind).map(|(_, v)| v);
    let (ip, ports) = (find(tuple, 1)?, find(tuple, 2)?);
    let address = |kind| find(ip, kind).and_then(|v| <[u8; 4]>::try_from(v).ok()).map(Ipv4Addr::from);
    let port = find(ports, 3).and_then(|v| v.try_into().ok()).map_or(0, u16::from_be_bytes);
    Some((address(1)?, address(2)?, port, *find(ports, 1)?.first()?))
}

fn source_port(tuple: &[u8]) -> Option<u16> {
    let ports = attributes(tuple).find(|(k, _)| *k == 2)?.1;
    let source = attributes(ports).find(|(k, _)| *k == 2)?.1;
    Some(u16::from_be_bytes(source.try_into().ok()?))
}
