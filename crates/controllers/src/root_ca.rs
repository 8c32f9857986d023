//! root-ca-certificate-publisher: every active namespace has the cluster's CA certificate in the ConfigMap
//! `kube-root-ca.crt`, which pods mount beside their token (KEP-1205).

use crate::framework::{Next, Reconcile, Start, run};
use crate::serviceaccounts::is_active;
use knarr_api::Kind;
use knarr_api::core::v1::{ConfigMap, Namespace};
use knarr_api::meta::v1::ObjectMeta;
use knarr_base::clock::BoxFuture;
use knarr_client::informer::Key;
use knarr_client::{Error, Informer, WorkQueue};
use std::collections::BTreeMap;
use std::sync::Arc;

const NAME: &str = "kube-root-ca.crt";
const DESCRIPTION_KEY: &str = "kubernetes.io/description";
const DESCRIPTION: &str = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the \
     internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes clusters.";

struct RootCa {
    start: Start,
    namespaces: Informer<Namespace>,
    published: Informer<ConfigMap>,
}

/// Starts the controller.
pub fn start(start: Start) {
    let namespaces = start.informers.get::<Namespace>();
    let published = start.informers.filtered::<ConfigMap>("", "", &format!("metadata.name={NAME}"));
    let queue = WorkQueue::new(start.ctx.clone());
    let on_namespace = queue.clone();
    namespaces.on_change(move |change| on_namespace.add(Key::new("", change.object().name())));
    let on_map = queue.clone();
    published.on_change(move |change| on_map.add(Key::new("", change.object().namespace())));
    let ready = {
        let (namespaces, published) = (namespaces.clone(), published.clone());
        async move {
            namespaces.synced().await;
            published.synced().await;
        }
    };
    let controller = Arc::new(RootCa { start: start.clone(), namespaces, published });
    run(&start, "root-ca-certificate-publisher", 1, queue, ready, controller);
}

impl Reconcile for RootCa {
    fn sync<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Next, Error>> {
        Box::pin(async move {
            if !self.namespaces.get_key(key).is_some_and(|n| is_active(&n)) {
                return Ok(Next::Done);
            }
            let data = Some(BTreeMap::from([("ca.crt".to_owned(), self.start.config.cluster_ca.clone())]));
            let note = |map: &mut ObjectMeta| {
                map.annotations
                    .get_or_insert_default()
                    .insert(DESCRIPTION_KEY.to_owned(), DESCRIPTION.to_owned());
            };
            match self.published.get(&key.name, NAME) {
                Some(held) if held.data == data => {}
                Some(held) => {
                    let mut changed = ConfigMap { data, ..(*held).clone() };
                    note(&mut changed.metadata);
                    self.start.client.update(&changed).await?;
                }
                None => {
                    let mut metadata = ObjectMeta {
                        name: Some(NAME.to_owned()),
                        namespace: Some(key.name.clone()),
                        ..ObjectMeta::default()
                    };
                    note(&mut metadata);
                    match self
                        .start
                        .client
                        .create(&ConfigMap { metadata, data, ..ConfigMap::default() })
                        .await
                    {
                        Err(error)
                            if !error.is_conflict() && error.code() != 403 && !error.is_not_found() =>
                        {
                            return Err(error);
                        }
                        _ => {}
                    }
                }
            }
            Ok(Next::Done)
        })
    }
}
