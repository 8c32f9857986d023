//! CSIStorageCapacities (storage.k8s.io/v1): pkg/registry/storage/csistoragecapacity.

use crate::core::pod::validation::scheduling::label_selector;
use crate::core::resource;
use crate::util::Errs;
use knarr_api::storage::v1::CSIStorageCapacity;
use knarr_apiserver::def::{ResourceDef, Strategy};
use knarr_apiserver::request::RequestCx;
use knarr_meta::field::{ErrorList, Path};
use knarr_meta::quantity::Quantity;
use knarr_meta::validate;

struct CsiStorageCapacities;

impl Strategy for CsiStorageCapacities {
    type Object = CSIStorageCapacity;

    fn validate(&self, _cx: &RequestCx, obj: &CSIStorageCapacity) -> ErrorList {
        let mut errs = label_selector(obj.node_topology.as_ref(), &Path::new("nodeTopology"));
        let class = &obj.storage_class_name;
        errs.add_all(&Path::new("storageClassName"), class, validate::dns1123_subdomain(class));
        if let Some(capacity) = &obj.capacity
            && resource::parse(capacity) < Quantity::default()
        {
            let detail = "must be greater than or equal to 0";
            errs.add_invalid(&Path::new("capacity"), &capacity.0, detail);
        }
        errs
    }

    fn validate_update(
        &self,
        _cx: &RequestCx,
        new: &CSIStorageCapacity,
        old: &CSIStorageCapacity,
    ) -> ErrorList {
        let mut errs = ErrorList::default();
        errs.add_changed(&Path::new("nodeTopology"), &new.node_topology, &old.node_topology);
        errs.add_changed(&Path::new("storageClassName"), &new.storage_class_name, &old.storage_class_name);
        errs
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }

    fn has_generation(&self) -> bool {
        false
    }
}

/// The declaration.
pub fn def() -> ResourceDef {
    ResourceDef::new(CsiStorageCapacities).fixture(include_str!("testdata/csistoragecapacity.yaml"))
}
