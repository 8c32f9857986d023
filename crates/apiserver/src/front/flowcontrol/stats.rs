//! What priority levels count, as plain numbers under the lock of their level: counting costs no lock of its own,
//! and whoever scrapes metrics copies them. Times are nanoseconds since the server began.

/// Upstream's buckets of durations, in seconds.
pub const SECONDS: &[f64] = &[0.0, 0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 30.0];
/// Upstream's buckets of queue lengths.
pub const LENGTHS: &[f64] = &[0.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0];
/// Upstream's buckets of seats.
pub const SEATS: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 100.0];
/// Upstream's buckets of watchers.
pub const WATCHERS: &[f64] = &[0.0, 1.0, 10.0, 100.0, 1000.0, 10000.0];
/// Upstream's buckets of how many of a level's seats are taken.
pub const UTILIZATION: &[f64] = &[0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0];
/// Upstream's buckets of requests by limit.
pub const REQUESTS: &[f64] = &[0.0, 0.001, 0.003, 0.01, 0.03, 0.1, 0.25, 0.5, 0.75, 1.0];
/// Upstream's buckets of demand by nominal seats.
pub const DEMAND: &[f64] = &[0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.4, 1.7, 2.0, 2.8, 4.0, 6.0];
/// Upstream's buckets of reads and writes by limit.
pub const READ_WRITE: &[f64] =
    &[0.0, 0.001, 0.01, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0];

/// Seconds of nanoseconds.
pub fn seconds(nanos: u64) -> f64 {
    nanos as f64 / 1e9
}

fn bucket(bounds: &[f64], value: f64) -> usize {
    bounds.iter().position(|bound| value <= *bound).unwrap_or(bounds.len())
}

/// A histogram of observations. The last count is of those beyond all bounds.
#[derive(Clone, Debug)]
pub struct Histogram {
    /// The buckets' upper bounds.
    pub bounds: &'static [f64],
    /// Observations by bucket, one more than there are bounds.
    pub counts: Vec<u64>,
    /// The sum of what was observed.
    pub sum: f64,
}

impl Histogram {
    /// An empty one.
    pub fn new(bounds: &'static [f64]) -> Self {
        Self { bounds, counts: vec![0; bounds.len() + 1], sum: 0.0 }
    }

    /// Counts one observation.
    pub fn observe(&mut self, value: f64) {
        self.counts[bucket(self.bounds, value)] += 1;
        self.sum += value;
    }
}

/// A histogram of a ratio over time: as if it were observed at the end of every nanosecond.
#[derive(Clone, Debug)]
pub struct TimingRatio {
    /// Nanoseconds by bucket, and the ratio's integral over them.
    pub histogram: Histogram,
    since: u64,
    numerator: f64,
    denominator: f64,
    bucket: usize,
}

impl TimingRatio {
    /// Zero since `now`.
    pub fn new(bounds: &'static [f64], now: u64) -> Self {
        let bucket = bucket(bounds, 0.0);
        Self { histogram: Histogram::new(bounds), since: now, numerator: 0.0, denominator: 1.0, bucket }
    }

    /// Brings the histogram up to `now`.
    pub fn advance(&mut self, now: u64) {
        let lasted = now.saturating_sub(self.since);
        if lasted > 0 {
            self.histogram.counts[self.bucket] += lasted;
            self.histogram.sum += lasted as f64 * self.numerator / self.denominator;
            self.since = now;
        }
    }

    /// The numerator from `now` on.
    pub fn set(&mut self, now: u64, numerator: f64) {
        self.advance(now);
        self.numerator = numerator;
        self.bucket = bucket(self.histogram.bounds, numerator / self.denominator);
    }

    /// Adds to the numerator from `now` on.
    pub fn add(&mut self, now: u64, delta: f64) {
        self.set(now, self.numerator + delta);
    }

    /// The denominator from `now` on.
    pub fn set_denominator(&mut self, now: u64, denominator: f64) {
        self.advance(now);
        self.denominator = denominator.max(1.0);
        self.set(now, self.numerator);
    }
}

/// Time-weighted statistics of a number between two resets.
#[derive(Clone, Copy, Debug, Default)]
pub struct Integrator {
    since: u64,
    value: f64,
    elapsed: f64,
    integral: f64,
    integral_of_square: f64,
    max: f64,
}

/// What an [`Integrator`] has seen.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Seen {
    /// Over how many seconds.
    pub seconds: f64,
    /// Time-weighted average.
    pub average: f64,
    /// Time-weighted standard deviation.
    pub deviation: f64,
    /// The largest value.
    pub max: f64,
}

impl Integrator {
    /// Zero since `now`.
    pub fn new(now: u64) -> Self {
        Self { since: now, ..Self::default() }
    }

    /// The value from `now` on.
    pub fn set(&mut self, now: u64, value: f64) {
        let lasted = seconds(now.saturating_sub(self.since));
        self.since = self.since.max(now);
        self.elapsed += lasted;
        self.integral += lasted * self.value;
        self.integral_of_square += lasted * self.value * self.value;
        self.value = value;
        self.max = self.max.max(value);
    }

    /// What was seen since the last reset, and starts over.
    pub fn reset(&mut self, now: u64) -> Seen {
        self.set(now, self.value);
        let mut seen = Seen { seconds: self.elapsed, max: self.max, ..Seen::default() };
        if self.elapsed > 0.0 {
            seen.average = self.integral / self.elapsed;
            let variance = self.integral_of_square / self.elapsed - seen.average * seen.average;
            seen.deviation = variance.max(0.0).sqrt();
        }
        *self = Self { since: self.since, value: self.value, max: self.value, ..Self::default() };
        seen
    }
}

/// Why a request was not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The level has no queues and no seat.
    ConcurrencyLimit,
    /// The queue is full.
    QueueFull,
    /// It waited too long, or its client went away.
    TimeOut,
}

impl Reason {
    /// All, with their labels.
    pub const ALL: [(Self, &'static str); 3] = [
        (Self::ConcurrencyLimit, "concurrency-limit"),
        (Self::QueueFull, "queue-full"),
        (Self::TimeOut, "time-out"),
    ];
}

/// What the requests of one flow schema amount to in one level.
#[derive(Clone, Debug)]
pub struct FlowStats {
    /// The flow schema's name.
    pub schema: String,
    /// Requests that were let in.
    pub dispatched: u64,
    /// Requests that were not, by reason.
    pub rejected: [u64; 3],
    /// Requests in queues.
    pub waiting: u64,
    /// Seats they will take.
    pub waiting_seats: u64,
    /// Requests being served.
    pub executing: u64,
    /// Seats they take.
    pub executing_seats: u64,
    /// Dispatches that had to wait for seats.
    pub no_accommodation: u64,
    /// Seconds in queues, of those let in and of the others.
    pub waited: [Histogram; 2],
    /// Seconds of service, of watches (their beginning) and of the others.
    pub served: [Histogram; 2],
    /// Length of the queue with each request in it.
    pub queue_length: Histogram,
    /// Seats by request.
    pub seats: Histogram,
    /// Watchers by write.
    pub watchers: Histogram,
}

impl FlowStats {
    /// Nothing yet.
    pub fn new(schema: &str) -> Self {
        let seconds = || [Histogram::new(SECONDS), Histogram::new(SECONDS)];
        Self {
            schema: schema.to_owned(),
            dispatched: 0,
            rejected: [0; 3],
            waiting: 0,
            waiting_seats: 0,
            executing: 0,
            executing_seats: 0,
            no_accommodation: 0,
            waited: seconds(),
            served: seconds(),
            queue_length: Histogram::new(LENGTHS),
            seats: Histogram::new(SEATS),
            watchers: Histogram::new(WATCHERS),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_is_weighed_by_time() {
        let mut ratio = TimingRatio::new(UTILIZATION, 0);
        ratio.set_denominator(0, 10.0);
        ratio.set(100, 5.0);
        ratio.add(400, 5.0);
        ratio.advance(1000);
        let at = |value: f64| ratio.histogram.counts[bucket(UTILIZATION, value)];
        assert_eq!((at(0.0), at(0.5), at(1.0)), (100, 300, 600));
        assert_eq!(ratio.histogram.sum, 0.5 * 300.0 + 600.0);
    }

    #[test]
    fn an_integrator_gives_average_deviation_and_peak_and_starts_over() {
        let mut demand = Integrator::new(0);
        demand.set(0, 4.0);
        demand.set(1_000_000_000, 0.0);
        let seen = demand.reset(2_000_000_000);
        assert_eq!(seen, Seen { seconds: 2.0, average: 2.0, deviation: 2.0, max: 4.0 });
        assert_eq!(demand.reset(2_000_000_000).max, 0.0, "nothing since");
    }
}
