//! From what services need and what is in the kernel to the changes in between. Pure: tables of cases test it.

use super::rules::{Element, Endpoint, Rule, ServiceRules};
use crate::netlink::nft::Data;
use knarr_client::informer::Key;
use std::collections::{BTreeMap, BTreeSet};

/// One change to the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Make a set that remembers clients for so many seconds.
    AddClients(String, u32),
    /// Make an empty chain.
    AddChain(String),
    /// Empty a chain.
    Flush(String),
    /// Take elements out.
    RemoveElement(Element),
    /// Put rules into an empty chain.
    Fill(String, Vec<Rule>),
    /// Put an element in.
    AddElement(Element, Option<Data>),
    /// Remove a chain that is empty and unused.
    RemoveChain(String),
    /// Remove an unused set.
    RemoveClients(String),
}

/// What is in the kernel.
#[derive(Clone, Debug, Default)]
pub struct Applied {
    services: BTreeMap<Key, ServiceRules>,
    // Several services may want the same element: connections to oneself, or an external address by mistake. The
    // first one in order of name has it.
    elements: BTreeMap<Element, BTreeMap<Key, Option<Data>>>,
}

/// New rules of services; `None` for those that are gone.
pub type Desired = BTreeMap<Key, Option<ServiceRules>>;

/// The changes that lead from what is applied to what is desired of the services in `desired`; the others stay. In an
/// order the kernel accepts: nothing is used before it is made or removed while it is used.
pub fn plan(applied: &Applied, desired: &Desired) -> Vec<Change> {
    let none = ServiceRules::default();
    let mut changes = Vec::new();
    let mut flushes = Vec::new();
    let mut fills = Vec::new();
    let mut removals = Vec::new();
    let mut removed_sets = Vec::new();
    let mut touched = BTreeSet::new();
    for (key, new) in desired {
        let (old, new) = (applied.services.get(key).unwrap_or(&none), new.as_ref().unwrap_or(&none));
        for (set, seconds) in &new.clients {
            if !old.clients.contains_key(set) {
                changes.push(Change::AddClients(set.clone(), *seconds));
            }
        }
        for (chain, rules) in &new.chains {
            match old.chains.get(chain) {
                Some(same) if same == rules => continue,
                Some(_) => flushes.push(Change::Flush(chain.clone())),
                None => changes.push(Change::AddChain(chain.clone())),
            }
            fills.push(Change::Fill(chain.clone(), rules.clone()));
        }
        for chain in old.chains.keys().filter(|c| !new.chains.contains_key(*c)) {
            flushes.push(Change::Flush(chain.clone()));
            removals.push(Change::RemoveChain(chain.clone()));
        }
        let gone = old.clients.keys().filter(|s| !new.clients.contains_key(*s));
        removed_sets.extend(gone.map(|set| Change::RemoveClients(set.clone())));
        let both = old.elements.iter().chain(&new.elements);
        touched.extend(
            both.filter(|(e, _)| old.elements.get(*e) != new.elements.get(*e)).map(|(e, _)| e.clone()),
        );
    }
    changes.append(&mut flushes);
    let mut added = Vec::new();
    for element in touched {
        let owners = applied.elements.get(&element);
        let before = owners.and_then(|o| o.values().next()).cloned();
        let mut owners = owners.cloned().unwrap_or_default();
        for (key, new) in desired {
            match new.as_ref().and_then(|n| n.elements.get(&element)) {
                Some(data) => owners.insert(key.clone(), data.clone()),
                None => owners.remove(key),
            };
        }
        let after = owners.into_values().next();
        if before == after {
            continue;
        }
        if before.is_some() {
            changes.push(Change::RemoveElement(element.clone()));
        }
        added.extend(after.map(|data| Change::AddElement(element, data)));
    }
    changes.append(&mut fills);
    changes.append(&mut added);
    changes.append(&mut removals);
    changes.append(&mut removed_sets);
    changes
}

impl Applied {
    /// Notes that the kernel has taken the changes. Gives the UDP endpoints that no service of those uses any more.
    pub fn accept(&mut self, desired: Desired) -> BTreeSet<Endpoint> {
        let mut gone = BTreeSet::new();
        for (key, new) in desired {
            let old = self.services.remove(&key).unwrap_or_default();
            for element in old.elements.keys() {
                if let Some(owners) = self.elements.get_mut(element) {
                    owners.remove(&key);
                    if owners.is_empty() {
                        self.elements.remove(element);
                    }
                }
            }
            let new = new.unwrap_or_default();
            gone.extend(old.udp.difference(&new.udp).copied());
            for (element, data) in &new.elements {
                self.elements.entry(element.clone()).or_default().insert(key.clone(), data.clone());
            }
            if new != ServiceRules::default() {
                self.services.insert(key, new);
            }
        }
        gone
    }

    /// All UDP endpoints in use.
    pub fn udp(&self) -> BTreeSet<Endpoint> {
        self.services.values().flat_map(|rules| rules.udp.iter().copied()).collect()
    }
}
