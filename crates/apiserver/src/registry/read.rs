//! get and list: from the store or the watch cache, at the revision the client asks for, page by page
//! (KEP-365 chunking, KEP-2340 consistent reads from cache).

use super::continue_token::Continue;
use super::options::{ListOptions, Match, boolean, parse_version};
use super::render::{Answer, ListAnswer};
use super::resource::Resource;
use super::write::store_error;
use super::{Call, Registry};
use crate::cache::{CacheError, Field, Filter, Listed, Requirement};
use crate::request::RequestCx;
use bytes::Bytes;
use knarr_meta::selector::{FieldSelector, LabelSelector};
use knarr_meta::status::{Cause, Details, Reason, Status};
use knarr_store::{Range, StoreError, prefix_end};
use std::sync::Arc;

const EXPIRED: &str = "The resourceVersion for the provided list is too old.";
const INCONSISTENT: &str = "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing with the provided token results in an inconsistent list - objects that were created, modified, or deleted between the time the first chunk was returned and now may show up in the list.";
/// How many keys are read from the store at once when selectors decide which of them count.
const PAGE: usize = 500;

/// As of when a list is read from the store.
#[derive(Clone, Copy)]
enum At {
    /// A revision.
    Revision(u64),
    /// Now, which must not be before a revision.
    Least(u64),
}

/// The failure of a read that the cache could not answer in time.
pub fn cache_error(error: &CacheError) -> Status {
    match error {
        CacheError::TooLarge { .. } => {
            let cause = Cause {
                reason: "ResourceVersionTooLarge".to_owned(),
                message: "Too large resource version".to_owned(),
                ..Cause::default()
            };
            Status::timeout(error, 1).with_details(Details {
                retry_after_seconds: 1,
                causes: vec![cause],
                ..Details::default()
            })
        }
        CacheError::Unreadable(status) => Status::clone(status),
        CacheError::NotReady => Status::too_many_requests("storage is (re)initializing", 1),
        CacheError::Store(StoreError::Unavailable(why)) => Status::timeout(why, 1),
        CacheError::Store(error) => Status::internal(error),
    }
}

/// The selectors of a list or watch.
pub fn filter(cx: &RequestCx, resource: &Resource) -> Result<Filter, Status> {
    let mut filter = Filter { namespace: cx.info.namespace.clone(), ..Filter::default() };
    if !resource.namespaced() {
        filter.namespace.clear();
    }
    if let Some(text) = cx.query("labelSelector").filter(|text| !text.is_empty()) {
        let selector = LabelSelector::parse(text).map_err(|e| Status::bad_request(e.to_string()))?;
        if !selector.is_empty() {
            filter.labels = Some(selector);
        }
    }
    if let Some(text) = cx.query("fieldSelector").filter(|text| !text.is_empty()) {
        let selector = FieldSelector::parse(text).map_err(|e| Status::bad_request(e.to_string()))?;
        for requirement in selector.requirements() {
            let (shape, selectable) = (resource.cache.shape(), &resource.def.selectable);
            let field = Field::of_resource(shape, selectable, &requirement.field)
                .filter(|field| {
                    *field != Field::Namespace || resource.namespaced() || !resource.def.is_custom()
                })
                .ok_or_else(|| unsupported_field(resource, &requirement.field))?;
            filter.fields.push(Requirement {
                field,
                equal: !requirement.negated,
                value: requirement.value.clone(),
            });
        }
    }
    if !cx.info.name.is_empty() {
        match filter.exact(Field::Name) {
            None if filter.fields.is_empty() => {
                filter.fields.push(Requirement {
                    field: Field::Name,
                    equal: true,
                    value: cx.info.name.clone(),
                });
            }
            Some(name) if name == cx.info.name => {}
            _ => return Err(Status::bad_request("fieldSelector metadata.name doesn't match requested name")),
        }
    }
    filter.narrow();
    Ok(filter)
}

/// Upstream has two texts: kinds with selectable fields of their own say the short one.
fn unsupported_field(resource: &Resource, label: &str) -> Status {
    let text = if resource.def.selectable.is_empty() && !resource.def.is_custom() {
        format!(
            "{} is not a known field selector: only \"metadata.name\", \"metadata.namespace\"",
            knarr_meta::go::quote(label)
        )
    } else {
        format!("field label not supported: {label}")
    };
    Status::bad_request(text)
}

impl Registry {
    /// Serves a get.
    pub(super) async fn get(&self, call: &Call<'_>) -> Result<Answer, Status> {
        let (cx, resource) = (call.cx, call.resource);
        if boolean(cx, "export") == Some(true) {
            let text = "the export parameter, deprecated since v1.14, is no longer supported";
            return Err(Status::bad_request(text));
        }
        // A store on this machine answers from memory; of another one the cache is asked where the client accepts
        // what it has.
        let asked = parse_version(cx.query("resourceVersion").unwrap_or_default());
        let asked = asked.map_err(|text| Status::new(500, Reason::Unknown, text))?.unwrap_or(0);
        if resource.cache.is_remote() {
            let accepts = cx.query("resourceVersion").is_some_and(|text| !text.is_empty());
            let cached = || resource.cache.get(&resource.key(&cx.info.namespace, &cx.info.name));
            if accepts
                && resource.cache.revision() >= asked.max(1)
                && let Some(obj) = cached()
            {
                return Ok(Answer::Stored(200, obj.stored.clone()));
            }
            if asked > self.store.revision() {
                self.store.latest().await.map_err(|e| cache_error(&e.into()))?;
            }
        }
        if asked > self.store.revision() {
            resource.cache.wait_for(asked).await.map_err(|e| cache_error(&e))?;
        }
        Ok(Answer::Stored(200, self.fetch(resource, &cx.info.namespace, &cx.info.name).await?))
    }

    /// Serves a list.
    pub(super) async fn list(&self, call: &Call<'_>) -> Result<Answer, Status> {
        Ok(Answer::List(self.list_objects(call).await?))
    }

    /// The objects a list request means.
    pub(super) async fn list_objects(&self, call: &Call<'_>) -> Result<ListAnswer, Status> {
        let (cx, resource) = (call.cx, call.resource);
        let options = ListOptions::read(cx)?;
        let filter = filter(cx, resource)?;
        let scope = scope(resource, &filter);
        if !options.token.is_empty() {
            let token = Continue::decode(&options.token, &scope)?;
            if !matches!(options.version.as_str(), "" | "0") {
                return Err(Status::bad_request(
                    "specifying resource version is not allowed when using continue",
                ));
            }
            return if token.revision > 0 {
                let revision = token.revision.unsigned_abs();
                let at = At::Revision(revision);
                self.list_at(resource, &filter, &scope, at, &token.start, options.limit, true).await
            } else {
                self.list_latest(resource, &filter, &scope, &token.start, options.limit).await
            };
        }
        let revision = parse_version(&options.version)
            .map_err(|text| Status::bad_request(format!("invalid resource version: {text}")))?;
        match (revision, options.matching) {
            (None, _) => self.list_latest(resource, &filter, &scope, &[], options.limit).await,
            // Whatever the cache holds, in one page.
            (Some(0), _) => {
                resource.cache.wait_for(0).await.map_err(|e| cache_error(&e))?;
                Ok(self.page(resource, &filter, &scope, &[], 0))
            }
            (Some(revision), Some(Match::Exact)) => {
                self.list_at(resource, &filter, &scope, At::Revision(revision), &[], options.limit, false)
                    .await
            }
            (Some(revision), None) if options.limit > 0 => {
                self.list_at(resource, &filter, &scope, At::Revision(revision), &[], options.limit, false)
                    .await
            }
            (Some(revision), _) => {
                if resource.cache.reach(revision).await.map_err(|e| cache_error(&e))? {
                    return Ok(self.page(resource, &filter, &scope, &[], options.limit));
                }
                let at = At::Least(revision);
                self.list_at(resource, &filter, &scope, at, &[], options.limit, false).await
            }
        }
    }

    async fn list_latest(
        &self,
        resource: &Resource,
        filter: &Filter,
        scope: &[u8],
        start: &[u8],
        limit: usize,
    ) -> Result<ListAnswer, Status> {
        if resource.cache.fresh().await.map_err(|e| cache_error(&e))? {
            return Ok(self.page(resource, filter, scope, start, limit));
        }
        self.list_at(resource, filter, scope, At::Least(0), start, limit, false).await
    }

    /// All matching objects as the store has them now, and the revision of that; it is `least` or later.
    pub(super) async fn read_all(
        &self,
        resource: &Resource,
        filter: &Filter,
        least: u64,
    ) -> Result<Listed, Status> {
        let scope = scope(resource, filter);
        Ok(self.list_at(resource, filter, &scope, At::Least(least), &[], 0, false).await?.listed)
    }

    fn page(
        &self,
        resource: &Resource,
        filter: &Filter,
        scope: &[u8],
        start: &[u8],
        limit: usize,
    ) -> ListAnswer {
        let listed = resource.cache.list(filter, resource.namespaced(), start, limit);
        let remaining = (listed.more && !filter.is_selective()).then_some(listed.remaining);
        let token = next_token(&listed, scope);
        ListAnswer { listed, token, remaining }
    }

    /// A list out of the store: as of a revision in the past, or of now.
    #[allow(clippy::too_many_arguments)]
    async fn list_at(
        &self,
        resource: &Resource,
        filter: &Filter,
        scope: &[u8],
        at: At,
        start: &[u8],
        limit: usize,
        paging: bool,
    ) -> Result<ListAnswer, Status> {
        // A store on this machine knows what is yet to come; it is waited for a little, as upstream's cache does.
        if let At::Revision(revision) = at
            && revision > self.store.revision()
            && !resource.cache.is_remote()
        {
            resource.cache.wait_for(revision).await.map_err(|e| cache_error(&e))?;
        }
        let end = prefix_end(scope);
        let (mut at, least) = match at {
            At::Revision(revision) => (Some(revision), 0),
            At::Least(least) => (None, least),
        };
        let mut listed = Listed { objs: Vec::new(), revision: at.unwrap_or(0), more: false, remaining: 0 };
        let mut from = Bytes::copy_from_slice(if start > scope { start } else { scope });
        loop {
            let wanted = match (limit, filter.is_selective()) {
                (0, false) => 0,
                (limit, false) => limit - listed.objs.len(),
                (_, true) => PAGE,
            };
            let range = Range { start: from.clone(), end: end.clone(), at, limit: wanted, count_only: false };
            let result = self
                .store
                .range(range)
                .await
                .map_err(|e| self.range_error(resource, e, paging, start, scope))?;
            if at.is_none() {
                if result.revision < least {
                    let error = CacheError::TooLarge { asked: least, current: result.revision };
                    return Err(cache_error(&error));
                }
                // The pages that follow are of the same moment.
                listed.revision = result.revision;
                at = Some(result.revision);
            }
            let (read, count) = (result.kvs.len(), result.count);
            let keys: Vec<Bytes> = result.kvs.iter().map(|kv| kv.key.clone()).collect();
            let objs = resource.cache.read(result.kvs).await?;
            for (index, (key, obj)) in keys.into_iter().zip(objs).enumerate() {
                if limit > 0 && listed.objs.len() == limit {
                    listed.more = true;
                    return Ok(self.finish(listed, filter, scope));
                }
                from = [&key[..], b"\0"].concat().into();
                match obj {
                    Ok(obj) if !filter.is_selective() || filter.matches(&obj) => {
                        listed.objs.push(Arc::new(obj));
                    }
                    Ok(_) => {}
                    Err(error) => tracing::error!(%error, "an object in the store is left out of a list"),
                }
                if limit > 0 && listed.objs.len() == limit && index + 1 == read {
                    listed.more = count > read;
                    listed.remaining = count - read;
                }
            }
            if count <= read || (limit > 0 && listed.objs.len() == limit) {
                return Ok(self.finish(listed, filter, scope));
            }
        }
    }

    fn finish(&self, listed: Listed, filter: &Filter, scope: &[u8]) -> ListAnswer {
        let remaining = (listed.more && !filter.is_selective()).then_some(listed.remaining);
        let token = next_token(&listed, scope);
        ListAnswer { listed, token, remaining }
    }

    fn range_error(
        &self,
        resource: &Resource,
        error: StoreError,
        paging: bool,
        start: &[u8],
        scope: &[u8],
    ) -> Status {
        match error {
            StoreError::Compacted { .. } if paging => {
                let continue_token = Continue::encode(-1, start, scope);
                Status::expired(INCONSISTENT).with_details(Details { continue_token, ..Details::default() })
            }
            StoreError::Compacted { .. } => Status::expired(EXPIRED),
            StoreError::Future { asked, current } => cache_error(&CacheError::TooLarge { asked, current }),
            error => store_error(resource, "list", error),
        }
    }
}

/// The keys under which a list looks, which its tokens are relative to.
fn scope(resource: &Resource, filter: &Filter) -> Bytes {
    let namespace = if resource.namespaced() { filter.namespace.as_str() } else { "" };
    crate::cache::key(resource.cache.prefix(), namespace, "")
}

fn next_token(listed: &Listed, scope: &[u8]) -> String {
    match listed.objs.last().filter(|_| listed.more) {
        Some(last) => {
            let start = [&last.key[..], b"\0"].concat();
            Continue::encode(i64::try_from(listed.revision).unwrap_or(i64::MAX), &start, scope)
        }
        None => String::new(),
    }
}
