//! One watch of the cache: where it starts, the queue it is fed through, and what an event means to it. A
//! watcher that does not keep up is cut off when its queue is full; the client then watches again from
//! where it was.

use super::wishes::PROGRESS_EVERY;
use super::{Cache, Event, Filter, Trigger};
use crate::obj::Obj;
use knarr_store::{Freshness, WatchBatch, WatchStream};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use tokio::sync::mpsc;

/// How many events may wait for one watcher. An event is shared, so this bounds pointers, not objects.
const QUEUE: usize = 1024;

/// Where a watch starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WatchStart {
    /// With the changes after a revision.
    After(u64),
    /// With the current objects as additions, then the changes.
    State,
    /// With whatever changes from now on.
    Now,
}

/// Why a watch cannot start.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// Changes after the revision asked for have been forgotten.
    #[error("too old resource version: {asked} ({oldest})")]
    TooOld {
        /// What was asked for.
        asked: u64,
        /// The oldest revision a watch could start after.
        oldest: u64,
    },
}

/// What an event is to a watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Matched<'a> {
    /// The object begins to match.
    Added(&'a Obj),
    /// It goes on matching.
    Modified(&'a Obj),
    /// It is gone, or stopped matching: the object as it last matched, to be shown at the event's revision.
    Deleted(&'a Obj),
}

impl Matched<'_> {
    /// The event's type on the wire.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Added(_) => "ADDED",
            Self::Modified(_) => "MODIFIED",
            Self::Deleted(_) => "DELETED",
        }
    }

    /// The object it carries.
    pub fn obj(&self) -> &Obj {
        match self {
            Self::Added(obj) | Self::Modified(obj) | Self::Deleted(obj) => obj,
        }
    }
}

impl PartialEq for Obj {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key && self.revision() == other.revision()
    }
}

impl Eq for Obj {}

/// What `event` is to a watch with this filter, if anything.
pub fn classify<'a>(filter: &Filter, event: &'a Event) -> Option<Matched<'a>> {
    let before = event.prev.as_deref().filter(|prev| filter.matches(prev));
    let now = if event.deleted { None } else { Some(&*event.obj).filter(|obj| filter.matches(obj)) };
    match (before, now) {
        (None, Some(obj)) => Some(Matched::Added(obj)),
        (Some(_), Some(obj)) => Some(Matched::Modified(obj)),
        (Some(_), None) if event.deleted => Some(Matched::Deleted(&event.obj)),
        (Some(prev), None) => Some(Matched::Deleted(prev)),
        (None, None) => None,
    }
}

/// A watcher's number and queue.
type Watcher = (u64, mpsc::Sender<Arc<Event>>);

/// Who is to be told of changes, by where they look.
#[derive(Default)]
pub(super) struct Watchers {
    next: u64,
    by_trigger: HashMap<Trigger, Vec<Watcher>>,
    /// Whether any watcher looks at keys, fields or namespaces: spares the look-ups otherwise.
    narrow: usize,
}

impl Watchers {
    /// Cuts everybody off.
    pub fn clear(&mut self) {
        self.by_trigger.clear();
        self.narrow = 0;
    }

    fn add(&mut self, trigger: Trigger, sender: mpsc::Sender<Arc<Event>>) -> u64 {
        self.next += 1;
        self.narrow += usize::from(trigger != Trigger::All);
        self.by_trigger.entry(trigger).or_default().push((self.next, sender));
        self.next
    }

    fn remove(&mut self, trigger: &Trigger, id: u64) {
        let Some(list) = self.by_trigger.get_mut(trigger) else { return };
        let before = list.len();
        list.retain(|(other, _)| *other != id);
        if *trigger != Trigger::All {
            self.narrow -= before - list.len();
        }
        if list.is_empty() {
            self.by_trigger.remove(trigger);
        }
    }

    /// Queues an event for everybody it may concern.
    pub fn dispatch(&mut self, event: &Arc<Event>) {
        if self.by_trigger.is_empty() {
            return;
        }
        self.send(&Trigger::All, event);
        if self.narrow == 0 {
            return;
        }
        let obj = &event.obj;
        self.send(&Trigger::Key(obj.key.clone()), event);
        if !obj.namespace().is_empty() {
            self.send(&Trigger::Namespace(obj.namespace().into()), event);
        }
        for (slot, value) in obj.fields().enumerate() {
            if !value.is_empty() {
                self.send(&Trigger::Field(slot, value.into()), event);
            }
            if let Some(prev) = &event.prev
                && prev.field(slot) != value
                && !prev.field(slot).is_empty()
            {
                self.send(&Trigger::Field(slot, prev.field(slot).into()), event);
            }
        }
    }

    fn send(&mut self, trigger: &Trigger, event: &Arc<Event>) {
        let Some(list) = self.by_trigger.get_mut(trigger) else { return };
        let before = list.len();
        // A full queue cuts the watcher off: dropping its sender ends the stream after what is queued.
        list.retain(|(_, sender)| sender.try_send(event.clone()).is_ok());
        if *trigger != Trigger::All {
            self.narrow -= before - list.len();
        }
        if list.is_empty() {
            self.by_trigger.remove(trigger);
        }
    }
}

/// A running watch. Dropping it ends it.
pub struct Watch {
    cache: Arc<Cache>,
    filter: Filter,
    trigger: Trigger,
    id: u64,
    receiver: mpsc::Receiver<Arc<Event>>,
    initial: VecDeque<Arc<Event>>,
    /// The revision of the state that the initial events amount to.
    pub started_at: u64,
}

impl Watch {
    /// The filter it was started with.
    pub fn filter(&self) -> &Filter {
        &self.filter
    }

    /// The next event that was known at the start.
    pub fn next_initial(&mut self) -> Option<Arc<Event>> {
        self.initial.pop_front()
    }

    /// The next event after those; `None` when the watch was cut off.
    pub async fn recv(&mut self) -> Option<Arc<Event>> {
        self.receiver.recv().await
    }

    /// The next event if there is one.
    pub fn try_recv(&mut self) -> Option<Arc<Event>> {
        self.receiver.try_recv().ok()
    }

    /// A revision up to which this watch has been handed everything, if its queue is empty.
    pub fn bookmark(&self) -> Option<u64> {
        // The revision is read before the queue: a change up to it was queued before it was published.
        let revision = self.cache.revision();
        (self.initial.is_empty() && self.receiver.is_empty() && !self.receiver.is_closed())
            .then_some(revision)
    }
}

impl Watch {
    /// Puts events before those that were known at the start.
    fn precede(&mut self, events: VecDeque<Arc<Event>>) {
        self.initial = events;
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut state = self.cache.state.write().expect("no holder of the cache lock panics");
        state.watchers.remove(&self.trigger, self.id);
    }
}

impl Cache {
    /// Starts a watch after a revision that the window has forgotten, out of the store's history.
    pub async fn replay(&self, filter: Filter, namespaced: bool, revision: u64) -> Result<Watch, WatchError> {
        let too_old = |oldest| WatchError::TooOld { asked: revision, oldest };
        if self.store.freshness() == Freshness::ByReading {
            // Where its replay ends could not be told.
            let since = self.state.read().expect("no holder of the cache lock panics").window.since();
            return Err(too_old(since));
        }
        // First the watch, then the history up to its start: nothing falls in between.
        let mut watch = self.watch(filter, namespaced, WatchStart::Now)?;
        let end = knarr_store::prefix_end(&self.prefix);
        let mut history = match self.store.watch(self.prefix.clone(), end, revision + 1).await {
            Ok(history) => history,
            Err(knarr_store::StoreError::Compacted { compacted }) => return Err(too_old(compacted)),
            Err(_) => return Err(too_old(watch.started_at)),
        };
        let mut events = VecDeque::new();
        let mut reached = revision;
        while reached < watch.started_at {
            let Some(batch) = self.next_of(&mut history).await else { return Err(too_old(watch.started_at)) };
            reached = batch.revision;
            for change in batch.events.into_iter().filter(|c| c.kv.mod_revision <= watch.started_at) {
                let Some(event) = self.event_of(change).await else { continue };
                if classify(&watch.filter, &event).is_some() {
                    events.push_back(Arc::new(event));
                }
            }
        }
        watch.precede(events);
        Ok(watch)
    }

    /// The next batch of a replay, which is asked how far it has come where it does not say so by itself.
    async fn next_of(&self, history: &mut WatchStream) -> Option<WatchBatch> {
        let progress = history.progress();
        loop {
            progress.request();
            let pause = self.ctx.clock.sleep(PROGRESS_EVERY);
            tokio::select! {
                biased;
                batch = history.recv() => return batch,
                () = pause => {}
            }
        }
    }

    /// Starts a watch with the objects of a list that was read from the store at `revision`.
    pub fn watch_listed(
        &self,
        filter: Filter,
        namespaced: bool,
        revision: u64,
        objs: Vec<Arc<Obj>>,
    ) -> Result<Watch, WatchError> {
        let mut watch = self.watch(filter, namespaced, WatchStart::After(revision))?;
        for obj in objs.into_iter().rev() {
            watch.initial.push_front(Arc::new(Event::new(obj, None, false)));
        }
        Ok(watch)
    }

    /// A change of the store as an event, without the cache's own objects.
    async fn event_of(&self, change: knarr_store::WatchEvent) -> Option<Event> {
        let revision = change.kv.mod_revision;
        let read = async |kv: knarr_store::KeyValue| {
            let obj = self.read(vec![kv]).await.ok()?.pop()?.ok()?;
            Some(Arc::new(obj))
        };
        let prev = match change.prev {
            Some(prev) => read(prev).await,
            None => None,
        };
        if change.deleted {
            let prev = prev?;
            return Some(Event::new(Arc::new(prev.at(revision)), Some(prev), true));
        }
        Some(Event::new(read(change.kv).await?, prev, false))
    }

    /// Starts a watch. The cache must be filled (see [`Cache::wait_for`]).
    pub fn watch(&self, filter: Filter, namespaced: bool, start: WatchStart) -> Result<Watch, WatchError> {
        let trigger = filter.trigger(&self.prefix, namespaced);
        let (sender, receiver) = mpsc::channel(QUEUE);
        let cache = self.myself.upgrade().expect("a cache in use is alive");
        self.prepare(&trigger);
        let mut state = self.state.write().expect("no holder of the cache lock panics");
        let (initial, started_at) = match start {
            WatchStart::Now => (VecDeque::new(), state.revision),
            WatchStart::State => {
                // The lock is held, so the list and the registration are one moment.
                let listed = state.select(&self.scope(&filter, namespaced), &trigger, &filter, &[], 0);
                let event = |obj| Arc::new(Event::new(obj, None, false));
                (listed.objs.into_iter().map(event).collect(), state.revision)
            }
            WatchStart::After(revision) => {
                let oldest = state.window.since();
                let events =
                    state.window.after(revision).ok_or(WatchError::TooOld { asked: revision, oldest })?;
                let events = events.filter(|event| classify(&filter, event).is_some());
                (events.cloned().collect(), state.revision.max(revision))
            }
        };
        let id = state.watchers.add(trigger.clone(), sender);
        drop(state);
        Ok(Watch { cache, filter, trigger, id, receiver, initial, started_at })
    }
}
