//! `knarr up --demo`: makes the demo's image of this binary, applies the manifests, and waits for an answer.

use crate::cluster::control::ControlPlane;
use anyhow::{Context, Result, bail};
use knarr_base::Ctx;
use knarr_client::{Client, Error, Patch, ResourcePath};
use knarr_image::{ImageConfig, ImageStore, build};
use serde_json::Value;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const IMAGE: &str = "knarr.local/demo:latest";
const NODE_PORT: u16 = 30080;
const MANAGER: &str = "knarr-demo";
/// The demo answers within this, or something is wrong.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between questions to the demo while it starts.
const ASK_AGAIN: Duration = Duration::from_millis(50);

const MANIFESTS: [&str; 3] = [
    include_str!("../../../../examples/demo/namespace.yaml"),
    include_str!("../../../../examples/demo/app.yaml"),
    include_str!("../../../../examples/demo/web.yaml"),
];

/// Deploys the demo; says where it answers.
pub async fn run(
    ctx: &Ctx,
    control: &ControlPlane,
    images: &Arc<ImageStore>,
    node_ip: Ipv4Addr,
) -> Result<String> {
    let scope = ctx.child("demo");
    let store = images.clone();
    tokio::task::spawn_blocking(move || make_image(&store)).await??;
    let client = control.client_as("kubernetes-admin", &["system:masters"], MANAGER, &scope);
    for manifest in MANIFESTS {
        for document in documents(manifest)? {
            apply(&client, document).await?;
        }
    }
    let address = SocketAddr::from((node_ip, NODE_PORT));
    let answered = knarr_base::clock::timeout(&*ctx.clock, PATIENCE, async {
        while ask(address).await.is_none() {
            ctx.clock.sleep(ASK_AGAIN).await;
        }
    });
    if answered.await.is_none() {
        bail!("the demo does not answer at {address}; see 'kubectl -n demo get pods'");
    }
    Ok(format!("http://{address}"))
}

/// The image holds nothing but this binary, which is static.
fn make_image(store: &Arc<ImageStore>) -> Result<()> {
    let binary = Path::new("/proc/self/exe");
    let layer = build::file_layer(&["tmp"], "knarr", 0o755, binary).context("cannot read this binary")?;
    let config = ImageConfig {
        entrypoint: vec!["/knarr".to_owned(), "demo".to_owned()],
        working_dir: "/".to_owned(),
        ..ImageConfig::default()
    };
    build::add_image(store, IMAGE, &config, vec![layer]).context("cannot make the demo's image")?;
    Ok(())
}

fn documents(manifest: &str) -> Result<Vec<Value>> {
    let documents = manifest
        .split("\n---\n")
        .map(|text| serde_saphyr::from_str(text).context("a manifest of the demo is YAML"));
    documents.collect()
}

async fn apply(client: &Client, object: Value) -> Result<(), Error> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (group, version) = match object["apiVersion"].as_str().and_then(|v| v.split_once('/')) {
        Some((group, version)) => (group.to_owned(), version.to_owned()),
        None => (String::new(), text(&object["apiVersion"])),
    };
    let resource = format!("{}s", text(&object["kind"]).to_ascii_lowercase());
    let path = ResourcePath { group, version, resource };
    let (namespace, name) = (text(&object["metadata"]["namespace"]), text(&object["metadata"]["name"]));
    let patch = Patch::Apply { object, field_manager: MANAGER.to_owned(), force: true };
    client.patch_raw(&path, &namespace, &name, "", &patch).await.map(drop)
}

/// The demo's answer, if it is a good one.
async fn ask(address: SocketAddr) -> Option<String> {
    let mut stream = tokio::net::TcpStream::connect(address).await.ok()?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: demo\r\nConnection: close\r\n\r\n").await.ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.ok()?;
    answer.starts_with("HTTP/1.1 200").then_some(answer)
}
