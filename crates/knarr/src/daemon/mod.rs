//! The running cluster's local socket: commands on the same machine ask it how it is, to stop, and to look after
//! images. One JSON request a connection; answers are JSON lines, the last of which is the result. Only root may
//! connect (the socket's mode says so).

mod descriptor;
pub mod images;
pub mod server;

use anyhow::{Context, Result, anyhow};
use serde::{Deserialize, Serialize};
use std::io::{BufRead, BufReader};
use std::os::fd::BorrowedFd;
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

/// What can be asked of images. Files to read from and to write to come along open.
#[derive(Clone, Debug, Serialize, Deserialize, clap::Subcommand)]
#[serde(rename_all = "kebab-case", tag = "with-images")]
pub enum ImageRequest {
    /// Take images from an archive (docker-archive or OCI archive, also compressed) or from an OCI layout directory
    #[command(visible_alias = "load")]
    Import {
        /// The file or directory, - for standard input
        file: PathBuf,
    },
    /// Write images to an archive, from which docker, podman, ctr and knarr can load them
    Save {
        /// Names or IDs
        #[arg(required = true)]
        images: Vec<String>,
        /// The file to write [default: standard output]
        #[arg(short, long, value_name = "FILE")]
        #[serde(skip)]
        output: Option<PathBuf>,
        /// Its form
        #[arg(long, value_enum, default_value = "docker-archive")]
        format: Archive,
    },
    /// Fetch an image from its registry
    Pull {
        /// Name, for example docker.io/library/busybox:1.36
        image: String,
        /// Whether somebody wants to see how far it is.
        #[arg(skip)]
        #[serde(default)]
        progress: bool,
    },
    /// Give an image further names
    Tag {
        /// Name or ID
        image: String,
        /// New names
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Print everything about images, as JSON
    Inspect {
        /// Names or IDs
        #[arg(required = true)]
        images: Vec<String>,
    },
    /// List images
    #[command(visible_alias = "list")]
    Ls {
        /// How
        #[arg(short, long, value_enum, default_value = "table")]
        #[serde(default)]
        output: List,
        /// Only the identifiers, the same as -o id
        #[arg(short, long)]
        #[serde(default)]
        quiet: bool,
    },
    /// Remove images
    #[command(visible_alias = "remove")]
    Rm {
        /// Names or IDs
        #[arg(required = true)]
        images: Vec<String>,
    },
}

/// The form of a saved archive.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Archive {
    /// What docker save writes
    DockerArchive,
    /// An OCI image layout as tar
    OciArchive,
}

/// The form of a list of images.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum List {
    /// A line an image, to read
    #[default]
    Table,
    /// As crictl images -o json prints it
    Json,
    /// The names, one a line
    Name,
    /// The identifiers, one a line
    Id,
}

/// A line of an answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// Something for the person to read; more follows.
    Line(String),
    /// How the cluster is.
    Status(Status),
    /// How far something is, for who asked for it; more follows.
    Progress {
        /// What.
        item: String,
        /// Bytes done.
        done_bytes: u64,
        /// Bytes in all, 0 when not known.
        total_bytes: u64,
    },
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
pub fn ask(socket: &Path, request: &Request, line: impl FnMut(Answer)) -> Result<Option<()>> {
    ask_with(socket, request, None, line)
}

/// [`ask`], with a file to read from or to write to.
pub fn ask_with(
    socket: &Path,
    request: &Request,
    file: Option<BorrowedFd<'_>>,
    mut line: impl FnMut(Answer),
) -> Result<Option<()>> {
    let stream = match UnixStream::connect(socket) {
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
    descriptor::send(&stream, text.as_bytes(), file)?;
    for answer in BufReader::new(stream).lines() {
        match serde_json::from_str(&answer?)? {
            Answer::Done => return Ok(Some(())),
            Answer::Failed(why) => return Err(anyhow!(why)),
            other => line(other),
        }
    }
    Err(anyhow!("the cluster went away before it answered"))
}
