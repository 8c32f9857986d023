//! Many clients at once: each takes the next number and sends the request of that number, until all are sent or
//! the time is up.

use crate::bench::Bench;
use knarr_client::{Client, Error};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::task::JoinSet;

/// What a load amounted to.
#[derive(Debug, Default)]
pub struct Load {
    /// Latencies of the requests that succeeded, sorted.
    pub latencies: Vec<Duration>,
    /// How many did not.
    pub failed: usize,
    /// Why the first of them did not.
    pub first_error: String,
    /// From the first request to the last answer.
    pub took: Duration,
    /// Processor time of the server meanwhile.
    pub cpu: Option<Duration>,
}

impl Load {
    /// Successful requests a second.
    pub fn rate(&self) -> f64 {
        self.latencies.len() as f64 / self.took.as_secs_f64().max(1e-9)
    }

    /// Processor time of the server per request.
    pub fn cpu_each(&self) -> Option<Duration> {
        let requests = (self.latencies.len() + self.failed).max(1);
        self.cpu.map(|cpu| cpu / u32::try_from(requests).unwrap_or(u32::MAX))
    }
}

/// Sends requests 0 to `total` by `clients` clients, for as long as a row may take.
pub async fn run<F, R>(bench: &Bench, clients: usize, total: usize, request: F) -> Load
where
    F: Fn(Client, usize) -> R + Clone + Send + Sync + 'static,
    R: Future<Output = Result<(), Error>> + Send + 'static,
{
    run_within(bench, bench.row_limit, clients, total, request).await
}

/// The same for at most `limit`.
pub async fn run_within<F, R>(
    bench: &Bench,
    limit: Duration,
    clients: usize,
    total: usize,
    request: F,
) -> Load
where
    F: Fn(Client, usize) -> R + Clone + Send + Sync + 'static,
    R: Future<Output = Result<(), Error>> + Send + 'static,
{
    let clock = bench.ctx.clock.clone();
    let (next, over) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let before = bench.servers.cpu();
    let started = clock.instant();
    let mut running = JoinSet::new();
    for number in 0..clients {
        let (next, over, request, clock) = (next.clone(), over.clone(), request.clone(), clock.clone());
        let client = bench.client(number);
        running.spawn(async move {
            let mut own = Load::default();
            while !over.load(Ordering::Relaxed) {
                let at = next.fetch_add(1, Ordering::Relaxed);
                if at >= total {
                    break;
                }
                let sent = clock.instant();
                match request(client.clone(), at).await {
                    Ok(()) => own.latencies.push(clock.instant() - sent),
                    Err(error) => own.fail(&error),
                }
            }
            own
        });
    }
    let mut all = Load::default();
    let limit = clock.sleep(limit);
    tokio::pin!(limit);
    loop {
        tokio::select! {
            own = running.join_next() => match own {
                Some(own) => all.add(own.expect("a client does not panic")),
                None => break,
            },
            () = &mut limit, if !over.load(Ordering::Relaxed) => over.store(true, Ordering::Relaxed),
        }
    }
    all.took = clock.instant() - started;
    all.cpu = bench.servers.cpu().zip(before).map(|(after, before)| after.since(&before));
    all.latencies.sort_unstable();
    all
}

impl Load {
    fn fail(&mut self, error: &Error) {
        if self.failed == 0 {
            self.first_error = match std::error::Error::source(error) {
                Some(source) => format!("{error}: {source}"),
                None => error.to_string(),
            };
        }
        self.failed += 1;
    }

    fn add(&mut self, mut other: Self) {
        if self.failed == 0 {
            self.first_error = std::mem::take(&mut other.first_error);
        }
        self.failed += other.failed;
        self.latencies.append(&mut other.latencies);
    }
}
