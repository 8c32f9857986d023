//! Against an API server that knows one token and one rule, and counts what it is asked.

use super::*;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{Request, Response};
use knarr_base::{Ctx, ManualClock};
use knarr_client::{Body, Error, Transport};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Knows the token `good` as `bot`, and lets `bot` get nodes/metrics and nodes/pods; the group `broken` has it fail.
#[derive(Default)]
struct Reviews(AtomicUsize);

impl Transport for Reviews {
    fn send(&self, request: Request<Bytes>) -> BoxFuture<'static, Result<Response<Body>, Error>> {
        self.0.fetch_add(1, Ordering::Relaxed);
        let mut review: Value = serde_json::from_slice(request.body()).unwrap();
        let spec = review["spec"].take();
        let what = &spec["resourceAttributes"];
        review["status"] = match review["kind"].as_str() {
            Some("TokenReview") if spec["token"] == "good" => {
                json!({"authenticated": true, "user": {"username": "bot"}})
            }
            Some("TokenReview") => json!({"authenticated": false}),
            _ => {
                assert_eq!((&what["resource"], &what["name"]), (&json!("nodes"), &json!("n1")));
                let subresource = what["subresource"].as_str().unwrap();
                json!({"allowed": what["verb"] == "get" && spec["user"] == "bot" && ["metrics", "pods"].contains(&subresource)})
            }
        };
        let broken = spec["groups"][0] == "broken";
        Box::pin(async move {
            if broken {
                return Err(Error::Protocol("no answer".to_owned()));
            }
            Ok(Response::new(Body::full(review.to_string())))
        })
    }
    fn server(&self) -> String {
        "reviews".to_owned()
    }
}

fn bearer(token: &str) -> HeaderMap {
    [(header::AUTHORIZATION, format!("Bearer {token}").parse().unwrap())].into_iter().collect()
}

#[tokio::test]
async fn callers_are_reviewed_and_answers_kept() {
    let reviews = Arc::new(Reviews::default());
    let clock = ManualClock::at(std::time::SystemTime::UNIX_EPOCH);
    let ctx = Ctx { clock: clock.clone(), ..Ctx::system() };
    let auth = Auth::new(Client::new(reviews.clone(), "test", ctx), "n1");
    let admit = async |user: Option<&User>, method: Method, path: &str, headers: HeaderMap| {
        auth.admit(user, &method, path, &headers).await
    };
    let asked = || reviews.0.swap(0, Ordering::Relaxed);

    let nobody = (StatusCode::UNAUTHORIZED, "Unauthorized".to_owned());
    assert_eq!(admit(None, Method::GET, "/healthz", HeaderMap::new()).await, Err(nobody.clone()));
    assert_eq!(asked(), 0);
    assert_eq!(admit(None, Method::GET, "/metrics", bearer("bad")).await, Err(nobody.clone()));
    assert_eq!(admit(None, Method::GET, "/metrics", bearer("bad")).await, Err(nobody));
    assert_eq!(asked(), 1, "what is no token stays none for a while");

    assert_eq!(admit(None, Method::GET, "/metrics/resource", bearer("good")).await, Ok(()));
    assert_eq!(asked(), 2);
    assert_eq!(admit(None, Method::GET, "/metrics", bearer("good")).await, Ok(()));
    assert_eq!(asked(), 0, "token and answer are known");
    assert_eq!(admit(None, Method::GET, "/pods", bearer("good")).await, Ok(()));
    assert_eq!(asked(), 1, "nodes/pods is enough");
    let refused =
        "Forbidden (user=bot, verb=get, resource=nodes, subresource(s)=[configz proxy])\n".to_owned();
    let configz = admit(None, Method::GET, "/configz", bearer("good")).await;
    assert_eq!(configz, Err((StatusCode::FORBIDDEN, refused)));
    let refused = "Forbidden (user=bot, verb=create, resource=nodes, subresource(s)=[proxy])\n".to_owned();
    let exec = admit(None, Method::POST, "/exec/ns/pod/c", bearer("good")).await;
    assert_eq!(exec, Err((StatusCode::FORBIDDEN, refused)));
    assert_eq!(asked(), 3);

    clock.advance(REFUSED_TTL + Duration::from_secs(1));
    let _ = admit(None, Method::GET, "/configz", bearer("good")).await;
    assert_eq!(asked(), 2, "a refusal is soon asked about again");
    clock.advance(ALLOWED_TTL);
    assert_eq!(admit(None, Method::GET, "/metrics", bearer("good")).await, Ok(()));
    assert_eq!(asked(), 2, "token and answer are over");

    let broken = User { name: "jane".into(), groups: vec!["broken".into()], ..User::default() };
    let error = admit(Some(&broken), Method::GET, "/logs/", HeaderMap::new()).await;
    let text = "Authorization error (user=jane, verb=get, resource=nodes, subresource=log)".to_owned();
    assert_eq!(error, Err((StatusCode::INTERNAL_SERVER_ERROR, text)));
}
