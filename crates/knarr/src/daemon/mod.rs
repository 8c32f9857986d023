//! The running cluster's local socket: commands on the same machine ask it how it is, to stop, and to look after
//! images. One JSON request a connection; answers are JSON lines, the last of which is the result. Only root may
//! connect (the socket's mode says so).

pub mod images;
pub mod server;

use anyhow::{Context, Result, anyhow};
use serde::{Deserialize, Serialize};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

/// What can be asked.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "do")]
pub enum Request {
    /// How the cluster is.
    Status,
    /// Stop; the answer comes once everything is written.
    Stop,
    /// Something about images.
    Image(ImageRequest),
    /// Save a snapshot of the store in a new file.
    SaveSnapshot {
        /// The file, absolute.
        file: PathBuf,
    },
}

/// What can be asked of images.
#[derive(Clone, Debug, Serialize, Deserialize, clap::Subcommand)]
#[serde(rename_all = "kebab-case", tag = "with-images")]
pub enum ImageRequest {
    /// Take images from a docker-archive or OCI tar file
    Import {
        /// The file
        file: PathBuf,
    },
    /// Fetch an image from its registry
    Pull {
        /// Name, for example docker.io/library/busybox:1.36
        image: String,
    },
    /// List images
    Ls,
    /// Remove images
    Rm {
        /// Names or IDs
        #[arg(required = true)]
        images: Vec<String>,
    },
}

/// A line of an answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// Something for the person to read; more follows.
    Line(String),
    /// How the cluster is.
    Status(Status),
    /// Done.
    Done,
    /// It failed, and why.
    Failed(String),
}

/// How a running cluster is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// Version of the running binary.
    pub version: String,
    /// Process.
    pub pid: u32,
    /// Seconds since it was started.
    pub uptime_seconds: u64,
    /// Node.
    pub node: String,
    /// Where the API server is.
    pub server: String,
    /// Parts that are not ready.
    pub unready: Vec<String>,
    /// Objects in the store and its revision.
    pub objects: usize,
    /// The store's revision.
    pub revision: u64,
    /// Pods on this node.
    pub pods: usize,
}

/// Asks the cluster behind `socket`; `None` if none is running.
pub fn ask(socket: &Path, request: &Request, mut line: impl FnMut(Answer)) -> Result<Option<()>> {
    let mut stream = match UnixStream::connect(socket) {
        Ok(stream) => stream,
        Err(error)
            if matches!(
                error.kind(),
                std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused
            ) =>
        {
            return Ok(None);
        }
        Err(error) => {
            return Err(error).with_context(|| format!("cannot reach the cluster at {}", socket.display()));
        }
    };
    let mut text = serde_json::to_string(request)?;
    text.push('\n');
    stream.write_all(text.as_bytes())?;
    for answer in BufReader::new(stream).lines() {
        match serde_json::from_str(&answer?)? {
            Answer::Done => return Ok(Some(())),
            Answer::Failed(why) => return Err(anyhow!(why)),
            other => line(other),
        }
    }
    Err(anyhow!("the cluster went away before it answered"))
}
