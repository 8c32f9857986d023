//! From the configuration objects to what requests meet: flow schemas in the order they are asked, priority levels
//! with their seats, and the seats' adjustment to demand every ten seconds (apiserver's
//! `util/flowcontrol/apf_controller.go`, KEP-1040 "Borrowing").

use super::allocation::{Claim, allocate};
use super::level::Level;
use super::queueset::Queuing;
use super::schema::Schema;
use super::shuffle;
use super::stats::Seen;
use http::HeaderValue;
use knarr_api::flowcontrol::v1::{FlowSchema, PriorityLevelConfiguration};
use knarr_base::Ctx;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::Notify;

/// The name of the level, and of the schema, that is never held up.
pub const EXEMPT: &str = "exempt";
/// The name of the level, and of the schema, of whatever matches nothing else.
pub const CATCH_ALL: &str = "catch-all";
/// How much of the old demand is kept at each adjustment: half is gone after five minutes.
const SMOOTHING: f64 = 0.977;
/// The part of a level's nominal seats that one request may take.
const MAX_SEATS_PART: f64 = 0.15;

/// What requests are matched with. Replaced as a whole.
pub struct Digest {
    /// In the order they are asked.
    pub schemas: Vec<Matched>,
    /// Where requests go that match none.
    catch_all: usize,
}

/// A flow schema with its level.
pub struct Matched {
    /// The schema.
    pub schema: Schema,
    /// Its level.
    pub level: Arc<Level>,
    /// Its number in the level's statistics.
    pub flow: usize,
    /// Whether flows must be told apart.
    pub hashed: bool,
    /// For the answer's headers.
    pub schema_uid: HeaderValue,
    /// For the answer's headers.
    pub level_uid: HeaderValue,
}

impl Digest {
    /// The schema a request belongs to.
    pub fn find(&self, info: &crate::request::RequestInfo, user: &crate::request::UserInfo) -> &Matched {
        let found = self.schemas.iter().find(|matched| matched.schema.matches(info, user));
        found.unwrap_or(&self.schemas[self.catch_all])
    }
}

/// A priority level as its object has it.
#[derive(Clone, Debug, PartialEq)]
pub struct LevelSpec {
    name: String,
    uid: String,
    queuing: Queuing,
    shares: f64,
    lendable: f64,
    borrowing: Option<f64>,
}

impl LevelSpec {
    /// The form of an object; `None` when it makes no sense.
    pub fn new(object: &PriorityLevelConfiguration) -> Option<Self> {
        let name = object.metadata.name.clone().unwrap_or_default();
        let uid = object.metadata.uid.clone().unwrap_or_default();
        let spec = object.spec.as_ref()?;
        let percent = |percent: Option<i32>| f64::from(percent.unwrap_or(0)) / 100.0;
        if (spec.type_ == "Exempt") != (name == EXEMPT) {
            return None;
        }
        match (spec.type_.as_str(), &spec.exempt, &spec.limited) {
            ("Exempt", Some(exempt), None) => Some(Self {
                name,
                uid,
                queuing: Queuing::Exempt,
                shares: f64::from(exempt.nominal_concurrency_shares.unwrap_or(0)),
                lendable: percent(exempt.lendable_percent),
                borrowing: None,
            }),
            ("Limited", None, Some(limited)) => {
                let response = limited.limit_response.as_ref()?;
                let queuing = match (response.type_.as_str(), &response.queuing) {
                    ("Reject", None) => Queuing::Reject,
                    ("Queue", Some(queuing)) => {
                        let number = |n: Option<i32>| usize::try_from(n.unwrap_or(0)).ok();
                        let (queues, hand) = (number(queuing.queues)?, number(queuing.hand_size)?);
                        let length = number(queuing.queue_length_limit)?;
                        if !shuffle::can_deal(queues, hand) {
                            return None;
                        }
                        Queuing::Queue { queues, hand, length }
                    }
                    _ => return None,
                };
                Some(Self {
                    name,
                    uid,
                    queuing,
                    shares: f64::from(limited.nominal_concurrency_shares.unwrap_or(30)),
                    lendable: percent(limited.lendable_percent),
                    borrowing: limited.borrowing_limit_percent.map(|p| percent(Some(p))),
                })
            }
            _ => None,
        }
    }
}

/// A level's seats and demand.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Seats {
    /// By its shares.
    pub nominal: u64,
    /// At least.
    pub lower: u64,
    /// At most.
    pub upper: u64,
    /// Now.
    pub current: u64,
    /// What it is to get.
    pub target: f64,
    /// Seats used over the last period.
    pub seen: Seen,
    /// Demand, slowly forgotten.
    pub smoothed: f64,
}

impl Seats {
    fn note(&mut self, seen: Seen) {
        self.seen.max = seen.max.round();
        if seen.seconds <= 0.0 {
            return;
        }
        self.seen = Seen { max: self.seen.max, ..seen };
        let envelope = seen.average + seen.deviation;
        self.smoothed = envelope.max(SMOOTHING * self.smoothed + (1.0 - SMOOTHING) * envelope);
    }
}

struct Held {
    spec: LevelSpec,
    level: Arc<Level>,
    seats: Seats,
    quiescing: bool,
    fresh: bool,
}

/// The levels there are, with their seats.
pub struct Levels {
    ctx: Ctx,
    epoch: Instant,
    /// Seats of the whole server.
    total: u64,
    drained: Arc<Notify>,
    held: BTreeMap<String, Held>,
    /// The fair part of each level's demand at the last adjustment.
    pub fair: f64,
}

/// A condition that a flow schema is to have.
#[derive(Clone, Debug, PartialEq)]
pub struct Dangling {
    /// The flow schema's name.
    pub schema: String,
    /// `True` or `False`.
    pub status: &'static str,
    /// Why.
    pub reason: &'static str,
    /// In words.
    pub message: String,
}

impl Levels {
    /// None yet; [`Levels::digest`] makes the mandatory ones.
    pub fn new(ctx: &Ctx, epoch: Instant, total: u64, drained: Arc<Notify>) -> Self {
        Self { ctx: ctx.clone(), epoch, total, drained, held: BTreeMap::new(), fair: 0.0 }
    }

    /// Takes over a whole configuration. Broken levels count as missing. Also says which conditions schemas lack.
    pub fn digest(
        &mut self,
        levels: &[Arc<PriorityLevelConfiguration>],
        schemas: &[Arc<FlowSchema>],
    ) -> (Digest, Vec<Dangling>) {
        let mut specs: BTreeMap<String, LevelSpec> = BTreeMap::new();
        for object in levels {
            match LevelSpec::new(object) {
                Some(spec) => {
                    specs.insert(spec.name.clone(), spec);
                }
                None => tracing::warn!(name = ?object.metadata.name, "a broken priority level is ignored"),
            }
        }
        let dangling = schemas.iter().filter_map(|schema| dangling(schema, &specs)).collect();
        let mut usable: Vec<Schema> = schemas
            .iter()
            .map(|schema| Schema::new(schema))
            .filter(|schema| specs.contains_key(&schema.level))
            .collect();
        usable.sort_by(|a, b| (a.precedence, &a.name).cmp(&(b.precedence, &b.name)));
        // Requests need somewhere to go, whatever is configured.
        let mandatory = |name: &str| !usable.iter().any(|schema| schema.name == name);
        let (no_exempt, no_catch_all) = (mandatory(EXEMPT), mandatory(CATCH_ALL));
        if no_exempt {
            usable.insert(0, Schema::new(&initial::<FlowSchema>("FlowSchema", EXEMPT)));
        }
        if no_catch_all {
            usable.push(Schema::new(&initial::<FlowSchema>("FlowSchema", CATCH_ALL)));
        }
        for name in [EXEMPT, CATCH_ALL] {
            specs.entry(name.to_owned()).or_insert_with(|| {
                let object = initial::<PriorityLevelConfiguration>("PriorityLevelConfiguration", name);
                LevelSpec::new(&object).expect("the mandatory levels make sense")
            });
        }
        self.take(specs);
        let schemas: Vec<Matched> = usable.into_iter().filter_map(|schema| self.matched(schema)).collect();
        let catch_all = schemas.iter().position(|matched| matched.schema.name == CATCH_ALL);
        (Digest { schemas, catch_all: catch_all.expect("it is always there") }, dangling)
    }

    fn matched(&self, schema: Schema) -> Option<Matched> {
        let held = self.held.get(&schema.level)?;
        let uid = |text: &str| HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static(""));
        Some(Matched {
            level: held.level.clone(),
            flow: held.level.with(|set, _| set.flow(&schema.name)),
            hashed: matches!(held.spec.queuing, Queuing::Queue { queues, .. } if queues > 1),
            schema_uid: uid(&schema.uid),
            level_uid: uid(&held.spec.uid),
            schema,
        })
    }

    /// Makes, changes and retires levels, then divides the seats.
    fn take(&mut self, specs: BTreeMap<String, LevelSpec>) {
        self.held.retain(|name, held| {
            held.quiescing = !specs.contains_key(name);
            // What still waits or runs keeps its level alive, with seats to drain by.
            !held.quiescing || held.level.with(|set, _| !set.is_idle())
        });
        for (name, spec) in specs {
            match self.held.get_mut(&name) {
                Some(held) => held.spec = spec,
                None => {
                    let level = Level::new(&name, &self.ctx, self.epoch, self.drained.clone());
                    let held = Held { spec, level, seats: Seats::default(), quiescing: false, fresh: true };
                    self.held.insert(name, held);
                }
            }
        }
        let shares: f64 = self.held.values().map(|held| held.spec.shares).sum();
        let total = self.total as f64;
        for held in self.held.values_mut() {
            let nominal = if shares > 0.0 { (total * held.spec.shares / shares).ceil() } else { 0.0 };
            let lendable = (nominal * held.spec.lendable).round();
            let borrowing = held.spec.borrowing.map_or(total, |part| (nominal * part).round());
            let seats = &mut held.seats;
            seats.nominal = nominal as u64;
            seats.lower = (nominal - lendable) as u64;
            seats.upper = (nominal + borrowing) as u64;
            if std::mem::take(&mut held.fresh) {
                seats.current = seats.nominal - lendable as u64 / 2;
            }
            if let Queuing::Queue { hand, .. } = held.spec.queuing {
                let most = (nominal * MAX_SEATS_PART).ceil() as u64;
                held.level.set_max_seats(most.min(seats.nominal / hand as u64).max(1));
            }
            let quiescing = held.quiescing;
            held.level.with(|set, _| set.quiescing = quiescing);
        }
        self.adjust();
    }

    /// Gives every level the seats that its demand calls for: once a period, and with every new configuration.
    pub fn adjust(&mut self) {
        let sum: u64 = self.held.values().map(|held| held.seats.nominal).sum();
        let mut remaining = sum as f64;
        let (mut lower_sum, mut least_sum) = (0.0, 0.0);
        let mut claims = Vec::new();
        for held in self.held.values_mut() {
            let seen = held.level.with(|set, now| set.demand(now));
            let seats = &mut held.seats;
            seats.note(seen);
            let high = seats.seen.max as u64;
            if held.spec.queuing == Queuing::Exempt {
                seats.target = seats.lower.max(high) as f64;
                remaining -= seats.target;
                continue;
            }
            let least = seats.lower.max(seats.nominal.min(high)) as f64;
            seats.target = least.max(seats.smoothed);
            claims.push(Claim { target: seats.target, lower: least, upper: seats.upper as f64 });
            lower_sum += seats.lower as f64;
            least_sum += least;
        }
        self.fair = 0.0;
        let allocated = if remaining <= least_sum {
            None
        } else {
            allocate(sum as f64, &claims).inspect(|(_, fair)| self.fair = *fair)
        };
        let mut claims = claims
            .iter()
            .zip(allocated.iter().flat_map(|(seats, _)| seats).map(Some).chain(std::iter::repeat(None)));
        let reserve = ((self.total as f64) / 10.0).round().max(1.0) as u64;
        for held in self.held.values_mut() {
            let seats = &mut held.seats;
            seats.current = if held.spec.queuing == Queuing::Exempt {
                seats.target as u64
            } else {
                let (claim, share) = claims.next().expect("every limited level has made a claim");
                let lower = seats.lower as f64;
                match share {
                    Some(share) => share.round() as u64,
                    None if remaining <= lower_sum => seats.lower,
                    None if remaining <= least_sum => {
                        let part = (remaining - lower_sum) / (least_sum - lower_sum);
                        (lower + ((claim.lower - lower) * part).round()) as u64
                    }
                    None => seats.current,
                }
            };
            let (queuing, current) = (held.spec.queuing, seats.current);
            let denominator = if current > 0 { current } else { reserve };
            held.level.with(|set, now| set.configure(now, queuing, current, denominator));
        }
    }

    /// The levels with their seats, for metrics and debugging: name, level, seats, whether it is to go.
    pub fn all(&self) -> Vec<(String, Arc<Level>, Seats, bool)> {
        let one =
            |(name, held): (&String, &Held)| (name.clone(), held.level.clone(), held.seats, held.quiescing);
        self.held.iter().map(one).collect()
    }
}

fn dangling(schema: &FlowSchema, specs: &BTreeMap<String, LevelSpec>) -> Option<Dangling> {
    let name = schema.metadata.name.clone().unwrap_or_default();
    let level = schema.spec.as_ref().map(|spec| spec.priority_level_configuration.name.as_str());
    let level = level.unwrap_or_default();
    let object = format!("This FlowSchema references the PriorityLevelConfiguration object named {level:?}");
    let wanted = if specs.contains_key(level) {
        Dangling {
            schema: name,
            status: "False",
            reason: "Found",
            message: format!("{object} and it exists"),
        }
    } else {
        let message = format!("{object} but there is no such object");
        Dangling { schema: name, status: "True", reason: "NotFound", message }
    };
    let mut conditions = schema.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let held = conditions.find(|condition| condition.type_.as_deref() == Some("Dangling"));
    let same = held.is_some_and(|held| {
        held.status.as_deref() == Some(wanted.status)
            && held.reason.as_deref() == Some(wanted.reason)
            && held.message.as_deref() == Some(&wanted.message)
    });
    (!same).then_some(wanted)
}

/// All objects of an empty cluster.
pub fn initial_objects() -> (Vec<Arc<PriorityLevelConfiguration>>, Vec<Arc<FlowSchema>>) {
    fn all<K: serde::de::DeserializeOwned>(kind: &str) -> Vec<Arc<K>> {
        let objects = knarr_api::facts::initial_objects().into_iter().filter(|object| object["kind"] == kind);
        let names = objects.filter_map(|object| object["metadata"]["name"].as_str().map(str::to_owned));
        names.map(|name| Arc::new(initial::<K>(kind, &name))).collect()
    }
    (all("PriorityLevelConfiguration"), all("FlowSchema"))
}

/// An object of an empty cluster.
fn initial<K: serde::de::DeserializeOwned>(kind: &str, name: &str) -> K {
    let mut all = knarr_api::facts::initial_objects().into_iter();
    let object = all.find(|object| object["kind"] == kind && object["metadata"]["name"] == name);
    let mut object = object.expect("the mandatory objects are among the initial ones");
    object["status"] = serde_json::Value::Null;
    serde_json::from_value(object).expect("an initial object is of its kind")
}
