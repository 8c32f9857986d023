//! The demo application: a web tier that calls an app tier. Both are this binary, so that the image needs
//! nothing else; the app tier comes in versions that differ by what they answer.

use anyhow::{Context, Result};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

/// Patience with a slow peer.
const PEER_TIMEOUT: Duration = Duration::from_secs(5);

/// Which tier to be.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum Tier {
    /// Answers requests itself
    App {
        /// What it calls itself
        #[arg(long, default_value = "v1")]
        version: String,
        /// Port to listen on
        #[arg(long, default_value_t = 8080)]
        port: u16,
    },
    /// Asks the app tier and shows what it said
    Web {
        /// Host and port of the app tier
        #[arg(long, default_value = "app:8080")]
        upstream: String,
        /// Port to listen on
        #[arg(long, default_value_t = 8080)]
        port: u16,
    },
}

/// Serves for ever.
pub fn run(tier: Tier) -> Result<()> {
    let port = match &tier {
        Tier::App { port, .. } | Tier::Web { port, .. } => *port,
    };
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned();
    let listener =
        TcpListener::bind(("0.0.0.0", port)).with_context(|| format!("cannot listen on port {port}"))?;
    println!("listening on port {port} as {host}");
    let shared = std::sync::Arc::new((tier, host));
    for stream in listener.incoming() {
        let (stream, shared) = (stream?, shared.clone());
        std::thread::Builder::new().stack_size(128 * 1024).spawn(move || {
            if let Err(error) = serve(stream, &shared.0, &shared.1) {
                println!("request failed: {error:#}");
            }
        })?;
    }
    Ok(())
}

fn serve(mut stream: TcpStream, tier: &Tier, host: &str) -> Result<()> {
    stream.set_read_timeout(Some(PEER_TIMEOUT))?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut request = String::new();
    reader.read_line(&mut request)?;
    if request.is_empty() {
        return Ok(()); // a TCP probe
    }
    let mut line = String::new();
    while reader.read_line(&mut line)? > 2 {
        line.clear();
    }
    let path = request.split_whitespace().nth(1).unwrap_or("/");
    let (status, body) = match tier {
        _ if path == "/healthz" => ("200 OK", "ok\n".to_owned()),
        Tier::App { version, .. } => {
            println!("{}", request.trim_end());
            ("200 OK", format!("Hello from app {version} on {host}\n"))
        }
        Tier::Web { upstream, .. } => {
            println!("{}", request.trim_end());
            match ask(upstream) {
                Ok(answer) => ("200 OK", format!("web on {host} asked the app tier and heard:\n  {answer}")),
                Err(error) => {
                    ("502 Bad Gateway", format!("web on {host} cannot reach the app tier: {error:#}\n"))
                }
            }
        }
    };
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )?;
    Ok(())
}

fn ask(upstream: &str) -> Result<String> {
    let (name, port) = upstream.rsplit_once(':').context("the upstream is host:port")?;
    let address = resolve::lookup(name)?;
    let address = std::net::SocketAddr::from((address, port.parse::<u16>()?));
    let mut stream = TcpStream::connect_timeout(&address, PEER_TIMEOUT)
        .with_context(|| format!("cannot connect to {upstream} ({address})"))?;
    stream.set_read_timeout(Some(PEER_TIMEOUT))?;
    write!(stream, "GET / HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.take(64 * 1024).read_to_string(&mut answer)?;
    let (_, body) = answer.split_once("\r\n\r\n").context("the app tier's answer is not HTTP")?;
    Ok(body.to_owned())
}

pub mod deploy;
mod resolve;
