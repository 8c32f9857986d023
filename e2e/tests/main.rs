//! The black-box suite: the built `knarr` on test hosts, driven by the real kubectl and other real clients. Needs
//! root; `KNARR_BIN` names another binary, words on the command line choose cases.

use knarr_e2e::{Group, Mode};
use std::process::ExitCode;

#[path = "cases/bad_input.rs"]
mod bad_input;
#[path = "cases/churn.rs"]
mod churn;
#[path = "cases/clients.rs"]
mod clients;
#[path = "cases/demo.rs"]
mod demo;
#[path = "cases/durability.rs"]
mod durability;
#[path = "cases/eviction.rs"]
mod eviction;
#[path = "cases/faults.rs"]
mod faults;
#[path = "cases/host.rs"]
mod host;
#[path = "cases/images.rs"]
mod images;
#[path = "cases/metrics.rs"]
mod metrics;
#[path = "cases/network.rs"]
mod network;
#[path = "cases/nodes.rs"]
mod nodes;
#[path = "cases/pods.rs"]
mod pods;
#[path = "cases/shutdown.rs"]
mod shutdown;
#[path = "cases/streams.rs"]
mod streams;
#[path = "cases/tour.rs"]
mod tour;
#[path = "cases/users.rs"]
mod users;
#[path = "cases/volumes.rs"]
mod volumes;
#[path = "cases/workloads.rs"]
mod workloads;

/// All groups; each has a test host of its own, one after the other.
const GROUPS: &[Group] = &[
    Group { name: "tour", mode: Mode::Server, cases: tour::CASES },
    Group { name: "bad_input", mode: Mode::Server, cases: bad_input::CASES },
    Group { name: "clients", mode: Mode::Server, cases: clients::CASES },
    Group { name: "demo", mode: Mode::Demo, cases: demo::CASES },
    Group { name: "workloads", mode: Mode::Up, cases: workloads::CASES },
    Group { name: "pods", mode: Mode::Up, cases: pods::CASES },
    Group { name: "users", mode: Mode::Up, cases: users::CASES },
    Group { name: "eviction", mode: Mode::Up, cases: eviction::CASES },
    Group { name: "full_disk", mode: Mode::Bare, cases: eviction::FULL_DISK },
    Group { name: "shutdown", mode: Mode::Up, cases: shutdown::CASES },
    Group { name: "metrics", mode: Mode::Up, cases: metrics::CASES },
    Group { name: "nodes", mode: Mode::Bare, cases: nodes::CASES },
    Group { name: "network", mode: Mode::Up, cases: network::CASES },
    Group { name: "streams", mode: Mode::Up, cases: streams::CASES },
    Group { name: "volumes", mode: Mode::Up, cases: volumes::CASES },
    Group { name: "images", mode: Mode::Up, cases: images::CASES },
    Group { name: "durability", mode: Mode::Up, cases: durability::CASES },
    Group { name: "faults", mode: Mode::Up, cases: faults::CASES },
    Group { name: "churn", mode: Mode::Up, cases: churn::CASES },
    Group { name: "host", mode: Mode::Bare, cases: host::CASES },
];

fn main() -> ExitCode {
    knarr_e2e::suite::main(GROUPS)
}
