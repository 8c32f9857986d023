//! What the kubelet tells of its Node in events, in upstream's words: conditions that changed, pods kept off it or let on
//! again by an administrator, a reboot.

use crate::eviction::node_ref;
use crate::kubelet::Shared;
use serde_json::Value;

/// Pressures in upstream's order, with the reason when there is one and when there is none.
const PRESSURES: [(&str, &str, &str); 3] = [
    ("MemoryPressure", "NodeHasInsufficientMemory", "NodeHasSufficientMemory"),
    ("DiskPressure", "NodeHasDiskPressure", "NodeHasNoDiskPressure"),
    ("PIDPressure", "NodeHasInsufficientPID", "NodeHasSufficientPID"),
];

fn condition<'a>(status: &'a Value, kind: &str) -> Option<&'a str> {
    let all = status["conditions"].as_array()?;
    all.iter().find(|c| c["type"] == kind)?["status"].as_str()
}

/// The reasons that follow from one status after another. The first status of all tells of pressures, but not that the node
/// is ready: it never was otherwise.
pub(super) fn of_conditions(before: Option<&Value>, next: &Value) -> Vec<&'static str> {
    let was = |kind| before.and_then(|status| condition(status, kind));
    let pressures = PRESSURES.iter().filter_map(|(kind, low, enough)| {
        let now = condition(next, kind)?;
        (was(kind) != Some(now)).then_some(if now == "True" { *low } else { *enough })
    });
    let ready = condition(next, "Ready").filter(|now| was("Ready").is_some_and(|was| was != *now));
    let ready = ready.map(|now| if now == "True" { "NodeReady" } else { "NodeNotReady" });
    pressures.chain(ready).collect()
}

/// The reason when a node that pods were kept off, or not, is so no longer.
pub(super) fn of_cordon(was: bool, is: bool) -> Option<&'static str> {
    (was != is).then_some(if is { "NodeNotSchedulable" } else { "NodeSchedulable" })
}

/// What is said when the machine was started anew since the status before.
pub(super) fn of_boot(name: &str, before: &Value, next: &Value) -> Option<String> {
    let id = |status: &Value| {
        status["nodeInfo"]["bootID"].as_str().filter(|id| !id.is_empty()).map(ToOwned::to_owned)
    };
    let (was, is) = (id(before)?, id(next)?);
    (was != is).then(|| format!("Node {name} has been rebooted, boot id: {is}"))
}

/// Tells of the node what these reasons say.
pub(super) fn record(kubelet: &Shared, reasons: impl IntoIterator<Item = &'static str>) {
    let (node, name) = (node_ref(&kubelet.config), &kubelet.config.node_name);
    for reason in reasons {
        kubelet.recorder.normal(&node, reason, format!("Node {name} status is now: {reason}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// A status by its conditions in the order memory, disk, PID, ready: `T`, `F`, `U`, or `-` for none.
    fn status(letters: &str) -> Value {
        let kinds = ["MemoryPressure", "DiskPressure", "PIDPressure", "Ready"];
        let one = |(kind, letter): (&str, char)| {
            let status = match letter {
                'T' => "True",
                'F' => "False",
                'U' => "Unknown",
                _ => return None,
            };
            Some(json!({"type": kind, "status": status}))
        };
        let conditions: Vec<Value> = kinds.into_iter().zip(letters.chars()).filter_map(one).collect();
        json!({"conditions": conditions})
    }

    #[test]
    fn conditions_are_told_when_they_change() {
        const FINE: [&str; 3] = ["NodeHasSufficientMemory", "NodeHasNoDiskPressure", "NodeHasSufficientPID"];
        let with = |more: &[&'static str]| [&FINE, more].concat();
        for (before, next, expected) in [
            ("none", "FFFT", FINE.to_vec()),
            ("none", "FFFF", FINE.to_vec()),
            ("----", "FFFT", FINE.to_vec()),
            ("FFFT", "FFFT", vec![]),
            ("FFFT", "TFFT", vec!["NodeHasInsufficientMemory"]),
            ("TFFT", "TTTT", vec!["NodeHasDiskPressure", "NodeHasInsufficientPID"]),
            ("TTTT", "FTTT", vec!["NodeHasSufficientMemory"]),
            ("TTTT", "FFFT", FINE.to_vec()),
            ("FFFT", "FFFF", vec!["NodeNotReady"]),
            ("FFFF", "FFFT", vec!["NodeReady"]),
            // A node that was given up for lost, and is not.
            ("UUUU", "FFFT", with(&["NodeReady"])),
            ("UUUU", "FTFF", vec![FINE[0], "NodeHasDiskPressure", FINE[2], "NodeNotReady"]),
        ] {
            let first = (before != "none").then(|| status(before));
            assert_eq!(of_conditions(first.as_ref(), &status(next)), expected, "{before} {next}");
        }
    }

    #[test]
    fn cordons_and_boots_are_told_when_they_change() {
        for (was, is, expected) in [
            (false, false, None),
            (false, true, Some("NodeNotSchedulable")),
            (true, true, None),
            (true, false, Some("NodeSchedulable")),
        ] {
            assert_eq!(of_cordon(was, is), expected, "{was} {is}");
        }
        let boot = |id: &str| json!({"nodeInfo": {"bootID": id}});
        let told = "Node alpha has been rebooted, boot id: 2".to_owned();
        for (was, is, expected) in [
            (boot("1"), "1", None),
            (boot("1"), "2", Some(told)),
            (boot(""), "2", None),
            (json!({}), "2", None),
        ] {
            assert_eq!(of_boot("alpha", &was, &boot(is)), expected, "{was} {is}");
        }
    }
}
