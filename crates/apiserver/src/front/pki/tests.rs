//! The files are made once, kept, and issued anew when they no longer fit; openssl verifies them.

use super::*;
use std::process::Command;

fn config(dir: &Path, addresses: &[[u8; 4]]) -> PkiConfig {
    PkiConfig {
        dir: dir.to_owned(),
        node_name: "alpha".into(),
        addresses: addresses.iter().map(|a| IpAddr::from(*a)).collect(),
        service_ip: IpAddr::from([10, 96, 0, 1]),
        cluster_domain: "cluster.local".into(),
        extra_names: Vec::new(),
    }
}

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_000_000)
}

#[test]
fn a_second_start_issues_nothing_and_changes_are_noticed_one_by_one() {
    let dir = tempfile::tempdir().unwrap();
    let (_, first) = Pki::ensure(config(dir.path(), &[[192, 0, 2, 1]]), now()).unwrap();
    assert_eq!(first.len(), 12, "{first:?}");
    let (pki, again) = Pki::ensure(config(dir.path(), &[[192, 0, 2, 1]]), now()).unwrap();
    assert!(again.is_empty(), "{again:?}");

    let moved = pki.with_addresses(vec![IpAddr::from([192, 0, 2, 9])]);
    assert_eq!(
        moved.renew(now()).unwrap(),
        [
            "apiserver.crt: the address 192.0.2.9 was not in it",
            "kubelet.crt: the address 192.0.2.9 was not in it"
        ]
    );
    let late = now() + LEAF_LIFETIME - Duration::from_secs(24 * 3600);
    let renewed = moved.renew(late).unwrap();
    assert_eq!(renewed.len(), 9, "{renewed:?}");
    assert!(renewed.iter().all(|r| r.contains("it was to expire on")), "{renewed:?}");

    std::fs::write(pki.path("admin.crt"), "garbage").unwrap();
    assert_eq!(moved.renew(late).unwrap(), ["admin.crt: it was unreadable"]);
    std::fs::copy(pki.path("scheduler.key"), pki.path("admin.key")).unwrap();
    assert_eq!(moved.renew(late).unwrap(), ["admin.crt: its key did not fit"]);
}

#[test]
fn a_damaged_ca_is_an_error_and_stays_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    Pki::ensure(config(dir.path(), &[]), now()).unwrap();
    std::fs::write(dir.path().join("ca.crt"), "garbage").unwrap();
    let error = Pki::ensure(config(dir.path(), &[]), now()).unwrap_err();
    assert!(error.to_string().ends_with("ca.crt is not usable: it is not a PEM certificate"), "{error}");
    assert_eq!(std::fs::read_to_string(dir.path().join("ca.crt")).unwrap(), "garbage");
}

#[test]
fn files_belong_to_their_owner_alone() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    Pki::ensure(config(&dir.path().join("pki"), &[]), now()).unwrap();
    for entry in std::fs::read_dir(dir.path().join("pki")).unwrap() {
        let mode = entry.unwrap().metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600);
    }
}

#[test]
fn openssl_verifies_every_certificate() {
    if Command::new("openssl").arg("version").output().is_err() {
        return; // The machine has no openssl; the same properties are checked by rustls elsewhere.
    }
    let dir = tempfile::tempdir().unwrap();
    let (pki, _) = Pki::ensure(config(dir.path(), &[[192, 0, 2, 1]]), now()).unwrap();
    let at = now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs().to_string();
    let verify = |args: &[&str], file: &str| {
        let output = Command::new("openssl")
            .args(["verify", "-x509_strict", "-attime", &at, "-CAfile"])
            .arg(pki.path("ca.crt"))
            .args(args)
            .arg(pki.path(file))
            .output()
            .unwrap();
        assert!(output.status.success(), "{file}: {}", String::from_utf8_lossy(&output.stderr));
    };
    for name in ["kubernetes", "kubernetes.default.svc.cluster.local", "localhost", "alpha"] {
        verify(&["-purpose", "sslserver", "-verify_hostname", name], "apiserver.crt");
    }
    for ip in ["127.0.0.1", "10.96.0.1", "192.0.2.1"] {
        verify(&["-purpose", "sslserver", "-verify_ip", ip], "apiserver.crt");
    }
    verify(&["-purpose", "sslserver", "-verify_ip", "192.0.2.1"], "kubelet.crt");
    for (file, _, _) in client_identities("alpha") {
        verify(&["-purpose", "sslclient"], &format!("{file}.crt"));
    }
}
