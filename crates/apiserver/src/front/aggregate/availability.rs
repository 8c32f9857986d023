//! The condition Available of API services: kube-aggregator's local and remote availability controllers. Changes of API
//! services, services and endpoint slices wake it; a recheck every half minute notices what no watch tells.

use super::Aggregator;
use super::identity;
use super::service::{Remote, Service};
use super::transport::authority;
use crate::request::UserInfo;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use http::Request;
use knarr_api::apiregistration::v1::{APIService, APIServiceCondition, APIServiceStatus};
use knarr_api::core::v1::Service as CoreService;
use knarr_api::discovery::v1::EndpointSlice;
use knarr_api::meta::v1::Time;
use knarr_client::{Client, Error, Informer};
use knarr_client::{Informers, WorkQueue};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// Workers, as upstream.
const WORKERS: usize = 5;
/// How often a service that passed is looked at again, and the longest wait after it failed.
const RECHECK: Duration = Duration::from_secs(30);
/// How long the discovery document may take.
const CHECK_LIMIT: Duration = Duration::from_secs(5);
/// Tries, one of which must succeed: a service may have more endpoints than one.
const ATTEMPTS: usize = 5;
const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

/// What the condition is to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// `True` or `False`.
    pub status: &'static str,
    /// The reason.
    pub reason: &'static str,
    /// The message.
    pub message: String,
}

impl Verdict {
    fn failed(reason: &'static str, message: String) -> Self {
        Self { status: "False", reason, message }
    }

    fn local() -> Self {
        let message = "Local APIServices are always available".to_owned();
        Self { status: "True", reason: "Local", message }
    }
}

/// What the cluster's own objects say of an API service's service; `None` when nothing speaks against asking it.
pub fn judge(
    remote: &Remote,
    service: Option<&CoreService>,
    slices: &[Arc<EndpointSlice>],
) -> Option<Verdict> {
    let place = &remote.place;
    let (name, namespace, port) = (&place.service, &place.namespace, place.port);
    let Some(service) = service else {
        let message = format!("service/{name} in {namespace:?} is not present");
        return Some(Verdict::failed("ServiceNotFound", message));
    };
    let spec = service.spec.as_ref()?;
    if spec.type_.as_deref().unwrap_or("ClusterIP") != "ClusterIP" {
        return None;
    }
    let known = spec.ports.iter().flatten().find(|p| p.port == i32::from(port));
    let Some(known) = known else {
        let message = format!("service/{name} in {namespace:?} is not listening on port {port}");
        return Some(Verdict::failed("ServicePortError", message));
    };
    if slices.is_empty() {
        let message = format!("cannot find endpointslices for service/{name} in {namespace:?}");
        return Some(Verdict::failed("EndpointsNotFound", message));
    }
    let port_name = known.name.as_deref().unwrap_or_default();
    let serves = |slice: &EndpointSlice| {
        let ready = slice
            .endpoints
            .iter()
            .flatten()
            .any(|e| e.conditions.as_ref().and_then(|c| c.ready).unwrap_or(true));
        let ports = slice.ports.iter().flatten();
        ready
            && ports
                .into_iter()
                .any(|p| p.port.is_some() && p.name.as_deref().unwrap_or_default() == port_name)
    };
    if slices.iter().any(|slice| serves(slice)) {
        return None;
    }
    let message = format!(
        "endpointslices for service/{name} in {namespace:?} have no addresses with port name {port_name:?}"
    );
    Some(Verdict::failed("MissingEndpoints", message))
}

/// The status with the condition in it; `None` if it says so already. The time of transition moves with the status
/// alone.
pub fn with_condition(object: &APIService, verdict: &Verdict, now: Time) -> Option<APIServiceStatus> {
    let before = object.status.clone().unwrap_or_default();
    let mut after = before.clone();
    let conditions = after.conditions.get_or_insert_default();
    match conditions.iter_mut().find(|c| c.type_ == "Available") {
        Some(condition) => {
            if condition.status != verdict.status {
                condition.status = verdict.status.to_owned();
                condition.last_transition_time = Some(now);
            }
            condition.reason = Some(verdict.reason.to_owned());
            condition.message = Some(verdict.message.clone());
        }
        None => conditions.push(APIServiceCondition {
            type_: "Available".to_owned(),
            status: verdict.status.to_owned(),
            last_transition_time: Some(now),
            reason: Some(verdict.reason.to_owned()),
            message: Some(verdict.message.clone()),
        }),
    }
    (after != before).then_some(after)
}

/// The controller.
pub struct Availability {
    aggregator: Arc<Aggregator>,
    client: Client,
    informers: Informers,
    services: Informer<APIService>,
    queue: WorkQueue<String>,
    /// Followed once there is an API service that something else answers.
    around: OnceLock<(Informer<CoreService>, Informer<EndpointSlice>)>,
    /// Whether the server has been ready once. Until then failures are not told: what they come from may be the
    /// server's own start.
    has_been_ready: AtomicBool,
}

/// Starts the controller over the API services of `informers`.
pub fn start(aggregator: &Arc<Aggregator>, informers: &Informers) {
    let client = informers.client().clone();
    let ctx = client.ctx().clone();
    let queue = WorkQueue::new(ctx.clone());
    let this = Arc::new(Availability {
        aggregator: aggregator.clone(),
        services: informers.get::<APIService>(),
        informers: informers.clone(),
        client,
        queue: queue.clone(),
        around: OnceLock::new(),
        has_been_ready: AtomicBool::new(false),
    });
    let on_service = queue.clone();
    this.services.on_change(move |change| on_service.add(name(change.object())));
    for _ in 0..WORKERS {
        let this = this.clone();
        ctx.tasks.spawn_until_stopped("API service availability", async move { this.work().await });
    }
}

fn name(object: &APIService) -> String {
    object.metadata.name.clone().unwrap_or_default()
}

impl Availability {
    async fn work(&self) {
        while let Some(name) = self.queue.next().await {
            match self.sync(&name).await {
                Ok(true) => {
                    self.queue.forget(&name);
                    self.queue.add_after(name.clone(), RECHECK);
                }
                Ok(false) => self.queue.forget(&name),
                Err(error) => {
                    tracing::debug!(name, error, "an API service is not available");
                    self.queue.add_rate_limited(name.clone());
                    self.queue.add_after(name.clone(), RECHECK);
                }
            }
            self.queue.done(&name);
        }
    }

    /// Looks at one API service; whether to look again without being woken.
    async fn sync(&self, name: &str) -> Result<bool, String> {
        let Some(object) = self.services.get("", name) else { return Ok(false) };
        let Some(service) = self.aggregator.service(name) else { return Ok(false) };
        let Some(remote) = &service.remote else {
            self.tell(&object, &Verdict::local()).await?;
            return Ok(false);
        };
        let (services, slices) = self.around().await;
        let place = &remote.place;
        let core = services.get(&place.namespace, &place.service);
        let of_service: Vec<_> = slices
            .list(&place.namespace)
            .into_iter()
            .filter(|slice| {
                let labels = slice.metadata.labels.as_ref();
                labels.and_then(|l| l.get(SERVICE_NAME_LABEL)).is_some_and(|n| *n == place.service)
            })
            .collect();
        if let Some(verdict) = judge(remote, core.as_deref(), &of_service) {
            self.tell(&object, &verdict).await?;
            return Ok(true);
        }
        match ask(&service, remote).await {
            Ok(()) => {
                let message = "all checks passed".to_owned();
                self.tell(&object, &Verdict { status: "True", reason: "Passed", message }).await?;
                Ok(true)
            }
            Err(error) => {
                if self.has_been_ready() {
                    self.tell(&object, &Verdict::failed("FailedDiscoveryCheck", error.clone())).await?;
                }
                Err(error)
            }
        }
    }

    fn has_been_ready(&self) -> bool {
        if self.has_been_ready.load(Ordering::Relaxed) {
            return true;
        }
        let ready = self.client.ctx().tasks.unready().is_empty();
        self.has_been_ready.store(ready, Ordering::Relaxed);
        ready
    }

    /// The services and endpoint slices; the first call starts to follow them.
    async fn around(&self) -> &(Informer<CoreService>, Informer<EndpointSlice>) {
        let around = self.around.get_or_init(|| {
            let services = self.informers.get::<CoreService>();
            let slices = self.informers.get::<EndpointSlice>();
            let (queue, aggregator) = (self.queue.clone(), self.aggregator.clone());
            let touch = move |namespace: &str, service: &str| {
                aggregator.behind(namespace, service).into_iter().for_each(|name| queue.add(name));
            };
            let of_slice = touch.clone();
            services.on_change(move |change| {
                let meta = &change.object().metadata;
                let (namespace, name) = (meta.namespace.as_deref(), meta.name.as_deref());
                touch(namespace.unwrap_or_default(), name.unwrap_or_default());
            });
            slices.on_change(move |change| {
                let meta = &change.object().metadata;
                if let Some(service) = meta.labels.as_ref().and_then(|l| l.get(SERVICE_NAME_LABEL)) {
                    of_slice(meta.namespace.as_deref().unwrap_or_default(), service);
                }
            });
            (services, slices)
        });
        around.0.synced().await;
        around.1.synced().await;
        around
    }

    /// Writes the condition if it says something else.
    async fn tell(&self, object: &APIService, verdict: &Verdict) -> Result<(), String> {
        let now = super::api_time(self.client.ctx().clock.now());
        let Some(status) = with_condition(object, verdict, now) else { return Ok(()) };
        let changed = APIService { status: Some(status), ..object.clone() };
        match self.client.update_status(&changed).await {
            Ok(_) => {
                tracing::info!(
                    name = name(object),
                    available = verdict.status,
                    reason = verdict.reason,
                    message = verdict.message,
                    "an API service changed"
                );
                Ok(())
            }
            // The object on its way here, or its end, brings another look.
            Err(error) if error.is_not_found() || is_stale(&error) => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    }
}

fn is_stale(error: &Error) -> bool {
    error.is_conflict()
}

/// Asks the backend for its discovery document; one of several tries must succeed.
async fn ask(service: &Service, remote: &Remote) -> Result<(), String> {
    // The shared connection first; if that fails, others, which may lead to other endpoints.
    let Err(first) = attempt(service, remote, false).await else { return Ok(()) };
    let mut others: FuturesUnordered<_> = (1..ATTEMPTS).map(|_| attempt(service, remote, true)).collect();
    let mut last = first;
    while let Some(answer) = others.next().await {
        match answer {
            Ok(()) => return Ok(()),
            Err(error) => last = error,
        }
    }
    Err(last)
}

async fn attempt(service: &Service, remote: &Remote, afresh: bool) -> Result<(), String> {
    let backend = remote.backend.as_ref().map_err(Clone::clone)?;
    let (host, port) = backend.resolve()?;
    let path = service.discovery_path();
    let url = format!("https://{}{path}", authority(&host, port));
    let mut request = Request::new(());
    *request.uri_mut() = path.parse().map_err(|e| format!("{url}: {e}"))?;
    identity::set(request.headers_mut(), &aggregator_user())?;
    let answer = backend.fetch(request, CHECK_LIMIT, afresh).await;
    let problem = match answer {
        Ok(response) if response.status().is_success() => return Ok(()),
        Ok(response) => format!("bad status from {url}: {}", response.status().as_u16()),
        Err(error) => {
            backend.forget();
            format!("Get {url:?}: {error}")
        }
    };
    Err(format!("failing or missing response from {url}: {problem}"))
}

/// Whom extension API servers see when the aggregator itself asks.
pub fn aggregator_user() -> UserInfo {
    UserInfo {
        name: "system:kube-aggregator".to_owned(),
        groups: vec!["system:masters".to_owned()],
        ..UserInfo::default()
    }
}
