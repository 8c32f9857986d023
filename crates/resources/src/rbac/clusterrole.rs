//! ClusterRoles (rbac.authorization.k8s.io/v1): pkg/registry/rbac/clusterrole.

use super::{aggregates, confirm_role, everything, forbidden, only_gc_fields, role_cells, validate_rules};
use crate::core::pod::validation::scheduling::label_selector;
use crate::util::{Errs, Items};
use futures_util::future::BoxFuture;
use knarr_api::rbac::v1::ClusterRole;
use knarr_apiserver::def::{Reservation, ResourceDef, Strategy};
use knarr_apiserver::escalation;
use knarr_apiserver::request::RequestCx;
use knarr_meta::field::{ErrorList, Path};
use knarr_meta::status::Status;
use knarr_meta::validate;
use serde_json::Value;

struct ClusterRoles;

impl Strategy for ClusterRoles {
    type Object = ClusterRole;

    fn validate(&self, _cx: &RequestCx, obj: &ClusterRole) -> ErrorList {
        let mut errs = validate_rules(obj.rules.items(), false);
        if let Some(rule) = &obj.aggregation_rule {
            let path = Path::new("aggregationRule").child("clusterRoleSelectors");
            let selectors = rule.cluster_role_selectors.items();
            if selectors.is_empty() {
                let detail = "at least one clusterRoleSelector required if aggregationRule is non-nil";
                errs.add_required(&path, detail);
            }
            for (i, selector) in selectors.iter().enumerate() {
                errs.extend(label_selector(Some(selector), &path.index(i)));
            }
        }
        errs
    }

    fn validate_name(&self, name: &str) -> Vec<String> {
        validate::path_segment_name(name)
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }

    fn has_generation(&self) -> bool {
        false
    }

    fn begin_create<'a>(
        &'a self,
        cx: &'a RequestCx,
        obj: &'a mut Value,
    ) -> BoxFuture<'a, Result<Option<Box<dyn Reservation>>, Status>> {
        Box::pin(async move { confirm(cx, obj, false).map(|()| None) })
    }

    fn begin_update<'a>(
        &'a self,
        cx: &'a RequestCx,
        new: &'a mut Value,
        old: &'a Value,
    ) -> BoxFuture<'a, Result<Option<Box<dyn Reservation>>, Status>> {
        Box::pin(async move {
            if !only_gc_fields(new, old) {
                confirm(cx, new, aggregates(old))?;
            }
            Ok(None)
        })
    }
}

/// Gathering rules of other roles can gather anything, so it needs everything.
fn confirm(cx: &RequestCx, obj: &Value, aggregated: bool) -> Result<(), Status> {
    confirm_role(cx, obj)?;
    if aggregated || aggregates(obj) {
        escalation::confirm_role(cx, &everything()).map_err(|_| {
            forbidden(cx, obj, "must have cluster-admin privileges to use the aggregationRule".to_owned())
        })?;
    }
    Ok(())
}

/// The declaration.
pub fn def() -> ResourceDef {
    ResourceDef::new(ClusterRoles).cells(role_cells).fixture(include_str!("testdata/clusterrole.yaml"))
}
