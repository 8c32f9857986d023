//! The config map `kube-system/extension-apiserver-authentication`, out of which extension API servers learn whose client
//! certificates to trust and in which headers the front proxy names the user: upstream's cluster authentication trust
//! controller. What another API server put there stays, as long as its certificates have not expired.

use crate::front::pki::{Pki, PkiError};
use knarr_api::Kind;
use knarr_api::core::v1::ConfigMap;
use knarr_base::Backoff;
use knarr_client::{Client, Error, Informers};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::Notify;
use x509_parser::prelude::{FromDer, X509Certificate};

const NAMESPACE: &str = "kube-system";
const NAME: &str = "extension-apiserver-authentication";
/// Whose certificates these keys hold.
const BUNDLES: [&str; 2] = ["client-ca-file", "requestheader-client-ca-file"];
/// Clocks of machines differ: certificates that ended less than this ago are kept.
const GRACE: Duration = Duration::from_secs(5 * 60);

/// What a config map holds.
pub type Data = BTreeMap<String, String>;

/// What this server has to say.
pub fn required(pki: &Pki) -> Result<Data, PkiError> {
    let front_proxy = crate::front::pki::read(&pki.path("front-proxy-ca.crt"))?;
    let list = |text: &str| json!([text]).to_string();
    Ok(Data::from([
        ("client-ca-file".to_owned(), pki.ca()?),
        ("requestheader-client-ca-file".to_owned(), front_proxy),
        ("requestheader-allowed-names".to_owned(), list("front-proxy-client")),
        ("requestheader-username-headers".to_owned(), list("X-Remote-User")),
        ("requestheader-uid-headers".to_owned(), list("X-Remote-Uid")),
        ("requestheader-group-headers".to_owned(), list("X-Remote-Group")),
        ("requestheader-extra-headers-prefix".to_owned(), list("X-Remote-Extra-")),
    ]))
}

/// What is to be written: what there is and what is required; `None` when that is there already.
pub fn combine(existing: Option<&Data>, required: &Data, now: SystemTime) -> Option<Data> {
    let none = Data::new();
    let existing = existing.unwrap_or(&none);
    let mut combined = Data::new();
    for (key, ours) in required {
        let theirs = existing.get(key).map(String::as_str).unwrap_or_default();
        let both = match BUNDLES.contains(&key.as_str()) {
            true => bundle(&[theirs, ours], now),
            false => list(&[theirs, ours]),
        };
        combined.insert(key.clone(), both);
    }
    (combined != *existing).then_some(combined)
}

/// Lists of texts, joined without repetition. What is no list does not count.
fn list(texts: &[&str]) -> String {
    let mut all: Vec<String> = Vec::new();
    for item in texts.iter().flat_map(|text| serde_json::from_str::<Vec<String>>(text).unwrap_or_default()) {
        if !all.contains(&item) {
            all.push(item);
        }
    }
    json!(all).to_string()
}

/// Certificates, joined without repetition and without those that have expired.
fn bundle(texts: &[&str], now: SystemTime) -> String {
    let mut seen: Vec<CertificateDer<'static>> = Vec::new();
    let mut joined = String::new();
    for text in texts {
        // As they are written, one block each.
        for block in text.split_inclusive("-----END CERTIFICATE-----") {
            let Some(start) = block.find("-----BEGIN CERTIFICATE-----") else { continue };
            let block = &block[start..];
            let Ok(der) = CertificateDer::from_pem_slice(block.as_bytes()) else { continue };
            if seen.contains(&der) || expired(&der, now) {
                continue;
            }
            seen.push(der);
            joined.push_str(block);
            joined.push('\n');
        }
    }
    joined
}

fn expired(der: &CertificateDer<'_>, now: SystemTime) -> bool {
    let Ok((_, certificate)) = X509Certificate::from_der(der) else { return true };
    let end = u64::try_from(certificate.validity().not_after.timestamp()).unwrap_or_default();
    UNIX_EPOCH + Duration::from_secs(end) + GRACE < now
}

/// Keeps the config map as it is to be.
pub fn start(client: &Client, informers: &Informers, required: Data) {
    let ctx = client.ctx().clone();
    let selector = format!("metadata.name={NAME}");
    let maps = informers.filtered::<ConfigMap>(NAMESPACE, "", &selector);
    let wake = Arc::new(Notify::new());
    let on_change = wake.clone();
    maps.on_change(move |_| on_change.notify_one());
    let client = client.clone();
    ctx.tasks.clone().spawn_until_stopped("trust of extension API servers", async move {
        maps.synced().await;
        let mut backoff = Backoff::new(Duration::from_millis(20), 2.0, Duration::from_secs(10));
        loop {
            let held = maps.get(NAMESPACE, NAME);
            match sync(&client, held.as_deref(), &required).await {
                Ok(()) => {
                    backoff.reset();
                    wake.notified().await;
                }
                Err(error) => {
                    // The namespace is made a moment after the server has started.
                    tracing::debug!(%error, "the trust of extension API servers could not be written");
                    tokio::select! {
                        () = ctx.clock.sleep(backoff.step()) => {}
                        () = wake.notified() => {}
                    }
                }
            }
        }
    });
}

async fn sync(client: &Client, held: Option<&ConfigMap>, required: &Data) -> Result<(), Error> {
    let now = client.ctx().clock.now();
    let Some(data) = combine(held.and_then(|map| map.data.as_ref()), required, now) else { return Ok(()) };
    match held {
        Some(map) => client.update(&ConfigMap { data: Some(data), ..map.clone() }).await.map(drop),
        None => {
            let mut map = ConfigMap { data: Some(data), ..ConfigMap::default() };
            map.meta_mut().name = Some(NAME.to_owned());
            map.meta_mut().namespace = Some(NAMESPACE.to_owned());
            match client.create(&map).await {
                // Somebody else was quicker; its change wakes this again.
                Err(error) if error.is_conflict() => Ok(()),
                other => other.map(drop),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair};

    fn certificate(name: &str, last_year: i32) -> String {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.not_after = rcgen::date_time_ymd(last_year, 1, 1);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().pem()
    }

    #[test]
    fn what_others_wrote_stays_until_it_expires() {
        let now = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let (ours, theirs, old) =
            (certificate("ours", 2040), certificate("theirs", 2040), certificate("old", 2020));
        let required = Data::from([
            ("client-ca-file".to_owned(), ours.clone()),
            ("requestheader-allowed-names".to_owned(), "[\"a\"]".to_owned()),
        ]);
        let fresh = combine(None, &required, now).unwrap();
        assert_eq!(fresh["requestheader-allowed-names"], "[\"a\"]");
        assert!(combine(Some(&fresh), &required, now).is_none(), "nothing is left to do");

        let existing = Data::from([
            ("client-ca-file".to_owned(), format!("{old}\n{theirs}{theirs}")),
            ("requestheader-allowed-names".to_owned(), "[\"b\",\"a\"]".to_owned()),
        ]);
        let both = combine(Some(&existing), &required, now).unwrap();
        let blocks: Vec<_> = CertificateDer::pem_slice_iter(both["client-ca-file"].as_bytes())
            .collect::<Result<_, _>>()
            .unwrap();
        let der = |pem: &str| CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
        assert_eq!(blocks, [der(&theirs), der(&ours)]);
        assert_eq!(both["requestheader-allowed-names"], "[\"b\",\"a\"]");
        assert!(combine(Some(&both), &required, now).is_none());
    }
}
