//! Projected volumes: several sources in one directory.

use super::volumes::{downward_file, key_to_path, local_non_reserved_path, mode};
use crate::util::{Errs, Items, Text};
use knarr_api::core::v1::{PodCertificateProjection, ProjectedVolumeSource};
use knarr_meta::field::{ErrorList, Path};
use std::collections::BTreeSet;

/// Errors of a projected volume.
pub fn validate(volume: &ProjectedVolumeSource, path: &Path) -> ErrorList {
    let mut errs = ErrorList::default();
    mode(&mut errs, volume.default_mode, &path.child("defaultMode"));
    let mut paths = Paths::default();
    for (i, source) in volume.sources.items().iter().enumerate() {
        let at = path.child("sources").index(i);
        let mut count = 0;
        let keyed = [
            ("secret", source.secret.as_ref().map(|s| (&s.name, s.items.items()))),
            ("configMap", source.config_map.as_ref().map(|c| (&c.name, c.items.items()))),
        ];
        for (field, keyed) in keyed {
            let Some((name, items)) = keyed else { continue };
            count += 1;
            let at = at.child(field);
            if name.is_empty() {
                errs.add_required(&at.child("name"), "");
            }
            for (j, item) in items.iter().enumerate() {
                key_to_path(&mut errs, item, &at.child("items").index(j));
                paths.take(&mut errs, &item.path, name, path);
            }
        }
        if let Some(downward) = &source.downward_api {
            count += 1;
            for file in downward.items.items() {
                downward_file(&mut errs, file, &at.child("downwardAPI"));
                paths.take(&mut errs, &file.path, &file.path, path);
            }
        }
        if let Some(token) = &source.service_account_token {
            count += 1;
            let at = at.child("serviceAccountToken").child("expirationSeconds");
            let seconds = token.expiration_seconds.unwrap_or_default();
            if seconds < 10 * 60 {
                errs.add_invalid(&at, seconds, "may not specify a duration less than 10 minutes");
            }
            if seconds > 1 << 32 {
                errs.add_invalid(&at, seconds, "may not specify a duration larger than 2^32 seconds");
            }
            if token.path.is_empty() {
                errs.add_required(&path.child("path"), "");
            } else {
                local_non_reserved_path(&mut errs, &token.path, &path.child("path"));
            }
        }
        if let Some(bundle) = &source.cluster_trust_bundle {
            count += 1;
            let at = at.child("clusterTrustBundle");
            match (&bundle.name, &bundle.signer_name) {
                (Some(_), Some(_)) => {
                    errs.add_invalid(&at, &bundle.path, "only one of name and signerName may be used");
                }
                (Some(name), None) => {
                    if name.is_empty() {
                        errs.add_required(&at.child("name"), "must be a valid object name");
                    }
                    if bundle.label_selector.is_some() {
                        let detail = "labelSelector must be unset if name is specified";
                        errs.add_invalid(&at.child("labelSelector"), serde_json::json!({}), detail);
                    }
                }
                (None, Some(signer)) => {
                    if signer.is_empty() {
                        errs.add_required(&at.child("signerName"), "must be a valid signer name");
                    }
                    let selector = bundle.label_selector.as_ref();
                    errs.extend(super::scheduling::label_selector(selector, &at.child("labelSelector")));
                }
                (None, None) => errs.add_required(&at, "either name or signerName must be specified"),
            }
            if bundle.path.is_empty() {
                errs.add_required(&at.child("path"), "");
            }
            local_non_reserved_path(&mut errs, &bundle.path, &at.child("path"));
            paths.take(&mut errs, &bundle.path, &bundle.path, path);
        }
        if let Some(certificate) = &source.pod_certificate {
            count += 1;
            pod_certificate(&mut errs, certificate, &mut paths, &at.child("podCertificate"), path);
        }
        if count > 1 {
            errs.add_forbidden(&at, "may not specify more than 1 volume type per source");
        }
    }
    errs
}

/// The paths taken so far.
#[derive(Default)]
struct Paths<'a>(BTreeSet<&'a str>);

impl<'a> Paths<'a> {
    fn take(&mut self, errs: &mut ErrorList, path: &'a str, shown: &str, at: &Path) {
        if !path.is_empty() && !self.0.insert(path) {
            errs.add_invalid(at, shown, "conflicting duplicate paths");
        }
    }
}

fn pod_certificate<'a>(
    errs: &mut ErrorList,
    certificate: &'a PodCertificateProjection,
    paths: &mut Paths<'a>,
    at: &Path,
    volume: &Path,
) {
    const KEY_TYPES: &[&str] = &["RSA3072", "RSA4096", "ECDSAP256", "ECDSAP384", "ECDSAP521", "ED25519"];
    if !KEY_TYPES.contains(&certificate.key_type.as_str()) {
        errs.add_not_supported(&at.child("keyType"), &certificate.key_type, KEY_TYPES);
    }
    if let Some(seconds) = certificate.max_expiration_seconds {
        let path = at.child("maxExpirationSeconds");
        let kubernetes = certificate.signer_name.starts_with("kubernetes.io/");
        let max = if kubernetes { 24 * 3600 } else { 91 * 24 * 3600 };
        if seconds < 3600 {
            errs.add_invalid(&path, seconds, "if provided, maxExpirationSeconds must be >= 3600");
        }
        if seconds > max {
            errs.add_invalid(&path, seconds, format!("if provided, maxExpirationSeconds must be <= {max}"));
        }
    }
    let mut any = false;
    for (field, path) in [
        ("credentialBundlePath", &certificate.credential_bundle_path),
        ("keyPath", &certificate.key_path),
        ("certificateChainPath", &certificate.certificate_chain_path),
    ] {
        let path = path.text();
        if !path.is_empty() {
            any = true;
            local_non_reserved_path(errs, path, &at.child(field));
            paths.take(errs, path, path, volume);
        }
    }
    if !any {
        let detail = "specify at least one of credentialBundlePath, keyPath, and certificateChainPath";
        errs.add_required(at, detail);
    }
}
