//! serviceaccount-token: fills secrets of type `kubernetes.io/service-account-token` with a token that does not expire,
//! the CA's certificate and the namespace, and deletes those whose service account is gone.
//! <https://kubernetes.io/docs/concepts/configuration/secret/#serviceaccount-token-secrets>

use crate::framework::{Next, Reconcile, Start, run};
use knarr_api::ByteString;
use knarr_api::Kind;
use knarr_api::core::v1::{Secret, ServiceAccount};
use knarr_base::clock::BoxFuture;
use knarr_client::informer::{Change, Key};
use knarr_client::{DeleteOptions, Error, Informer, WorkQueue};
use std::sync::Arc;

/// Upstream's default of --concurrent-serviceaccount-token-syncs.
const WORKERS: usize = 5;
/// How often an account is written anew when somebody else changed it meanwhile, as upstream's back-off does.
const REFERENCE_ATTEMPTS: usize = 10;
const TYPE: &str = "kubernetes.io/service-account-token";
const ACCOUNT_NAME: &str = "kubernetes.io/service-account.name";
const ACCOUNT_UID: &str = "kubernetes.io/service-account.uid";

/// A service account that a token is for, and the secret that is to hold it.
pub struct TokenSubject<'a> {
    /// Namespace of both.
    pub namespace: &'a str,
    /// Name of the account.
    pub account: &'a str,
    /// UID of the account.
    pub uid: &'a str,
    /// Name of the secret.
    pub secret: &'a str,
}

/// Signs tokens, with the key of the API server (upstream's --service-account-private-key-file).
#[derive(Clone)]
pub struct TokenSigner(pub Arc<dyn Fn(TokenSubject<'_>) -> String + Send + Sync>);

impl std::fmt::Debug for TokenSigner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TokenSigner(..)")
    }
}

struct Tokens {
    start: Start,
    secrets: Informer<Secret>,
    accounts: Informer<ServiceAccount>,
    signer: TokenSigner,
}

fn annotation<'a>(secret: &'a Secret, name: &str) -> &'a str {
    secret.metadata.annotations.as_ref().and_then(|a| a.get(name)).map(String::as_str).unwrap_or_default()
}

/// Starts the controller.
pub fn start(start: Start) {
    let Some(signer) = start.config.token_signer.clone() else {
        tracing::info!("token secrets are not filled: no key was given for it");
        return;
    };
    let secrets = start.informers.filtered::<Secret>("", "", &format!("type={TYPE}"));
    let accounts = start.informers.get::<ServiceAccount>();
    let queue = WorkQueue::new(start.ctx.clone());
    let (on_secret, client) = (queue.clone(), start.clone());
    secrets.on_change(move |change: &Change<Secret>| match &change.new {
        Some(secret) => on_secret.add(Key::of(&secret.metadata)),
        None => forget(&client, change.object().clone()),
    });
    let (on_account, known) = (queue.clone(), secrets.clone());
    accounts.on_change(move |change: &Change<ServiceAccount>| {
        let account = change.object();
        for secret in known.list(account.namespace()) {
            if annotation(&secret, ACCOUNT_NAME) == account.name() {
                on_account.add(Key::of(&secret.metadata));
            }
        }
    });
    let ready = {
        let (secrets, accounts) = (secrets.clone(), accounts.clone());
        async move {
            secrets.synced().await;
            accounts.synced().await;
        }
    };
    let controller = Arc::new(Tokens { start: start.clone(), secrets, accounts, signer });
    run(&start, "serviceaccount-token", WORKERS, queue, ready, controller);
}

/// Whether the account of the secret's account name is the one that it was made for.
fn is_meant(account: &ServiceAccount, secret: &Secret) -> bool {
    let uid = annotation(secret, ACCOUNT_UID);
    uid.is_empty() || account.metadata.uid.as_deref() == Some(uid)
}

fn refers(account: &ServiceAccount, secret: &str) -> bool {
    account.secrets.iter().flatten().any(|held| held.name.as_deref() == Some(secret))
}

/// Takes a secret that is gone off its account's list. The server is asked for the account: the informer's copy may be
/// older than the secret was.
fn forget(start: &Start, secret: Arc<Secret>) {
    let client = start.client.clone();
    start.ctx.tasks.spawn_until_stopped("serviceaccount-token reference", async move {
        let account = annotation(&secret, ACCOUNT_NAME);
        for _ in 0..REFERENCE_ATTEMPTS {
            let result = match client.get_opt::<ServiceAccount>(secret.namespace(), account).await {
                Ok(Some(mut live)) if is_meant(&live, &secret) && refers(&live, secret.name()) => {
                    let held = live.secrets.get_or_insert_default();
                    held.retain(|held| held.name.as_deref() != Some(secret.name()));
                    client.update(&live).await.map(drop)
                }
                Ok(_) => return,
                Err(error) => Err(error),
            };
            match result {
                Err(error) if error.is_conflict() => {}
                Err(error) if !error.is_not_found() => {
                    tracing::warn!(%error, account, "a deleted token stays on the account's list");
                    return;
                }
                _ => return,
            }
        }
    });
}

impl Tokens {
    /// The account of a secret, as it is or (before anything is deleted) as the server has it.
    async fn account(&self, secret: &Secret) -> Result<Option<Arc<ServiceAccount>>, Error> {
        let name = annotation(secret, ACCOUNT_NAME);
        let held = self.accounts.get(secret.namespace(), name);
        if let Some(held) = held.filter(|account| is_meant(account, secret)) {
            return Ok(Some(held));
        }
        let live = self.start.client.get_opt::<ServiceAccount>(secret.namespace(), name).await?;
        Ok(live.filter(|account| is_meant(account, secret)).map(Arc::new))
    }

    fn is_complete(&self, secret: &Secret) -> bool {
        let has = |key: &str| secret.data.as_ref().and_then(|d| d.get(key)).filter(|v| !v.0.is_empty());
        has("token").is_some()
            && has("namespace").is_some()
            && has("ca.crt").is_some_and(|ca| ca.0 == self.start.config.cluster_ca.as_bytes())
    }
}

impl Reconcile for Tokens {
    fn sync<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Next, Error>> {
        Box::pin(async move {
            let Some(secret) = self.secrets.get_key(key) else { return Ok(Next::Done) };
            let Some(account) = self.account(&secret).await? else {
                let options = DeleteOptions { uid: secret.metadata.uid.clone(), ..DeleteOptions::default() };
                return match self.start.client.delete::<Secret>(&key.namespace, &key.name, &options).await {
                    Err(error) if !error.is_not_found() && !error.is_conflict() => Err(error),
                    _ => Ok(Next::Done),
                };
            };
            if self.is_complete(&secret) {
                return Ok(Next::Done);
            }
            let mut filled = (*secret).clone();
            let (name, uid) = (account.name(), account.metadata.uid.clone().unwrap_or_default());
            let data = filled.data.get_or_insert_default();
            data.insert("ca.crt".into(), ByteString(self.start.config.cluster_ca.clone().into_bytes()));
            data.entry("namespace".into()).or_insert_with(|| ByteString(key.namespace.clone().into_bytes()));
            if data.get("token").is_none_or(|token| token.0.is_empty()) {
                let subject =
                    TokenSubject { namespace: &key.namespace, account: name, uid: &uid, secret: &key.name };
                data.insert("token".into(), ByteString((self.signer.0)(subject).into_bytes()));
            }
            let annotations = filled.metadata.annotations.get_or_insert_default();
            annotations.insert(ACCOUNT_NAME.into(), name.to_owned());
            annotations.insert(ACCOUNT_UID.into(), uid);
            match self.start.client.update(&filled).await {
                // Whoever changed it wakes us again.
                Err(error) if !error.is_conflict() && !error.is_not_found() => Err(error),
                _ => Ok(Next::Done),
            }
        })
    }
}
