//! Subresources whose create changes their parent (`pods/binding`): the function of the declaration runs inside
//! one compare-and-set.

use super::admit::Chain;
use super::render::Answer;
use super::subresource::decode;
use super::write::{MODIFIED, MODIFY_ATTEMPTS, store_error};
use super::{Call, Registry};
use crate::admission::Operation;
use crate::def::Subresource;
use crate::request::RequestCx;
use knarr_meta::status::Status;
use knarr_store::{Expect, Outcome};
use serde_json::Value;

/// See [`crate::def::SubKind::Change`].
pub type ChangeParent = fn(&RequestCx, &Value, &mut Value) -> Result<(), Status>;

impl Registry {
    /// Serves the create.
    pub(super) async fn change_parent(
        &self,
        call: &Call<'_>,
        sub: &Subresource,
        change: ChangeParent,
    ) -> Result<Answer, Status> {
        let (cx, resource) = (call.cx, call.resource);
        let (namespace, name) = (cx.info.namespace.as_str(), cx.info.name.as_str());
        let mut body = decode(call, sub)?;
        let kind = sub.kind_in(&resource.def, &call.version.name);
        let chain = Chain::new(self, cx, resource, Operation::Create).of_kind(kind);
        if !chain.is_empty() {
            chain.run(&mut body, None, name).await?;
        }
        for _ in 0..MODIFY_ATTEMPTS {
            let key = resource.key(namespace, name);
            let kv = self.store.get(&key, None).await.map_err(|e| store_error(resource, "update", e))?;
            let kv = kv.ok_or_else(|| resource.not_found(name))?;
            let stored = self.read(resource, &kv).await?;
            let mut parent = stored.parse();
            change(cx, &body, &mut parent)?;
            let encoded = resource.cache.shape().encode(&parent);
            let done = Answer::Status(Status { code: 201, ..Status::success(None) });
            if cx.dry_run || encoded.value == stored.value {
                return Ok(done);
            }
            let expect = Expect::Unchanged(stored.revision);
            let outcome = self.put(resource, key, expect, encoded.value, kv.lease).await?;
            if let Outcome::Done(_) = outcome {
                return Ok(done);
            }
        }
        Err(Status::conflict(&resource.gr, name, MODIFIED))
    }
}
