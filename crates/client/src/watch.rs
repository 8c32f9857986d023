//! Reading a watch: newline-separated JSON frames.

use crate::{Body, Error};
use bytes::{Buf, Bytes, BytesMut};
use knarr_meta::status::Status;
use serde_json::value::RawValue;

/// One frame of a watch.
#[derive(Clone, Debug)]
pub enum WatchEvent {
    /// The object is new to this watch.
    Added(Bytes),
    /// The object changed.
    Modified(Bytes),
    /// The object is gone; this is what it was.
    Deleted(Bytes),
    /// Nothing changed up to this resourceVersion; an object with only that.
    Bookmark(Bytes),
    /// The watch failed; 410 means list again.
    Error(Box<Status>),
}

/// The frames of a watch.
pub struct Watcher {
    body: Body,
    buffer: BytesMut,
    server: String,
}

impl Watcher {
    /// Reads frames from `body`.
    pub(crate) fn new(body: Body, server: String) -> Self {
        Self { body, buffer: BytesMut::new(), server }
    }

    /// The next frame; `None` when the server ended the watch (in good order, to be resumed).
    pub async fn next(&mut self) -> Option<Result<WatchEvent, Error>> {
        let mut searched = 0;
        loop {
            if let Some(at) = self.buffer[searched..].iter().position(|b| *b == b'\n') {
                let line = self.buffer.split_to(searched + at).freeze();
                self.buffer.advance(1);
                if line.is_empty() {
                    searched = 0;
                    continue;
                }
                return Some(parse(&line));
            }
            searched = self.buffer.len();
            match self.body.next().await? {
                Ok(chunk) => self.buffer.extend_from_slice(&chunk),
                Err(source) => return Some(Err(Error::Connect { server: self.server.clone(), source })),
            }
        }
    }
}

fn parse(line: &Bytes) -> Result<WatchEvent, Error> {
    #[derive(serde::Deserialize)]
    struct Frame<'a> {
        r#type: &'a str,
        #[serde(borrow)]
        object: &'a RawValue,
    }
    let frame: Frame =
        serde_json::from_slice(line).map_err(|e| Error::Protocol(format!("watch frame: {e}")))?;
    let object = line.slice_ref(frame.object.get().as_bytes());
    Ok(match frame.r#type {
        "ADDED" => WatchEvent::Added(object),
        "MODIFIED" => WatchEvent::Modified(object),
        "DELETED" => WatchEvent::Deleted(object),
        "BOOKMARK" => WatchEvent::Bookmark(object),
        "ERROR" => {
            let value: serde_json::Value =
                serde_json::from_slice(&object).map_err(|e| Error::Protocol(e.to_string()))?;
            WatchEvent::Error(Box::new(
                Status::from_json(&value).ok_or_else(|| Error::Protocol(value.to_string()))?,
            ))
        }
        other => return Err(Error::Protocol(format!("watch frame of type {other}"))),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn frames_are_cut_at_newlines_however_they_arrive() {
        let text = b"{\"type\":\"ADDED\",\"object\":{\"a\":1}}\n{\"type\":\"DELETED\",\"object\":{}}\n";
        for size in [1, 7, 100] {
            let chunks = text.chunks(size).map(Bytes::copy_from_slice);
            let mut watcher = Watcher::new(Body::chunks(chunks), String::new());
            let Some(Ok(WatchEvent::Added(object))) = watcher.next().await else { panic!("an ADDED frame") };
            assert_eq!(&object[..], b"{\"a\":1}");
            assert!(matches!(watcher.next().await, Some(Ok(WatchEvent::Deleted(_)))));
            assert!(watcher.next().await.is_none());
        }
    }
}
