//! One change as watches see it, and the window of past changes that a watch can start in.

use crate::obj::Obj;
use bytes::Bytes;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

/// A change of one object.
#[derive(Debug)]
pub struct Event {
    /// The object now; for a deletion the last one, at the revision of the deletion.
    pub obj: Arc<Obj>,
    /// The object before, `None` when the event creates it.
    pub prev: Option<Arc<Obj>>,
    /// Whether this is a deletion.
    pub deleted: bool,
    /// Frames made for this event, by form: shared by all watches that want the same form.
    frames: Mutex<Vec<(FrameKey, Bytes)>>,
}

/// What makes two frames of an event the same: the type of the event, and the form (an index the registry
/// gives each combination of version and encoding).
pub type FrameKey = (&'static str, u32);

impl Event {
    /// A change.
    pub fn new(obj: Arc<Obj>, prev: Option<Arc<Obj>>, deleted: bool) -> Self {
        Self { obj, prev, deleted, frames: Mutex::default() }
    }

    /// The revision of the change.
    pub fn revision(&self) -> u64 {
        self.obj.revision()
    }

    /// The frame of that form, made by the first who asks.
    pub fn frame<E>(&self, key: FrameKey, make: impl FnOnce() -> Result<Bytes, E>) -> Result<Bytes, E> {
        let mut frames = self.frames.lock().expect("no maker of frames panics");
        if let Some((_, frame)) = frames.iter().find(|(k, _)| *k == key) {
            return Ok(frame.clone());
        }
        let frame = make()?;
        frames.push((key, frame.clone()));
        Ok(frame)
    }

    fn size(&self) -> usize {
        self.obj.stored.value.len() + 1024
    }

    /// Lets go of the frames once the event is no longer news.
    fn cool(&self) {
        self.frames.lock().expect("no maker of frames panics").clear();
    }
}

/// How many events are kept at least, whatever their size.
const MIN_EVENTS: usize = 100;
/// How many bytes of objects the events may keep alive before the oldest go. What is forgotten here is still in
/// the store's history until it is compacted.
const MAX_BYTES: usize = 1 << 20;
/// How many events are kept at most.
const MAX_EVENTS: usize = 4096;
/// The same where the store is elsewhere: what is forgotten here has to be listed again.
const REMOTE_MAX_BYTES: usize = 16 << 20;
const REMOTE_MAX_EVENTS: usize = 32 * 1024;
/// How many of the newest events keep their frames.
const HOT: usize = 64;

/// The most recent events, all of them after [`Window::since`].
#[derive(Debug, Default)]
pub struct Window {
    events: VecDeque<Arc<Event>>,
    bytes: usize,
    since: u64,
    remote: bool,
}

impl Window {
    /// An empty one; `remote` when the store is elsewhere.
    pub fn new(remote: bool) -> Self {
        Self { remote, ..Self::default() }
    }

    /// Starts over: what happened up to `since` is unknown.
    pub fn reset(&mut self, since: u64) {
        *self = Self { since, ..Self::new(self.remote) };
    }

    /// A watch can start after this revision and any later one.
    pub fn since(&self) -> u64 {
        self.since
    }

    /// Adds the newest event and drops the oldest where there are too many.
    pub fn push(&mut self, event: Arc<Event>) {
        self.bytes += event.size();
        self.events.push_back(event);
        let (max_events, max_bytes) =
            if self.remote { (REMOTE_MAX_EVENTS, REMOTE_MAX_BYTES) } else { (MAX_EVENTS, MAX_BYTES) };
        while self.events.len() > max_events || (self.bytes > max_bytes && self.events.len() > MIN_EVENTS) {
            let Some(oldest) = self.events.pop_front() else { break };
            self.bytes -= oldest.size();
            self.since = oldest.revision();
        }
        if let Some(at) = self.events.len().checked_sub(HOT + 1) {
            self.events[at].cool();
        }
    }

    /// The events after `revision`; `None` when some of them are forgotten.
    pub fn after(&self, revision: u64) -> Option<impl Iterator<Item = &Arc<Event>>> {
        if revision < self.since {
            return None;
        }
        let start = self.events.partition_point(|event| event.revision() <= revision);
        Some(self.events.range(start..))
    }
}
