//! MutatingWebhookConfigurations (admissionregistration.k8s.io/v1): pkg/registry/admissionregistration/mutatingwebhookconfiguration.

use super::webhooks::{self, Hook, Leniency};
use super::{static_warnings, webhook_cells};
use crate::util::{Items, Text};
use knarr_api::admissionregistration::v1::MutatingWebhookConfiguration;
use knarr_apiserver::def::{ResourceDef, Strategy};
use knarr_apiserver::request::RequestCx;
use knarr_meta::field::ErrorList;
use serde_json::Value;

struct MutatingWebhookConfigurations;

fn hooks(configuration: &MutatingWebhookConfiguration) -> Vec<Hook<'_>> {
    configuration.webhooks.items().iter().map(Hook::from).collect()
}

impl Strategy for MutatingWebhookConfigurations {
    type Object = MutatingWebhookConfiguration;

    fn default(&self, obj: &mut Value) {
        webhooks::default(obj, true);
    }

    fn validate(&self, _cx: &RequestCx, obj: &MutatingWebhookConfiguration) -> ErrorList {
        webhooks::validate(&hooks(obj), &Leniency::none())
    }

    fn validate_update(
        &self,
        _cx: &RequestCx,
        new: &MutatingWebhookConfiguration,
        old: &MutatingWebhookConfiguration,
    ) -> ErrorList {
        let (new, old) = (hooks(new), hooks(old));
        webhooks::validate(&new, &Leniency::of(&new, &old))
    }

    fn warnings(
        &self,
        _cx: &RequestCx,
        new: &MutatingWebhookConfiguration,
        _old: Option<&MutatingWebhookConfiguration>,
    ) -> Vec<String> {
        static_warnings(new.metadata.name.text())
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }
}

/// The declaration.
pub fn def() -> ResourceDef {
    ResourceDef::new(MutatingWebhookConfigurations)
        .cells(webhook_cells)
        .fixture(include_str!("testdata/mutatingwebhookconfiguration.yaml"))
}
