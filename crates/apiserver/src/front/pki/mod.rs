//! The certificates of a cluster: a CA, the front-proxy CA, the serving certificates of the API server and
//! the kubelet, the client certificates of every component, and the key that signs service-account tokens.
//! File names follow kubeadm's (`/etc/kubernetes/pki`). Keys are ECDSA P-256, files are written whole
//! (temporary file, sync, rename) with mode 0600 and used again at the next start; what is missing, about to
//! expire, signed by another CA or lacks an address is issued anew.

mod files;
mod issue;

pub use files::{read, write_atomic};
pub(crate) use issue::pem_der;
pub use issue::{Authority, CertificateSpec, Usage};

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Why certificates could not be made or read.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// Reading or writing a file failed.
    #[error("cannot access {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A file exists but is not what it should be. It is never overwritten silently when it is a CA or a
    /// signing key.
    #[error("{path} is not usable: {detail}")]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
    /// Issuing failed.
    #[error("cannot issue the certificate {name}")]
    Issue {
        /// The certificate's file name without extension.
        name: String,
        /// What went wrong.
        #[source]
        source: rcgen::Error,
    },
}

/// What the certificates must cover.
#[derive(Clone, Debug)]
pub struct PkiConfig {
    /// Where the files are.
    pub dir: PathBuf,
    /// The node of this machine, for the kubelet's certificates.
    pub node_name: String,
    /// The addresses of this machine under which the API server and the kubelet are reached.
    pub addresses: Vec<IpAddr>,
    /// The service address of `kubernetes.default`.
    pub service_ip: IpAddr,
    /// The cluster's DNS domain.
    pub cluster_domain: String,
    /// Further names of the API server.
    pub extra_names: Vec<String>,
}

/// How long the CAs are valid.
const CA_LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// How long the other certificates are valid, as kubeadm's are.
const LEAF_LIFETIME: Duration = Duration::from_secs(365 * 24 * 3600);
/// A certificate is issued anew when less than this is left of it.
const RENEW_BEFORE: Duration = Duration::from_secs(60 * 24 * 3600);

/// The identities of the components that come with a client certificate: file name, user, group.
fn client_identities(node_name: &str) -> Vec<(&'static str, String, Option<&'static str>)> {
    vec![
        ("admin", "kubernetes-admin".into(), Some("system:masters")),
        ("kubelet-client", format!("system:node:{node_name}"), Some("system:nodes")),
        ("apiserver-kubelet-client", "kube-apiserver-kubelet-client".into(), Some("system:masters")),
        ("kube-proxy", "system:kube-proxy".into(), None),
        ("controller-manager", "system:kube-controller-manager".into(), None),
        ("scheduler", "system:kube-scheduler".into(), None),
    ]
}

/// The cluster's certificates on disk.
#[derive(Clone, Debug)]
pub struct Pki {
    config: PkiConfig,
}

/// One certificate with its key, as PEM.
#[derive(Clone)]
pub struct Pem {
    /// The certificate.
    pub certificate: String,
    /// The private key (PKCS #8).
    pub key: String,
}

impl std::fmt::Debug for Pem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Pem(..)")
    }
}

impl Pki {
    /// Makes or completes the files under `config.dir`. The second part says what was issued and why, in
    /// sentences for a log.
    pub fn ensure(config: PkiConfig, now: SystemTime) -> Result<(Self, Vec<String>), PkiError> {
        files::make_dir(&config.dir)?;
        let pki = Self { config };
        let mut issued = Vec::new();
        let ca = pki.authority("ca", "kubernetes", now, &mut issued)?;
        pki.authority("front-proxy-ca", "front-proxy-ca", now, &mut issued)?;
        if !pki.path("sa.key").exists() {
            let key = issue::new_key().map_err(|source| PkiError::Issue { name: "sa".into(), source })?;
            pki.write("sa.key", &key.serialize_pem())?;
            pki.write("sa.pub", &key.public_key_pem())?;
            issued.push("sa.key: there was none".to_owned());
        }
        pki.renew_leaves(&ca, now, &mut issued)?;
        files::sync_dir(&pki.config.dir)?;
        Ok((pki, issued))
    }

    /// Issues anew whatever is about to expire or no longer fits; called while the server runs. The CAs and
    /// the signing key stay.
    pub fn renew(&self, now: SystemTime) -> Result<Vec<String>, PkiError> {
        let mut issued = Vec::new();
        let ca = self.load_authority("ca")?;
        self.renew_leaves(&ca, now, &mut issued)?;
        files::sync_dir(&self.config.dir)?;
        Ok(issued)
    }

    /// The same certificates for other addresses; call [`Pki::renew`] afterwards.
    pub fn with_addresses(&self, addresses: Vec<IpAddr>) -> Self {
        Self { config: PkiConfig { addresses, ..self.config.clone() } }
    }

    fn renew_leaves(
        &self,
        ca: &Authority,
        now: SystemTime,
        issued: &mut Vec<String>,
    ) -> Result<(), PkiError> {
        self.leaf(ca, "apiserver", &self.serving_spec(), now, issued)?;
        self.leaf(ca, "kubelet", &self.kubelet_spec(), now, issued)?;
        for (file, user, group) in client_identities(&self.config.node_name) {
            let spec = CertificateSpec::client(&user, group);
            self.leaf(ca, file, &spec, now, issued)?;
        }
        let front_proxy = self.load_authority("front-proxy-ca")?;
        self.leaf(
            &front_proxy,
            "front-proxy-client",
            &CertificateSpec::client("front-proxy-client", None),
            now,
            issued,
        )
    }

    fn serving_spec(&self) -> CertificateSpec {
        let domain = &self.config.cluster_domain;
        let mut names: Vec<String> =
            ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost"]
                .map(str::to_owned)
                .to_vec();
        names.push(format!("kubernetes.default.svc.{domain}"));
        names.push(self.config.node_name.clone());
        names.extend(self.config.extra_names.iter().cloned());
        let mut addresses = vec![IpAddr::from([127, 0, 0, 1]), self.config.service_ip];
        addresses.extend(&self.config.addresses);
        CertificateSpec {
            common_name: "kube-apiserver".into(),
            organization: None,
            names,
            addresses,
            usage: Usage::Server,
        }
    }

    fn kubelet_spec(&self) -> CertificateSpec {
        let mut addresses = self.config.addresses.clone();
        addresses.push(IpAddr::from([127, 0, 0, 1]));
        CertificateSpec {
            common_name: format!("system:node:{}", self.config.node_name),
            organization: Some("system:nodes".into()),
            names: vec![self.config.node_name.clone(), "localhost".into()],
            addresses,
            usage: Usage::Server,
        }
    }

    fn leaf(
        &self,
        ca: &Authority,
        name: &str,
        spec: &CertificateSpec,
        now: SystemTime,
        issued: &mut Vec<String>,
    ) -> Result<(), PkiError> {
        let Some(why) = self.why_issue(ca, name, spec, now)? else { return Ok(()) };
        let pem = ca.issue(name, spec, now, LEAF_LIFETIME)?;
        // The key goes first: a crash between the two leaves a pair that does not fit, which is noticed.
        self.write(&format!("{name}.key"), &pem.key)?;
        self.write(&format!("{name}.crt"), &pem.certificate)?;
        issued.push(format!("{name}.crt: {why}"));
        Ok(())
    }

    fn why_issue(
        &self,
        ca: &Authority,
        name: &str,
        spec: &CertificateSpec,
        now: SystemTime,
    ) -> Result<Option<String>, PkiError> {
        let (crt, key) = (self.path(&format!("{name}.crt")), self.path(&format!("{name}.key")));
        if !crt.exists() || !key.exists() {
            return Ok(Some("there was none".into()));
        }
        Ok(issue::why_unfit(&read(&crt)?, &read(&key)?, ca, spec, now + RENEW_BEFORE))
    }

    fn authority(
        &self,
        name: &str,
        common_name: &str,
        now: SystemTime,
        issued: &mut Vec<String>,
    ) -> Result<Authority, PkiError> {
        // A CA whose certificate is missing has issued nothing, unless there are certificates: then somebody
        // must say what is to happen.
        let fresh = !self.path(&format!("{name}.crt")).exists() && !self.path("apiserver.crt").exists();
        if fresh {
            let pem = Authority::create(name, common_name, now, CA_LIFETIME)?;
            self.write(&format!("{name}.key"), &pem.key)?;
            self.write(&format!("{name}.crt"), &pem.certificate)?;
            issued.push(format!("{name}.crt: there was none"));
        }
        self.load_authority(name)
    }

    fn load_authority(&self, name: &str) -> Result<Authority, PkiError> {
        let crt = self.path(&format!("{name}.crt"));
        let pem = Pem { certificate: read(&crt)?, key: read(&self.path(&format!("{name}.key")))? };
        Authority::load(&pem).map_err(|detail| PkiError::Unusable { path: crt, detail })
    }

    fn write(&self, file: &str, text: &str) -> Result<(), PkiError> {
        files::replace(&self.path(file), text.as_bytes())
    }

    /// A file of the directory.
    pub fn path(&self, file: &str) -> PathBuf {
        self.config.dir.join(file)
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.config.dir
    }

    /// A certificate with its key, by file name without extension: `apiserver`, `kubelet`, `admin`,
    /// `kubelet-client`, `apiserver-kubelet-client`, `kube-proxy`, `controller-manager`, `scheduler`,
    /// `front-proxy-client`.
    pub fn pem(&self, name: &str) -> Result<Pem, PkiError> {
        Ok(Pem {
            certificate: read(&self.path(&format!("{name}.crt")))?,
            key: read(&self.path(&format!("{name}.key")))?,
        })
    }

    /// The CA's certificate as PEM, for kubeconfigs and the root-CA config map.
    pub fn ca(&self) -> Result<String, PkiError> {
        read(&self.path("ca.crt"))
    }

    /// The certificate of the CA of the front proxy, as PEM.
    pub fn front_proxy_ca(&self) -> Result<String, PkiError> {
        read(&self.path("front-proxy-ca.crt"))
    }

    /// The key that signs service-account tokens, as PEM.
    pub fn service_account_key(&self) -> Result<String, PkiError> {
        read(&self.path("sa.key"))
    }

    /// Issues a client certificate for a user outside the fixed set (tests, join tokens).
    pub fn issue_client(&self, user: &str, group: Option<&str>, now: SystemTime) -> Result<Pem, PkiError> {
        self.load_authority("ca")?.issue(user, &CertificateSpec::client(user, group), now, LEAF_LIFETIME)
    }
}

#[cfg(test)]
mod tests;
