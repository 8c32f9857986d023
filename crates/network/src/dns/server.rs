//! Serving DNS over UDP and TCP (RFC 1035, EDNS RFC 6891, TCP RFC 7766): names of the cluster from memory, all others
//! by asking on.

use super::forward::Forwarder;
use super::zone::{Outcome, Zone};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RecordType};
use knarr_base::clock::timeout;
use knarr_base::{ClockRef, RngRef};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

/// Answers over UDP stay below what every path carries in one piece (DNS flag day 2020).
const UDP_BYTES: usize = 1232;
/// Without EDNS clients take this much.
const CLASSIC_BYTES: usize = 512;
/// Questions on their way to resolvers; further ones are dropped, clients ask again.
const MOST_PENDING: usize = 1000;
/// TCP connections.
const MOST_CONNECTIONS: usize = 256;
/// A silent TCP client is left after this.
const IDLE: Duration = Duration::from_secs(10);
/// An alias may lead to another one; this often.
const MOST_ALIASES: usize = 8;

/// The server's parts.
pub struct Server {
    /// The cluster's names.
    pub zone: Zone,
    /// Everybody else's.
    pub forwarder: Forwarder,
    /// Wall time for serial numbers.
    pub clock: ClockRef,
    /// For the order of addresses and ids.
    pub rng: RngRef,
}

/// What becomes of a message.
enum Reply {
    /// This is the answer; `None` for what deserves none.
    Now(Option<Vec<u8>>),
    /// Somebody else has to be asked.
    Later(Box<(Message, Query)>),
}

/// A message as it travels over TCP: after its length.
pub fn framed(message: &[u8]) -> Vec<u8> {
    let length = u16::try_from(message.len()).unwrap_or(u16::MAX);
    let mut bytes = length.to_be_bytes().to_vec();
    bytes.extend_from_slice(&message[..length.into()]);
    bytes
}

impl Server {
    /// Serves UDP until the task ends.
    pub async fn serve_udp(self: Arc<Self>, socket: UdpSocket) {
        let mut pending = FuturesUnordered::new();
        let mut buffer = vec![0; 65_535];
        loop {
            tokio::select! {
                received = socket.recv_from(&mut buffer) => match received {
                    Ok((length, from)) => match self.reply(&buffer[..length], false) {
                        Reply::Now(Some(answer)) => send(&socket, &answer, from).await,
                        Reply::Now(None) => {}
                        Reply::Later(asked) if pending.len() < MOST_PENDING => {
                            let (server, bytes) = (self.clone(), buffer[..length].to_vec());
                            pending.push(async move { (server.ask(&bytes, *asked, false).await, from) });
                        }
                        Reply::Later(_) => tracing::debug!("too many questions are waiting for resolvers"),
                    },
                    // What a client's host says about an answer that came too late.
                    Err(error) => tracing::debug!(%error, "cannot receive"),
                },
                Some((answer, from)) = pending.next() => send(&socket, &answer, from).await,
            }
        }
    }

    /// Serves TCP until the task ends.
    pub async fn serve_tcp(self: Arc<Self>, listener: TcpListener) {
        let mut connections = FuturesUnordered::new();
        loop {
            tokio::select! {
                accepted = listener.accept(), if connections.len() < MOST_CONNECTIONS => match accepted {
                    Ok((stream, _)) => connections.push(self.clone().connection(stream)),
                    Err(error) => {
                        tracing::debug!(%error, "cannot accept");
                        self.clock.sleep(Duration::from_millis(100)).await;
                    }
                },
                Some(()) = connections.next() => {}
            }
        }
    }

    async fn connection(self: Arc<Self>, mut stream: TcpStream) {
        loop {
            let read = async {
                let length = stream.read_u16().await.ok()?;
                let mut message = vec![0; length.into()];
                stream.read_exact(&mut message).await.ok()?;
                Some(message)
            };
            let Some(Some(message)) = timeout(&*self.clock, IDLE, read).await else { return };
            let answer = match self.reply(&message, true) {
                Reply::Now(Some(answer)) => answer,
                Reply::Now(None) => return,
                Reply::Later(asked) => self.ask(&message, *asked, true).await,
            };
            if !matches!(timeout(&*self.clock, IDLE, stream.write_all(&framed(&answer))).await, Some(Ok(())))
            {
                return;
            }
        }
    }

    /// Answers what can be answered at once.
    fn reply(&self, bytes: &[u8], tcp: bool) -> Reply {
        let Ok(message) = Message::from_vec(bytes) else { return Reply::Now(malformed(bytes)) };
        if message.metadata.message_type != MessageType::Query {
            return Reply::Now(None);
        }
        let [query] = message.queries.as_slice() else {
            return Reply::Now(Some(refusal(&message, ResponseCode::FormErr, tcp)));
        };
        let query = query.clone();
        let code = if message.metadata.op_code != OpCode::Query {
            Some(ResponseCode::NotImp)
        } else if message.edns.as_ref().is_some_and(|e| e.version() > 0) {
            Some(ResponseCode::BADVERS)
        } else if query.query_class() != DNSClass::IN {
            Some(ResponseCode::Refused)
        } else {
            None
        };
        if let Some(code) = code {
            return Reply::Now(Some(refusal(&message, code, tcp)));
        }
        match self.zone.answer(query.name(), query.query_type(), self.rng.u64() as usize) {
            Outcome::Elsewhere => Reply::Later(Box::new((message, query))),
            // An unknown service is not the same as none.
            _ if !self.zone.is_ready() => Reply::Now(Some(refusal(&message, ResponseCode::ServFail, tcp))),
            Outcome::Alias(record, _) if query.query_type() == RecordType::CNAME => {
                let mut answer = respond(&message);
                answer.metadata.authoritative = true;
                answer.add_answer(*record);
                Reply::Now(Some(encode(answer, &message, tcp)))
            }
            Outcome::Alias(..) => Reply::Later(Box::new((message, query))),
            outcome => Reply::Now(Some(encode(self.fill(respond(&message), outcome), &message, tcp))),
        }
    }

    fn fill(&self, mut answer: Message, outcome: Outcome) -> Message {
        answer.metadata.authoritative = true;
        match outcome {
            Outcome::Records(answers, helpful) => {
                if answers.is_empty() {
                    answer.add_authority(self.authority());
                }
                answer.add_answers(answers);
                answer.add_additionals(helpful);
            }
            _ => {
                answer.metadata.response_code = ResponseCode::NXDomain;
                answer.add_authority(self.authority());
            }
        }
        answer
    }

    fn authority(&self) -> hickory_proto::rr::Record {
        let now = self.clock.now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.zone.authority(now.as_secs() as u32)
    }

    /// Answers what somebody else has to be asked for.
    async fn ask(&self, bytes: &[u8], (message, query): (Message, Query), tcp: bool) -> Vec<u8> {
        let Outcome::Alias(record, target) = self.zone.answer(query.name(), query.query_type(), 0) else {
            let dnssec = message.edns.as_ref().is_some_and(|e| e.flags().dnssec_ok);
            return match self.forwarder.ask(bytes, &query, dnssec, tcp).await {
                Some(answer) => fitted(answer, &message, tcp),
                None => refusal(&message, ResponseCode::ServFail, tcp),
            };
        };
        let mut answer = respond(&message);
        answer.metadata.authoritative = true;
        answer.add_answer(*record);
        self.follow(&mut answer, target, query.query_type()).await;
        encode(answer, &message, tcp)
    }

    /// Adds what an alias leads to.
    async fn follow(&self, answer: &mut Message, mut target: Name, kind: RecordType) {
        for _ in 0..MOST_ALIASES {
            match self.zone.answer(&target, kind, self.rng.u64() as usize) {
                Outcome::Alias(record, next) => {
                    answer.add_answer(*record);
                    target = next;
                }
                Outcome::Elsewhere => {
                    let mut question = Message::query();
                    let query = Query::query(target, kind);
                    question.metadata.recursion_desired = true;
                    question.add_query(query.clone());
                    let Ok(bytes) = question.to_vec() else { return };
                    // Nobody to ask: the alias alone is an answer that clients can go on from.
                    let found = self.forwarder.ask(&bytes, &query, false, true).await;
                    if let Some(found) = found.and_then(|bytes| Message::from_vec(&bytes).ok()) {
                        answer.metadata.response_code = found.metadata.response_code;
                        answer.add_answers(found.answers);
                    }
                    return;
                }
                Outcome::Records(records, _) => {
                    answer.add_answers(records);
                    return;
                }
                Outcome::NoSuchName => {
                    answer.metadata.response_code = ResponseCode::NXDomain;
                    return;
                }
            }
        }
    }
}

async fn send(socket: &UdpSocket, answer: &[u8], to: SocketAddr) {
    if let Err(error) = socket.send_to(answer, to).await {
        tracing::debug!(%error, %to, "cannot send an answer");
    }
}

/// The beginning of an answer.
fn respond(message: &Message) -> Message {
    let mut answer = Message::response(message.metadata.id, message.metadata.op_code);
    answer.metadata.recursion_desired = message.metadata.recursion_desired;
    answer.metadata.recursion_available = true;
    answer.add_queries(message.queries.iter().cloned());
    if let Some(asked) = &message.edns {
        let mut edns = Edns::new();
        edns.set_max_payload(UDP_BYTES as u16).set_dnssec_ok(asked.flags().dnssec_ok);
        answer.set_edns(edns);
    }
    answer
}

fn refusal(message: &Message, code: ResponseCode, tcp: bool) -> Vec<u8> {
    let mut answer = respond(message);
    answer.metadata.response_code = code;
    encode(answer, message, tcp)
}

/// To something that cannot be read, if at least its header can.
fn malformed(bytes: &[u8]) -> Option<Vec<u8>> {
    let id = bytes.get(..2)?.try_into().ok().map(u16::from_be_bytes)?;
    let is_query = bytes.len() >= 12 && bytes[2] & 0x80 == 0;
    is_query.then(|| Message::error_msg(id, OpCode::Query, ResponseCode::FormErr).to_vec().ok()).flatten()
}

/// How much the client takes.
fn limit(message: &Message, tcp: bool) -> usize {
    match &message.edns {
        _ if tcp => usize::from(u16::MAX),
        Some(edns) => usize::from(edns.max_payload()).clamp(CLASSIC_BYTES, UDP_BYTES),
        None => CLASSIC_BYTES,
    }
}

/// Encodes an answer, leaving out what the client cannot take and telling so.
fn encode(mut answer: Message, message: &Message, tcp: bool) -> Vec<u8> {
    let limit = limit(message, tcp);
    loop {
        let bytes = answer.to_vec().unwrap_or_default();
        if bytes.len() <= limit {
            return bytes;
        }
        if answer.additionals.is_empty() {
            answer.metadata.truncation = true;
            if answer.answers.is_empty() {
                answer.authorities.clear();
                return answer.to_vec().unwrap_or_default();
            }
            answer.answers.truncate(answer.answers.len() / 2);
        } else {
            // Merely helpful: nobody has to ask again for these.
            answer.additionals.truncate(answer.additionals.len() / 2);
        }
    }
}

/// An answer from elsewhere, cut if the client cannot take it.
fn fitted(answer: Vec<u8>, message: &Message, tcp: bool) -> Vec<u8> {
    let limit = match &message.edns {
        // It was told to the resolver, too.
        Some(edns) if !tcp => usize::from(edns.max_payload()).max(CLASSIC_BYTES),
        _ => limit(message, tcp),
    };
    if answer.len() <= limit {
        return answer;
    }
    let mut cut = respond(message);
    cut.metadata.truncation = true;
    cut.to_vec().unwrap_or_default()
}
