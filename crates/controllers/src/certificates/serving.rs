//! Approves the serving certificates of kubelets (kubernetes.io/kubelet-serving). Upstream leaves that to somebody who
//! knows the machines (KEP-266); here the Node says where the API server will connect to, so a node gets a certificate for
//! exactly the addresses and the name that its own Node has and no other one (ADR 0023). Runs under the API server's own
//! identity, since upstream's roles allow nobody to approve these.

use super::{KUBELET_SERVING, has_condition, is_issued, request, rules};
use crate::framework::{Next, Reconcile, run_in};
use http::Method;
use knarr_api::Kind;
use knarr_api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition};
use knarr_api::core::v1::Node;
use knarr_base::Ctx;
use knarr_base::clock::BoxFuture;
use knarr_client::informer::{Change, Key};
use knarr_client::{Client, Error, Informer, Informers, ListOptions, ResourcePath, WorkQueue};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// A request whose Node has not got its addresses yet is looked at again after this.
const ASK_AGAIN: Duration = Duration::from_secs(2);

struct Approving {
    client: Client,
    requests: Informer<CertificateSigningRequest>,
}

/// Starts approving, with a client that may approve for the signer and list nodes.
pub fn start(ctx: &Ctx, client: Client) {
    let ctx = ctx.child("kubelet-serving");
    let informers = Informers::new(client.clone());
    let selector = format!("spec.signerName={KUBELET_SERVING}");
    let requests = informers.filtered::<CertificateSigningRequest>("", "", &selector);
    let queue = WorkQueue::new(ctx.clone());
    let on_request = queue.clone();
    requests.on_change(move |change: &Change<CertificateSigningRequest>| {
        if change.new.as_ref().is_some_and(|csr| is_open(csr)) {
            on_request.add(Key::of(&change.object().metadata));
        }
    });
    let synced = requests.clone();
    let ready = async move { synced.synced().await };
    run_in(&ctx, "kubelet-serving", 1, queue, ready, Arc::new(Approving { client, requests }));
}

fn is_open(csr: &CertificateSigningRequest) -> bool {
    csr.spec.signer_name == KUBELET_SERVING
        && !is_issued(csr)
        && !has_condition(csr, "Approved")
        && !has_condition(csr, "Denied")
}

/// The addresses and names of a node, as it reports them.
fn names_of(node: &Node) -> BTreeSet<&str> {
    let addresses = node.status.iter().flat_map(|s| s.addresses.iter().flatten());
    addresses.map(|a| a.address.as_str()).collect()
}

/// Why a node may not have a certificate for what it asks; `nodes` are all nodes.
fn objection(user: &str, request: &request::Request, nodes: &[Node]) -> Option<String> {
    let name = user.strip_prefix("system:node:").filter(|_| user == request.common_name);
    let Some(name) = name else { return Some(format!("{user} asks for {}", request.common_name)) };
    let Some(node) = nodes.iter().find(|n| n.name() == name) else {
        return Some(format!("there is no node {name}"));
    };
    let own = names_of(node);
    let asked = request.dns_names.iter().cloned().chain(request.addresses.iter().map(ToString::to_string));
    for asked in asked {
        if !own.contains(asked.as_str()) {
            return Some(format!("{asked} is no address of the node {name}"));
        }
        let other = nodes.iter().find(|n| n.name() != name && names_of(n).contains(asked.as_str()));
        if let Some(other) = other {
            return Some(format!("{asked} is an address of the node {} too", other.name()));
        }
    }
    None
}

impl Reconcile for Approving {
    fn sync<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Next, Error>> {
        Box::pin(async move {
            let Some(csr) = self.requests.get_key(key).filter(|csr| is_open(csr)) else {
                return Ok(Next::Done);
            };
            let request = request::parse(&csr.spec.request.0)
                .map_err(|e| Error::Protocol(format!("unable to parse csr \"{}\": {e}", key.name)))?;
            let usages = csr.spec.usages.clone().unwrap_or_default();
            if !matches!(rules::check(KUBELET_SERVING, &request, &usages), Some(Ok(()))) {
                return Ok(Next::Done); // the signer says what is wrong with it
            }
            let nodes = self.client.list::<Node>("", &ListOptions::default()).await?.items;
            let user = csr.spec.username.as_deref().unwrap_or_default();
            if let Some(why) = objection(user, &request, &nodes) {
                tracing::info!(csr = key.name, why, "a kubelet's serving certificate is not approved");
                return Ok(Next::After(ASK_AGAIN));
            }
            let mut approved = (*csr).clone();
            let status = approved.status.get_or_insert_default();
            status.conditions.get_or_insert_default().push(CertificateSigningRequestCondition {
                type_: "Approved".into(),
                status: "True".into(),
                reason: Some("AutoApproved".into()),
                message: Some(
                    "Auto approving kubelet serving certificate: the names are the node's own.".into(),
                ),
                ..Default::default()
            });
            let url = ResourcePath::of::<CertificateSigningRequest>().url("", &key.name, "approval");
            self.client.call(Method::PUT, &url, &approved.to_value()).await?;
            Ok(Next::Done)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_node_gets_its_own_names_only() {
        let node = |name: &str, address: &str| {
            Node::from_value(&json!({ "metadata": { "name": name }, "status": { "addresses": [
                { "type": "InternalIP", "address": address }, { "type": "Hostname", "address": name }] } }))
            .expect("a node")
        };
        let nodes = [node("a", "192.0.2.1"), node("b", "192.0.2.2"), node("c", "192.0.2.2")];
        let ask = |user: &str, names: &[&str], addresses: &[&str]| {
            let request = request::Request {
                common_name: "system:node:a".into(),
                dns_names: names.iter().map(|n| (*n).to_owned()).collect(),
                addresses: addresses.iter().map(|a| a.parse().expect("an address")).collect(),
                ..request::Request::default()
            };
            objection(user, &request, &nodes)
        };
        assert_eq!(ask("system:node:a", &["a"], &["192.0.2.1"]), None);
        let no = |name: &str| Some(format!("{name} is no address of the node a"));
        assert_eq!(ask("system:node:a", &["a", "kubernetes"], &[]), no("kubernetes"));
        assert_eq!(ask("system:node:a", &["a"], &["192.0.2.2"]), no("192.0.2.2"));
        assert!(ask("system:node:b", &["a"], &[]).is_some_and(|w| w.contains("asks for")));
        let shared = request::Request {
            common_name: "system:node:b".into(),
            addresses: vec!["192.0.2.2".parse().expect("an address")],
            ..request::Request::default()
        };
        assert_eq!(
            objection("system:node:b", &shared, &nodes).as_deref(),
            Some("192.0.2.2 is an address of the node c too")
        );
    }
}
