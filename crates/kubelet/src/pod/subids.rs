//! Which ids of the host may be given to pods with users of their own (the user-namespaces page): those that are set aside
//! for the user `kubelet`, as `getsubids` tells (/etc/subuid and /etc/subgid, or a directory of users), or all beyond the
//! host's own where there is no such user or program. What is set aside has to be enough for all pods.

use super::users::{END, LENGTH};
use std::io;
use std::ops::Range;
use std::process::{Command, Stdio};

const USER: &str = "kubelet";
const PROGRAM: &str = "getsubids";

/// Runs the program; what it wrote, or `None` if it failed.
type Run<'a> = &'a dyn Fn(&[&str]) -> io::Result<Option<String>>;

/// The first ids of ranges of [`LENGTH`], divided by it.
pub(crate) type Slots = Range<u32>;

/// The slots that may be given on this machine, which takes so many pods.
pub(crate) fn slots(pods: u32) -> Result<Slots, String> {
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let run = |arguments: &[&str]| {
        let output = Command::new(PROGRAM).args(arguments).stdin(Stdio::null()).output()?;
        Ok(output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned()))
    };
    choose(&passwd, &run, pods)
}

fn choose(passwd: &str, run: Run<'_>, pods: u32) -> Result<Slots, String> {
    let all = 1..END / LENGTH;
    if !passwd.lines().any(|line| line.split(':').next() == Some(USER)) {
        return Ok(all);
    }
    let ask = |what: &str, arguments: &[&str]| {
        let failed = |why: String| {
            format!("kubelet mappings: error retrieving additional {what} for user {USER:?}{why}")
        };
        match run(arguments) {
            Ok(Some(text)) => Ok(Some(text)),
            Ok(None) => Err(failed(String::new())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed(format!(": {error}"))),
        }
    };
    let Some(uids) = ask("uids", &[USER])? else { return Ok(all) };
    let gids = ask("gids", &["-g", USER])?.unwrap_or_default();
    if uids != gids {
        return Err(format!("kubelet mappings: mismatched subuids and subgids for user {USER:?}"));
    }
    let (first, count) = parse(&uids).map_err(|why| format!("kubelet mappings: {why}"))?;
    if first % LENGTH != 0 {
        return Err(format!("kubelet user assigned ID {first} is not a multiple of {LENGTH}"));
    }
    if first < LENGTH {
        return Err(format!("kubelet user assigned ID {first} must be greater or equal to {LENGTH}"));
    }
    if count % LENGTH != 0 {
        return Err(format!("kubelet user assigned IDs length {count} is not a multiple of {LENGTH}"));
    }
    if count / LENGTH < pods {
        return Err(format!("kubelet user assigned IDs are not enough to support {pods} pods"));
    }
    // A range that goes on beyond the last id ends there.
    Ok(first / LENGTH..(first / LENGTH + count / LENGTH).min(1 << 16))
}

/// First id and number of ids of `0: kubelet 65536 2147483648`; there has to be one such line.
fn parse(text: &str) -> Result<(u32, u32), String> {
    let line = text.trim_matches('\n');
    if line.contains('\n') {
        return Err(format!("error parsing line {text:?}: it must contain only one line"));
    }
    let [_, _, first, count] = line.split_whitespace().collect::<Vec<_>>()[..] else {
        return Err(format!("invalid line {text:?}"));
    };
    let number = |word: &str| word.parse().map_err(|e| format!("error parsing line {text:?}: {e}"));
    Ok((number(first)?, number(count)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_set_aside_for_the_kubelet_is_given_and_nothing_else() {
        let known = "root:x:0:0::/root:/bin/sh\nkubelet:x:990:990::/:/sbin/nologin\n";
        let all = Ok(1..END / LENGTH);
        let error = |text: &str| Err(text.to_owned());
        for (passwd, uids, gids, expected) in [
            ("root:x:0:0::/root:/bin/sh\n", Some("0: kubelet 131072 7208960\n"), "", all.clone()),
            ("kubelets:x:1:1:::\n", Some("0: kubelet 131072 7208960\n"), "", all.clone()),
            (known, None, "", all),
            (known, Some("0: kubelet 131072 7208960\n"), "0: kubelet 131072 7208960\n", Ok(2..112)),
            (
                known,
                Some("0: kubelet 131072 7208960\n"),
                "0: kubelet 65536 7208960\n",
                error("kubelet mappings: mismatched subuids and subgids for user \"kubelet\""),
            ),
            (
                known,
                Some("fails"),
                "",
                error("kubelet mappings: error retrieving additional uids for user \"kubelet\""),
            ),
            (
                known,
                Some("0: kubelet 1 2\n1: kubelet 3 4\n"),
                "0: kubelet 1 2\n1: kubelet 3 4\n",
                error(
                    "kubelet mappings: error parsing line \"0: kubelet 1 2\\n1: kubelet 3 4\\n\": it must contain only one line",
                ),
            ),
            (
                known,
                Some("0: kubelet 1\n"),
                "0: kubelet 1\n",
                error("kubelet mappings: invalid line \"0: kubelet 1\\n\""),
            ),
            (
                known,
                Some("0: kubelet 100000 65536\n"),
                "0: kubelet 100000 65536\n",
                error("kubelet user assigned ID 100000 is not a multiple of 65536"),
            ),
            (
                known,
                Some("0: kubelet 0 65536\n"),
                "0: kubelet 0 65536\n",
                error("kubelet user assigned ID 0 must be greater or equal to 65536"),
            ),
            (
                known,
                Some("0: kubelet 65536 65537\n"),
                "0: kubelet 65536 65537\n",
                error("kubelet user assigned IDs length 65537 is not a multiple of 65536"),
            ),
            (
                known,
                Some("0: kubelet 65536 65536\n"),
                "0: kubelet 65536 65536\n",
                error("kubelet user assigned IDs are not enough to support 110 pods"),
            ),
        ] {
            let run = |arguments: &[&str]| match (arguments, uids) {
                (_, None) => Err(io::ErrorKind::NotFound.into()),
                (_, Some("fails")) => Ok(None),
                (["-g", "kubelet"], _) => Ok(Some(gids.to_owned())),
                (["kubelet"], Some(uids)) => Ok(Some(uids.to_owned())),
                other => panic!("{other:?}"),
            };
            assert_eq!(choose(passwd, &run, 110), expected, "{passwd} {uids:?} {gids}");
        }
    }
}
