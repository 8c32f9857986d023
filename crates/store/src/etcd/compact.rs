//! Compaction by upstream's protocol, so that any number of API servers, upstream's among them, share the work: the
//! key `compact_rev_key` counts rounds by its version. Who finds the count as it left it makes the next round and
//! compacts at the revision it noted a round ago; the others note the count and the revision, and wait.

use super::messages::{TxnResponse, call, compaction, put_at_version};
use super::{Shared, failed};
use crate::{Compaction, StoreError};
use bytes::Bytes;

/// Beside the prefix, as upstream.
const KEY: &[u8] = b"compact_rev_key";

/// One turn.
pub(super) async fn turn(shared: &Shared, state: &mut Compaction) -> Result<(), StoreError> {
    let key = Bytes::from_static(KEY);
    let noted = Bytes::from(state.revision.to_string());
    let message = shared.endpoints.write(call::TXN, &put_at_version(&key, state.round, noted)).await;
    let response = message.and_then(|message| Ok(TxnResponse::read(message)?));
    let response = response.map_err(|error| failed(shared, error, None))?;
    shared.saw(response.revision);
    let at = std::mem::replace(&mut state.revision, response.revision);
    if !response.succeeded {
        state.round = response.version;
        let value = response.current.map(|kv| kv.value).unwrap_or_default();
        if let Some(revision) = std::str::from_utf8(&value).ok().and_then(|text| text.parse().ok()) {
            shared.compacted_at(revision);
        }
        return Ok(());
    }
    state.round += 1;
    if at == 0 {
        // The first round only starts the count.
        return Ok(());
    }
    match compact(shared, at).await {
        Err(StoreError::Compacted { .. }) => Ok(()),
        result => result,
    }
}

/// Compacts at a revision.
pub(super) async fn compact(shared: &Shared, revision: u64) -> Result<(), StoreError> {
    match shared.endpoints.write(call::COMPACT, &compaction(revision)).await {
        Ok(_) => {
            shared.compacted_at(revision);
            Ok(())
        }
        Err(error) => Err(failed(shared, error, revision.checked_sub(1))),
    }
}
