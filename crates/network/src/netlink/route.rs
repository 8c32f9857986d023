//! Links, addresses, routes and neighbours (rtnetlink(7)).

use super::{ACK, CREATE, DUMP, EXCL, Message, NetlinkError, REPLACE, Socket, attributes};
use crate::range::Range;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, BorrowedFd};

const NEW_LINK: u16 = 16;
const DEL_LINK: u16 = 17;
const GET_LINK: u16 = 18;
const NEW_ADDRESS: u16 = 20;
const DEL_ADDRESS: u16 = 21;
const GET_ADDRESS: u16 = 22;
const NEW_ROUTE: u16 = 24;
const DEL_ROUTE: u16 = 25;
const GET_ROUTE: u16 = 26;
const NEW_NEIGHBOUR: u16 = 28;

const FAMILY_V4: u8 = libc::AF_INET as u8;
const IFF_UP: u32 = 1;
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINKINFO: u16 = 18;
const IFLA_NET_NS_FD: u16 = 28;
const INFO_KIND: u16 = 1;
const INFO_DATA: u16 = 2;
const VETH_PEER: u16 = 1;
const PERMANENT: u16 = 0x80;
/// What marks routes as ours (rtm_protocol); below it are the kernel's own and well-known daemons'.
const PROTOCOL: u8 = 142;

/// Ethernet address.
pub type Mac = [u8; 6];

/// Where a route leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    /// Straight onto a link, with a preferred source address.
    Link {
        /// Interface index.
        index: u32,
        /// Source address for packets of this host.
        source: Option<Ipv4Addr>,
    },
    /// To a gateway that is reached over a link.
    Gateway {
        /// Interface index.
        index: u32,
        /// Gateway.
        gateway: Ipv4Addr,
    },
    /// Nowhere: senders are told so.
    Unreachable,
}

fn link_header(index: u32, flags: u32, change: u32) -> [u8; 16] {
    let mut header = [0; 16];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..16].copy_from_slice(&change.to_ne_bytes());
    header
}

/// The index of a link, `None` if there is none of that name.
pub fn link_index(socket: &mut Socket, name: &str) -> Result<Option<u32>, NetlinkError> {
    let mut message = Message::new(GET_LINK, ACK, &link_header(0, 0, 0));
    message.text(IFLA_IFNAME, name);
    match socket.call(message, &format!("look up link {name}")) {
        Ok(answers) => Ok(answers.first().and_then(|a| index_of(&a.body))),
        Err(error) if error.is_absent() => Ok(None),
        Err(error) => Err(error),
    }
}

fn index_of(body: &[u8]) -> Option<u32> {
    body.get(4..8)?.try_into().ok().map(u32::from_ne_bytes)
}

/// Names of all links with their indexes.
pub fn links(socket: &mut Socket) -> Result<Vec<(String, u32)>, NetlinkError> {
    let answers = socket.call(Message::new(GET_LINK, DUMP, &link_header(0, 0, 0)), "list links")?;
    let read = |body: &[u8]| {
        let name = attributes(body.get(16..)?).find(|(kind, _)| *kind == IFLA_IFNAME)?.1;
        Some((String::from_utf8_lossy(name).trim_end_matches('\0').to_owned(), index_of(body)?))
    };
    Ok(answers.iter().filter_map(|a| read(&a.body)).collect())
}

/// Makes a pair of links: `name` here, `peer` in the namespace of `namespace`.
pub fn add_veth(
    socket: &mut Socket,
    name: &str,
    mac: Mac,
    peer: &str,
    peer_mac: Mac,
    namespace: BorrowedFd<'_>,
    mtu: u32,
) -> Result<(), NetlinkError> {
    let mut message = Message::new(NEW_LINK, ACK | CREATE | EXCL, &link_header(0, IFF_UP, IFF_UP));
    message.text(IFLA_IFNAME, name).attr(IFLA_ADDRESS, &mac).number(IFLA_MTU, mtu).nested(
        IFLA_LINKINFO,
        |info| {
            info.text(INFO_KIND, "veth").nested(INFO_DATA, |data| {
                data.nested(VETH_PEER, |p| {
                    // It cannot be set up before it is tied to its other end.
                    p.raw(&link_header(0, 0, 0)).text(IFLA_IFNAME, peer).attr(IFLA_ADDRESS, &peer_mac);
                    p.number(IFLA_MTU, mtu).number(IFLA_NET_NS_FD, namespace.as_raw_fd().cast_unsigned());
                });
            });
        },
    );
    socket.call(message, &format!("make the link {name}")).map(drop)
}

/// Makes an empty bridge: a local device that needs no other and that every kernel with containers has.
pub fn add_bridge(socket: &mut Socket, name: &str) -> Result<(), NetlinkError> {
    let mut message = Message::new(NEW_LINK, ACK | CREATE | EXCL, &link_header(0, IFF_UP, IFF_UP));
    message.text(IFLA_IFNAME, name).nested(IFLA_LINKINFO, |info| {
        info.text(INFO_KIND, "bridge");
    });
    socket.call(message, &format!("make the link {name}")).map(drop)
}

/// What a VXLAN device (RFC 7348) is made with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vxlan {
    /// Network identifier.
    pub id: u32,
    /// UDP port, the same on all nodes.
    pub port: u16,
    /// Source address of what is sent.
    pub local: Ipv4Addr,
    /// The device's Ethernet address.
    pub mac: Mac,
    /// Its MTU, in bytes.
    pub mtu: u32,
}

/// Makes a VXLAN device that learns nothing: whom it can reach is written to it.
pub fn add_vxlan(socket: &mut Socket, name: &str, vxlan: Vxlan) -> Result<(), NetlinkError> {
    const VXLAN_ID: u16 = 1;
    const VXLAN_LOCAL: u16 = 4;
    const VXLAN_LEARNING: u16 = 7;
    const VXLAN_PORT: u16 = 15;
    let mut message = Message::new(NEW_LINK, ACK | CREATE | EXCL, &link_header(0, IFF_UP, IFF_UP));
    message.text(IFLA_IFNAME, name).attr(IFLA_ADDRESS, &vxlan.mac).number(IFLA_MTU, vxlan.mtu);
    message.nested(IFLA_LINKINFO, |info| {
        info.text(INFO_KIND, "vxlan").nested(INFO_DATA, |data| {
            data.number(VXLAN_ID, vxlan.id)
                .attr(VXLAN_LOCAL, &vxlan.local.octets())
                .attr(VXLAN_LEARNING, &[0])
                .attr(VXLAN_PORT, &vxlan.port.to_be_bytes());
        });
    });
    socket.call(message, &format!("make the link {name}")).map(drop)
}

/// Tells a VXLAN device at which host an Ethernet address is (an entry of its forwarding database).
pub fn set_forwarding(socket: &mut Socket, index: u32, mac: Mac, host: Ipv4Addr) -> Result<(), NetlinkError> {
    const FAMILY_BRIDGE: u8 = libc::AF_BRIDGE as u8;
    const NTF_SELF: u8 = 2;
    let mut header = [0; 12];
    header[0] = FAMILY_BRIDGE;
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..10].copy_from_slice(&PERMANENT.to_ne_bytes());
    header[10] = NTF_SELF;
    let mut message = Message::new(NEW_NEIGHBOUR, ACK | CREATE | REPLACE, &header);
    message.attr(2, &mac).attr(1, &host.octets());
    socket.call(message, &format!("set the way to {host}")).map(drop)
}

/// Sets a link up.
pub fn set_up(socket: &mut Socket, index: u32) -> Result<(), NetlinkError> {
    let message = Message::new(NEW_LINK, ACK, &link_header(index, IFF_UP, IFF_UP));
    socket.call(message, "set the link up").map(drop)
}

/// Lets connections of this host's loopback addresses, once translated, go out over the link and be answered over it
/// (`route_localnet`).
pub fn allow_loopback(socket: &mut Socket, index: u32) -> Result<(), NetlinkError> {
    const IFLA_AF_SPEC: u16 = 26;
    const AF_INET: u16 = libc::AF_INET as u16;
    const IFLA_INET_CONF: u16 = 1;
    const ROUTE_LOCALNET: u16 = 26;
    let mut message = Message::new(NEW_LINK, ACK, &link_header(index, 0, 0));
    message.nested(IFLA_AF_SPEC, |families| {
        families.nested(AF_INET, |inet| {
            inet.nested(IFLA_INET_CONF, |settings| {
                settings.number(ROUTE_LOCALNET, 1);
            });
        });
    });
    socket.call(message, "configure the link").map(drop)
}

/// Removes a link (and the other end of a pair); no error if it is gone.
pub fn remove_link(socket: &mut Socket, name: &str) -> Result<(), NetlinkError> {
    let mut message = Message::new(DEL_LINK, ACK, &link_header(0, 0, 0));
    message.text(IFLA_IFNAME, name);
    match socket.call(message, &format!("remove the link {name}")) {
        Err(error) if !error.is_absent() => Err(error),
        _ => Ok(()),
    }
}

/// Gives a link an address; no error if it has it.
pub fn add_address(
    socket: &mut Socket,
    index: u32,
    address: Ipv4Addr,
    prefix: u8,
) -> Result<(), NetlinkError> {
    let mut header = [FAMILY_V4, prefix, 0, 0, 0, 0, 0, 0];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    let mut message = Message::new(NEW_ADDRESS, ACK | CREATE | REPLACE, &header);
    message.attr(2, &address.octets()).attr(1, &address.octets());
    match socket.call(message, &format!("give the link {address}/{prefix}")) {
        Err(error) if !error.is_exists() => Err(error),
        _ => Ok(()),
    }
}

/// Takes an address from a link; no error if it has not got it.
pub fn remove_address(
    socket: &mut Socket,
    index: u32,
    address: Ipv4Addr,
    prefix: u8,
) -> Result<(), NetlinkError> {
    let mut header = [FAMILY_V4, prefix, 0, 0, 0, 0, 0, 0];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    let mut message = Message::new(DEL_ADDRESS, ACK, &header);
    message.attr(2, &address.octets());
    match socket.call(message, &format!("take {address}/{prefix} from the link")) {
        Err(error) if !error.is_absent() => Err(error),
        _ => Ok(()),
    }
}

/// All IPv4 addresses of this host with their prefix and link index.
pub fn addresses(socket: &mut Socket) -> Result<Vec<(Ipv4Addr, u8, u32)>, NetlinkError> {
    let answers =
        socket.call(Message::new(GET_ADDRESS, DUMP, &[FAMILY_V4, 0, 0, 0, 0, 0, 0, 0]), "list addresses")?;
    let read = |body: &[u8]| {
        let index = u32::from_ne_bytes(body.get(4..8)?.try_into().ok()?);
        let local = attributes(body.get(8..)?)
            .find(|(kind, _)| *kind == 2)
            .or_else(|| attributes(&body[8..]).find(|(k, _)| *k == 1))?;
        Some((Ipv4Addr::from(<[u8; 4]>::try_from(local.1).ok()?), *body.get(1)?, index))
    };
    Ok(answers.iter().filter_map(|a| read(&a.body)).collect())
}

fn route_message(kind: u16, flags: u16, to: Range, via: Via, metric: u32) -> Message {
    const MAIN_TABLE: u8 = 254;
    let (route_type, scope) = match via {
        Via::Link { .. } => (1, 253),
        Via::Gateway { .. } => (1, 0),
        Via::Unreachable => (7, 0),
    };
    let on_link: u32 = if matches!(via, Via::Gateway { .. }) { 4 } else { 0 };
    let mut header = vec![FAMILY_V4, to.prefix, 0, 0, MAIN_TABLE, PROTOCOL, scope, route_type];
    header.extend_from_slice(&on_link.to_ne_bytes());
    let mut message = Message::new(kind, flags, &header);
    if to.prefix > 0 {
        message.attr(1, &to.network.octets());
    }
    match via {
        Via::Link { index, source } => {
            message.number(4, index);
            if let Some(source) = source {
                message.attr(7, &source.octets());
            }
        }
        Via::Gateway { index, gateway } => {
            message.number(4, index).attr(5, &gateway.octets());
        }
        Via::Unreachable => {}
    }
    if metric > 0 {
        message.number(6, metric);
    }
    message
}

/// Adds or replaces a route.
pub fn set_route(socket: &mut Socket, to: Range, via: Via, metric: u32) -> Result<(), NetlinkError> {
    let message = route_message(NEW_ROUTE, ACK | CREATE | REPLACE, to, via, metric);
    socket.call(message, &format!("add the route to {to}")).map(drop)
}

/// Removes a route; no error if it is gone.
pub fn remove_route(socket: &mut Socket, to: Range, via: Via, metric: u32) -> Result<(), NetlinkError> {
    let message = route_message(DEL_ROUTE, ACK, to, via, metric);
    match socket.call(message, &format!("remove the route to {to}")) {
        Err(error) if !error.is_absent() => Err(error),
        _ => Ok(()),
    }
}

/// Removes a route of ours, wherever it leads; no error if it is gone.
pub fn remove_any_route(socket: &mut Socket, to: Range) -> Result<(), NetlinkError> {
    // Scope "nowhere", no type and no metric match everything.
    let header = [FAMILY_V4, to.prefix, 0, 0, 254, PROTOCOL, 255, 0, 0, 0, 0, 0];
    let mut message = Message::new(DEL_ROUTE, ACK, &header);
    if to.prefix > 0 {
        message.attr(1, &to.network.octets());
    }
    match socket.call(message, &format!("remove the route to {to}")) {
        Err(error) if !error.is_absent() => Err(error),
        _ => Ok(()),
    }
}

/// A route of the main table, as far as conflicts and sources go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Destination.
    pub to: Range,
    /// Link index, 0 if none.
    pub link: u32,
    /// Whether Knarr made it.
    pub ours: bool,
    /// Whether it has a gateway.
    pub gateway: bool,
    /// The gateway.
    pub via: Option<Ipv4Addr>,
}

/// All IPv4 routes of the main table.
pub fn routes(socket: &mut Socket) -> Result<Vec<Route>, NetlinkError> {
    let mut header = [0; 12];
    header[0] = FAMILY_V4;
    let answers = socket.call(Message::new(GET_ROUTE, DUMP, &header), "list routes")?;
    let read = |body: &[u8]| {
        let (prefix, table, protocol) = (*body.get(1)?, *body.get(4)?, *body.get(5)?);
        let value = |wanted: u16| {
            attributes(body.get(12..).unwrap_or_default()).find(|(kind, _)| *kind == wanted).map(|(_, v)| v)
        };
        let to =
            value(1).and_then(|v| <[u8; 4]>::try_from(v).ok()).map_or(Ipv4Addr::UNSPECIFIED, Ipv4Addr::from);
        let link = value(4).and_then(|v| v.try_into().ok()).map_or(0, u32::from_ne_bytes);
        (table == 254).then_some(Route {
            to: Range::new(to, prefix),
            link,
            ours: protocol == PROTOCOL,
            gateway: value(5).is_some(),
            via: value(5).and_then(|v| <[u8; 4]>::try_from(v).ok()).map(Ipv4Addr::from),
        })
    };
    Ok(answers.iter().filter_map(|a| read(&a.body)).collect())
}

/// Tells a link the Ethernet address of a neighbour for good, so that nobody needs to ask.
pub fn set_neighbour(
    socket: &mut Socket,
    index: u32,
    address: Ipv4Addr,
    mac: Mac,
) -> Result<(), NetlinkError> {
    let mut header = [0; 12];
    header[0] = FAMILY_V4;
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..10].copy_from_slice(&PERMANENT.to_ne_bytes());
    let mut message = Message::new(NEW_NEIGHBOUR, ACK | CREATE | REPLACE, &header);
    message.attr(1, &address.octets()).attr(2, &mac);
    socket.call(message, &format!("set the neighbour {address}")).map(drop)
}
