//! The fair queues of one level, driven by hand: who is let in, who waits, who is refused, in what order.

use crate::front::flowcontrol::queueset::{Place, QueueSet, Queuing, Running, Start, Width};
use crate::front::flowcontrol::stats::Reason;
use tokio::sync::oneshot;

const MS: u64 = 1_000_000;

/// A level under test.
struct Bench {
    set: QueueSet,
    now: u64,
    flow: usize,
}

enum Got {
    Seat(Running),
    Place(Place, oneshot::Receiver<Running>),
    Refused(Reason),
}

impl Got {
    fn seat(self) -> Running {
        match self {
            Got::Seat(running) => running,
            Got::Place(_, mut turn) => turn.try_recv().expect("its turn has come"),
            Got::Refused(reason) => panic!("refused: {reason:?}"),
        }
    }

    fn waits(&mut self) -> bool {
        matches!(self, Got::Place(_, turn) if turn.is_empty())
    }
}

impl Bench {
    fn new(queuing: Queuing, limit: u64) -> Self {
        let mut set = QueueSet::new(0);
        set.configure(0, queuing, limit, limit.max(1));
        let flow = set.flow("schema");
        Self { set, now: 0, flow }
    }

    fn start_wide(&mut self, width: Width, hash: u64) -> Got {
        match self.set.start(self.now, width, hash, self.flow, false) {
            Start::Granted(running) => Got::Seat(running),
            Start::Queued(place, turn) => Got::Place(place, turn),
            Start::Rejected(reason) => Got::Refused(reason),
        }
    }

    fn start(&mut self, hash: u64) -> Got {
        self.start_wide(Width::seats(1), hash)
    }

    fn finish(&mut self, running: Running) {
        self.set.finish(self.now, running);
    }
}

fn queues(queues: usize, hand: usize, length: usize) -> Queuing {
    Queuing::Queue { queues, hand, length }
}

#[test]
fn without_queues_what_finds_no_seat_is_refused() {
    let mut bench = Bench::new(Queuing::Reject, 2);
    let first = bench.start(0).seat();
    let _second = bench.start(0).seat();
    assert!(matches!(bench.start(0), Got::Refused(Reason::ConcurrencyLimit)));
    bench.finish(first);
    bench.start(0).seat();
    assert!(matches!(bench.start(0), Got::Refused(Reason::ConcurrencyLimit)));
}

#[test]
fn an_exempt_level_lets_everybody_in_and_knows_its_demand() {
    let mut bench = Bench::new(Queuing::Exempt, 0);
    let running: Vec<Running> = (0..1000).map(|_| bench.start(0).seat()).collect();
    bench.now += MS;
    running.into_iter().for_each(|running| bench.finish(running));
    assert_eq!(bench.set.demand(bench.now).max, 1000.0);
    assert!(bench.set.is_idle());
}

#[test]
fn a_full_queue_refuses_and_an_abandoned_place_is_free_again() {
    let mut bench = Bench::new(queues(1, 1, 2), 1);
    let running = bench.start(0).seat();
    let mut second = bench.start(0);
    let mut third = bench.start(0);
    assert!(second.waits() && third.waits());
    assert!(matches!(bench.start(0), Got::Refused(Reason::QueueFull)));
    let Got::Place(place, _) = second else { panic!("it waits") };
    assert!(bench.set.abandon(bench.now, place));
    assert!(!bench.set.abandon(bench.now, place), "it has left already");
    let mut fourth = bench.start(0);
    assert!(fourth.waits());
    bench.finish(running);
    let running = third.seat();
    assert!(fourth.waits(), "first come, first served within a queue");
    bench.finish(running);
    fourth.seat();
    let stats = bench.set.stats(bench.now);
    assert_eq!(stats.flows[0].rejected, [0, 1, 1]);
    assert_eq!((stats.flows[0].dispatched, stats.flows[0].waiting), (3, 0));
}

/// Serves for `slots` turns, each of `MS`, flows that always have `backlog` requests waiting; how many of each were
/// served.
fn share(limit: u64, backlogs: &[usize], widths: &[u64], slots: usize) -> Vec<usize> {
    let mut bench = Bench::new(queues(64, 1, 1000), limit);
    let mut waiting: Vec<Vec<Got>> = backlogs.iter().map(|_| Vec::new()).collect();
    let mut served = vec![0; backlogs.len()];
    let mut running: Vec<(Running, usize)> = Vec::new();
    for _ in 0..slots {
        for (flow, backlog) in backlogs.iter().enumerate() {
            while waiting[flow].len() < *backlog {
                let got = bench.start_wide(Width::seats(widths[flow]), flow as u64);
                waiting[flow].push(got);
            }
        }
        for (flow, waiting) in waiting.iter_mut().enumerate() {
            let (gone, rest): (Vec<Got>, Vec<Got>) = std::mem::take(waiting)
                .into_iter()
                .partition(|got| !matches!(got, Got::Place(_, turn) if turn.is_empty()));
            *waiting = rest;
            for got in gone {
                served[flow] += 1;
                running.push((got.seat(), flow));
            }
        }
        bench.now += MS;
        for (one, _) in std::mem::take(&mut running) {
            bench.finish(one);
        }
    }
    served
}

#[test]
fn flows_with_queues_of_their_own_share_the_seats_however_much_they_ask() {
    let served = share(4, &[50, 8, 8], &[1, 1, 1], 300);
    let (most, least) = (served.iter().max().unwrap(), served.iter().min().unwrap());
    assert!(most - least <= most / 10, "{served:?}");
    // Twice as wide, half as often.
    let served = share(4, &[50, 50], &[1, 2], 300);
    let ratio = served[0] as f64 / served[1] as f64;
    assert!((1.7..2.3).contains(&ratio), "{served:?}");
    // Two at a time, of which one is served as the other comes: less than its share, so it gets all.
    let served = share(4, &[50, 2], &[1, 1], 300);
    assert!(served[1] >= 290, "{served:?}");
}

#[test]
fn a_wide_request_waits_for_seats_and_is_not_overtaken() {
    let mut bench = Bench::new(queues(2, 1, 10), 3);
    let first = bench.start(0).seat();
    let second = bench.start(0).seat();
    let mut wide = bench.start_wide(Width::seats(3), 1);
    let mut narrow = bench.start(1);
    assert!(wide.waits() && narrow.waits(), "one seat is free, but it is the wide one's turn");
    bench.now += MS;
    bench.finish(first);
    assert!(wide.waits());
    bench.finish(second);
    let running = wide.seat();
    assert!(narrow.waits());
    bench.finish(running);
    narrow.seat();
    // Wider than the level: alone.
    let mut bench = Bench::new(queues(2, 1, 10), 3);
    let first = bench.start(0).seat();
    let mut huge = bench.start_wide(Width::seats(10), 1);
    assert!(huge.waits());
    bench.finish(first);
    let huge = huge.seat();
    assert!(bench.start(0).waits());
    bench.finish(huge);
}

#[test]
fn seats_linger_after_a_write_that_wakes_many_watchers() {
    let mut bench = Bench::new(queues(2, 1, 10), 2);
    let width = Width { initial_seats: 1, final_seats: 2, latency: 5 * MS };
    let write = bench.start_wide(width, 0).seat();
    bench.now += MS;
    bench.finish(write);
    let mut next = bench.start(0);
    assert!(next.waits(), "both seats are still taken");
    assert_eq!(bench.set.next_release(), Some(6 * MS));
    bench.set.advance(6 * MS - 1);
    assert!(next.waits());
    bench.set.advance(6 * MS);
    next.seat();
    assert_eq!(bench.set.next_release(), None, "nobody waits");
}

#[test]
fn seats_and_queues_can_change_while_requests_wait() {
    let mut bench = Bench::new(queues(8, 1, 10), 1);
    let running = bench.start(0).seat();
    let mut waiting: Vec<Got> = (0..8).map(|hash| bench.start(hash)).collect();
    assert!(waiting.iter_mut().all(Got::waits));
    bench.set.configure(bench.now, queues(2, 1, 10), 4, 4);
    let mut gone: Vec<Running> = Vec::new();
    let (ready, rest): (Vec<Got>, Vec<Got>) =
        waiting.into_iter().partition(|got| !matches!(got, Got::Place(_, turn) if turn.is_empty()));
    assert_eq!(ready.len(), 3, "three more seats");
    gone.extend(ready.into_iter().map(Got::seat));
    gone.push(running);
    waiting = rest;
    while let Some(running) = gone.pop() {
        bench.now += MS;
        bench.finish(running);
        let (ready, rest): (Vec<Got>, Vec<Got>) =
            waiting.into_iter().partition(|got| !matches!(got, Got::Place(_, turn) if turn.is_empty()));
        gone.extend(ready.into_iter().map(Got::seat));
        waiting = rest;
    }
    assert!(waiting.is_empty() && bench.set.is_idle());
    assert_eq!(bench.set.dump().len(), 2, "queues that are no longer wanted are gone");
    bench.set.configure(bench.now, Queuing::Reject, 1, 1);
    assert!(bench.set.dump().is_empty());
}

#[test]
fn a_flow_that_floods_its_hand_leaves_others_a_queue() {
    let mut bench = Bench::new(queues(16, 4, 5), 1);
    let running = bench.start(7).seat();
    let flood: Vec<Got> = (0..40).map(|_| bench.start(7)).collect();
    let refused = flood.iter().filter(|got| matches!(got, Got::Refused(Reason::QueueFull))).count();
    assert_eq!(refused, 40 - 4 * 5, "four queues of five");
    let mut others: Vec<Got> = (100..110).map(|hash| bench.start(hash * 7919)).collect();
    assert!(others.iter_mut().all(Got::waits), "each finds a queue that is not full");
    bench.finish(running);
}
