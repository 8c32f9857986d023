//! What each built-in signer demands of a request, in upstream's words.

use super::request::Request;
use super::{CLIENT, KUBELET_CLIENT, KUBELET_SERVING, LEGACY};
use std::collections::BTreeSet;

const SIGNATURE: &str = "digital signature";
const ENCIPHERMENT: &str = "key encipherment";

/// Whether a request may be signed; `None` for a signer that is not built in.
pub fn check(signer: &str, request: &Request, usages: &[String]) -> Option<Result<(), String>> {
    Some(match signer {
        KUBELET_SERVING => kubelet_serving(request, usages),
        KUBELET_CLIENT => kubelet_client(request, usages),
        CLIENT => client(usages),
        LEGACY => Ok(()),
        _ => return None,
    })
}

/// Keys other than RSA encipher nothing, so that usage may be left out.
fn check_usages(usages: &[String], auth: &str) -> Result<(), String> {
    let usages: BTreeSet<&str> = usages.iter().map(String::as_str).collect();
    let (plain, rsa) = (BTreeSet::from([SIGNATURE, auth]), BTreeSet::from([SIGNATURE, ENCIPHERMENT, auth]));
    if usages == plain || usages == rsa {
        return Ok(());
    }
    let wanted: Vec<&str> = rsa.into_iter().collect();
    Err(format!("usages did not match [{}]", wanted.join(" ")))
}

fn is_of_nodes(request: &Request) -> Result<(), String> {
    match request.organizations.as_slice() {
        [one] if one == "system:nodes" => Ok(()),
        _ => Err("subject organization is not system:nodes".into()),
    }
}

fn names_a_node(request: &Request) -> Result<(), String> {
    match request.common_name.starts_with("system:node:") {
        true => Ok(()),
        false => Err("subject common name does not begin with system:node:".into()),
    }
}

fn without(names: &[impl Sized], what: &str) -> Result<(), String> {
    if names.is_empty() { Ok(()) } else { Err(format!("{what} subjectAltNames are not allowed")) }
}

fn kubelet_serving(request: &Request, usages: &[String]) -> Result<(), String> {
    is_of_nodes(request)?;
    if request.dns_names.is_empty() && request.addresses.is_empty() {
        return Err("DNS or IP subjectAltName is required".into());
    }
    without(&request.emails, "Email")?;
    without(&request.uris, "URI")?;
    check_usages(usages, "server auth")?;
    names_a_node(request)
}

/// The rules for a kubelet's client certificate.
pub fn kubelet_client(request: &Request, usages: &[String]) -> Result<(), String> {
    is_of_nodes(request)?;
    without(&request.dns_names, "DNS")?;
    without(&request.emails, "Email")?;
    without(&request.addresses, "IP")?;
    without(&request.uris, "URI")?;
    names_a_node(request)?;
    check_usages(usages, "client auth")
}

fn client(usages: &[String]) -> Result<(), String> {
    let odd = usages.iter().find(|u| !matches!(u.as_str(), SIGNATURE | ENCIPHERMENT | "client auth"));
    if let Some(odd) = odd {
        return Err(format!("invalid usage for client certificate: {odd}"));
    }
    match usages.iter().any(|u| u == "client auth") {
        true => Ok(()),
        false => Err("missing required usage for client certificate: client auth".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_signer_has_its_rules() {
        let node = || Request {
            common_name: "system:node:a".into(),
            organizations: vec!["system:nodes".into()],
            ..Request::default()
        };
        let serving = || Request { dns_names: vec!["a".into()], ..node() };
        type Case = (&'static str, Request, &'static [&'static str], Result<(), &'static str>);
        let cases: Vec<Case> = vec![
            (KUBELET_CLIENT, node(), &[SIGNATURE, "client auth"], Ok(())),
            (KUBELET_CLIENT, node(), &[SIGNATURE, ENCIPHERMENT, "client auth"], Ok(())),
            (
                KUBELET_CLIENT,
                node(),
                &["client auth"],
                Err("usages did not match [client auth digital signature key encipherment]"),
            ),
            (KUBELET_CLIENT, serving(), &[], Err("DNS subjectAltNames are not allowed")),
            (
                KUBELET_CLIENT,
                Request { common_name: "a".into(), ..node() },
                &[],
                Err("subject common name does not begin with system:node:"),
            ),
            (KUBELET_SERVING, Request::default(), &[], Err("subject organization is not system:nodes")),
            (KUBELET_SERVING, node(), &[], Err("DNS or IP subjectAltName is required")),
            (KUBELET_SERVING, serving(), &[SIGNATURE, "server auth"], Ok(())),
            (CLIENT, Request::default(), &["client auth"], Ok(())),
            (CLIENT, node(), &["server auth"], Err("invalid usage for client certificate: server auth")),
            (CLIENT, node(), &[SIGNATURE], Err("missing required usage for client certificate: client auth")),
            (LEGACY, Request::default(), &["any"], Ok(())),
        ];
        for (signer, request, usages, wanted) in cases {
            let usages: Vec<String> = usages.iter().map(|u| (*u).to_owned()).collect();
            let verdict = check(signer, &request, &usages).expect("a built-in signer");
            assert_eq!(verdict, wanted.map_err(str::to_owned), "{signer} {usages:?}");
        }
        assert!(check("example.com/signer", &node(), &[]).is_none());
    }
}
