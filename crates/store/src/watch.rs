//! The receiving end of a watch.

use crate::WatchBatch;
use std::sync::Arc;
use tokio::sync::Notify;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::mpsc::error::TryRecvError;

/// The receiving end of a watch. It ends (returns `None`) when the store closes or the watch fell behind
/// what the backend keeps; the watcher then lists and watches again.
#[derive(Debug)]
pub struct WatchStream {
    batches: UnboundedReceiver<WatchBatch>,
    progress: Option<Arc<Notify>>,
}

impl WatchStream {
    /// One that is told of every commit anyway.
    pub(crate) fn local(batches: UnboundedReceiver<WatchBatch>) -> Self {
        Self { batches, progress: None }
    }

    /// One whose source is asked for progress through `progress`.
    pub(crate) fn remote(batches: UnboundedReceiver<WatchBatch>, progress: Arc<Notify>) -> Self {
        Self { batches, progress: Some(progress) }
    }

    /// The next batch. May be dropped and called again.
    pub async fn recv(&mut self) -> Option<WatchBatch> {
        self.batches.recv().await
    }

    /// The next batch if it is there.
    pub fn try_recv(&mut self) -> Result<WatchBatch, TryRecvError> {
        self.batches.try_recv()
    }

    /// Asks the backend how far this watch has come; the answer is a batch, most likely an empty one.
    pub fn request_progress(&self) {
        self.progress().request();
    }

    /// The means to ask so, apart from the stream.
    pub fn progress(&self) -> ProgressRequests {
        ProgressRequests(self.progress.clone())
    }
}

/// Asks for the progress of a watch.
#[derive(Clone, Debug)]
pub struct ProgressRequests(Option<Arc<Notify>>);

impl ProgressRequests {
    /// Asks. Requests that come before the first is sent are one.
    pub fn request(&self) {
        if let Some(progress) = &self.0 {
            progress.notify_one();
        }
    }
}
