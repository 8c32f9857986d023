//! A watch that outlives connections, members and leaders: it remembers the revision it has delivered and goes on
//! from there at another member. It ends when its history was compacted away, and when nobody listens any more.

use super::channel::{CallError, Stream};
use super::messages::{RangeRequest, WatchResponse, call, watch_create, watch_progress};
use super::{Shared, failed};
use crate::{Revision, StoreError, WatchBatch, WatchEvent};
use bytes::Bytes;
use knarr_base::Backoff;
use knarr_base::clock::timeout;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::sync::mpsc::UnboundedSender;

/// How long a member may take to start a watch.
const OPEN_LIMIT: Duration = Duration::from_secs(3);
/// Tries before a new watch fails; a running one goes on trying.
const FIRST_TRIES: usize = 4;

/// See the module's documentation.
pub(super) struct Watching {
    pub shared: Arc<Shared>,
    /// In etcd's keys.
    pub start: Bytes,
    pub end: Bytes,
    /// Everything before this revision has been delivered, or was not asked for.
    pub next: Revision,
}

enum End {
    /// It can go on elsewhere.
    Lost(CallError),
    /// Changes that it has not delivered are gone.
    Compacted(Revision),
}

impl From<CallError> for End {
    fn from(error: CallError) -> Self {
        Self::Lost(error)
    }
}

impl Watching {
    /// Starts it.
    pub async fn open(&self) -> Result<Stream, StoreError> {
        let mut backoff = backoff();
        let mut tries = 0;
        loop {
            match self.open_once().await {
                Ok(stream) => return Ok(stream),
                Err(End::Compacted(compacted)) => return Err(StoreError::Compacted { compacted }),
                Err(End::Lost(error)) => {
                    tries += 1;
                    if tries == FIRST_TRIES {
                        return Err(failed(&self.shared, error, None));
                    }
                }
            }
            self.shared.ctx.clock.sleep(backoff.step_jittered(&*self.shared.ctx.rng, 0.5)).await;
        }
    }

    /// Tries every member in turn.
    async fn open_once(&self) -> Result<Stream, End> {
        let endpoints = &self.shared.endpoints;
        let mut last = End::Lost(CallError::TimedOut);
        for index in endpoints.for_stream() {
            let opening = self.open_at(index);
            match timeout(&*self.shared.ctx.clock, OPEN_LIMIT, opening).await {
                Some(Ok(stream)) => return Ok(stream),
                Some(Err(End::Lost(error))) => last = End::Lost(error),
                Some(Err(end)) => return Err(end),
                None => last = End::Lost(CallError::TimedOut),
            }
            endpoints.avoid(index);
        }
        Err(last)
    }

    async fn open_at(&self, index: usize) -> Result<Stream, End> {
        let channel = self.shared.endpoints.channel(index).await?;
        let create = watch_create(&self.start, &self.end, self.next);
        let mut stream = channel.stream(call::WATCH, create, true).await?;
        let message = stream.next().await?.ok_or_else(|| CallError::Broken("the watch ended".into()))?;
        let response = WatchResponse::read(message).map_err(CallError::from)?;
        self.shared.saw(response.revision);
        self.check_end(&response)?;
        if !response.created {
            return Err(CallError::Malformed(super::wire::Malformed).into());
        }
        if self.next <= response.revision {
            self.check_history().await?;
        }
        Ok(stream)
    }

    fn check_end(&self, response: &WatchResponse) -> Result<(), End> {
        if response.compact_revision > 0 {
            self.shared.compacted_at(response.compact_revision);
            return Err(End::Compacted(response.compact_revision));
        }
        if response.canceled {
            let reason = response.cancel_reason.clone();
            return Err(CallError::Refused { code: super::channel::UNAVAILABLE, message: reason }.into());
        }
        Ok(())
    }

    /// etcd starts a watch at the very revision it was compacted at, where deletions are already forgotten, and tells
    /// of other compacted ones only later. The history is whole if the revision before the first can be read.
    async fn check_history(&self) -> Result<(), End> {
        let revision = self.next.saturating_sub(1).max(1);
        let range =
            RangeRequest { key: self.start.clone(), revision, count_only: true, ..RangeRequest::default() };
        match self.shared.endpoints.read(call::RANGE, &range.write().finish()).await {
            Ok(_) => Ok(()),
            Err(error) => match failed(&self.shared, error.clone(), Some(revision)) {
                StoreError::Compacted { compacted } => Err(End::Compacted(compacted)),
                // A member that is behind the one that made the watch.
                StoreError::Future { .. } => Ok(()),
                _ => Err(error.into()),
            },
        }
    }

    /// Delivers until there is nobody to deliver to.
    pub async fn run(mut self, stream: Stream, sender: UnboundedSender<WatchBatch>, progress: Arc<Notify>) {
        let mut stream = Some(stream);
        let mut backoff = backoff();
        loop {
            let open = match stream.take() {
                Some(stream) => Ok(stream),
                None => {
                    tokio::select! {
                        opened = self.open_once() => opened,
                        () = sender.closed() => return,
                    }
                }
            };
            let end = match open {
                Ok(stream) => match self.deliver(stream, &sender, &progress, &mut backoff).await {
                    Ok(()) => return,
                    Err(end) => end,
                },
                Err(end) => end,
            };
            let prefix = String::from_utf8_lossy(&self.start).into_owned();
            match end {
                End::Compacted(compacted) => {
                    tracing::warn!(prefix, compacted, next = self.next, "a watch lost its history");
                    return;
                }
                End::Lost(error) => {
                    tracing::info!(prefix, %error, next = self.next, "a watch goes on at another member");
                }
            }
            let pause = self.shared.ctx.clock.sleep(backoff.step_jittered(&*self.shared.ctx.rng, 0.5));
            tokio::select! {
                () = pause => {}
                () = sender.closed() => return,
            }
        }
    }

    /// Delivers what comes from one stream; `Ok` when nobody listens any more.
    async fn deliver(
        &mut self,
        mut stream: Stream,
        sender: &UnboundedSender<WatchBatch>,
        progress: &Notify,
        backoff: &mut Backoff,
    ) -> Result<(), End> {
        let mut events = Vec::new();
        loop {
            let message = tokio::select! {
                message = stream.next() => message?,
                () = progress.notified() => {
                    stream.send(watch_progress());
                    continue;
                }
                () = sender.closed() => return Ok(()),
            };
            let message = message.ok_or_else(|| CallError::Broken("the watch ended".into()))?;
            let response = WatchResponse::read(message).map_err(CallError::from)?;
            self.shared.saw(response.revision);
            self.check_end(&response)?;
            backoff.reset();
            let batch = if response.events.is_empty() && events.is_empty() {
                // Only word on how far it has come.
                let trusted = self.shared.progress_in_order.load(Ordering::Acquire);
                if response.created || response.revision < self.next || !trusted {
                    continue;
                }
                WatchBatch { events: Vec::new(), revision: response.revision }
            } else {
                for event in response.events {
                    let kv = self.shared.names.inward(event.kv);
                    let prev = event.prev.map(|prev| self.shared.names.inward(prev));
                    events.push(WatchEvent { kv, prev, deleted: event.deleted });
                }
                // The changes of one revision (an ended lease) may come in several pieces.
                if response.fragment {
                    continue;
                }
                // Not the header's revision: changes that are still to come may be before it.
                let Some(revision) = events.last().map(|event| event.kv.mod_revision) else { continue };
                WatchBatch { events: std::mem::take(&mut events), revision }
            };
            self.next = batch.revision + 1;
            if sender.send(batch).is_err() {
                return Ok(());
            }
        }
    }
}

fn backoff() -> Backoff {
    Backoff::new(Duration::from_millis(20), 2.0, Duration::from_secs(1))
}
