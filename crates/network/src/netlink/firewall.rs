//! Reading what is in nftables: whether a table is there, and which base chains others have put at the hooks.

use super::{ACK, DUMP, Message, NetlinkError, Socket, attributes, nft};

const FAMILY_V4: u8 = 2;
const GET_TABLE: u16 = 1;
const GET_CHAIN: u16 = 4;

/// The hook that packets on their way through this host pass.
pub const FORWARD: u32 = 2;

/// A chain that packets enter at a hook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseChain {
    /// Family as nft(8) writes it.
    pub family: &'static str,
    /// Table.
    pub table: String,
    /// Name.
    pub name: String,
    /// Number of the hook.
    pub hook: u32,
    /// Whether what no rule decides on is dropped.
    pub drops: bool,
}

/// Whether the IPv4 table is there.
pub fn has_table(socket: &mut Socket, name: &str) -> Result<bool, NetlinkError> {
    let mut message = Message::new((nft::SUBSYSTEM << 8) | GET_TABLE, ACK, &[FAMILY_V4, 0, 0, 0]);
    message.text(1, name);
    match socket.call(message, &format!("look up the nftables table {name}")) {
        Ok(_) => Ok(true),
        Err(error) if error.is_absent() => Ok(false),
        Err(error) => Err(error),
    }
}

/// The base chains of all families.
pub fn base_chains(socket: &mut Socket) -> Result<Vec<BaseChain>, NetlinkError> {
    let message = Message::new((nft::SUBSYSTEM << 8) | GET_CHAIN, DUMP, &[0, 0, 0, 0]);
    let answers = socket.call(message, "list nftables chains")?;
    Ok(answers.iter().filter_map(|answer| read(&answer.body)).collect())
}

fn read(body: &[u8]) -> Option<BaseChain> {
    let family = match body.first()? {
        1 => "inet",
        2 => "ip",
        5 => "netdev",
        7 => "bridge",
        10 => "ip6",
        _ => return None,
    };
    let rest = body.get(4..)?;
    let value = |bytes, wanted: u16| attributes(bytes).find(|(kind, _)| *kind == wanted).map(|(_, v)| v);
    let text = |wanted| Some(String::from_utf8_lossy(value(rest, wanted)?).trim_end_matches('\0').to_owned());
    let number = |v: &[u8]| v.try_into().ok().map(u32::from_be_bytes);
    Some(BaseChain {
        family,
        table: text(1)?,
        name: text(3)?,
        hook: number(value(value(rest, 4)?, 1)?)?,
        drops: value(rest, 5).and_then(number) == Some(0),
    })
}
