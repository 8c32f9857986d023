//! Concurrent histories of create, update, delete, get, list and watch against running API servers that are killed
//! (`kill -9`), stopped and resumed, over the embedded store and over an etcd cluster that loses members. Each object's
//! history must be linearizable, no list may be older than what was answered before it was asked for, and no watch
//! may miss, repeat or disorder a change.
//!
//! A scenario runs for some seconds; KNARR_LINEARIZABILITY_SECONDS makes it longer, KNARR_LINEARIZABILITY_SEED another one.

mod checker;
mod servers;
mod watches;
mod workload;

use knarr_base::rng::SeededRng;
use knarr_base::{Ctx, Rng};
use knarr_store::testing::etcd::EtcdCluster;
use servers::Server;
use std::sync::Arc;
use std::time::Duration;
use workload::World;

/// How many objects a history is about at a time.
const CLIENTS: usize = 6;

fn from_environment(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn limit() -> Duration {
    Duration::from_secs(from_environment("KNARR_LINEARIZABILITY_SECONDS", 12))
}

fn random() -> SeededRng {
    SeededRng::new(from_environment("KNARR_LINEARIZABILITY_SEED", 1))
}

/// Clients and watches of all servers while `fault` does its worst again and again; then everything is checked.
async fn run(servers: &mut [Server], mut fault: impl AsyncFnMut(&mut [Server], &dyn Rng)) {
    let ctx = Ctx::system();
    let world = Arc::new(World::start(&ctx, servers).await);
    let rng = random();
    let watches: Vec<_> =
        (0..servers.len() * 2).map(|n| watches::spawn(&ctx, world.clone(), n % servers.len())).collect();
    for client in 0..CLIENTS {
        world.clone().spawn_client(&ctx, client, rng.u64());
    }
    let start = ctx.clock.instant();
    let mut faults = 0;
    while ctx.clock.instant() - start < limit() {
        ctx.clock.sleep(Duration::from_millis(500 + rng.below(700))).await;
        fault(servers, &rng).await;
        faults += 1;
        // New objects for what comes, so that no history has many writes whose end nobody knows.
        world.next_epoch();
    }
    for server in servers.iter_mut() {
        server.revive(&ctx).await;
    }
    world.stop_clients(&ctx).await;
    let end = world.write_end(&ctx).await;
    let mut seen = Vec::new();
    for watch in watches {
        seen.push(watch.finish(&ctx, end).await);
    }
    ctx.tasks.shutdown(Duration::from_secs(5)).await;
    let report = world.check();
    watches::check(&seen, &world.acknowledged(), end);
    println!("{faults} faults; {report}");
    assert!(report.answered > 200 && report.unknown > 0, "the history says something: {report}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_embedded_store_under_kills_and_pauses() {
    let ctx = Ctx::system();
    let mut servers = [Server::start(&ctx, &[], None).await];
    run(&mut servers, async |servers, rng| {
        let ctx = Ctx::system();
        if rng.below(3) == 0 {
            servers[0].pause();
            ctx.clock.sleep(Duration::from_millis(300 + rng.below(3000))).await;
            servers[0].resume();
        } else {
            servers[0].kill();
            servers[0].revive(&ctx).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_servers_on_an_etcd_cluster_that_loses_members() {
    let ctx = Ctx::system();
    let mut cluster = EtcdCluster::start(3, false);
    let endpoints = cluster.options().servers;
    let first = Server::start(&ctx, &endpoints, None).await;
    let second = Server::start(&ctx, &endpoints, Some(&first)).await;
    let mut servers = [first, second];
    run(&mut servers, async |servers, rng| {
        let ctx = Ctx::system();
        let leader = cluster.leader(&ctx).await.unwrap_or(0);
        let member = if rng.below(2) == 0 { leader } else { rng.below(3) as usize };
        let server = rng.below(2) as usize;
        let pause = Duration::from_millis(500 + rng.below(3000));
        match rng.below(4) {
            0 => {
                cluster.kill(member);
                ctx.clock.sleep(pause).await;
                cluster.start_member(member);
            }
            1 => {
                cluster.pause(member);
                ctx.clock.sleep(pause).await;
                cluster.resume(member);
            }
            2 => {
                servers[server].kill();
                ctx.clock.sleep(pause / 4).await;
                servers[server].revive(&ctx).await;
            }
            _ => {
                servers[server].pause();
                ctx.clock.sleep(pause).await;
                servers[server].resume();
            }
        }
    })
    .await;
}
