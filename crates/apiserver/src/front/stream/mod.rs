//! Streams through the server: container logs, exec, attach, port-forward, and the proxies to pods, services
//! and nodes. Upgraded connections (SPDY/3.1 and WebSocket alike) are passed through as bytes: the kubelet at
//! the other end speaks the protocol.

mod containers;
pub(in crate::front) mod forward;
mod kubelets;
mod proxies;

use super::chain::RequestBody;
use crate::def::{Handler, SubKind, Subresource};
use crate::request::RequestInfo;
pub use kubelets::Kubelets;
pub(in crate::front) use kubelets::Target;
use std::sync::{Arc, Mutex};

/// The body of a streamed request, left unread; in the extensions of the request's parts.
#[derive(Clone)]
pub struct Incoming(Arc<Mutex<Option<RequestBody>>>);

impl Incoming {
    /// Takes the body out.
    fn take(&self) -> Option<RequestBody> {
        self.0.lock().expect("body lock is never poisoned").take()
    }
}

/// What a proxied name says beside the object's name: `[scheme:]name[:port]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProxyTarget {
    /// `http`, `https` or empty.
    pub scheme: String,
    /// Port number or name, or empty.
    pub port: String,
}

/// Whether a request's body is not to be read by the chain.
pub fn is_streaming(info: &RequestInfo) -> bool {
    info.group.is_empty()
        && match info.resource.as_str() {
            "pods" => matches!(info.subresource.as_str(), "exec" | "attach" | "portforward" | "proxy"),
            "services" | "nodes" => info.subresource == "proxy",
            _ => false,
        }
}

/// Whether a request begins a session with a pod's containers or ports.
pub(super) fn is_session(info: &RequestInfo) -> bool {
    let what = (info.group.as_str(), info.resource.as_str(), info.subresource.as_str());
    matches!(what, ("", "pods", "exec" | "attach" | "portforward"))
}

/// Sets the body aside, and the scheme and port of a proxied name, so that the registry sees the bare name.
pub(super) fn prepare(parts: &mut http::request::Parts, info: &mut RequestInfo, body: RequestBody) {
    parts.extensions.insert(Incoming(Arc::new(Mutex::new(Some(body)))));
    if info.subresource != "proxy" {
        return;
    }
    let (name, target) = split_target(&info.name);
    parts.extensions.insert(target);
    info.name = name;
}

fn split_target(text: &str) -> (String, ProxyTarget) {
    let own = |text: &str| text.to_owned();
    match text.split(':').collect::<Vec<_>>().as_slice() {
        [name, port] => (own(name), ProxyTarget { scheme: String::new(), port: own(port) }),
        [scheme @ ("http" | "https" | ""), name, port] => {
            (own(name), ProxyTarget { scheme: own(scheme), port: own(port) })
        }
        _ => (own(text), ProxyTarget::default()),
    }
}

/// The streaming subresources of `resource`.
pub fn subresources(kubelets: &Arc<Kubelets>, resource: &str) -> Vec<Subresource> {
    const PROXY: &[&str] = &["create", "delete", "get", "patch", "update"];
    const CONNECT: &[&str] = &["create", "get"];
    let make = |name, kind, verbs, handler: Box<dyn Handler>| Subresource {
        name,
        kind: ("", "v1", kind),
        verbs,
        serve: SubKind::Custom(handler),
    };
    match resource {
        "pods" => vec![
            make("log", "Pod", &["get"], Box::new(containers::Logs(kubelets.clone()))),
            make("exec", "PodExecOptions", CONNECT, Box::new(containers::Session::exec(kubelets))),
            make("attach", "PodAttachOptions", CONNECT, Box::new(containers::Session::attach(kubelets))),
            make(
                "portforward",
                "PodPortForwardOptions",
                CONNECT,
                Box::new(containers::Session::port_forward(kubelets)),
            ),
            make("proxy", "PodProxyOptions", PROXY, Box::new(proxies::Pods(kubelets.clone()))),
        ],
        "services" => {
            vec![make("proxy", "ServiceProxyOptions", PROXY, Box::new(proxies::Services(kubelets.clone())))]
        }
        "nodes" => vec![make("proxy", "NodeProxyOptions", PROXY, Box::new(proxies::Nodes(kubelets.clone())))],
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod target_tests {
    use super::*;

    #[test]
    fn proxied_names_carry_scheme_and_port() {
        for (text, name, scheme, port) in [
            ("web", "web", "", ""),
            ("web:80", "web", "", "80"),
            ("https:web:tls", "web", "https", "tls"),
            ("http:web:", "web", "http", ""),
            ("ftp:web:80", "ftp:web:80", "", ""),
        ] {
            let target = ProxyTarget { scheme: scheme.into(), port: port.into() };
            assert_eq!(split_target(text), (name.to_owned(), target), "{text}");
        }
    }
}
