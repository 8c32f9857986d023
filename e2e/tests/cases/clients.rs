//! Real clients besides kubectl: a create, watch, patch and delete round each.

use knarr_e2e::wait::seconds;
use knarr_e2e::{Case, Cluster, cases, repository};
use std::path::PathBuf;
use std::process::Command;

pub const CASES: &[Case] = cases![the_python_client_makes_its_round, kube_rs_makes_its_round];

/// Builds outside of the test host, which has no way out, and reports a failure as such.
fn prepare(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(
        output.status.success(),
        "{command:?}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// A folder beside the test hosts that is kept between runs.
fn kept(name: &str) -> PathBuf {
    let exe = std::env::current_exe().expect("this process has a program");
    exe.ancestors().nth(2).expect("cargo puts tests into <target>/<profile>/deps").join(name)
}

fn the_python_client_makes_its_round(cluster: &Cluster) {
    let requirements = repository().join("e2e/clients/python/requirements.txt");
    // KNARR_E2E_PYTHON: an interpreter that has the packages already.
    let python = std::env::var_os("KNARR_E2E_PYTHON").map_or_else(
        || {
            let venv = kept("e2e-python");
            let python = venv.join("bin/python");
            if !Command::new(&python)
                .args(["-c", "import kubernetes"])
                .output()
                .is_ok_and(|o| o.status.success())
            {
                prepare(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&venv));
                prepare(
                    Command::new(&python)
                        .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r"])
                        .arg(&requirements),
                );
            }
            python
        },
        PathBuf::from,
    );
    let script = repository().join("e2e/clients/python/round.py");
    let namespace = cluster.namespace();
    let said = cluster
        .run(&[&python.to_string_lossy(), &script.to_string_lossy(), &namespace.name], seconds(90))
        .ok();
    assert!(said.ends_with("round complete\n"), "{said}");
}

fn kube_rs_makes_its_round(cluster: &Cluster) {
    let manifest = repository().join("e2e/clients/kube-rs/Cargo.toml");
    let target = kept("e2e-kube-rs");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    prepare(
        Command::new(cargo)
            .args(["build", "--quiet", "--locked", "--manifest-path"])
            .arg(&manifest)
            .env("CARGO_TARGET_DIR", &target),
    );
    // .cargo/config.toml names the target, so the program may be in the target's folder.
    let host = exe_in(&target).expect("cargo built it");
    let namespace = cluster.namespace();
    let said = cluster.run(&[&host.to_string_lossy(), &namespace.name], seconds(60)).ok();
    assert!(said.ends_with("round complete\n"), "{said}");
}

fn exe_in(target: &std::path::Path) -> Option<PathBuf> {
    let folders = std::fs::read_dir(target).ok()?.flatten().map(|entry| entry.path());
    folders
        .map(|folder| folder.join("debug/knarr-e2e-kube-rs"))
        .chain([target.join("debug/knarr-e2e-kube-rs")])
        .find(|path| path.exists())
}
