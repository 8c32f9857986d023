//! Amounts by resource name, and how they are compared and summed.

use knarr_api::Quantity as ApiQuantity;
use knarr_meta::quantity::Quantity;
use std::collections::BTreeMap;

/// Amounts by resource name.
pub type Amounts = BTreeMap<String, Quantity>;

/// Reads amounts as the API has them; what is no quantity (which the API server refuses) counts as 0.
pub fn read(api: Option<&BTreeMap<String, ApiQuantity>>) -> Amounts {
    let amounts = api.into_iter().flatten();
    amounts.map(|(name, q)| (name.clone(), Quantity::parse(&q.0).unwrap_or_default())).collect()
}

/// Amounts as the API has them.
pub fn write(amounts: &Amounts) -> BTreeMap<String, ApiQuantity> {
    amounts.iter().map(|(name, q)| (name.clone(), ApiQuantity(q.to_string()))).collect()
}

/// A whole number.
pub fn whole(value: i64) -> Quantity {
    Quantity::from_value(value, knarr_meta::quantity::Format::DecimalSi)
}

/// Adds amounts; names that are new are taken over.
pub fn add(sum: &mut Amounts, more: &Amounts) {
    for (name, amount) in more {
        match sum.get_mut(name) {
            Some(present) => present.add(amount),
            None => drop(sum.insert(name.clone(), amount.clone())),
        }
    }
}

/// Keeps the greater amount of every name.
pub fn greatest(max: &mut Amounts, other: &Amounts) {
    for (name, amount) in other {
        match max.get_mut(name) {
            Some(present) if *amount > *present => *present = amount.clone(),
            Some(_) => {}
            None => drop(max.insert(name.clone(), amount.clone())),
        }
    }
}

/// What `now` has more than `before`, never below 0.
pub fn growth(now: &Amounts, before: &Amounts) -> Amounts {
    let grown = now.iter().map(|(name, amount)| {
        let mut grown = amount.clone();
        if let Some(before) = before.get(name) {
            grown.sub(before);
        }
        (name.clone(), if grown.sign() > 0 { grown } else { whole(0) })
    });
    grown.collect()
}

/// Without the zeros.
pub fn without_zeros(amounts: &Amounts) -> Amounts {
    amounts.iter().filter(|(_, amount)| !amount.is_zero()).map(|(n, a)| (n.clone(), a.clone())).collect()
}

/// Only the names that are in `names`.
pub fn mask<T>(amounts: &Amounts, names: &BTreeMap<String, T>) -> Amounts {
    amounts
        .iter()
        .filter(|(name, _)| names.contains_key(*name))
        .map(|(n, a)| (n.clone(), a.clone()))
        .collect()
}

/// `cpu=1,memory=2Gi`, in order of names.
pub fn text(amounts: &Amounts) -> String {
    let parts: Vec<String> = amounts.iter().map(|(name, amount)| format!("{name}={amount}")).collect();
    parts.join(",")
}
