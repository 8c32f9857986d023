//! The client against servers that behave, misbehave and are not there.

use super::testing::TestWebhook;
use super::{CallError, ClientConfig, ClientManager, ServiceReference, ServiceResolver};
use knarr_base::Ctx;
use std::time::Duration;

/// Sends every service to one place.
struct To(Result<(String, u16), String>);

impl ServiceResolver for To {
    fn resolve(&self, _: &str, _: &str, _: u16) -> Result<(String, u16), String> {
        self.0.clone()
    }
}

fn nowhere() -> To {
    To(Err("service \"hook\" not found".to_owned()))
}

fn by_url(webhook: &TestWebhook, path: &str) -> ClientConfig {
    ClientConfig { url: webhook.url(path), service: None, ca_bundle: webhook.ca.clone().into_bytes() }
}

fn by_service(webhook: &TestWebhook, port: u16) -> ClientConfig {
    let service = ServiceReference {
        namespace: "ns".to_owned(),
        name: "hook".to_owned(),
        path: "/a//b/".to_owned(),
        port,
    };
    ClientConfig { url: String::new(), service: Some(service), ca_bundle: webhook.ca.clone().into_bytes() }
}

async fn call(
    manager: &ClientManager,
    resolver: &To,
    config: &ClientConfig,
    limit: Duration,
) -> Result<String, CallError> {
    let ctx = Ctx::system();
    let answer = manager.call(&ctx, resolver, config, "{}".into(), limit).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

const LIMIT: Duration = Duration::from_secs(10);

#[tokio::test]
async fn connections_are_used_again() {
    let webhook = TestWebhook::start(&["127.0.0.1"], |path, _| Some((200, path.to_owned()))).await;
    let (manager, config) = (ClientManager::new(), by_url(&webhook, "/mutate/"));
    for _ in 0..3 {
        let answer = call(&manager, &nowhere(), &config, LIMIT).await.unwrap();
        assert_eq!(answer, "/mutate?timeout=10s", "the server is told the limit");
    }
    assert_eq!(webhook.connections(), 1);
    assert_eq!(webhook.calls().len(), 3);
}

#[tokio::test]
async fn services_are_resolved_and_verified_by_name() {
    let webhook = TestWebhook::start(&["hook.ns.svc"], |path, _| Some((200, path.to_owned()))).await;
    let there = To(Ok((webhook.address.ip().to_string(), webhook.address.port())));
    let manager = ClientManager::new();
    let answer =
        call(&manager, &there, &by_service(&webhook, 443), Duration::from_millis(9_500)).await.unwrap();
    assert_eq!(answer, "/a/b?timeout=10s", "whole seconds, at least as many");

    let missing = call(&manager, &nowhere(), &by_service(&webhook, 8443), LIMIT).await.unwrap_err();
    assert_eq!(
        missing.to_string(),
        "Post \"https://hook.ns.svc:8443/a/b?timeout=10s\": service \"hook\" not found"
    );
}

#[tokio::test]
async fn failures_are_worded_as_go_words_them() {
    let webhook = TestWebhook::start(&["other.ns.svc"], |path, _| match path {
        p if p.starts_with("/hang") => None,
        p if p.starts_with("/500") => Some((500, "broken".to_owned())),
        _ => Some((404, String::new())),
    })
    .await;
    let local = TestWebhook::start(&["127.0.0.1"], |path, _| match path {
        p if p.starts_with("/hang") => None,
        p if p.starts_with("/status") => {
            let status = knarr_meta::status::Status::service_unavailable("not yet");
            Some((503, status.to_json().to_string()))
        }
        _ => Some((404, String::new())),
    })
    .await;
    let there = To(Ok((webhook.address.ip().to_string(), webhook.address.port())));
    // Bound, so that nobody else gets the port, but nobody listens.
    let taken = tokio::net::TcpSocket::new_v4().unwrap();
    taken.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let unused = taken.local_addr().unwrap();
    let distrusting = ClientConfig { ca_bundle: webhook.ca.clone().into_bytes(), ..by_url(&local, "/x") };
    let cases = [
        (
            by_service(&webhook, 443),
            "Post \"https://hook.ns.svc:443/a/b?timeout=10s\": tls: failed to verify certificate: x509: certificate is valid for other.ns.svc, not hook.ns.svc".to_owned(),
        ),
        (
            distrusting,
            format!("Post \"{}\": tls: failed to verify certificate: x509: certificate signed by unknown authority", local.url("/x?timeout=10s")),
        ),
        (
            ClientConfig { url: format!("https://{unused}/x"), service: None, ca_bundle: Vec::new() },
            format!("Post \"https://{unused}/x?timeout=10s\": dial tcp {unused}: connect: connection refused"),
        ),
        (by_url(&local, "/hang"), format!("Post \"{}\": context deadline exceeded", local.url("/hang?timeout=1s"))),
        (by_url(&local, "/404"), "the server could not find the requested resource".to_owned()),
        (by_url(&local, "/status"), "not yet".to_owned()),
        (ClientConfig::default(), "webhook configuration must have either service or URL".to_owned()),
    ];
    let manager = ClientManager::new();
    for (config, wanted) in cases {
        // What answers has the time for it, however busy the machine is.
        let limit = if config.url.contains("/hang") { Duration::from_millis(400) } else { LIMIT };
        let error = call(&manager, &there, &config, limit).await.unwrap_err();
        assert_eq!(error.to_string(), wanted);
    }
}
