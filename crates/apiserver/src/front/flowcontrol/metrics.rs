//! The metrics of flow control under upstream's names, copied out of the levels when they are scraped.

use super::FlowControl;
use super::config::Seats;
use super::queueset::LevelStats;
use super::stats::{FlowStats, Histogram, Reason, TimingRatio};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use std::fmt;
use std::sync::{Arc, Weak};

/// Reads a [`FlowControl`] that it does not keep alive.
struct Scrape(Weak<FlowControl>);

impl fmt::Debug for Scrape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("flow control")
    }
}

/// Has the metrics of `flow` among those of its control plane.
pub fn register(flow: &Arc<FlowControl>) {
    flow.ctx.metrics.register_collector(Box::new(Scrape(Arc::downgrade(flow))));
}

type Labels<'a> = Vec<(&'a str, &'a str)>;

/// A metric of several label sets with one number each.
fn numbers<'a>(
    out: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    kind: MetricType,
    rows: impl Iterator<Item = (Labels<'a>, f64)>,
) -> fmt::Result {
    let mut out = out.encode_descriptor(name, help, None, kind)?;
    for (labels, value) in rows {
        let labels = Set(labels);
        let mut one = out.encode_family(&labels)?;
        match kind {
            MetricType::Counter => one.encode_counter::<NoLabelSet, f64, f64>(&value, None)?,
            _ => one.encode_gauge(&value)?,
        }
    }
    Ok(())
}

fn histograms<'a>(
    out: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    rows: impl Iterator<Item = (Labels<'a>, &'a Histogram)>,
) -> fmt::Result {
    let mut out = out.encode_descriptor(name, help, None, MetricType::Histogram)?;
    for (labels, histogram) in rows {
        let labels = Set(labels);
        encode(&mut out.encode_family(&labels)?, histogram)?;
    }
    Ok(())
}

fn encode(out: &mut MetricEncoder<'_>, histogram: &Histogram) -> fmt::Result {
    let bounds = histogram.bounds.iter().copied().chain([f64::INFINITY]);
    let buckets: Vec<(f64, u64)> = bounds.zip(histogram.counts.iter().copied()).collect();
    let count = histogram.counts.iter().sum();
    out.encode_histogram::<NoLabelSet>(histogram.sum, count, &buckets, None)
}

struct Set<'a>(Labels<'a>);

impl prometheus_client::encoding::EncodeLabelSet for Set<'_> {
    fn encode(&self, encoder: &mut prometheus_client::encoding::LabelSetEncoder<'_>) -> fmt::Result {
        use prometheus_client::encoding::EncodeLabel;
        self.0.iter().try_for_each(|label| label.encode(encoder.encode_label()))
    }
}

struct Level {
    name: String,
    seats: Seats,
    stats: LevelStats,
}

impl Level {
    fn label(&self) -> Labels<'_> {
        vec![("priority_level", &self.name)]
    }
}

const NS: &str = "apiserver_flowcontrol_";

impl Collector for Scrape {
    fn encode(&self, mut out: DescriptorEncoder<'_>) -> fmt::Result {
        let Some(flow) = self.0.upgrade() else { return Ok(()) };
        let (all, fair) = {
            let levels = flow.levels();
            (levels.all(), levels.fair)
        };
        let levels: Vec<Level> = all
            .into_iter()
            .map(|(name, level, seats, _)| Level {
                name,
                seats,
                stats: level.with(|set, now| set.stats(now)),
            })
            .collect();
        by_flow(&mut out, &levels)?;
        by_level(&mut out, &levels)?;
        let help = "Fair fraction of server's concurrency to allocate to each priority level that can use it";
        numbers(
            &mut out,
            &format!("{NS}seat_fair_frac"),
            help,
            MetricType::Gauge,
            [(Vec::new(), fair)].into_iter(),
        )?;
        read_write(&mut out, &flow)
    }
}

fn by_flow(out: &mut DescriptorEncoder<'_>, levels: &[Level]) -> fmt::Result {
    let flows = || levels.iter().flat_map(|level| level.stats.flows.iter().map(move |flow| (level, flow)));
    fn labels<'a>((level, flow): (&'a Level, &'a FlowStats)) -> Labels<'a> {
        vec![("priority_level", &level.name), ("flow_schema", &flow.schema)]
    }
    fn with<'a>(row: (&'a Level, &'a FlowStats), name: &'a str, value: &'a str) -> Labels<'a> {
        let mut labels = labels(row);
        labels.push((name, value));
        labels
    }
    let rejected = flows().flat_map(|row| {
        Reason::ALL
            .iter()
            .enumerate()
            .map(move |(i, (_, reason))| (with(row, "reason", reason), row.1.rejected[i]))
    });
    let rejected = rejected.filter(|(_, count)| *count > 0).map(|(labels, count)| (labels, count as f64));
    let help = "Number of requests rejected by API Priority and Fairness subsystem";
    numbers(out, &format!("{NS}rejected_requests"), help, MetricType::Counter, rejected)?;
    type Read = fn(&FlowStats) -> u64;
    let counted: [(&str, &str, MetricType, Read); 7] = [
        (
            "dispatched_requests",
            "Number of requests executed by API Priority and Fairness subsystem",
            MetricType::Counter,
            |f| f.dispatched,
        ),
        (
            "current_inqueue_requests",
            "Number of requests currently pending in queues of the API Priority and Fairness subsystem",
            MetricType::Gauge,
            |f| f.waiting,
        ),
        (
            "current_inqueue_seats",
            "Number of seats currently pending in queues of the API Priority and Fairness subsystem",
            MetricType::Gauge,
            |f| f.waiting_seats,
        ),
        (
            "current_executing_requests",
            "Number of requests in initial (for a WATCH) or any (for a non-WATCH) execution stage in the API Priority and Fairness subsystem",
            MetricType::Gauge,
            |f| f.executing,
        ),
        (
            "current_executing_seats",
            "Concurrency (number of seats) occupied by the currently executing (initial stage for a WATCH, any stage otherwise) requests in the API Priority and Fairness subsystem",
            MetricType::Gauge,
            |f| f.executing_seats,
        ),
        (
            "request_concurrency_in_use",
            "Concurrency (number of seats) occupied by the currently executing (initial stage for a WATCH, any stage otherwise) requests in the API Priority and Fairness subsystem",
            MetricType::Gauge,
            |f| f.executing_seats,
        ),
        (
            "request_dispatch_no_accommodation",
            "Number of times a dispatch attempt resulted in a non accommodation due to lack of available seats",
            MetricType::Counter,
            |f| f.no_accommodation,
        ),
    ];
    // There is no epoch_advance_total: the progress meter here is too wide to ever jump.
    for (name, help, kind, read) in counted {
        let rows = flows().map(|row| (labels(row), read(row.1) as f64));
        numbers(out, &format!("{NS}{name}"), help, kind, rows)?;
    }
    let waited = flows().flat_map(|row| {
        ["true", "false"]
            .iter()
            .zip(&row.1.waited)
            .map(move |(execute, h)| (with(row, "execute", execute), h))
    });
    histograms(
        out,
        &format!("{NS}request_wait_duration_seconds"),
        "Length of time a request spent waiting in its queue",
        used(waited),
    )?;
    let served = flows().flat_map(|row| {
        ["regular", "watch"].iter().zip(&row.1.served).map(move |(kind, h)| (with(row, "type", kind), h))
    });
    let help = "Duration of initial stage (for a WATCH) or any (for a non-WATCH) stage of request execution in the API Priority and Fairness subsystem";
    histograms(out, &format!("{NS}request_execution_seconds"), help, used(served))?;
    let help = "Length of queue in the API Priority and Fairness subsystem, as seen by each request after it is enqueued";
    let rows = flows().map(|row| (labels(row), &row.1.queue_length));
    histograms(out, &format!("{NS}request_queue_length_after_enqueue"), help, used(rows))?;
    let help = "Number of estimated seats (maximum of initial and final seats) associated with requests in API Priority and Fairness";
    let rows = flows().map(|row| (labels(row), &row.1.seats));
    histograms(out, &format!("{NS}work_estimated_seats"), help, used(rows))?;
    let help = "count of watchers for mutating requests in API Priority and Fairness";
    let rows = flows().map(|row| (labels(row), &row.1.watchers));
    histograms(out, &format!("{NS}watch_count_samples"), help, used(rows))
}

/// Those that have observed something.
fn used<'a>(
    rows: impl Iterator<Item = (Labels<'a>, &'a Histogram)>,
) -> impl Iterator<Item = (Labels<'a>, &'a Histogram)> {
    rows.filter(|(_, histogram)| histogram.counts.iter().any(|count| *count > 0))
}

fn by_level(out: &mut DescriptorEncoder<'_>, levels: &[Level]) -> fmt::Result {
    type Read = fn(&Level) -> f64;
    let gauges: [(&str, &str, Read); 13] = [
        (
            "request_concurrency_limit",
            "Nominal number of execution seats configured for each priority level",
            |l| l.seats.nominal as f64,
        ),
        (
            "nominal_limit_seats",
            "Nominal number of execution seats configured for each priority level",
            |l| l.seats.nominal as f64,
        ),
        (
            "lower_limit_seats",
            "Configured lower bound on number of execution seats available to each priority level",
            |l| l.seats.lower as f64,
        ),
        (
            "upper_limit_seats",
            "Configured upper bound on number of execution seats available to each priority level",
            |l| l.seats.upper as f64,
        ),
        (
            "current_limit_seats",
            "current derived number of execution seats available to each priority level",
            |l| l.seats.current as f64,
        ),
        ("target_seats", "Seat allocation targets", |l| l.seats.target),
        (
            "demand_seats_high_watermark",
            "High watermark, over last adjustment period, of demand_seats",
            |l| l.seats.seen.max,
        ),
        (
            "demand_seats_average",
            "Time-weighted average, over last adjustment period, of demand_seats",
            |l| l.seats.seen.average,
        ),
        (
            "demand_seats_stdev",
            "Time-weighted standard deviation, over last adjustment period, of demand_seats",
            |l| l.seats.seen.deviation,
        ),
        ("demand_seats_smoothed", "Smoothed seat demands", |l| l.seats.smoothed),
        ("current_r", "R(time of last change)", |l| l.stats.current_r),
        ("dispatch_r", "R(time of last dispatch)", |l| l.stats.dispatch_r),
        ("latest_s", "S(most recently dispatched request)", |l| l.stats.latest_s),
    ];
    for (name, help, read) in gauges {
        let rows = levels.iter().map(|level| (level.label(), read(level)));
        numbers(out, &format!("{NS}{name}"), help, MetricType::Gauge, rows)?;
    }
    type Bounds = fn(&Level) -> [f64; 2];
    let bounds: [(&str, &str, Bounds); 2] = [
        ("next_s_bounds", "min and max, over queues, of S(oldest waiting request in queue)", |l| {
            l.stats.next_s
        }),
        (
            "next_discounted_s_bounds",
            "min and max, over queues, of S(oldest waiting request in queue) - estimated work in progress",
            |l| l.stats.next_discounted_s,
        ),
    ];
    for (name, help, read) in bounds {
        let rows = levels.iter().flat_map(|level| {
            ["min", "max"].into_iter().zip(read(level)).map(|(bound, value)| {
                let mut labels = level.label();
                labels.push(("bound", bound));
                (labels, value)
            })
        });
        numbers(out, &format!("{NS}{name}"), help, MetricType::Gauge, rows)?;
    }
    let utilization = levels.iter().map(|level| {
        let mut labels = level.label();
        labels.insert(0, ("phase", "executing"));
        (labels, &level.stats.utilization.histogram)
    });
    let help = "Observations, at the end of every nanosecond, of utilization of seats for any stage of execution (but only initial stage for WATCHes)";
    histograms(out, &format!("{NS}priority_level_seat_utilization"), help, utilization)?;
    let requests = levels.iter().flat_map(|level| {
        let ratios: [(&str, &TimingRatio); 2] =
            [("waiting", &level.stats.waiting), ("executing", &level.stats.executing)];
        ratios.map(|(phase, ratio)| {
            (vec![("phase", phase), ("priority_level", level.name.as_str())], &ratio.histogram)
        })
    });
    let help = "Observations, at the end of every nanosecond, of number of requests (as a fraction of the relevant limit) waiting or in any stage of execution (but only initial stage for WATCHes)";
    histograms(out, &format!("{NS}priority_level_request_utilization"), help, requests)?;
    let help = "Observations, at the end of every nanosecond, of (the number of seats each priority level could use) / (nominal number of seats for that level)";
    let demand = levels.iter().map(|level| (level.label(), &level.stats.demand.histogram));
    histograms(out, &format!("{NS}demand_seats"), help, demand)
}

fn read_write(out: &mut DescriptorEncoder<'_>, flow: &FlowControl) -> fmt::Result {
    let now = flow.ctx.clock.instant().saturating_duration_since(flow.epoch).as_nanos();
    let ratios = {
        let mut read_write = flow.read_write.lock().expect("no holder of the request counts panics");
        read_write
            .0
            .iter_mut()
            .flatten()
            .for_each(|ratio| ratio.advance(u64::try_from(now).unwrap_or(u64::MAX)));
        read_write.0.clone()
    };
    let rows = ["waiting", "executing"].into_iter().zip(&ratios).flat_map(|(phase, kinds)| {
        ["readOnly", "mutating"]
            .into_iter()
            .zip(kinds)
            .map(move |(kind, ratio)| (vec![("phase", phase), ("request_kind", kind)], &ratio.histogram))
    });
    let help = "Observations, at the end of every nanosecond, of the number of requests (as a fraction of the relevant limit) waiting or in regular stage of execution";
    histograms(out, &format!("{NS}read_vs_write_current_requests"), help, rows)
}
