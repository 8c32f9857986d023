//! `knarr token`: the tokens by which other machines join this cluster (bootstrap tokens, KEP-130).

use crate::Source;
use crate::cluster::join::GROUP;
use crate::cluster::network;
use crate::cluster::token::{JoinToken, ca_hash};
use crate::config::Config;
use crate::output::say;
use anyhow::{Context, Result, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use knarr_api::Kind;
use knarr_api::core::v1::Secret;
use knarr_base::Ctx;
use knarr_client::{Client, DeleteOptions, ListOptions};
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;

const NAMESPACE: &str = "kube-system";
const PREFIX: &str = "bootstrap-token-";
const TYPE: &str = "bootstrap.kubernetes.io/token";

/// Arguments.
#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    source: Source,
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// Make a token and print it
    Create {
        /// How long it is good, such as 30m; 0 for ever
        #[arg(long, default_value = "24h", value_name = "DURATION")]
        ttl: String,
        /// Print the whole command for the other machine
        #[arg(long)]
        print_join_command: bool,
        /// A text that says what it is for
        #[arg(long, default_value = "", value_name = "TEXT")]
        description: String,
    },
    /// List the tokens
    List,
    /// Delete tokens
    Delete {
        /// Tokens, or what stands before their dots
        #[arg(required = true)]
        tokens: Vec<String>,
    },
}

/// Does what is asked, as the cluster's admin.
pub fn run(arguments: Arguments) -> Result<()> {
    let config = arguments.source.load()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        match arguments.what {
            What::Create { ttl, print_join_command, description } => {
                create(&config, &ttl, print_join_command, &description).await
            }
            What::List => list(&config).await,
            What::Delete { tokens } => delete(&config, &tokens).await,
        }
    })
}

fn admin(ctx: &Ctx, config: &Config) -> Result<Client> {
    let path = config.admin_kubeconfig();
    if !path.exists() {
        bail!("there is no {}: tokens are made where 'knarr up' or 'knarr server' runs", path.display());
    }
    let transport = knarr_client::kubeconfig::load(&path)?;
    Ok(Client::new(Arc::new(transport), "knarr", ctx.clone()))
}

async fn create(config: &Config, ttl: &str, whole_command: bool, description: &str) -> Result<()> {
    let ttl = crate::config::parse_duration(ttl).map_err(|e| anyhow::anyhow!("--ttl: {e}"))?;
    let ctx = Ctx::system();
    let client = admin(&ctx, config)?;
    let ca = crate::host::data::Layout(config.data_dir.clone()).pki().join("ca.crt");
    let ca = std::fs::read_to_string(&ca).with_context(|| format!("cannot read {}", ca.display()))?;
    let certificates = knarr_tls::certificates("ca", &ca)?;
    let token = JoinToken::new(&*ctx.rng, ca_hash(certificates.first().context("the CA file is empty")?)?);
    let mut data = json!({
        "token-id": token.id, "token-secret": token.secret, "description": description,
        "usage-bootstrap-authentication": "true", "usage-bootstrap-signing": "true",
        "auth-extra-groups": GROUP,
    });
    if ttl > Duration::ZERO {
        data["expiration"] = knarr_meta::time::rfc3339(ctx.clock.now() + ttl).into();
    }
    let secret = json!({ "metadata": { "name": format!("{PREFIX}{}", token.id), "namespace": NAMESPACE },
        "type": TYPE, "data": encoded(&data) });
    let secret = Secret::from_value(&secret).context("a secret is a secret")?;
    client.create(&secret).await.context("cannot write the token")?;
    if whole_command {
        let address = match config.node_ip {
            Some(ip) => Some(ip),
            None => network::underlay()?,
        };
        let address = address.context("this machine has no address that another one could reach")?;
        say(&format!(
            "knarr agent --server https://{address}:{} --token {}",
            config.https_port,
            token.text()
        ));
    } else {
        say(&token.text());
    }
    Ok(())
}

fn encoded(data: &serde_json::Value) -> serde_json::Value {
    let fields = data.as_object().into_iter().flatten();
    fields
        .map(|(key, text)| (key.clone(), STANDARD.encode(text.as_str().unwrap_or_default()).into()))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

async fn list(config: &Config) -> Result<()> {
    let ctx = Ctx::system();
    let options = ListOptions { field_selector: format!("type={TYPE}"), ..ListOptions::default() };
    let secrets = admin(&ctx, config)?.list::<Secret>(NAMESPACE, &options).await?.items;
    say(&format!("{:<8}  {:<22}  {}", "TOKEN", "EXPIRES", "DESCRIPTION"));
    for secret in secrets {
        let data = secret.data.unwrap_or_default();
        let text =
            |key: &str| data.get(key).map(|v| String::from_utf8_lossy(&v.0).into_owned()).unwrap_or_default();
        let expires =
            Some(text("expiration")).filter(|t| !t.is_empty()).unwrap_or_else(|| "never".to_owned());
        say(format!("{:<8}  {expires:<22}  {}", text("token-id"), text("description")).trim_end());
    }
    Ok(())
}

async fn delete(config: &Config, tokens: &[String]) -> Result<()> {
    let ctx = Ctx::system();
    let client = admin(&ctx, config)?;
    for token in tokens {
        let plain = token.rsplit("::").next().unwrap_or_default();
        let id = plain.split('.').next().unwrap_or_default();
        client
            .delete::<Secret>(NAMESPACE, &format!("{PREFIX}{id}"), &DeleteOptions::default())
            .await
            .with_context(|| format!("cannot delete the token {id}"))?;
        say(&format!("Deleted the token {id}"));
    }
    Ok(())
}
