//! A joined node's certificates: a client's, by which the kubelet is `system:node:<name>`, and a server's for its own API.
//! Both are asked for by CertificateSigningRequest, kept in the data directory and asked for anew before they end
//! (KEP-266); a machine that has them needs no token any more.

use super::join::Server;
use anyhow::{Context, Result, bail};
use knarr_api::Kind;
use knarr_api::certificates::v1::CertificateSigningRequest;
use knarr_apiserver::front::pki::write_atomic;
use knarr_base::clock::timeout;
use knarr_base::{Backoff, Ctx};
use knarr_client::https::Https;
use knarr_client::{Change, Client, Informers, Transport};
use knarr_tls::{self as tls, Trust};
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, PKCS_ECDSA_P256_SHA256, SanType};
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ServerConfig, SignatureScheme};
use serde_json::json;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock};
use std::time::{Duration, SystemTime};
use x509_parser::prelude::{FromDer, X509Certificate};

mod metrics;
#[cfg(test)]
mod tests;

/// A certificate that was asked for has to be there by then.
const LIMIT: Duration = Duration::from_secs(60);
/// A new one is asked for when between 70 and 90 % of the old one's time is over, as upstream's kubelet does.
const ROTATE: (f64, f64) = (0.7, 0.2);
/// No timer runs for longer: machines sleep.
const LONGEST_SLEEP: Duration = Duration::from_secs(3600);

/// A certificate that came when it was over, by this machine's clock, is asked for anew after this.
const SHORTEST_REST: Duration = Duration::from_secs(1);
/// How the two files of a pair ended that earlier versions kept.
const FORMER: [&str; 2] = ["crt", "key"];

/// What requests are sent as.
const AGENT: &str = "knarr-agent";

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    Client,
    Server,
}

impl Use {
    fn file(self) -> &'static str {
        match self {
            Self::Client => "kubelet-client",
            Self::Server => "kubelet",
        }
    }

    fn signer(self) -> (&'static str, &'static str) {
        match self {
            Self::Client => ("kubernetes.io/kube-apiserver-client-kubelet", "client auth"),
            Self::Server => ("kubernetes.io/kubelet-serving", "server auth"),
        }
    }
}

/// The certificate in use; `None` until there is one.
#[derive(Debug, Default)]
struct Held(RwLock<Option<Arc<CertifiedKey>>>);

impl Held {
    fn get(&self) -> Option<Arc<CertifiedKey>> {
        self.0.read().expect("certificate lock is never poisoned").clone()
    }
    fn set(&self, key: CertifiedKey) {
        *self.0.write().expect("certificate lock is never poisoned") = Some(Arc::new(key));
    }
}

impl ResolvesClientCert for Held {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.get()
    }
    fn has_certs(&self) -> bool {
        self.get().is_some()
    }
}

impl ResolvesServerCert for Held {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.get()
    }
}

/// A node's certificates.
pub struct Identity {
    dir: PathBuf,
    node: String,
    ca: String,
    client: Arc<Held>,
    server: Arc<Held>,
}

impl Identity {
    /// The certificates kept in `dir`, those that are still good.
    pub fn open(dir: &Path, node: &str, ca: &str, now: SystemTime) -> Result<Arc<Self>> {
        let this = Self {
            dir: dir.to_owned(),
            node: node.to_owned(),
            ca: ca.to_owned(),
            client: Arc::default(),
            server: Arc::default(),
        };
        for which in [Use::Client, Use::Server] {
            let read = |kind: &str| std::fs::read_to_string(this.path(which, kind)).ok();
            // Earlier versions kept two files.
            let former = || Some(FORMER.map(read).into_iter().collect::<Option<Vec<_>>>()?.concat());
            let Some(Ok(key)) = read("pem").or_else(former).map(|pem| certified(&pem)) else { continue };
            let (from, until, name) = facts(&key)?;
            if from <= now && now < until && name == format!("system:node:{node}") {
                this.held(which).set(key);
            }
        }
        Ok(Arc::new(this))
    }

    fn path(&self, which: Use, kind: &str) -> PathBuf {
        self.dir.join(format!("{}.{kind}", which.file()))
    }

    fn held(&self, which: Use) -> &Arc<Held> {
        match which {
            Use::Client => &self.client,
            Use::Server => &self.server,
        }
    }

    /// Whether the machine has joined.
    pub fn has_client(&self) -> bool {
        self.client.get().is_some()
    }

    /// A transport to the server under the node's identity, whatever certificate that has at the time.
    pub fn transport(&self, server: &Server) -> Result<Arc<Https>> {
        let (trust, identity) =
            (Trust::Roots(tls::roots("ca", &self.ca)?), tls::Identity::Resolved(self.client.clone()));
        let mut tls = tls::client(trust, identity, &[])?;
        // A resumed session would show the server the certificate of before the renewal.
        tls.resumption = Resumption::disabled();
        Ok(Arc::new(Https::new(&server.host, server.port, tls, None)?))
    }

    /// TLS of the kubelet's server: its certificate, once there is one, and clients of the cluster's CA.
    pub fn server_tls(&self) -> Result<Arc<ServerConfig>> {
        let roots = Arc::new(tls::roots("ca", &self.ca)?);
        let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(roots, tls::provider())
            .allow_unauthenticated()
            .build()?;
        let config = ServerConfig::builder_with_provider(tls::provider())
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(self.server.clone());
        Ok(Arc::new(config))
    }

    /// Asks for the client's certificate, with a token's client the first time.
    pub async fn ask_client(&self, ctx: &Ctx, transport: &Arc<dyn Transport>) -> Result<()> {
        self.ask(ctx, transport, Use::Client, &[]).await
    }

    /// Asks for a certificate, waits for it and keeps it.
    async fn ask(
        &self,
        ctx: &Ctx,
        transport: &Arc<dyn Transport>,
        which: Use,
        addresses: &[IpAddr],
    ) -> Result<()> {
        let client = Client::new(transport.clone(), AGENT, ctx.clone());
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).context("cannot make a key")?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "system:nodes");
        params.distinguished_name.push(DnType::CommonName, format!("system:node:{}", self.node));
        if which == Use::Server {
            params.subject_alt_names.push(SanType::DnsName(self.node.as_str().try_into()?));
            params.subject_alt_names.extend(addresses.iter().map(|a| SanType::IpAddress(*a)));
        }
        let request = params.serialize_request(&key).context("cannot make a request")?.pem()?;
        let (signer, usage) = which.signer();
        let csr = json!({
            "metadata": { "generateName": format!("csr-{}-", self.node.replace('.', "-")) },
            "spec": { "signerName": signer, "usages": ["digital signature", usage],
                "request": base64::Engine::encode(&base64::engine::general_purpose::STANDARD, request) },
        });
        let csr = CertificateSigningRequest::from_value(&csr).context("a request is a request")?;
        let made = client.create(&csr).await.context("cannot ask for a certificate")?;
        let certificate = signed(ctx, transport, made.name()).await?;
        // In one file, so that a crash leaves the old pair or the new one.
        let pem = format!("{}\n{}", certificate.trim_end(), key.serialize_pem());
        let certified = certified(&pem)?;
        let path = self.path(which, "pem");
        write_atomic(&path, pem.as_bytes()).with_context(|| format!("cannot write {}", path.display()))?;
        for kind in FORMER {
            let _ = std::fs::remove_file(self.path(which, kind));
        }
        self.held(which).set(certified);
        Ok(())
    }

    /// Gets the serving certificate and renews both before they end, for as long as the node runs.
    pub fn keep(self: &Arc<Self>, ctx: &Ctx, transport: Arc<Https>, address: IpAddr) {
        let errors = metrics::register(self, ctx);
        for which in [Use::Client, Use::Server] {
            let (this, ctx, transport) = (self.clone(), ctx.clone(), transport.clone());
            let errors = errors[which as usize].clone();
            let shared: Arc<dyn Transport> = transport.clone();
            ctx.tasks.clone().spawn_until_stopped("certificates", async move {
                let mut backoff = Backoff::new(Duration::from_secs(1), 2.0, Duration::from_secs(300));
                // Drawn once a certificate: drawn again at every look, the earliest would win.
                let mut jitter = ctx.rng.unit();
                loop {
                    let held = this.held(which).get();
                    let wait =
                        held.map_or(Duration::ZERO, |key| until_rotation(&key, ctx.clock.now(), jitter));
                    // An address that is not in it makes a serving certificate useless.
                    let fits = which == Use::Client || this.names(address);
                    if fits && !wait.is_zero() {
                        ctx.clock.sleep(wait.min(LONGEST_SLEEP)).await;
                        continue;
                    }
                    match this.ask(&ctx, &shared, which, &[address]).await {
                        Ok(()) => {
                            backoff.reset();
                            jitter = ctx.rng.unit();
                            transport.reconnect().await;
                            tracing::info!(?which, "a new certificate is in use");
                            ctx.clock.sleep(this.rest(which, ctx.clock.now())).await;
                        }
                        Err(error) => {
                            errors.inc();
                            tracing::warn!(error = format!("{error:#}"), ?which, "no new certificate yet");
                            ctx.clock.sleep(backoff.step()).await;
                        }
                    }
                }
            });
        }
    }

    /// How long a new certificate is left alone at least: half of what it has left, an hour at most. One of a few minutes,
    /// which a signer dates back by as many, would be due as it comes.
    fn rest(&self, which: Use, now: SystemTime) -> Duration {
        let until = self.held(which).get().and_then(|key| facts(&key).ok()).map(|(_, until, _)| until);
        let left = until.and_then(|until| until.duration_since(now).ok()).unwrap_or_default();
        (left / 2).clamp(SHORTEST_REST, LONGEST_SLEEP)
    }

    /// Whether the serving certificate names an address.
    fn names(&self, address: IpAddr) -> bool {
        let Some(key) = self.server.get() else { return false };
        let Some(Ok((_, parsed))) = key.cert.first().map(|der| X509Certificate::from_der(der)) else {
            return false;
        };
        let octets = match address {
            IpAddr::V4(ip) => ip.octets().to_vec(),
            IpAddr::V6(ip) => ip.octets().to_vec(),
        };
        let names = parsed.subject_alternative_name().ok().flatten();
        names.is_some_and(|names| {
            let mut names = names.value.general_names.iter();
            names.any(|n| matches!(n, x509_parser::prelude::GeneralName::IPAddress(a) if *a == octets))
        })
    }
}

/// How long until a certificate is to be renewed; `jitter` from 0 to 1 keeps nodes from asking all at once.
fn until_rotation(key: &CertifiedKey, now: SystemTime, jitter: f64) -> Duration {
    let Ok((from, until, _)) = facts(key) else { return Duration::ZERO };
    let life = until.duration_since(from).unwrap_or_default();
    let at = from + life.mul_f64(ROTATE.0 + ROTATE.1 * jitter);
    at.duration_since(now).unwrap_or_default()
}

/// Out of a PEM text with chain and key.
fn certified(pem: &str) -> Result<CertifiedKey> {
    let chain = tls::certificates("kubelet", pem)?;
    let key = CertifiedKey::from_der(chain, tls::private_key("kubelet", pem)?, &tls::provider())?;
    key.keys_match().context("the certificate is of another key")?;
    Ok(key)
}

/// From when and until when a certificate is good, and whom it names.
fn facts(key: &CertifiedKey) -> Result<(SystemTime, SystemTime, String)> {
    let der = key.cert.first().context("there is no certificate")?;
    let (_, parsed) = X509Certificate::from_der(der).context("the certificate cannot be read")?;
    let time = |seconds: i64| {
        SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or_default())
    };
    let validity = parsed.validity();
    let name = parsed.subject().iter_common_name().next().and_then(|n| n.as_str().ok()).unwrap_or_default();
    Ok((time(validity.not_before.timestamp()), time(validity.not_after.timestamp()), name.to_owned()))
}

/// Waits, by a watch, until a request is signed; the certificate.
async fn signed(ctx: &Ctx, transport: &Arc<dyn Transport>, name: &str) -> Result<String> {
    let scope = ctx.child("csr");
    let informers = Informers::new(Client::new(transport.clone(), AGENT, scope.clone()));
    let requests = informers.filtered::<CertificateSigningRequest>("", "", &format!("metadata.name={name}"));
    let outcome = tokio::sync::watch::Sender::new(None::<Result<String, String>>);
    let told = outcome.clone();
    requests.on_change(move |change: &Change<CertificateSigningRequest>| {
        let Some(status) = change.new.as_ref().and_then(|csr| csr.status.clone()) else { return };
        let ended =
            status.conditions.iter().flatten().find(|c| matches!(c.type_.as_str(), "Denied" | "Failed"));
        if let Some(ended) = ended {
            let why = ended.message.clone().unwrap_or_default();
            told.send_replace(Some(Err(format!("{} {why}", ended.type_))));
        } else if let Some(certificate) = status.certificate.filter(|c| !c.0.is_empty()) {
            told.send_replace(Some(Ok(String::from_utf8_lossy(&certificate.0).into_owned())));
        }
    });
    let mut seen = outcome.subscribe();
    let waited = timeout(&*ctx.clock, LIMIT, seen.wait_for(Option::is_some)).await;
    let answer = waited.and_then(|seen| seen.ok().and_then(|outcome| outcome.clone()));
    scope.tasks.stop();
    match answer {
        Some(Ok(certificate)) => Ok(certificate),
        Some(Err(why)) => bail!("the request {name} was refused: {why}"),
        None => bail!(
            "the request {name} was not signed within {} s; see 'kubectl describe csr {name}'",
            LIMIT.as_secs()
        ),
    }
}
