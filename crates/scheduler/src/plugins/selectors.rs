//! Matching of node selector terms and label selectors, as the affinity plugins need it.

use knarr_api::core::v1::NodeSelectorTerm;
use knarr_api::meta::v1::LabelSelector;
use std::collections::BTreeMap;

/// Whether a value meets a requirement; `None` is an absent label.
fn meets(value: Option<&str>, operator: &str, values: &[String]) -> bool {
    let number = |text: &str| text.parse::<i64>().ok();
    match operator {
        "In" => value.is_some_and(|v| values.iter().any(|w| w == v)),
        "NotIn" => !value.is_some_and(|v| values.iter().any(|w| w == v)),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => {
            value.and_then(number).zip(values.first().and_then(|v| number(v))).is_some_and(|(a, b)| a > b)
        }
        "Lt" => {
            value.and_then(number).zip(values.first().and_then(|v| number(v))).is_some_and(|(a, b)| a < b)
        }
        _ => false,
    }
}

/// Whether a node's labels and name meet a term. A term without requirements matches nothing.
pub fn term_matches(term: &NodeSelectorTerm, labels: &BTreeMap<String, String>, node_name: &str) -> bool {
    let expressions = term.match_expressions.iter().flatten();
    let fields = term.match_fields.iter().flatten();
    let mut all = expressions
        .map(|r| {
            meets(
                labels.get(&r.key).map(String::as_str),
                &r.operator,
                r.values.as_deref().unwrap_or_default(),
            )
        })
        .chain(fields.map(|r| {
            let value = (r.key == "metadata.name").then_some(node_name);
            meets(value, &r.operator, r.values.as_deref().unwrap_or_default())
        }))
        .peekable();
    all.peek().is_some() && all.all(|met| met)
}

/// Whether labels meet a label selector; an absent selector matches nothing, an empty one everything.
pub fn selects(selector: Option<&LabelSelector>, labels: &BTreeMap<String, String>) -> bool {
    let Some(selector) = selector else { return false };
    let equal = selector.match_labels.iter().flatten().all(|(k, v)| labels.get(k) == Some(v));
    let mut expressions = selector.match_expressions.iter().flatten();
    equal
        && expressions.all(|r| {
            meets(
                labels.get(&r.key).map(String::as_str),
                &r.operator,
                r.values.as_deref().unwrap_or_default(),
            )
        })
}
