//! Connections: TLS, the client's certificate, HTTP/1.1 or HTTP/2 by ALPN (RFC 7301), and their end when the
//! server drains (HTTP/2 GOAWAY; HTTP/1.1 closes after the request under way).

use super::authn::{CertificateUser, x509};
use super::chain::{Chain, Identity, RequestBody};
use super::tls::ClientCertificates;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use knarr_base::clock::timeout;
use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::task::TaskTracker;

/// A client that does not finish its handshake within this time is cut off.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
/// Requests at once on one HTTP/2 connection, as upstream's default.
const HTTP2_STREAMS: u32 = 250;
/// After an error of accept (no file descriptors left), how long to wait before the next try.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// An idle HTTP/1.1 connection is closed after this time, as upstream's.
const HTTP1_IDLE: Duration = Duration::from_secs(90);
/// An HTTP/2 peer that does not answer a ping for this long is gone.
const HTTP2_PING: Duration = Duration::from_secs(30);

/// What a listener needs for its connections.
#[derive(Clone)]
pub struct Front {
    /// The way of requests.
    pub chain: Arc<Chain>,
    /// TLS.
    pub tls: Arc<rustls::ServerConfig>,
    /// Whose client certificates count.
    pub clients: Arc<ClientCertificates>,
}

/// Accepts until the server is told to stop, then waits for the connections to finish.
pub async fn listen(front: Front, listener: TcpListener) {
    let (tasks, clock) = (front.chain.ctx.tasks.clone(), front.chain.ctx.clock.clone());
    let connections = TaskTracker::new();
    let acceptor = TlsAcceptor::from(front.tls.clone());
    loop {
        let accepted = tokio::select! {
            () = tasks.stopping() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _peer)) => {
                connections.spawn(connection(front.clone(), acceptor.clone(), stream));
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                clock.sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    connections.close();
    connections.wait().await;
}

async fn connection(front: Front, acceptor: TlsAcceptor, stream: TcpStream) {
    let _ = stream.set_nodelay(true);
    let clock = front.chain.ctx.clock.clone();
    let stream = match timeout(&*clock, HANDSHAKE_LIMIT, acceptor.accept(stream)).await {
        Some(Ok(stream)) => stream,
        Some(Err(error)) => {
            tracing::debug!(%error, "TLS handshake failed");
            return;
        }
        None => return,
    };
    let certificate = client_certificate(&front, &stream);
    let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    serve(front, stream, certificate, http2).await;
}

fn client_certificate(front: &Front, stream: &TlsStream<TcpStream>) -> Option<CertificateUser> {
    let chain = stream.get_ref().1.peer_certificates()?;
    x509::authenticate(&front.clients, chain, front.chain.ctx.clock.now())
}

async fn serve(
    front: Front,
    stream: TlsStream<TcpStream>,
    certificate: Option<CertificateUser>,
    http2: bool,
) {
    let tasks = front.chain.ctx.tasks.clone();
    let chain = front.chain;
    let service = service_fn(move |request: http::Request<Incoming>| {
        let (chain, identity) = (chain.clone(), Identity::Connection(certificate.clone()));
        async move { Ok::<_, Infallible>(chain.serve(request.map(RequestBody::Network), identity).await) }
    });
    let io = TokioIo::new(stream);
    // The two kinds of connection have no type in common; both finish what is under way when told to stop.
    macro_rules! drive {
        ($connection:expr) => {{
            let mut connection = pin!($connection);
            let result = tokio::select! {
                result = connection.as_mut() => result,
                () = tasks.stopping() => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            };
            if let Err(error) = result {
                tracing::debug!(%error, "connection ended");
            }
        }};
    }
    if http2 {
        drive!(
            hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .max_concurrent_streams(HTTP2_STREAMS)
                .initial_stream_window_size(256 * 1024)
                .initial_connection_window_size(1024 * 1024)
                .keep_alive_interval(HTTP2_PING)
                .keep_alive_timeout(HTTP2_PING)
                .serve_connection(io, service)
        );
    } else {
        drive!(
            hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HTTP1_IDLE)
                .serve_connection(io, service)
                .with_upgrades()
        );
    }
}
