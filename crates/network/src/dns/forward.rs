//! Asking the host's resolvers for names outside the cluster: one after the other when they do not answer, with a
//! small cache. Messages are passed on as they are, but for their id and the age of cached answers.

use super::resolv::Upstreams;
use hickory_proto::op::{Message, Query};
use knarr_base::clock::timeout;
use knarr_base::{ClockRef, RngRef};
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Mutex;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

/// How long a resolver may take before the next one is asked; resolv.conf's default is five seconds, clients' too.
const ATTEMPT: Duration = Duration::from_secs(2);
/// How often the list of resolvers is read again.
const READ_AGAIN: Duration = Duration::from_secs(10);
/// Answers are kept at most this long, as in the configuration of CoreDNS that kubeadm writes.
const KEEP: Duration = Duration::from_secs(30);
const CACHE_ENTRIES: usize = 2048;
const HEADER_BYTES: usize = 12;
const TRUNCATED: u8 = 0x02;
const NO_ERROR: u8 = 0;
const NO_SUCH_NAME: u8 = 3;

#[derive(PartialEq, Eq, Hash, Clone)]
struct Question {
    /// Name, type and class in wire form and lower case.
    text: String,
    /// Answers with signatures differ.
    dnssec: bool,
}

struct Kept {
    since: Instant,
    lifetime: Duration,
    message: Vec<u8>,
}

struct State {
    servers: Vec<SocketAddr>,
    read_at: Option<Instant>,
    /// The server that answered last.
    good: usize,
    cache: HashMap<Question, Kept>,
}

/// The way to the resolvers.
pub struct Forwarder {
    upstreams: Upstreams,
    own: SocketAddr,
    clock: ClockRef,
    rng: RngRef,
    state: Mutex<State>,
}

impl Forwarder {
    /// Asks `upstreams`, but never `own`, which is this server.
    pub fn new(upstreams: Upstreams, own: SocketAddr, clock: ClockRef, rng: RngRef) -> Self {
        let state = Mutex::new(State { servers: Vec::new(), read_at: None, good: 0, cache: HashMap::new() });
        Self { upstreams, own, clock, rng, state }
    }

    /// The answer to `query`, whose question is `question`, with the query's id. `None` when nobody answers.
    pub async fn ask(&self, query: &[u8], question: &Query, dnssec: bool, tcp: bool) -> Option<Vec<u8>> {
        let id = query.get(..2)?.try_into().ok().map(u16::from_be_bytes)?;
        let key = Question {
            text: format!(
                "{} {} {}",
                question.name().to_lowercase(),
                question.query_type(),
                question.query_class()
            ),
            dnssec,
        };
        if let Some(mut kept) = self.kept(&key, query)
            && (!tcp || kept[2] & TRUNCATED == 0)
        {
            kept[..2].copy_from_slice(&id.to_be_bytes());
            return Some(kept);
        }
        let (servers, first) = self.servers();
        let mut refusal = None;
        for step in 0..servers.len() {
            let at = (first + step) % servers.len();
            let exchange = async {
                let answer = self.exchange_udp(servers[at], query, question).await?;
                if tcp && answer[2] & TRUNCATED != 0 {
                    return exchange_tcp(servers[at], query).await;
                }
                Ok(answer)
            };
            match timeout(&*self.clock, ATTEMPT, exchange).await {
                Some(Ok(mut answer)) => {
                    answer[..2].copy_from_slice(&id.to_be_bytes());
                    if [NO_ERROR, NO_SUCH_NAME].contains(&(answer[3] & 0xf)) {
                        self.keep(key, at, &answer);
                        return Some(answer);
                    }
                    refusal.get_or_insert(answer);
                }
                Some(Err(error)) => {
                    tracing::debug!(server = %servers[at], %error, "a resolver does not answer");
                }
                None => tracing::debug!(server = %servers[at], "a resolver takes too long"),
            }
        }
        refusal
    }

    /// An answer that was kept, as old as it is now.
    fn kept(&self, key: &Question, query: &[u8]) -> Option<Vec<u8>> {
        let now = self.clock.instant();
        let mut state = self.state();
        let kept = state.cache.get(key)?;
        let age = now.saturating_duration_since(kept.since);
        if age >= kept.lifetime {
            state.cache.remove(key);
            return None;
        }
        let mut message = kept.message.clone();
        drop(state);
        // The question is given back as it was put: some resolvers vary its case to tell answers apart.
        let end = name_end(query, HEADER_BYTES)?;
        message.get_mut(HEADER_BYTES..end)?.copy_from_slice(query.get(HEADER_BYTES..end)?);
        for at in ttls(&message)? {
            let field = message.get_mut(at..at + 4)?;
            let ttl = u32::from_be_bytes(field.try_into().ok()?);
            let left = ttl.saturating_sub(u32::try_from(age.as_secs()).unwrap_or(u32::MAX));
            field.copy_from_slice(&left.to_be_bytes());
        }
        Some(message)
    }

    fn keep(&self, key: Question, server: usize, answer: &[u8]) {
        let mut state = self.state();
        state.good = server;
        let read = |at: usize| Some(u32::from_be_bytes(answer.get(at..at + 4)?.try_into().ok()?));
        let Some(all) = ttls(answer) else { return };
        // Without any record there is nothing that says how long it holds.
        let Some(shortest) = all.into_iter().filter_map(read).min() else { return };
        let lifetime = Duration::from_secs(shortest.into()).min(KEEP);
        if lifetime.is_zero() {
            return;
        }
        let now = self.clock.instant();
        if state.cache.len() >= CACHE_ENTRIES {
            state.cache.retain(|_, kept| now.saturating_duration_since(kept.since) < kept.lifetime);
            if state.cache.len() >= CACHE_ENTRIES {
                state.cache.clear();
            }
        }
        state.cache.insert(key, Kept { since: now, lifetime, message: answer.to_vec() });
    }

    fn servers(&self) -> (Vec<SocketAddr>, usize) {
        let now = self.clock.instant();
        let mut state = self.state();
        if state.read_at.is_none_or(|at| now.saturating_duration_since(at) >= READ_AGAIN) {
            let servers: Vec<SocketAddr> =
                self.upstreams.read().into_iter().filter(|s| *s != self.own).collect();
            if servers != state.servers {
                (state.servers, state.good) = (servers, 0);
            }
            state.read_at = Some(now);
        }
        (state.servers.clone(), state.good)
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("the forwarder's lock is never poisoned")
    }

    /// One question from a port of its own under an id of its own, so that answers are hard to forge.
    async fn exchange_udp(
        &self,
        server: SocketAddr,
        query: &[u8],
        question: &Query,
    ) -> std::io::Result<Vec<u8>> {
        let any: IpAddr = match server {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = UdpSocket::bind((any, 0)).await?;
        socket.connect(server).await?;
        let id = (self.rng.u64() as u16).to_be_bytes();
        let mut message = query.to_vec();
        message[..2].copy_from_slice(&id);
        socket.send(&message).await?;
        let mut buffer = vec![0; 65_535];
        loop {
            let length = socket.recv(&mut buffer).await?;
            let answer = &buffer[..length];
            if length >= HEADER_BYTES && answer[..2] == id && answers(answer, question) {
                return Ok(answer.to_vec());
            }
        }
    }
}

/// Whether a message is an answer to the question.
fn answers(message: &[u8], question: &Query) -> bool {
    let same = |asked: &Query| {
        asked.query_type() == question.query_type()
            && asked.name().to_lowercase() == question.name().to_lowercase()
    };
    // Errors may come without the question.
    Message::from_vec(message).map_or(message[2] & 0x80 != 0, |m| m.queries.first().is_none_or(same))
}

async fn exchange_tcp(server: SocketAddr, query: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    stream.write_all(&super::server::framed(query)).await?;
    let length = stream.read_u16().await?;
    let mut answer = vec![0; length.into()];
    stream.read_exact(&mut answer).await?;
    if answer.len() < HEADER_BYTES || answer[..2] != query[..2] {
        return Err(std::io::ErrorKind::InvalidData.into());
    }
    Ok(answer)
}

/// Where the name at `at` ends (RFC 1035, 4.1.4).
fn name_end(message: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *message.get(at)? {
            0 => return Some(at + 1),
            length if length >= 0xc0 => return Some(at + 2),
            length => at += 1 + usize::from(length),
        }
    }
}

/// Where the times to live of all records are, but for EDNS' pseudo-record.
fn ttls(message: &[u8]) -> Option<Vec<usize>> {
    const EDNS: u16 = 41;
    let number = |at: usize| Some(u16::from_be_bytes(message.get(at..at + 2)?.try_into().ok()?));
    let mut at = HEADER_BYTES;
    for _ in 0..number(4)? {
        at = name_end(message, at)? + 4;
    }
    let mut found = Vec::new();
    for _ in 0..u32::from(number(6)?) + u32::from(number(8)?) + u32::from(number(10)?) {
        at = name_end(message, at)?;
        if number(at)? != EDNS {
            found.push(at + 4);
        }
        at += 10 + usize::from(number(at + 8)?);
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::rr::rdata::A;
    use hickory_proto::rr::{Name, RData, Record, RecordType};

    #[test]
    fn times_to_live_are_found_and_garbage_is_refused() {
        let mut message = Message::query();
        let name = Name::from_ascii("example.org.").unwrap();
        message.add_query(Query::query(name.clone(), RecordType::A));
        for ttl in [300, 77] {
            message.add_answer(Record::from_rdata(name.clone(), ttl, RData::A(A::new(192, 0, 2, 1))));
        }
        message.set_edns(hickory_proto::op::Edns::new());
        let bytes = message.to_vec().unwrap();
        let read = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap());
        assert_eq!(ttls(&bytes).unwrap().into_iter().map(read).collect::<Vec<_>>(), [300, 77]);
        for cut in 0..bytes.len() {
            let _ = ttls(&bytes[..cut]);
        }
        assert_eq!(ttls(&bytes[..bytes.len() - 15]), None);
    }
}
