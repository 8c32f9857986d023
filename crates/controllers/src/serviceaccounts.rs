//! serviceaccount: every active namespace has a ServiceAccount `default`.

use crate::framework::{Next, Reconcile, Start, run};
use knarr_api::Kind;
use knarr_api::core::v1::{Namespace, ServiceAccount};
use knarr_api::meta::v1::ObjectMeta;
use knarr_base::clock::BoxFuture;
use knarr_client::informer::Key;
use knarr_client::{Client, Error, Informer, WorkQueue};
use std::sync::Arc;

struct ServiceAccounts {
    client: Client,
    namespaces: Informer<Namespace>,
    accounts: Informer<ServiceAccount>,
}

/// Whether the namespace is there to stay.
pub fn is_active(namespace: &Namespace) -> bool {
    let phase = namespace.status.as_ref().and_then(|s| s.phase.as_deref());
    namespace.metadata.deletion_timestamp.is_none() && phase != Some("Terminating")
}

/// Starts the controller.
pub fn start(start: Start) {
    let (namespaces, accounts) =
        (start.informers.get::<Namespace>(), start.informers.get::<ServiceAccount>());
    let queue = WorkQueue::new(start.ctx.clone());
    let on_namespace = queue.clone();
    namespaces.on_change(move |change| on_namespace.add(Key::new("", change.object().name())));
    let on_account = queue.clone();
    accounts.on_change(move |change| {
        if change.new.is_none() {
            on_account.add(Key::new("", change.object().namespace()));
        }
    });
    let ready = {
        let (namespaces, accounts) = (namespaces.clone(), accounts.clone());
        async move {
            namespaces.synced().await;
            accounts.synced().await;
        }
    };
    let controller = Arc::new(ServiceAccounts { client: start.client.clone(), namespaces, accounts });
    run(&start, "serviceaccount", 1, queue, ready, controller);
}

impl Reconcile for ServiceAccounts {
    fn sync<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Next, Error>> {
        Box::pin(async move {
            let active = self.namespaces.get_key(key).is_some_and(|n| is_active(&n));
            if active && self.accounts.get(&key.name, "default").is_none() {
                let metadata = ObjectMeta {
                    name: Some("default".to_owned()),
                    namespace: Some(key.name.clone()),
                    ..ObjectMeta::default()
                };
                match self.client.create(&ServiceAccount { metadata, ..ServiceAccount::default() }).await {
                    Err(error) if !error.is_conflict() && error.code() != 403 && !error.is_not_found() => {
                        return Err(error);
                    }
                    _ => {}
                }
            }
            Ok(Next::Done)
        })
    }
}
