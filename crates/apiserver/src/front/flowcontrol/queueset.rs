//! Fair queuing of the requests of one priority level (KEP-1040, "Fair Queuing for Server Requests"). A plain state
//! machine: whoever calls it says what time it is, so a test can drive it by hand.
//!
//! Every queue gets the same share of the level's seats in a virtual world whose clock `progress` is; a queue's
//! requests are dispatched in the order of the virtual times at which they would finish there. A request's work is
//! its seats times an estimated duration, corrected when it finishes.
//!
//! Sums over queues are kept, not counted, so that a request that finds a free seat costs the same with one queue
//! as with thousands.

use super::shuffle;
use super::stats::{DEMAND, FlowStats, Integrator, REQUESTS, Reason, TimingRatio, UTILIZATION, seconds};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use tokio::sync::oneshot;

/// How long a request is thought to take until it has been served (upstream's G).
const ESTIMATED_SERVICE: i128 = 3_000_000;

/// Work and virtual time: seats times nanoseconds.
type Work = i128;

/// How a level queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Queuing {
    /// Nothing is ever held up.
    Exempt,
    /// What finds no seat is refused.
    Reject,
    /// What finds no seat waits in one of so many queues.
    Queue {
        /// How many.
        queues: usize,
        /// How many of them a flow may use.
        hand: usize,
        /// How many requests may wait in each.
        length: usize,
    },
}

/// What a request takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Width {
    /// Seats while it is served.
    pub initial_seats: u64,
    /// Seats afterwards, while watchers are told of what it changed.
    pub final_seats: u64,
    /// For how long afterwards, in nanoseconds.
    pub latency: u64,
}

impl Width {
    /// So many seats while it is served.
    pub fn seats(seats: u64) -> Self {
        Self { initial_seats: seats, final_seats: 0, latency: 0 }
    }

    /// The seats it occupies from beginning to end.
    pub fn max(&self) -> u64 {
        self.initial_seats.max(self.final_seats)
    }

    fn final_work(&self) -> Work {
        Work::from(self.final_seats) * Work::from(self.latency)
    }

    fn work(&self) -> Work {
        Work::from(self.initial_seats) * ESTIMATED_SERVICE + self.final_work()
    }
}

/// A request being served. Must be handed back to [`QueueSet::finish`].
#[derive(Debug, PartialEq, Eq)]
pub struct Running {
    queue: Option<usize>,
    flow: usize,
    width: Width,
    started: u64,
    /// Whether it is the beginning of a watch, for the metrics.
    pub watch: bool,
}

/// What became of a request on arrival.
#[derive(Debug)]
pub enum Start {
    /// It is being served.
    Granted(Running),
    /// It waits under this number in that queue; the channel says when its turn has come.
    Queued(Place, oneshot::Receiver<Running>),
    /// It is refused.
    Rejected(Reason),
}

/// Where a request waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    queue: usize,
    id: u64,
}

struct Waiting {
    id: u64,
    flow: usize,
    width: Width,
    arrived: u64,
    arrival_progress: Work,
    watch: bool,
    wake: oneshot::Sender<Running>,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Waiting>,
    /// The virtual time at which its next request is dispatched in the virtual world.
    next_dispatch: Work,
    executing: usize,
    seats_in_use: u64,
    seats_waiting: u64,
    work_waiting: Work,
}

impl Queue {
    fn is_active(&self) -> bool {
        !self.waiting.is_empty() || self.executing > 0
    }

    /// Dispatch in the virtual world never precedes arrival: a queue does not save up seats it could not use.
    fn bound(&mut self) {
        if let Some(oldest) = self.waiting.front() {
            self.next_dispatch = self.next_dispatch.max(oldest.arrival_progress);
        }
    }
}

/// A request that has been served and keeps its seats until a time: (until, order, queue, flow, seats).
type Lingering = Reverse<(u64, u64, Option<usize>, usize, u64)>;

/// What a level has counted.
#[derive(Clone, Debug)]
pub struct LevelStats {
    /// By flow schema.
    pub flows: Vec<FlowStats>,
    /// Seats taken by the current limit.
    pub utilization: TimingRatio,
    /// Requests waiting by what the queues hold.
    pub waiting: TimingRatio,
    /// Requests being served by the current limit.
    pub executing: TimingRatio,
    /// Seats wanted by the current limit.
    pub demand: TimingRatio,
    /// The virtual time, in seat-seconds.
    pub current_r: f64,
    /// ... at the last dispatch.
    pub dispatch_r: f64,
    /// The virtual start of what was dispatched last.
    pub latest_s: f64,
    /// Least and greatest virtual start over the queues, at the last dispatch from more than one.
    pub next_s: [f64; 2],
    /// The same less the work in progress.
    pub next_discounted_s: [f64; 2],
}

/// Numbers for the debugging endpoints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Requests waiting.
    pub waiting: usize,
    /// Requests being served.
    pub executing: usize,
    /// Requests let in so far.
    pub dispatched: u64,
    /// Requests refused so far.
    pub rejected: u64,
    /// Those of them that gave up waiting.
    pub cancelled: u64,
}

/// One queue, for the debugging endpoints.
#[derive(Clone, Debug, PartialEq)]
pub struct QueueDump {
    /// Requests waiting.
    pub waiting: usize,
    /// Requests being served.
    pub executing: usize,
    /// Seats taken.
    pub seats_in_use: u64,
    /// The virtual time of its next dispatch, in seat-seconds.
    pub next_dispatch: f64,
    /// Seats of the waiting while they are served.
    pub initial_seats: u64,
    /// Most seats of the waiting.
    pub max_seats: u64,
    /// Their work, in seat-seconds.
    pub work: f64,
}

/// See the module's documentation.
pub struct QueueSet {
    queuing: Queuing,
    limit: u64,
    queues: Vec<Queue>,
    progress: Work,
    now: u64,
    robin: usize,
    totals: Totals,
    seats_in_use: u64,
    seats_waiting: u64,
    /// Of those seats, the ones of requests that went through a queue.
    queued_seats_in_use: u64,
    active_queues: usize,
    enqueues: usize,
    next_id: u64,
    lingering: BinaryHeap<Lingering>,
    integrator: Integrator,
    stats: LevelStats,
    /// Whether somebody will call [`QueueSet::advance`] at [`QueueSet::next_release`].
    pub timer_set: bool,
    /// Whether the level is to go once it is idle.
    pub quiescing: bool,
}

impl QueueSet {
    /// An idle set with no seats, at `now`.
    pub fn new(now: u64) -> Self {
        Self {
            queuing: Queuing::Reject,
            limit: 0,
            queues: Vec::new(),
            progress: 0,
            now,
            robin: 0,
            totals: Totals::default(),
            seats_in_use: 0,
            seats_waiting: 0,
            queued_seats_in_use: 0,
            active_queues: 0,
            enqueues: 0,
            next_id: 0,
            lingering: BinaryHeap::new(),
            integrator: Integrator::new(now),
            stats: LevelStats {
                flows: Vec::new(),
                utilization: TimingRatio::new(UTILIZATION, now),
                waiting: TimingRatio::new(REQUESTS, now),
                executing: TimingRatio::new(REQUESTS, now),
                demand: TimingRatio::new(DEMAND, now),
                current_r: 0.0,
                dispatch_r: 0.0,
                latest_s: 0.0,
                next_s: [0.0; 2],
                next_discounted_s: [0.0; 2],
            },
            timer_set: false,
            quiescing: false,
        }
    }

    /// Queues and seats from now on. What waits already stays where it is.
    pub fn configure(&mut self, now: u64, queuing: Queuing, limit: u64, denominator: u64) {
        self.sync(now);
        self.queuing = queuing;
        self.limit = limit;
        let mut room = 1;
        if let Queuing::Queue { queues, length, .. } = queuing {
            room = length.max(1) * queues;
            if self.queues.len() < queues {
                self.queues.resize_with(queues, Queue::default);
            }
        }
        self.trim();
        self.stats.waiting.set_denominator(self.now, room as f64);
        for ratio in [&mut self.stats.executing, &mut self.stats.utilization, &mut self.stats.demand] {
            ratio.set_denominator(self.now, denominator as f64);
        }
        self.dispatch_all();
    }

    /// The number of a flow schema in the statistics.
    pub fn flow(&mut self, schema: &str) -> usize {
        let known = self.stats.flows.iter().position(|flow| flow.schema == schema);
        known.unwrap_or_else(|| {
            self.stats.flows.push(FlowStats::new(schema));
            self.stats.flows.len() - 1
        })
    }

    /// Counts the watchers that a write of a flow concerns.
    pub fn observe_watchers(&mut self, flow: usize, watchers: usize) {
        self.stats.flows[flow].watchers.observe(watchers as f64);
    }

    /// A request arrives; `hash` is its flow's.
    pub fn start(&mut self, now: u64, width: Width, hash: u64, flow: usize, watch: bool) -> Start {
        self.sync(now);
        self.stats.flows[flow].seats.observe(width.max() as f64);
        let Queuing::Queue { queues, hand, length } = self.queuing else {
            if !self.accommodates(width.max()) {
                return self.reject(flow, Reason::ConcurrencyLimit, 0);
            }
            if self.queuing != Queuing::Exempt {
                self.stats.flows[flow].waited[0].observe(0.0);
            }
            return Start::Granted(self.run(None, width, flow, watch));
        };
        let index = self.choose(hash, queues, hand);
        if self.seats_in_use >= self.limit && self.queues[index].waiting.len() >= length {
            return self.reject(flow, Reason::QueueFull, 0);
        }
        let queue = &mut self.queues[index];
        if !queue.is_active() {
            queue.next_dispatch = self.progress;
        }
        self.stats.flows[flow].queue_length.observe((queue.waiting.len() + 1) as f64);
        // Nobody waits and there is a seat: what enqueuing and dispatching it would amount to.
        if self.totals.waiting == 0 && self.seats_in_use < self.limit && self.accommodates(width.max()) {
            let queue = &mut self.queues[index];
            queue.next_dispatch = queue.next_dispatch.max(self.progress);
            self.robin = index;
            let width = self.fitting(width);
            self.note_dispatch(index);
            self.stats.flows[flow].waited[0].observe(0.0);
            return Start::Granted(self.run(Some(index), width, flow, watch));
        }
        let (wake, turn) = oneshot::channel();
        let place = self.enqueue(index, width, flow, watch, wake);
        self.dispatch_all();
        Start::Queued(place, turn)
    }

    /// A request gives up waiting. False when its turn had come already.
    pub fn abandon(&mut self, now: u64, place: Place) -> bool {
        self.sync(now);
        let Some(queue) = self.queues.get(place.queue) else { return false };
        let Some(at) = queue.waiting.iter().position(|waiting| waiting.id == place.id) else { return false };
        let waiting = self.dequeue(place.queue, at);
        self.queues[place.queue].bound();
        self.totals.cancelled += 1;
        let _ = self.reject(waiting.flow, Reason::TimeOut, self.now.saturating_sub(waiting.arrived));
        self.trim();
        // It may have been in the way of those behind it.
        self.dispatch_all();
        true
    }

    /// A request has been served.
    pub fn finish(&mut self, now: u64, running: Running) {
        self.sync(now);
        let Running { queue, flow, width, started, watch } = running;
        let took = self.now.saturating_sub(started);
        let stats = &mut self.stats.flows[flow];
        stats.executing -= 1;
        stats.served[usize::from(watch)].observe(seconds(took));
        self.totals.executing -= 1;
        self.stats.executing.set(self.now, self.totals.executing as f64);
        if let Some(index) = queue {
            let queue = &mut self.queues[index];
            queue.executing -= 1;
            // The estimate was charged at its dispatch; what it really took is known now.
            queue.next_dispatch -= Work::from(width.initial_seats) * (ESTIMATED_SERVICE - Work::from(took));
            queue.bound();
            self.active_queues -= usize::from(!queue.is_active());
        }
        if width.latency == 0 {
            self.release(queue, flow, width.max());
        } else {
            self.next_id += 1;
            let until = self.now + width.latency;
            self.lingering.push(Reverse((until, self.next_id, queue, flow, width.max())));
        }
        self.dispatch_all();
    }

    /// Lets time pass: seats that lingered are given to who waits.
    pub fn advance(&mut self, now: u64) {
        self.sync(now);
        self.dispatch_all();
    }

    /// When the next lingering seats are free, if anybody waits for some.
    pub fn next_release(&self) -> Option<u64> {
        let Reverse((until, ..)) = self.lingering.peek()?;
        (self.totals.waiting > 0).then_some(*until)
    }

    /// Whether nothing waits or is being served.
    pub fn is_idle(&self) -> bool {
        self.totals.waiting == 0 && self.totals.executing == 0
    }

    /// What was demanded since the last time this was asked.
    pub fn demand(&mut self, now: u64) -> super::stats::Seen {
        self.sync(now);
        self.integrator.reset(self.now)
    }

    /// A copy of what was counted, up to `now`.
    pub fn stats(&mut self, now: u64) -> LevelStats {
        self.sync(now);
        let stats = &mut self.stats;
        for ratio in [&mut stats.utilization, &mut stats.waiting, &mut stats.executing, &mut stats.demand] {
            ratio.advance(self.now);
        }
        stats.current_r = seat_seconds(self.progress);
        stats.clone()
    }

    /// Numbers for the debugging endpoints.
    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// The queues for the debugging endpoints.
    pub fn dump(&self) -> Vec<QueueDump> {
        let dump = |queue: &Queue| QueueDump {
            waiting: queue.waiting.len(),
            executing: queue.executing,
            seats_in_use: queue.seats_in_use,
            next_dispatch: seat_seconds(queue.next_dispatch),
            initial_seats: queue.waiting.iter().map(|waiting| waiting.width.initial_seats).sum(),
            max_seats: queue.seats_waiting,
            work: seat_seconds(queue.work_waiting),
        };
        self.queues.iter().map(dump).collect()
    }

    /// Brings virtual time and lingering seats up to `now`.
    fn sync(&mut self, now: u64) {
        while let Some(Reverse((until, ..))) = self.lingering.peek()
            && *until <= now
        {
            let Some(Reverse((until, _, queue, flow, seats))) = self.lingering.pop() else { break };
            self.progress_to(until);
            self.release(queue, flow, seats);
        }
        self.progress_to(now);
    }

    /// All that is active has gone on at the same rate since the last time.
    fn progress_to(&mut self, now: u64) {
        let lasted = now.saturating_sub(self.now);
        if lasted > 0 && self.active_queues > 0 {
            let wanted = self.queued_seats_in_use + self.seats_waiting;
            let rate = Work::from(wanted.min(self.limit));
            self.progress += rate * Work::from(lasted) / self.active_queues as Work;
        }
        self.now = self.now.max(now);
    }

    fn reject(&mut self, flow: usize, reason: Reason, waited: u64) -> Start {
        self.totals.rejected += 1;
        let flow = &mut self.stats.flows[flow];
        let at = Reason::ALL.iter().position(|(known, _)| *known == reason).unwrap_or_default();
        flow.rejected[at] += 1;
        flow.waited[1].observe(seconds(waited));
        Start::Rejected(reason)
    }

    /// The queue of the flow's hand with the least work waiting. Where the look begins moves on, so that flows
    /// with common queues spread.
    fn choose(&mut self, hash: u64, queues: usize, hand: usize) -> usize {
        if queues == 1 {
            return 0;
        }
        let cards = shuffle::deal(hash, queues, hand);
        let hand = hand.clamp(1, cards.len());
        let offset = self.enqueues % hand;
        self.enqueues = self.enqueues.wrapping_add(1);
        let mut best = cards[offset];
        for i in 1..hand {
            let queue = cards[(offset + i) % hand];
            if self.queues[queue].work_waiting < self.queues[best].work_waiting {
                best = queue;
            }
        }
        best
    }

    fn enqueue(
        &mut self,
        index: usize,
        width: Width,
        flow: usize,
        watch: bool,
        wake: oneshot::Sender<Running>,
    ) -> Place {
        self.next_id += 1;
        let id = self.next_id;
        let queue = &mut self.queues[index];
        self.active_queues += usize::from(!queue.is_active());
        queue.seats_waiting += width.max();
        queue.work_waiting += width.work();
        let (arrived, arrival_progress) = (self.now, self.progress);
        queue.waiting.push_back(Waiting { id, flow, width, arrived, arrival_progress, watch, wake });
        queue.bound();
        self.totals.waiting += 1;
        self.seats_waiting += width.max();
        let stats = &mut self.stats.flows[flow];
        stats.waiting += 1;
        stats.waiting_seats += width.max();
        self.stats.waiting.set(self.now, self.totals.waiting as f64);
        self.note_demand();
        Place { queue: index, id }
    }

    fn dequeue(&mut self, index: usize, at: usize) -> Waiting {
        let queue = &mut self.queues[index];
        let waiting = queue.waiting.remove(at).expect("the caller has found it there");
        queue.seats_waiting -= waiting.width.max();
        queue.work_waiting -= waiting.width.work();
        self.active_queues -= usize::from(!queue.is_active());
        self.totals.waiting -= 1;
        self.seats_waiting -= waiting.width.max();
        let stats = &mut self.stats.flows[waiting.flow];
        stats.waiting -= 1;
        stats.waiting_seats -= waiting.width.max();
        self.stats.waiting.set(self.now, self.totals.waiting as f64);
        self.note_demand();
        waiting
    }

    fn dispatch_all(&mut self) {
        while self.totals.waiting > 0 && self.seats_in_use < self.limit && self.dispatch() {}
    }

    /// Serves the request that would be the first to finish in the virtual world; false when it does not fit.
    fn dispatch(&mut self) -> bool {
        let count = self.queues.len();
        let mut best: Option<(Work, usize)> = None;
        for step in 1..=count {
            let index = (self.robin + step) % count;
            let queue = &self.queues[index];
            let Some(oldest) = queue.waiting.front() else { continue };
            let finish = queue.next_dispatch + oldest.width.work();
            if best.is_none_or(|(least, _)| finish < least) {
                best = Some((finish, index));
            }
        }
        let Some((_, index)) = best else { return false };
        let Some(oldest) = self.queues[index].waiting.front() else { return false };
        if !self.accommodates(oldest.width.max()) {
            self.stats.flows[oldest.flow].no_accommodation += 1;
            return false;
        }
        self.note_dispatch(index);
        let Waiting { flow, width, arrived, watch, wake, .. } = self.dequeue(index, 0);
        // Those with the same finish take turns.
        self.robin = index;
        self.stats.flows[flow].waited[0].observe(seconds(self.now.saturating_sub(arrived)));
        let width = self.fitting(width);
        let running = self.run(Some(index), width, flow, watch);
        self.queues[index].bound();
        // Whoever waits takes its request out before it lets go of the channel.
        if let Err(running) = wake.send(running) {
            self.finish(self.now, running);
        }
        true
    }

    /// A request whose last seats exceed the level's takes fewer for longer.
    fn fitting(&self, mut width: Width) -> Width {
        if width.final_seats > self.limit && self.limit > 0 {
            let work = width.final_work();
            width.final_seats = self.limit;
            width.latency = u64::try_from(work / Work::from(self.limit)).unwrap_or(u64::MAX);
        }
        width
    }

    fn accommodates(&self, seats: u64) -> bool {
        if self.queuing == Queuing::Exempt {
            return true;
        }
        if seats > self.limit {
            // Wider than the level: it is served alone.
            return self.totals.executing == 0;
        }
        self.seats_in_use + seats <= self.limit
    }

    /// Takes the seats.
    fn run(&mut self, queue: Option<usize>, width: Width, flow: usize, watch: bool) -> Running {
        let seats = width.max();
        self.totals.executing += 1;
        self.totals.dispatched += 1;
        self.seats_in_use += seats;
        if let Some(index) = queue {
            let queue = &mut self.queues[index];
            self.active_queues += usize::from(!queue.is_active());
            queue.executing += 1;
            queue.seats_in_use += seats;
            queue.next_dispatch += width.work();
            self.queued_seats_in_use += seats;
        }
        let stats = &mut self.stats.flows[flow];
        stats.dispatched += 1;
        stats.executing += 1;
        stats.executing_seats += seats;
        self.stats.executing.set(self.now, self.totals.executing as f64);
        self.stats.utilization.set(self.now, self.seats_in_use as f64);
        self.note_demand();
        Running { queue, flow, width, started: self.now, watch }
    }

    /// Gives the seats back.
    fn release(&mut self, queue: Option<usize>, flow: usize, seats: u64) {
        self.seats_in_use -= seats;
        self.stats.flows[flow].executing_seats -= seats;
        self.stats.utilization.set(self.now, self.seats_in_use as f64);
        if let Some(index) = queue {
            self.queues[index].seats_in_use -= seats;
            self.queued_seats_in_use -= seats;
            self.trim();
        }
        self.note_demand();
    }

    /// Drops queues that are no longer wanted, once nothing is in them.
    fn trim(&mut self) {
        let wanted = if let Queuing::Queue { queues, .. } = self.queuing { queues } else { 0 };
        while self.queues.len() > wanted
            && self.queues.last().is_some_and(|last| !last.is_active() && last.seats_in_use == 0)
        {
            self.queues.pop();
        }
    }

    fn note_demand(&mut self) {
        let demand = (self.seats_in_use + self.seats_waiting) as f64;
        self.integrator.set(self.now, demand);
        self.stats.demand.set(self.now, demand);
    }

    /// Virtual times for the metrics, before the dispatch from a queue.
    fn note_dispatch(&mut self, index: usize) {
        self.stats.dispatch_r = seat_seconds(self.progress);
        self.stats.latest_s = seat_seconds(self.queues[index].next_dispatch);
        if self.totals.waiting > 1 {
            let waiting = self.queues.iter().filter(|queue| !queue.waiting.is_empty());
            let starts = waiting.map(|queue| {
                let in_progress = Work::from(queue.seats_in_use) * ESTIMATED_SERVICE;
                (seat_seconds(queue.next_dispatch), seat_seconds(queue.next_dispatch - in_progress))
            });
            let none = [f64::MAX, f64::MIN];
            let (plain, discounted) = starts.fold((none, none), |(plain, discounted), (s, d)| {
                ([plain[0].min(s), plain[1].max(s)], [discounted[0].min(d), discounted[1].max(d)])
            });
            (self.stats.next_s, self.stats.next_discounted_s) = (plain, discounted);
        }
    }
}

fn seat_seconds(work: Work) -> f64 {
    work as f64 / 1e9
}
