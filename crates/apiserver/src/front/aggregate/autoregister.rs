//! API services for what this server answers itself: kube-aggregator's autoregistration. Those of built-in group
//! versions are brought into line once, when the server starts (label value `onstart`); those of custom resources follow
//! their definitions (`true`).

use super::priority::{self, Priority};
use crate::front::resource_metrics;
use crate::registry::Registry;
use futures_util::future::join_all;
use knarr_api::apiregistration::v1::{APIService, APIServiceSpec};
use knarr_client::{Client, DeleteOptions, Error, Informer, Informers, WorkQueue};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

/// How an API service is kept, in the label's words.
const LABEL: &str = "kube-aggregator.kubernetes.io/automanaged";
const ON_START: &str = "onstart";
const ALWAYS: &str = "true";

/// How an API service is to be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Managed {
    /// Once, when the server starts.
    OnStart,
    /// All the time.
    Always,
    /// Whenever there is none. It is not marked as managed, so that whoever installs an API server of his own for the
    /// group version may change it, and it stays so.
    Offered,
}

impl Managed {
    fn label(self) -> Option<&'static str> {
        match self {
            Self::OnStart => Some(ON_START),
            Self::Always => Some(ALWAYS),
            Self::Offered => None,
        }
    }

    fn of(object: &APIService) -> Option<Self> {
        match object.metadata.labels.as_ref()?.get(LABEL)?.as_str() {
            ON_START => Some(Self::OnStart),
            ALWAYS => Some(Self::Always),
            _ => None,
        }
    }
}

/// What is known of one API service.
#[derive(Clone, Copy, Debug)]
pub struct Known {
    /// How it is wanted, if it is.
    pub wanted: Option<Managed>,
    /// Whether there is one.
    pub exists: bool,
    /// How the one that there is is kept; `None` when somebody else looks after it.
    pub kept: Option<Managed>,
    /// Whether there was one when the server started.
    pub at_start: bool,
    /// Whether it has been brought into line once.
    pub synced: bool,
    /// Whether the one there is says what is wanted.
    pub equal: bool,
}

/// What to do about one API service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing.
    Nothing,
    /// It is to be made.
    Create,
    /// Its spec is to be replaced.
    Update,
    /// It is to go.
    Delete,
}

/// Upstream's table of what is wanted against what there is.
pub fn plan(known: Known) -> Action {
    let once_done = |managed: Option<Managed>| managed == Some(Managed::OnStart) && known.synced;
    if once_done(known.wanted) || (!known.exists && known.wanted.is_none()) {
        return Action::Nothing;
    }
    if !known.exists {
        return Action::Create;
    }
    if known.kept.is_none()
        || (known.kept == Some(Managed::OnStart) && !known.at_start)
        || once_done(known.kept)
    {
        return Action::Nothing;
    }
    match known.wanted {
        None => Action::Delete,
        Some(_) if known.equal => Action::Nothing,
        Some(_) => Action::Update,
    }
}

type Wanted = BTreeMap<String, (Managed, APIServiceSpec)>;

struct State {
    wanted: Wanted,
    at_start: BTreeSet<String>,
    synced: BTreeSet<String>,
}

/// The controller.
pub struct Autoregister {
    client: Client,
    services: Informer<APIService>,
    state: Mutex<State>,
}

/// Starts to keep the API services in line with what `registry` serves. The gate opens once the built-in ones are there.
pub fn start(
    registry: &Arc<Registry>,
    informers: &Informers,
    mut custom_resources: tokio::sync::watch::Receiver<bool>,
) {
    let ctx = informers.client().ctx().clone();
    let gate = ctx.tasks.ready_gate("autoregister-completion");
    let state = State { wanted: Wanted::new(), at_start: BTreeSet::new(), synced: BTreeSet::new() };
    let this = Arc::new(Autoregister {
        client: informers.client().clone(),
        services: informers.get::<APIService>(),
        state: Mutex::new(state),
    });
    let (registry, queue) = (registry.clone(), WorkQueue::new(ctx.clone()));
    ctx.tasks.spawn_until_stopped("API service registration", async move {
        this.services.synced().await;
        // Before that, the API services of custom resources would look as if nobody wanted them.
        let _ = custom_resources.wait_for(|installed| *installed).await;
        let mut changes = registry.changes();
        let names: BTreeSet<String> = this.services.list("").iter().map(|s| name(s)).collect();
        let first: BTreeSet<String> = {
            let mut state = this.lock();
            state.at_start = names.clone();
            state.wanted = wanted(&registry);
            state.wanted.keys().cloned().chain(names).collect()
        };
        join_all(first.iter().map(|name| this.sync_until_done(name))).await;
        gate.open();
        let on_change = queue.clone();
        this.services.on_change(move |change| on_change.add(name(change.object())));
        loop {
            let next = tokio::select! {
                changed = changes.changed() => match changed {
                    Ok(()) => None,
                    Err(_) => return,
                },
                next = queue.next() => match next {
                    Some(name) => Some(name),
                    None => return,
                },
            };
            match next {
                None => this.follow(&registry).into_iter().for_each(|name| queue.add(name)),
                Some(name) => {
                    match this.sync(&name).await {
                        Ok(()) => queue.forget(&name),
                        Err(error) => {
                            tracing::warn!(%error, name, "an API service could not be kept in line");
                            queue.add_rate_limited(name.clone());
                        }
                    }
                    queue.done(&name);
                }
            }
        }
    });
}

fn name(object: &APIService) -> String {
    object.metadata.name.clone().unwrap_or_default()
}

/// The API services of what is served.
fn wanted(registry: &Registry) -> Wanted {
    let mut wanted = Wanted::new();
    for def in registry.defs().iter() {
        for version in &def.versions {
            let (group, version) = (def.group.to_string(), version.version.to_string());
            let (managed, Priority { group: group_priority, version: version_priority }) =
                match priority::built_in(&group, &version) {
                    Some(priority) => (Managed::OnStart, priority),
                    None if def.group == resource_metrics::GROUP => {
                        (Managed::Offered, priority::RESOURCE_METRICS)
                    }
                    // What is built in and has no priority registers nothing, so that nothing stays when it goes.
                    None if !def.is_custom() => continue,
                    None => (Managed::Always, priority::CUSTOM),
                };
            let spec = APIServiceSpec {
                group: (!group.is_empty()).then(|| group.clone()),
                version: Some(version.clone()),
                group_priority_minimum: group_priority,
                version_priority,
                ..APIServiceSpec::default()
            };
            wanted.insert(format!("{version}.{group}"), (managed, spec));
        }
    }
    wanted
}

impl Autoregister {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("no holder of the state panics")
    }

    /// Takes over what is served now; the names that this concerns.
    fn follow(&self, registry: &Registry) -> Vec<String> {
        let wanted = wanted(registry);
        let mut state = self.lock();
        let before = std::mem::replace(&mut state.wanted, wanted);
        let differ = |name: &&String| before.get(*name) != state.wanted.get(*name);
        let names: BTreeSet<&String> = before.keys().chain(state.wanted.keys()).collect();
        names.into_iter().filter(differ).cloned().collect()
    }

    /// The first round: the server is not ready before it is done.
    async fn sync_until_done(&self, name: &str) {
        let clock = self.client.ctx().clock.clone();
        let mut backoff = knarr_base::Backoff::new(
            std::time::Duration::from_millis(50),
            2.0,
            std::time::Duration::from_secs(5),
        );
        while let Err(error) = self.sync(name).await {
            tracing::warn!(%error, name, "an API service could not be registered");
            clock.sleep(backoff.step()).await;
        }
    }

    async fn sync(&self, name: &str) -> Result<(), Error> {
        let held = self.services.get("", name);
        let (wanted, known) = {
            let state = self.lock();
            let wanted = state.wanted.get(name).cloned();
            let known = Known {
                wanted: wanted.as_ref().map(|(managed, _)| *managed),
                exists: held.is_some(),
                kept: held.as_ref().and_then(|held| Managed::of(held)),
                at_start: state.at_start.contains(name),
                synced: state.synced.contains(name),
                equal: held.as_ref().and_then(|h| h.spec.as_ref()) == wanted.as_ref().map(|(_, spec)| spec),
            };
            (wanted, known)
        };
        let result = match (plan(known), wanted, held) {
            (Action::Create, Some((managed, spec)), _) => {
                let mut object = APIService { spec: Some(spec), ..APIService::default() };
                object.metadata.name = Some(name.to_owned());
                let label = managed.label().map(|label| (LABEL.to_owned(), label.to_owned()));
                object.metadata.labels = label.map(|label| BTreeMap::from([label]));
                self.client.create(&object).await.map(drop)
            }
            (Action::Update, Some((_, spec)), Some(held)) => {
                let changed = APIService { spec: Some(spec), ..(*held).clone() };
                self.client.update(&changed).await.map(drop)
            }
            (Action::Delete, _, Some(held)) => {
                let options = DeleteOptions { uid: held.metadata.uid.clone(), ..DeleteOptions::default() };
                self.client.delete::<APIService>("", name, &options).await
            }
            _ => Ok(()),
        };
        match result {
            // Made, changed or deleted meanwhile: its change brings another look.
            Err(error) if !error.is_conflict() && !error.is_not_found() => Err(error),
            _ => {
                self.lock().synced.insert(name.to_owned());
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wanted_meets_what_is_there() {
        use Action::{Create, Delete, Nothing, Update};
        use Managed::{Always, Offered, OnStart};
        // wanted, kept (outer none: there is none; inner none: somebody else's), at start, synced -> action
        type Row = (Option<Managed>, Option<Option<Managed>>, bool, bool, Action);
        let rows: &[Row] = &[
            (None, None, false, false, Nothing),
            (Some(OnStart), None, false, false, Create),
            (Some(OnStart), None, false, true, Nothing),
            (Some(Always), None, false, true, Create),
            (None, Some(None), true, false, Nothing),
            (Some(OnStart), Some(None), true, false, Nothing),
            (Some(Always), Some(None), true, true, Nothing),
            (None, Some(Some(OnStart)), false, false, Nothing),
            (Some(OnStart), Some(Some(OnStart)), false, false, Nothing),
            (Some(Always), Some(Some(OnStart)), false, false, Nothing),
            (None, Some(Some(OnStart)), true, false, Delete),
            (None, Some(Some(OnStart)), true, true, Nothing),
            (Some(OnStart), Some(Some(OnStart)), true, false, Update),
            (Some(OnStart), Some(Some(OnStart)), true, true, Nothing),
            (Some(Always), Some(Some(OnStart)), true, false, Update),
            (None, Some(Some(Always)), false, true, Delete),
            (Some(OnStart), Some(Some(Always)), false, false, Update),
            (Some(OnStart), Some(Some(Always)), false, true, Nothing),
            (Some(Always), Some(Some(Always)), false, true, Update),
            (Some(Offered), None, false, true, Create),
            (Some(Offered), Some(None), true, true, Nothing),
        ];
        for (wanted, held, at_start, synced, action) in rows {
            let known = Known {
                wanted: *wanted,
                exists: held.is_some(),
                kept: held.flatten(),
                at_start: *at_start,
                synced: *synced,
                equal: false,
            };
            assert_eq!(plan(known), *action, "{known:?}");
            if *action == Update {
                assert_eq!(plan(Known { equal: true, ..known }), Nothing);
            }
        }
    }
}
