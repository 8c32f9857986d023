//! Tokens are good only as long as everything they say is true.

use super::*;
use crate::front::authz::tests::Objects;
use serde_json::json;

const ISSUER: &str = "https://issuer.test";

fn tokens() -> Tokens {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    Tokens::new(&key.serialize_pem(), ISSUER, vec![ISSUER.into()]).unwrap()
}

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_000_000)
}

fn object(namespace: &str, name: &str, uid: &str) -> Value {
    json!({"metadata": {"namespace": namespace, "name": name, "uid": uid}})
}

fn claims() -> Claims {
    let seconds = epoch_seconds(now());
    Claims {
        aud: vec![ISSUER.into(), "vault".into()],
        exp: Some(seconds + 600),
        iat: Some(seconds),
        nbf: Some(seconds),
        jti: "id-1".into(),
        sub: "system:serviceaccount:dev:robot".into(),
        kubernetes: Some(Private {
            namespace: "dev".into(),
            serviceaccount: Ref { name: "robot".into(), uid: "u1".into() },
            pod: Some(Ref { name: "web".into(), uid: "u2".into() }),
            node: Some(Ref { name: "alpha".into(), uid: "u3".into() }),
            ..Private::default()
        }),
        ..Claims::default()
    }
}

#[test]
fn a_good_token_names_the_account_its_groups_and_what_it_is_bound_to() {
    let objects = Objects::of(&[
        ("", "serviceaccounts", object("dev", "robot", "u1")),
        ("", "pods", object("dev", "web", "u2")),
    ]);
    let tokens = tokens();
    let token = tokens.sign(claims());
    let verified = tokens.authenticate(&token, tokens.audiences(), now(), &*objects).unwrap();
    assert_eq!(verified.user.name, "system:serviceaccount:dev:robot");
    assert_eq!(verified.user.uid, "u1");
    assert_eq!(
        verified.user.groups,
        ["system:serviceaccounts", "system:serviceaccounts:dev", "system:authenticated"]
    );
    let extra: Vec<(&str, &str)> =
        verified.user.extra.iter().map(|(k, v)| (k.as_str(), v[0].as_str())).collect();
    assert_eq!(
        extra,
        [
            ("authentication.kubernetes.io/credential-id", "JTI=id-1"),
            ("authentication.kubernetes.io/node-name", "alpha"),
            ("authentication.kubernetes.io/node-uid", "u3"),
            ("authentication.kubernetes.io/pod-name", "web"),
            ("authentication.kubernetes.io/pod-uid", "u2"),
        ]
    );
    let vault = tokens.authenticate(&token, &["vault".into()], now(), &*objects).unwrap();
    assert_eq!(vault.audiences, ["vault"]);
}

#[test]
fn a_token_is_refused_when_anything_does_not_hold() {
    let account = ("", "serviceaccounts", object("dev", "robot", "u1"));
    let pod = ("", "pods", object("dev", "web", "u2"));
    let live = || Objects::of(&[account.clone(), pod.clone()]);
    let deleted = |seconds_ago: u64| {
        let mut pod = pod.2.clone();
        pod["metadata"]["deletionTimestamp"] =
            json!(knarr_meta::time::rfc3339(now() - Duration::from_secs(seconds_ago)));
        Objects::of(&[account.clone(), ("", "pods", pod)])
    };
    let tokens = tokens();
    let own = vec![ISSUER.to_owned()];
    let with = |change: fn(&mut Claims)| {
        let mut claims = claims();
        change(&mut claims);
        tokens.sign(claims)
    };
    let good = with(|_| ());
    let at = |token: &str, audiences: &[String], now, objects: Arc<Objects>| {
        tokens.authenticate(token, audiences, now, &*objects).is_some()
    };
    assert!(at(&good, &own, now(), live()));
    assert!(at(&good, &own, now(), deleted(30)), "a pod that is ending still needs its token");
    assert!(!at(&good, &own, now(), deleted(61)));
    assert!(!at(&good, &own, now(), Objects::of(std::slice::from_ref(&account))), "the pod is gone");
    assert!(!at(
        &good,
        &own,
        now(),
        Objects::of(&[account.clone(), ("", "pods", object("dev", "web", "u9"))])
    ));
    assert!(!at(
        &good,
        &own,
        now(),
        Objects::of(&[("", "serviceaccounts", object("dev", "robot", "u9")), pod.clone()])
    ));
    assert!(!at(&good, &["elsewhere".into()], now(), live()));
    assert!(!at(&good, &own, now() + Duration::from_secs(661), live()), "expired");
    assert!(!at(&good, &own, now() - Duration::from_secs(61), live()), "not valid yet");
    assert!(!at(&with(|c| c.iss = "https://other".into()), &own, now(), live()));
    assert!(!at(&with(|c| c.sub = "system:serviceaccount:dev:admin".into()), &own, now(), live()));
    assert!(!at(&with(|c| c.exp = None), &own, now(), live()));
    assert!(!at(&with(|c| c.kubernetes = None), &own, now(), live()));

    let other_key = super::tests::tokens().sign(claims());
    assert!(!at(&other_key, &own, now(), live()), "another key");
    let (message, signature) = good.rsplit_once('.').unwrap();
    let (_, body) = message.split_once('.').unwrap();
    let none = base64(br#"{"alg":"none"}"#);
    for forged in [
        "",
        "a",
        "a.b.c",
        &format!("{none}.{body}."),
        &format!("{none}.{body}.{signature}"),
        &format!("{message}."),
    ] {
        assert!(!at(forged, &own, now(), live()), "{forged}");
    }
}

#[test]
fn a_token_kept_in_a_secret_is_good_while_the_secret_holds_it() {
    let tokens = tokens();
    let token = tokens.sign_for_secret("dev", "robot", "u1", "robot-token");
    let mut secret = object("dev", "robot-token", "u5");
    secret["data"] = json!({"token": base64::engine::general_purpose::STANDARD.encode(&token)});
    let account = ("", "serviceaccounts", object("dev", "robot", "u1"));
    let objects = Objects::of(&[account.clone(), ("", "secrets", secret)]);
    let verified = tokens.authenticate(&token, tokens.audiences(), now(), &*objects).unwrap();
    assert_eq!(verified.user.name, "system:serviceaccount:dev:robot");
    let without = Objects::of(&[account, ("", "secrets", object("dev", "robot-token", "u5"))]);
    assert!(tokens.authenticate(&token, tokens.audiences(), now(), &*without).is_none());
}

#[test]
fn the_key_set_describes_the_key_in_use() {
    let tokens = tokens();
    let keys = tokens.jwks();
    let header = tokens.sign(claims());
    let header: Value =
        serde_json::from_slice(&unbase64(header.split('.').next().unwrap()).unwrap()).unwrap();
    assert_eq!(keys["keys"][0]["kid"], header["kid"]);
    assert_eq!(unbase64(keys["keys"][0]["x"].as_str().unwrap()).unwrap().len(), 32);
}
