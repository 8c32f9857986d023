//! The black-box suite: the built `knarr` on test hosts, driven by the real kubectl and other real clients. Needs
//! root; `KNARR_BIN` names another binary, words on the command line choose cases.

use knarr_e2e::{Group, Mode};
use std::process::ExitCode;

#[path = "cases/bad_input.rs"]
mod bad_input;
#[path = "cases/tour.rs"]
mod tour;

/// All groups, the quick ones first.
const GROUPS: &[Group] = &[
    Group { name: "tour", mode: Mode::Server, cases: tour::CASES },
    Group { name: "bad_input", mode: Mode::Server, cases: bad_input::CASES },
];

fn main() -> ExitCode {
    knarr_e2e::suite::main(GROUPS)
}
