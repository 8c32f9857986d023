//! The members of a cluster and the connections to them. Calls go round the members in turn; one that could not
//! be reached, or did not answer in time, is passed over for a while as long as others are there.

use super::EtcdOptions;
use super::channel::{CallError, Channel};
use super::tls;
use bytes::Bytes;
use knarr_base::clock::timeout;
use knarr_base::{Backoff, Ctx};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// How long a connection may take to be made.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// A read that a member has not answered by now is asked of another one.
const READ_PATIENCE: Duration = Duration::from_secs(2);
/// How long a call may take altogether. etcd itself gives up after seven seconds.
const CALL_LIMIT: Duration = Duration::from_secs(12);
/// How long a member that failed is passed over.
const AVOID: Duration = Duration::from_secs(3);

/// One member's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Address {
    pub host: String,
    pub port: u16,
    pub secure: bool,
}

impl Address {
    /// Reads `http://host:port` or `https://host:port`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let uri: http::Uri = text.trim_end_matches('/').parse().map_err(|e| format!("{text:?}: {e}"))?;
        let secure = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(format!("{text:?} is not http://HOST:PORT or https://HOST:PORT")),
        };
        let host = uri.host().ok_or_else(|| format!("{text:?} names no host"))?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        Ok(Self { host, port: uri.port_u16().unwrap_or(2379), secure })
    }

    fn origin(&self) -> String {
        let scheme = if self.secure { "https" } else { "http" };
        if self.host.contains(':') {
            format!("{scheme}://[{}]:{}", self.host, self.port)
        } else {
            format!("{scheme}://{}:{}", self.host, self.port)
        }
    }
}

struct Endpoint {
    address: Address,
    channel: tokio::sync::Mutex<Option<Channel>>,
    avoid_until: Mutex<Option<Instant>>,
}

/// See the module's documentation.
pub(super) struct Endpoints {
    ctx: Ctx,
    options: EtcdOptions,
    all: Vec<Endpoint>,
    turn: AtomicUsize,
}

impl Endpoints {
    /// The members that the options name; nothing is connected yet.
    pub fn new(ctx: &Ctx, options: &EtcdOptions) -> Result<Self, String> {
        let mut all = Vec::new();
        for text in &options.servers {
            let address = Address::parse(text)?;
            all.push(Endpoint {
                address,
                channel: tokio::sync::Mutex::new(None),
                avoid_until: Mutex::default(),
            });
        }
        if all.is_empty() {
            return Err("no etcd server is named".into());
        }
        Ok(Self { ctx: ctx.clone(), options: options.clone(), all, turn: AtomicUsize::new(0) })
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// The name of one, for messages.
    pub fn name(&self, index: usize) -> String {
        self.all[index].address.origin()
    }

    /// The order in which a call tries the members: the next in turn first, those that failed lately last.
    fn order(&self) -> Vec<usize> {
        let first = self.turn.fetch_add(1, Ordering::Relaxed);
        let now = self.ctx.clock.instant();
        let mut order: Vec<usize> = (0..self.all.len()).map(|i| (first + i) % self.all.len()).collect();
        order.sort_by_key(|index| self.is_avoided(*index, now));
        order
    }

    fn is_avoided(&self, index: usize, now: Instant) -> bool {
        let until = self.all[index].avoid_until.lock().expect("no holder of the lock panics");
        until.is_some_and(|until| until > now)
    }

    /// Passes a member over for a while.
    pub fn avoid(&self, index: usize) {
        let until = self.ctx.clock.instant() + AVOID;
        *self.all[index].avoid_until.lock().expect("no holder of the lock panics") = Some(until);
    }

    /// A connection to a member.
    pub async fn channel(&self, index: usize) -> Result<Channel, CallError> {
        let endpoint = &self.all[index];
        let mut channel = endpoint.channel.lock().await;
        if let Some(channel) = channel.as_ref().filter(|channel| !channel.is_closed()) {
            return Ok(channel.clone());
        }
        let connecting = self.connect(&endpoint.address);
        let made = match timeout(&*self.ctx.clock, CONNECT_LIMIT, connecting).await {
            Some(Ok(made)) => made,
            Some(Err(detail)) => return Err(self.unreachable(index, detail)),
            None => return Err(self.unreachable(index, "no answer in time".into())),
        };
        *channel = Some(made.clone());
        Ok(made)
    }

    fn unreachable(&self, index: usize, detail: String) -> CallError {
        self.avoid(index);
        CallError::Connect { endpoint: self.name(index), detail }
    }

    async fn connect(&self, address: &Address) -> Result<Channel, String> {
        let stream = TcpStream::connect((address.host.as_str(), address.port)).await;
        let stream = stream.map_err(|e| e.to_string())?;
        stream.set_nodelay(true).map_err(|e| e.to_string())?;
        let origin = address.origin();
        if !address.secure {
            return Channel::plain(stream, &origin).await.map_err(|e| e.to_string());
        }
        // The files are read for every connection, so that renewed certificates are used.
        let config = tls::client_config(&self.options)?;
        let name =
            rustls::pki_types::ServerName::try_from(address.host.clone()).map_err(|e| e.to_string())?;
        let stream = TlsConnector::from(config).connect(name, stream).await.map_err(|e| e.to_string())?;
        Channel::secure(stream, &origin).await.map_err(|e| e.to_string())
    }

    /// Asks one member in particular.
    pub async fn ask(&self, index: usize, path: &str, message: &Bytes) -> Result<Bytes, CallError> {
        let channel = self.channel(index).await?;
        let call = channel.unary(path, message, READ_PATIENCE);
        match timeout(&*self.ctx.clock, READ_PATIENCE, call).await {
            Some(result) => result,
            None => Err(CallError::TimedOut),
        }
    }

    /// A call that may be made twice: goes on to other members until one answers.
    pub async fn read(&self, path: &str, message: &Bytes) -> Result<Bytes, CallError> {
        let deadline = self.ctx.clock.instant() + CALL_LIMIT;
        let mut backoff = Backoff::new(Duration::from_millis(20), 2.0, Duration::from_millis(500));
        loop {
            let mut last = CallError::TimedOut;
            for index in self.order() {
                match self.ask(index, path, message).await {
                    Err(error) if error.is_of_this_member() => {
                        self.avoid(index);
                        last = error;
                    }
                    result => return result,
                }
            }
            if self.ctx.clock.instant() >= deadline {
                return Err(last);
            }
            self.ctx.clock.sleep(backoff.step_jittered(&*self.ctx.rng, 0.5)).await;
        }
    }

    /// A call that must not be made twice: goes on only from members that cannot be connected to.
    pub async fn write(&self, path: &str, message: &Bytes) -> Result<Bytes, CallError> {
        let mut last = CallError::TimedOut;
        for index in self.order() {
            let channel = match self.channel(index).await {
                Ok(channel) => channel,
                Err(error) => {
                    last = error;
                    continue;
                }
            };
            let call = channel.unary(path, message, CALL_LIMIT);
            tokio::pin!(call);
            let result = match timeout(&*self.ctx.clock, READ_PATIENCE, &mut call).await {
                Some(result) => result,
                None => {
                    // Others need not wait for it too.
                    self.avoid(index);
                    let rest = timeout(&*self.ctx.clock, CALL_LIMIT - READ_PATIENCE, call).await;
                    rest.unwrap_or(Err(CallError::TimedOut))
                }
            };
            if result.as_ref().is_err_and(CallError::is_of_this_member) {
                self.avoid(index);
            }
            return result;
        }
        Err(last)
    }

    /// The members in the order in which to open a stream.
    pub fn for_stream(&self) -> Vec<usize> {
        self.order()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_etcd_names_them() {
        let address = |host: &str, port, secure| Address { host: host.into(), port, secure };
        for (text, expected) in [
            ("http://127.0.0.1:2379", Some(address("127.0.0.1", 2379, false))),
            ("https://etcd-0.example:4001/", Some(address("etcd-0.example", 4001, true))),
            ("https://[::1]:2379", Some(address("::1", 2379, true))),
            ("http://host", Some(address("host", 2379, false))),
            ("host:2379", None),
            ("unix:///run/etcd", None),
            ("", None),
        ] {
            assert_eq!(Address::parse(text).ok(), expected, "{text}");
        }
        assert_eq!(address("::1", 1, true).origin(), "https://[::1]:1");
    }
}
