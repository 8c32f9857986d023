//! The class `local-path`, made when a cluster starts without it.

use super::{LocalPath, PROVISIONER};
use knarr_api::Kind;
use knarr_api::storage::v1::StorageClass;
use knarr_api::volume;
use serde_json::json;

const NAME: &str = "local-path";

impl LocalPath {
    /// Makes the class unless it is there. It is the default one unless there is another.
    pub(super) async fn make_class(&self) {
        if self.classes.get("", NAME).is_some() {
            return;
        }
        let classes = self.classes.list("");
        let default = volume::default_class(classes.iter().map(|c| &**c)).is_none();
        let object = json!({
            "metadata": { "name": NAME, "annotations": { volume::DEFAULT_CLASS: default.to_string() } },
            "provisioner": PROVISIONER,
            "reclaimPolicy": "Delete",
            "volumeBindingMode": "WaitForFirstConsumer",
            "allowVolumeExpansion": true,
        });
        let class = match StorageClass::from_value(&object) {
            Ok(class) => class,
            Err(error) => return tracing::error!(%error, "the class is not one"),
        };
        if let Err(error) = self.client.create(&class).await
            && !error.is_conflict()
        {
            tracing::warn!(%error, "cannot make the storage class {NAME}");
        }
    }
}
