//! Starting all containers of a pod anew in its place (KEP-5532): a container that ended as a rule of its says takes
//! the others with it, and the pod begins again with its init containers, in the same sandbox.

use super::Worker;
use crate::pod::model::{Ended, Observed, State};
use crate::pod::phase::{RESTARTING_ALL, matching_rule};
use crate::util::{Def, Role};

const MESSAGE: &str = "The container is removed because RestartAllContainers in place";

/// Whether a container ended so that all are to be started anew.
fn is_wanted(defs: &[Def], observed: &Observed) -> bool {
    defs.iter().filter(|d| d.role != Role::Ephemeral).any(|def| {
        let ended = observed.containers.get(&def.spec.name).and_then(|r| r.ended());
        ended.and_then(|e| matching_rule(def, e.exit_code)) == Some("RestartAllContainers")
    })
}

impl Worker {
    /// Notes when all containers are to be started anew, and forgets their run once all have ended.
    pub(super) fn plan_restart_all(&mut self) {
        if crate::pod::plan::is_stopping(&self.pod, &self.defs, &self.observed) {
            self.observed.restarting_all = false;
            return;
        }
        self.observed.restarting_all |= is_wanted(&self.defs, &self.observed);
        let busy = |r: &crate::pod::model::Record| r.is_running() || r.starting || r.killing.is_some();
        if !self.observed.restarting_all || self.observed.containers.values().any(busy) {
            return;
        }
        self.observed.restarting_all = false;
        for def in self.defs.iter().filter(|d| d.role != Role::Ephemeral) {
            let Some(record) = self.observed.containers.get_mut(&def.spec.name) else { continue };
            let State::Ended(ended) = std::mem::take(&mut record.state) else { continue };
            record.last = Some(Ended {
                exit_code: 137,
                reason: RESTARTING_ALL.to_owned(),
                message: MESSAGE.to_owned(),
                ..ended
            });
            record.waiting = Some((RESTARTING_ALL.to_owned(), MESSAGE.to_owned()));
            (record.restart, record.retry_at, record.ended_by_wish) = (None, None, false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::phase::tests::{ended, observed, pod};
    use crate::util::defs;
    use serde_json::json;

    #[test]
    fn the_first_rule_that_matches_decides() {
        let rule = |action: &str, code: i32| json!({"action": action, "exitCodes": {"operator": "In", "values": [code]}});
        let pod = pod(
            json!({"restartPolicy": "Never", "containers": [{"name": "a", "restartPolicy": "Never",
            "restartPolicyRules": [rule("Restart", 1), rule("RestartAllContainers", 1), rule("RestartAllContainers", 2)]}]}),
        );
        for (code, wanted) in [(0, false), (1, false), (2, true)] {
            assert_eq!(is_wanted(&defs(&pod), &observed(&[("a", ended(code, 0))])), wanted, "{code}");
        }
    }
}
