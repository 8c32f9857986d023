//! nftables: tables, chains, sets and rules as messages of one transaction (linux/netfilter/nf_tables.h). Only the
//! expressions that the service proxy needs.

use super::{APPEND, CREATE, Message};
use crate::range::Range;

/// nftables among the netfilter subsystems.
pub const SUBSYSTEM: u16 = 10;
/// Begin of a transaction.
pub const BATCH_BEGIN: u16 = 0x10;
/// End of a transaction.
pub const BATCH_END: u16 = 0x11;

const FAMILY_V4: u8 = 2;
const LIST_ELEMENT: u16 = 1;
const DATA_VERDICT: u32 = 0xffff_ff00;

/// The verdict register.
const VERDICT: u32 = 0;
/// First general register; those of four bytes that follow in it are 9, 10, 11.
pub const R1: u32 = 1;
/// Second word of the first register.
pub const R1_1: u32 = 9;
/// Third word of the first register.
pub const R1_2: u32 = 10;
/// Second general register.
pub const R2: u32 = 2;

/// Set flags.
pub mod flags {
    /// Made by one rule and gone with it.
    pub const ANONYMOUS: u32 = 0x1;
    /// Elements never change.
    pub const CONSTANT: u32 = 0x2;
    /// Maps keys to data.
    pub const MAP: u32 = 0x8;
    /// Elements expire.
    pub const TIMEOUT: u32 = 0x10;
    /// Rules add elements.
    pub const DYNAMIC: u32 = 0x20;
}

/// How nft(8) shows a key or value; the kernel only looks at lengths.
pub mod types {
    /// An IPv4 address.
    pub const ADDRESS: u32 = 7;
    /// A protocol number.
    pub const PROTOCOL: u32 = 12;
    /// A port.
    pub const PORT: u32 = 13;
    /// A number of four bytes in the machine's order.
    pub const INTEGER: u32 = 4;
    /// Parts one after the other.
    pub const fn concat(parts: &[u32]) -> u32 {
        let (mut all, mut i) = (0, 0);
        while i < parts.len() {
            all = (all << 6) | parts[i];
            i += 1;
        }
        all
    }
}

/// Where a packet goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Let through.
    Accept,
    /// Throw away.
    Drop,
    /// To another chain, and back at its end.
    Jump(String),
    /// To another chain for good.
    Goto(String),
}

/// Data of a map's element.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Data {
    /// Bytes.
    Value(Vec<u8>),
    /// A verdict.
    Verdict(Verdict),
}

fn message(command: u16, flags: u16) -> Message {
    Message::new((SUBSYSTEM << 8) | command, flags, &[FAMILY_V4, 0, 0, 0])
}

fn write_verdict(m: &mut Message, verdict: &Verdict) {
    let (code, chain) = match verdict {
        Verdict::Accept => (1, None),
        Verdict::Drop => (0, None),
        Verdict::Jump(chain) => (-3i32, Some(chain)),
        Verdict::Goto(chain) => (-4, Some(chain)),
    };
    m.nested(2, |v| {
        v.big(1, code.cast_unsigned());
        if let Some(chain) = chain {
            v.text(2, chain);
        }
    });
}

/// A table and what is in it, as messages.
pub struct Table<'a>(pub &'a str);

impl Table<'_> {
    /// Makes the table if it is not there.
    pub fn add(&self) -> Message {
        let mut m = message(0, CREATE);
        m.text(1, self.0);
        m
    }

    /// Removes the table with everything in it; it must be there.
    pub fn delete(&self) -> Message {
        let mut m = message(2, 0);
        m.text(1, self.0);
        m
    }

    /// Makes a chain that others jump to.
    pub fn chain(&self, name: &str) -> Message {
        let mut m = message(3, CREATE);
        m.text(1, self.0).text(3, name);
        m
    }

    /// Makes a chain that packets enter at a hook.
    pub fn base_chain(&self, name: &str, kind: &str, hook: u32, priority: i32) -> Message {
        let mut m = self.chain(name);
        m.nested(4, |h| {
            h.big(1, hook).big(2, priority.cast_unsigned());
        });
        m.big(5, 1).text(7, kind);
        m
    }

    /// Removes all rules of a chain.
    pub fn flush(&self, chain: &str) -> Message {
        let mut m = message(8, 0);
        m.text(1, self.0).text(2, chain);
        m
    }

    /// Removes an empty chain that nobody jumps to.
    pub fn delete_chain(&self, name: &str) -> Message {
        let mut m = message(5, 0);
        m.text(1, self.0).text(3, name);
        m
    }

    /// Makes a set or map. `id` names it within the transaction. `data` is the type and length of a map's values,
    /// `None` for verdicts.
    #[allow(clippy::too_many_arguments)]
    pub fn set(
        &self,
        name: &str,
        id: u32,
        set_flags: u32,
        key: (u32, u32),
        data: Option<(u32, u32)>,
        timeout_ms: u64,
    ) -> Message {
        let mut m = message(9, CREATE);
        m.text(1, self.0).text(2, name).big(3, set_flags).big(4, key.0).big(5, key.1).big(10, id);
        if set_flags & flags::MAP != 0 {
            match data {
                Some((kind, length)) => m.big(6, kind).big(7, length),
                None => m.big(6, DATA_VERDICT),
            };
        }
        if key.0 == types::INTEGER {
            // For nft(8): the key is in the machine's byte order.
            m.attr(13, &[0, 4, 1, 0, 0, 0]);
        }
        if timeout_ms > 0 {
            m.attr(11, &timeout_ms.to_be_bytes());
        }
        m
    }

    /// Removes a set.
    pub fn delete_set(&self, name: &str) -> Message {
        let mut m = message(11, 0);
        m.text(1, self.0).text(2, name);
        m
    }

    /// Adds elements to a set, in as many messages as their size needs.
    pub fn elements(&self, set: &str, id: u32, elements: &[(Vec<u8>, Option<Data>)]) -> Vec<Message> {
        self.change_elements(12, CREATE, set, id, elements)
    }

    /// Takes elements out of a set; they must be there.
    pub fn delete_elements(&self, set: &str, keys: &[Vec<u8>]) -> Vec<Message> {
        let elements: Vec<(Vec<u8>, Option<Data>)> = keys.iter().map(|k| (k.clone(), None)).collect();
        self.change_elements(14, 0, set, 0, &elements)
    }

    fn change_elements(
        &self,
        command: u16,
        how: u16,
        set: &str,
        id: u32,
        elements: &[(Vec<u8>, Option<Data>)],
    ) -> Vec<Message> {
        const PER_MESSAGE: usize = 400; // an attribute holds 64 KiB at most
        let part = |part: &[(Vec<u8>, Option<Data>)]| {
            let mut m = message(command, how);
            m.text(1, self.0).text(2, set);
            if id > 0 {
                m.big(4, id);
            }
            m.nested(3, |list| {
                for (key, data) in part {
                    list.nested(LIST_ELEMENT, |element| {
                        element.nested(1, |k| {
                            k.attr(1, key);
                        });
                        match data {
                            Some(Data::Value(value)) => {
                                element.nested(2, |d| {
                                    d.attr(1, value);
                                });
                            }
                            Some(Data::Verdict(verdict)) => {
                                element.nested(2, |d| write_verdict(d, verdict));
                            }
                            None => {}
                        }
                    });
                }
            });
            m
        };
        elements.chunks(PER_MESSAGE).map(part).collect()
    }

    /// Adds a rule at the end of a chain.
    pub fn rule(&self, chain: &str, expressions: &[Expr]) -> Message {
        let mut m = message(6, CREATE | APPEND);
        m.text(1, self.0).text(2, chain).nested(4, |list| {
            for expression in expressions {
                list.nested(LIST_ELEMENT, |e| expression.write(e));
            }
        });
        m
    }
}

/// One step of a rule.
#[derive(Clone, Debug)]
pub enum Expr {
    /// Loads a field of the IPv4 header: offset, length, register.
    Network(u32, u32, u32),
    /// Loads a field of the transport header.
    Transport(u32, u32, u32),
    /// Loads the transport protocol (one byte).
    Protocol(u32),
    /// Loads the index of the link that the packet came over.
    InputLink(u32),
    /// Goes on if the register equals the bytes.
    Equal(u32, Vec<u8>),
    /// Goes on if it does not.
    NotEqual(u32, Vec<u8>),
    /// Keeps the bits of a mask in a register of four bytes.
    Mask(u32, [u8; 4]),
    /// Goes on if the register is in the set.
    In(String, u32),
    /// Looks the register up in a verdict map and follows it.
    VerdictMap(&'static str, u32),
    /// Looks the register up in an anonymous map of this transaction (by id) and loads what it finds.
    Load(u32, u32, u32),
    /// Loads bytes.
    Immediate(u32, Vec<u8>),
    /// Loads a random number below the bound.
    Random(u32, u32),
    /// Loads the type of the destination address (2 is local).
    DestinationType(u32),
    /// Loads the type of the source address.
    SourceType(u32),
    /// Loads the connection's status bits ([`STATUS_DNAT`]).
    ConnectionStatus(u32),
    /// Sends the connection elsewhere: registers of address and port.
    Dnat(u32, u32),
    /// Gives the connection this host's address.
    Masquerade,
    /// Refuses with a TCP reset.
    RejectReset,
    /// Refuses with ICMP "port unreachable".
    RejectUnreachable,
    /// Adds the register to a set, or renews it there.
    Remember(String, u32),
    /// A verdict.
    Verdict(Verdict),
}

/// Type of a local address, as [`Expr::DestinationType`] loads it.
pub const LOCAL: u32 = 2;
/// Status bit of a connection whose destination was translated.
pub const STATUS_DNAT: u32 = 0x20;

/// IPv4 header: source address.
pub const SOURCE: (u32, u32) = (12, 4);
/// IPv4 header: destination address.
pub const DESTINATION: (u32, u32) = (16, 4);
/// Transport header: destination port.
pub const PORT: (u32, u32) = (2, 2);

impl Expr {
    fn write(&self, e: &mut Message) {
        let mut named = |name: &str, fill: &dyn Fn(&mut Message)| {
            e.text(1, name).nested(2, |data| fill(data));
        };
        let value = |m: &mut Message, kind: u16, bytes: &[u8]| {
            m.nested(kind, |d| {
                d.attr(1, bytes);
            });
        };
        match self {
            Self::Network(offset, length, to) => named("payload", &|m| {
                m.big(1, *to).big(2, 1).big(3, *offset).big(4, *length);
            }),
            Self::Transport(offset, length, to) => named("payload", &|m| {
                m.big(1, *to).big(2, 2).big(3, *offset).big(4, *length);
            }),
            Self::Protocol(to) => named("meta", &|m| {
                m.big(1, *to).big(2, 16);
            }),
            Self::InputLink(to) => named("meta", &|m| {
                m.big(1, *to).big(2, 4);
            }),
            Self::Equal(register, bytes) => named("cmp", &|m| {
                m.big(1, *register).big(2, 0);
                value(m, 3, bytes);
            }),
            Self::NotEqual(register, bytes) => named("cmp", &|m| {
                m.big(1, *register).big(2, 1);
                value(m, 3, bytes);
            }),
            Self::Mask(register, mask) => named("bitwise", &|m| {
                m.big(1, *register).big(2, *register).big(3, 4);
                value(m, 4, mask);
                value(m, 5, &[0; 4]);
            }),
            Self::In(set, register) => named("lookup", &|m| {
                m.text(1, set).big(2, *register);
            }),
            Self::VerdictMap(map, register) => named("lookup", &|m| {
                m.text(1, map).big(2, *register).big(3, VERDICT);
            }),
            Self::Load(id, from, to) => named("lookup", &|m| {
                m.text(1, "__map%d").big(2, *from).big(3, *to).big(4, *id);
            }),
            Self::Immediate(register, bytes) => named("immediate", &|m| {
                m.big(1, *register);
                value(m, 2, bytes);
            }),
            Self::Random(register, bound) => named("numgen", &|m| {
                m.big(1, *register).big(2, *bound).big(3, 1).big(4, 0);
            }),
            Self::DestinationType(register) => named("fib", &|m| {
                m.big(1, *register).big(2, 3).big(3, 2);
            }),
            Self::SourceType(register) => named("fib", &|m| {
                m.big(1, *register).big(2, 3).big(3, 1);
            }),
            Self::ConnectionStatus(register) => named("ct", &|m| {
                m.big(1, *register).big(2, 2);
            }),
            Self::Dnat(address, port) => named("nat", &|m| {
                m.big(1, 1).big(2, u32::from(FAMILY_V4)).big(3, *address).big(5, *port);
            }),
            Self::Masquerade => named("masq", &|_| {}),
            Self::RejectReset => named("reject", &|m| {
                m.big(1, 1);
            }),
            Self::RejectUnreachable => named("reject", &|m| {
                m.big(1, 0).attr(2, &[3]);
            }),
            Self::Remember(set, register) => named("dynset", &|m| {
                m.text(1, set).big(3, 1).big(4, *register);
            }),
            Self::Verdict(verdict) => named("immediate", &|m| {
                m.big(1, VERDICT);
                m.nested(2, |d| write_verdict(d, verdict));
            }),
        }
    }
}

/// Goes on if the address field is in the range (or not).
pub fn in_range(field: (u32, u32), range: Range, inside: bool) -> Vec<Expr> {
    let mask = u32::MAX.checked_shl(32 - u32::from(range.prefix)).unwrap_or(0).to_be_bytes();
    let network = range.network.octets().to_vec();
    let compare = if inside { Expr::Equal(R1, network) } else { Expr::NotEqual(R1, network) };
    vec![Expr::Network(field.0, field.1, R1), Expr::Mask(R1, mask), compare]
}
