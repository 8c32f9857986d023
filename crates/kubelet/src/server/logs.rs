//! Container logs: reading CRI log files with the options of PodLogOptions, and following them.

use super::{Query, text};
use crate::container::spec::log_dir;
use crate::kubelet::{Entry, Shared};
use bytes::{Bytes, BytesMut};
use http::{Response, StatusCode, header};
use knarr_api::Kind;
use knarr_client::Body;
use rustix::fs::inotify;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;

/// A block of a file read at once.
const BLOCK: usize = 64 << 10;
/// A followed file is looked at this often though nothing was heard of it.
const SAFETY_NET: Duration = Duration::from_secs(5);

/// PodLogOptions, worked out.
#[derive(Clone, Debug, Default)]
struct Options {
    follow: bool,
    timestamps: bool,
    tail: Option<usize>,
    since: Option<String>,
    limit: Option<usize>,
    stream: Option<&'static str>,
}

/// `/containerLogs`.
pub(super) async fn serve(
    kubelet: &Arc<Shared>,
    namespace: &str,
    pod: &str,
    container: &str,
    query: &Query,
) -> Response<Body> {
    let Some(entry) = kubelet.by_name(namespace, pod) else {
        return text(StatusCode::NOT_FOUND, format!("pod \"{pod}\" not found"));
    };
    let options = match options(query, kubelet.ctx.clock.now()) {
        Ok(options) => options,
        Err(message) => return text(StatusCode::BAD_REQUEST, message),
    };
    let (path, attempt) = match find(kubelet, &entry, container, query.is_set("previous")) {
        Ok(found) => found,
        Err(message) => return text(StatusCode::BAD_REQUEST, message),
    };
    let (send, mut receive) = mpsc::channel::<Bytes>(16);
    let (shared, name) = (kubelet.clone(), container.to_owned());
    kubelet.ctx.tasks.spawn_until_stopped("logs", async move {
        if let Err(error) = copy(&shared, &entry, &name, attempt, &path, &options, send).await {
            tracing::debug!(path = %path.display(), %error, "a log could not be read");
        }
    });
    let stream = futures_util::stream::poll_fn(move |cx| receive.poll_recv(cx).map(|chunk| chunk.map(Ok)));
    let mut response = Response::new(Body::stream(stream));
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("text/plain"));
    response
}

fn options(query: &Query, now: SystemTime) -> Result<Options, String> {
    let number = |name: &str| -> Result<Option<u64>, String> {
        let parse = |text: &str| text.parse().map_err(|_| format!("unable to parse {name}={text:?}"));
        query.get(name).filter(|t| !t.is_empty()).map(parse).transpose()
    };
    let since = match (query.get("sinceTime").filter(|t| !t.is_empty()), number("sinceSeconds")?) {
        (Some(time), _) => Some(knarr_meta::time::parse(time).map_err(|e| format!("sinceTime: {e:?}"))?),
        (None, Some(seconds)) => now.checked_sub(Duration::from_secs(seconds)),
        (None, None) => None,
    };
    Ok(Options {
        follow: query.is_set("follow"),
        timestamps: query.is_set("timestamps"),
        tail: number("tailLines")?.map(|n| n as usize),
        since: since.map(knarr_meta::time::rfc3339_nano),
        limit: number("limitBytes")?.map(|n| n as usize),
        stream: match query.get("stream").unwrap_or_default() {
            "Stdout" => Some("stdout"),
            "Stderr" => Some("stderr"),
            _ => None,
        },
    })
}

/// The file of a container's log and the restart it belongs to; the error is the client's message.
fn find(kubelet: &Shared, entry: &Entry, container: &str, previous: bool) -> Result<(PathBuf, u32), String> {
    let view = entry.view();
    let name = view.pod.name();
    let dir = log_dir(&kubelet.config.log_dir, &view.pod, container);
    let defs = crate::util::defs(&view.pod);
    if !defs.iter().any(|d| d.spec.name == container) {
        return Err(format!("container \"{container}\" in pod \"{name}\" is not available"));
    }
    let found = view.containers.get(container);
    let file = |attempt: u32| (dir.join(format!("{attempt}.log")), attempt);
    if previous {
        let missing = format!("previous terminated container \"{container}\" in pod \"{name}\" not found");
        let found = found.filter(|c| c.made).ok_or(missing.clone())?;
        // A crashed container that waits for its restart is itself the previous one.
        let attempt = if found.waiting.is_some() && !found.running {
            Some(found.attempt)
        } else {
            found.attempt.checked_sub(1)
        };
        return attempt.map(file).ok_or(missing);
    }
    match found.filter(|c| c.made) {
        Some(found) => Ok(file(found.attempt)),
        None => {
            let reason = found.and_then(|c| c.waiting.clone());
            let reason = match reason.as_deref() {
                Some("ErrImagePull") => "image can't be pulled".to_owned(),
                Some("ImagePullBackOff") => "trying and failing to pull image".to_owned(),
                Some(other) => other.to_owned(),
                None if defs
                    .iter()
                    .any(|d| matches!(d.role, crate::util::Role::Init | crate::util::Role::Sidecar)) =>
                {
                    "PodInitializing".to_owned()
                }
                None => "ContainerCreating".to_owned(),
            };
            Err(format!("container \"{container}\" in pod \"{name}\" is waiting to start: {reason}"))
        }
    }
}

async fn copy(
    kubelet: &Arc<Shared>,
    entry: &Arc<Entry>,
    container: &str,
    attempt: u32,
    path: &Path,
    options: &Options,
    send: mpsc::Sender<Bytes>,
) -> io::Result<()> {
    // Watched before the first read, so that nothing written in between is missed.
    let watch = if options.follow { path.parent().map(watch).transpose()? } else { None };
    let mut changed = entry.changed.subscribe();
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if let Some(lines) = options.tail {
        seek_tail(&mut file, lines)?;
    }
    let mut reader = Reader { rest: BytesMut::new(), options: options.clone(), left: options.limit };
    loop {
        // Asked before reading: what a container wrote before it ended is in the file by then.
        let running =
            entry.view().containers.get(container).is_some_and(|c| c.running && c.attempt == attempt);
        loop {
            let mut block = vec![0; BLOCK];
            let n = file.read(&mut block)?;
            if n == 0 {
                break;
            }
            let out = reader.take(&block[..n]);
            if (!out.is_empty() && send.send(out).await.is_err()) || reader.left == Some(0) {
                return Ok(());
            }
        }
        let Some(watch) = &watch else { return Ok(()) };
        // A rotated log goes on in a new file of the same name.
        let rotated = match (std::fs::metadata(path), file.metadata()) {
            (Ok(new), Ok(old)) => new.ino() != old.ino(),
            _ => false,
        };
        if rotated {
            file = File::open(path)?;
            continue;
        }
        if !running {
            return Ok(());
        }
        tokio::select! {
            ready = watch.readable() => drain(&mut ready?),
            _ = changed.changed() => {}
            () = send.closed() => return Ok(()),
            () = kubelet.ctx.clock.sleep(SAFETY_NET) => {}
        }
    }
}

fn watch(dir: &Path) -> io::Result<AsyncFd<rustix::fd::OwnedFd>> {
    let fd = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
    let events = inotify::WatchFlags::MODIFY | inotify::WatchFlags::CREATE | inotify::WatchFlags::MOVE;
    inotify::add_watch(&fd, dir, events)?;
    crate::sys::async_fd(fd)
}

/// Takes what inotify has to say: that there is something is all that matters.
fn drain(ready: &mut tokio::io::unix::AsyncFdReadyGuard<'_, rustix::fd::OwnedFd>) {
    let mut buffer = [0; 4096];
    while rustix::io::read(ready.get_inner(), &mut buffer).is_ok_and(|n| n > 0) {}
    ready.clear_ready();
}

/// Moves to where the last `lines` lines begin.
fn seek_tail(file: &mut File, lines: usize) -> io::Result<()> {
    let end = file.seek(SeekFrom::End(0))?;
    if lines == 0 {
        return Ok(());
    }
    let (mut at, mut seen) = (end, 0);
    let mut block = vec![0; BLOCK];
    while at > 0 {
        let size = at.min(BLOCK as u64) as usize;
        let from = at - size as u64;
        file.seek(SeekFrom::Start(from))?;
        file.read_exact(&mut block[..size])?;
        for (index, byte) in block[..size].iter().enumerate().rev() {
            // The newline at the very end closes the last line.
            if *byte == b'\n' && from + index as u64 + 1 != end {
                seen += 1;
                if seen == lines {
                    file.seek(SeekFrom::Start(from + index as u64 + 1))?;
                    return Ok(());
                }
            }
        }
        at = from;
    }
    file.seek(SeekFrom::Start(0)).map(drop)
}

/// Turns CRI lines into what the client wants to see of them.
struct Reader {
    rest: BytesMut,
    options: Options,
    left: Option<usize>,
}

impl Reader {
    fn take(&mut self, block: &[u8]) -> Bytes {
        self.rest.extend_from_slice(block);
        let mut out = BytesMut::new();
        while let Some(end) = self.rest.iter().position(|b| *b == b'\n') {
            let line = self.rest.split_to(end + 1);
            self.line(&line[..end], &mut out);
        }
        if let Some(left) = &mut self.left {
            out.truncate(*left);
            *left -= out.len();
        }
        out.freeze()
    }

    /// `time stream tag text`; a tag that begins with `P` is part of a line that goes on.
    fn line(&self, line: &[u8], out: &mut BytesMut) {
        let mut fields = line.splitn(4, |b| *b == b' ');
        let (Some(time), Some(stream), Some(tag), Some(text)) =
            (fields.next(), fields.next(), fields.next(), fields.next())
        else {
            return;
        };
        if self.options.stream.is_some_and(|wanted| wanted.as_bytes() != stream) {
            return;
        }
        if self.options.since.as_ref().is_some_and(|since| earlier(time, since.as_bytes())) {
            return;
        }
        if self.options.timestamps {
            out.extend_from_slice(time);
            out.extend_from_slice(b" ");
        }
        out.extend_from_slice(text);
        if !tag.starts_with(b"P") {
            out.extend_from_slice(b"\n");
        }
    }
}

/// Whether an RFC 3339 time in UTC is before another; fractions may be of any length.
fn earlier(time: &[u8], than: &[u8]) -> bool {
    let parts = |t: &[u8]| -> (Vec<u8>, Vec<u8>) {
        let t = t.strip_suffix(b"Z").unwrap_or(t);
        let mut halves = t.splitn(2, |b| *b == b'.');
        let whole = halves.next().unwrap_or_default().to_vec();
        let mut fraction = halves.next().unwrap_or_default().to_vec();
        fraction.resize(9, b'0');
        (whole, fraction)
    };
    parts(time) < parts(than)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn reader(options: Options) -> Reader {
        Reader { rest: BytesMut::new(), left: options.limit, options }
    }

    const LOG: &[u8] = b"2026-01-01T00:00:01.5Z stdout F one\n2026-01-01T00:00:02Z stderr P tw\n2026-01-01T00:00:02.1Z stderr F o\n2026-01-01T00:00:03Z stdout F \n";

    #[test]
    fn lines_are_put_together_and_chosen_by_the_options() {
        let cases = [
            (Options::default(), "one\ntwo\n\n"),
            (
                Options { timestamps: true, ..Default::default() },
                "2026-01-01T00:00:01.5Z one\n2026-01-01T00:00:02Z tw2026-01-01T00:00:02.1Z o\n2026-01-01T00:00:03Z \n",
            ),
            (Options { stream: Some("stderr"), ..Default::default() }, "two\n"),
            (Options { since: Some("2026-01-01T00:00:02.000000001Z".into()), ..Default::default() }, "o\n\n"),
            (Options { limit: Some(5), ..Default::default() }, "one\nt"),
        ];
        for (options, expected) in cases {
            for size in [1, 7, 1000] {
                let mut reader = reader(options.clone());
                let out: Vec<u8> = LOG.chunks(size).flat_map(|c| reader.take(c).to_vec()).collect();
                assert_eq!(String::from_utf8(out).unwrap(), expected, "{options:?}");
            }
        }
    }

    #[test]
    fn the_tail_is_found_from_the_end() {
        let mut file = tempfile::tempfile().unwrap();
        let line = |i: usize| format!("2026-01-01T00:00:00Z stdout F {i} {}\n", "x".repeat(i % 200));
        (0..2000).for_each(|i| file.write_all(line(i).as_bytes()).unwrap());
        for lines in [0, 1, 5, 1999, 2000, 5000] {
            seek_tail(&mut file, lines).unwrap();
            let mut text = String::new();
            file.read_to_string(&mut text).unwrap();
            let expected: String = (2000usize.saturating_sub(lines)..2000).map(line).collect();
            assert!(text == expected, "{lines}: got {} bytes, expected {}", text.len(), expected.len());
        }
    }

    #[test]
    fn times_are_compared_whatever_the_length_of_their_fractions() {
        assert!(earlier(b"2026-01-01T00:00:01Z", b"2026-01-01T00:00:01.5Z"));
        assert!(!earlier(b"2026-01-01T00:00:01.5Z", b"2026-01-01T00:00:01.49Z"));
    }
}
