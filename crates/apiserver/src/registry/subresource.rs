//! Subresources: `scale` as a view on its parent (autoscaling/v1), and those with handlers of their own.

use super::admit::Chain;
use super::body::Wanted;
use super::create::reply;
use super::options::{WriteKind, WriteOptions};
use super::patch::{Applying, Patch, PatchType};
use super::render::Answer;
use super::versions::Conversions;
use super::write::{Modify, Part, View};
use super::{Call, Registry};
use crate::admission::Operation;
use crate::def::{Handler, Name, SubKind, SubRequest, Subresource};
use crate::request::RequestCx;
use http::Method;
use knarr_meta::field::{self, ErrorList, Path};
use knarr_meta::gvk::api_version;
use knarr_meta::object;
use knarr_meta::selector::LabelSelector;
use knarr_meta::status::{Reason, Status};
use serde_json::{Value, json};

/// Where a kind keeps what Scale shows.
struct ScalePaths<'a> {
    spec: Vec<&'a str>,
    status: Vec<&'a str>,
    selector: Vec<&'a str>,
    /// Of a custom resource, where anything may stand at these paths.
    custom: bool,
}

/// What a Scale says that is made of an object without replicas: whoever patches it must say how many.
const UNSET: i64 = i32::MIN as i64;

impl ScalePaths<'_> {
    /// The number at a path of an object.
    fn number(&self, parent: &Value, path: &[&str]) -> Result<Option<i64>, Status> {
        match object::get_path(parent, path) {
            Some(value) if self.custom => value.as_i64().map(Some).ok_or_else(|| {
                let shown = knarr_meta::go::percent_v(value);
                let ty = crate::custom::convert::go_type(value);
                let path = path.join(".");
                let text = format!(".{path} accessor error: {shown} is of the type {ty}, expected int64");
                Status::new(500, Reason::Unknown, text)
            }),
            found => Ok(found.and_then(Value::as_i64)),
        }
    }

    /// How the wanted replicas are called.
    fn spec_text(&self) -> String {
        format!(".{}", self.spec.join("."))
    }

    /// The Scale of an object.
    fn view(&self, parent: &Value) -> Result<Value, Status> {
        let wanted = self.number(parent, &self.spec)?.unwrap_or(0);
        let observed = self.number(parent, &self.status)?.unwrap_or(0);
        let mut metadata = serde_json::Map::new();
        for name in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
            if let Some(value) = parent["metadata"].get(name) {
                metadata.insert(name.to_owned(), value.clone());
            }
        }
        let selector = object::get_path(parent, &self.selector).filter(|_| !self.selector.is_empty());
        let selector = selector.map(selector_text).unwrap_or_default();
        let mut status = json!({"replicas": observed});
        if !selector.is_empty() {
            status["selector"] = selector.into();
        }
        Ok(json!({
            "kind": "Scale",
            "apiVersion": "autoscaling/v1",
            "metadata": metadata,
            "spec": {"replicas": wanted},
            "status": status,
        }))
    }

    /// The Scale that a change starts from.
    fn base(&self, parent: &Value) -> Result<Value, Status> {
        let mut scale = self.view(parent)?;
        if self.custom && object::get_path(parent, &self.spec).is_none() {
            scale["spec"]["replicas"] = UNSET.into();
        }
        Ok(scale)
    }
}

/// A label selector, or the plain map that replication controllers have, as text.
fn selector_text(selector: &Value) -> String {
    if let Some(text) = selector.as_str() {
        return text.to_owned();
    }
    let is_selector = selector.get("matchLabels").is_some_and(Value::is_object)
        || selector.get("matchExpressions").is_some_and(Value::is_array);
    if is_selector {
        return LabelSelector::from_label_selector(selector).map(|s| s.to_string()).unwrap_or_default();
    }
    let labels = selector.as_object().into_iter().flatten();
    let labels = labels.filter_map(|(key, value)| Some((key.as_str(), value.as_str()?)));
    LabelSelector::from_map(labels).to_string()
}

impl Registry {
    /// Serves a request on a subresource.
    pub(super) async fn subresource<'a>(
        &self,
        call: &Call<'_>,
        sub: &'a Subresource,
    ) -> Result<Answer, Status> {
        let method = &call.parts.method;
        let wanted = match *method {
            Method::GET => "get",
            Method::PUT => "update",
            Method::PATCH => "patch",
            _ => "",
        };
        let own = matches!(sub.serve, SubKind::Custom(_) | SubKind::Change(_));
        if !own && wanted != "get" && !sub.verbs.contains(&wanted) {
            return Err(call.not_allowed());
        }
        match (&sub.serve, method) {
            (SubKind::Status | SubKind::Partial(_), &Method::GET) => self.get(call).await,
            (SubKind::Status, &Method::PUT) => self.update(call, Part::Status).await,
            (SubKind::Status, &Method::PATCH) => self.patch(call, Part::Status).await,
            (SubKind::Partial(prepare), &Method::PUT) => self.update(call, Part::Partial(*prepare)).await,
            (SubKind::Partial(prepare), &Method::PATCH) => self.patch(call, Part::Partial(*prepare)).await,
            (SubKind::Scale { spec, status, selector }, _) => {
                let steps = |path: &'a [Name]| path.iter().map(|step| &**step).collect();
                let paths = ScalePaths {
                    spec: steps(spec),
                    status: steps(status),
                    selector: steps(selector),
                    custom: call.resource.def.is_custom(),
                };
                match *method {
                    Method::GET => {
                        let stored =
                            self.fetch(call.resource, &call.cx.info.namespace, &call.cx.info.name).await?;
                        let parent = stored.parse();
                        if paths.custom && object::get_path(&parent, &paths.spec).is_none() {
                            let path = knarr_meta::go::quote(&paths.spec_text());
                            let text = format!("the spec replicas field {path} does not exist");
                            return Err(Status::internal(text));
                        }
                        Ok(Answer::Plain(200, paths.view(&parent)?))
                    }
                    Method::PUT => self.update_scale(call, &paths).await,
                    Method::PATCH => self.patch_scale(call, &paths).await,
                    _ => Err(call.not_allowed()),
                }
            }
            (SubKind::Change(change), &Method::POST) => self.change_parent(call, sub, *change).await,
            (SubKind::Custom(handler), _) => self.custom(call, sub, &**handler).await,
            _ => Err(call.not_allowed()),
        }
    }

    async fn custom(
        &self,
        call: &Call<'_>,
        sub: &Subresource,
        handler: &dyn Handler,
    ) -> Result<Answer, Status> {
        let (cx, resource) = (call.cx, call.resource);
        let connects = matches!(sub.name, "exec" | "attach" | "portforward" | "proxy");
        if connects && cx.query("dryRun").is_some() {
            return Err(Status::bad_request("dryRun is not supported"));
        }
        let parent = self.fetch(resource, &cx.info.namespace, &cx.info.name).await?.parse();
        let mut body = Value::Null;
        if !connects && !call.body.is_empty() {
            body = decode(call, sub)?;
        }
        let operation = match call.parts.method {
            _ if connects => Some(Operation::Connect),
            Method::POST => Some(Operation::Create),
            Method::PUT | Method::PATCH => Some(Operation::Update),
            Method::DELETE => Some(Operation::Delete),
            _ => None,
        };
        if let Some(operation) = operation {
            let kind = sub.kind_in(&resource.def, &call.version.name);
            if connects {
                body = super::connect::options(kind.2, cx);
            }
            let chain = Chain::new(self, cx, resource, operation).of_kind(kind);
            let old = (operation == Operation::Update).then_some(&parent);
            if !chain.is_empty() {
                chain.run(&mut body, old, &cx.info.name).await?;
            }
        }
        let parts = call.fresh_parts();
        let request = SubRequest { cx, parent: Some(parent), body, parts, raw: call.body.clone() };
        Ok(reply(handler.handle(request).await?))
    }

    async fn update_scale(&self, call: &Call<'_>, paths: &ScalePaths<'_>) -> Result<Answer, Status> {
        let options = WriteOptions::read(call.cx, &call.parts.headers, WriteKind::Update)?;
        let ty = knarr_api::facts::root("autoscaling", "v1", "Scale");
        let wanted = scale_type(ty.as_ref());
        let scale = wanted.decode(call.cx, &call.parts.headers, &call.body, options.validation)?;
        self.write_scale(call, paths, &options, &|_, _| Ok(scale.clone())).await
    }

    async fn patch_scale(&self, call: &Call<'_>, paths: &ScalePaths<'_>) -> Result<Answer, Status> {
        let cx = call.cx;
        let patch = Patch::read(cx, &call.parts.headers, &call.body, true)?;
        let ty = knarr_api::facts::root("autoscaling", "v1", "Scale");
        let make = |cx: &RequestCx, live: Value| {
            let wanted = scale_type(ty.as_ref());
            if patch.kind != PatchType::Apply {
                return patch.apply_to(cx, &wanted, live);
            }
            let Some(ty) = &ty else { return Err(Status::internal("the type of Scale is not known")) };
            let time = knarr_meta::time::rfc3339(cx.ctx.clock.now());
            let by = Applying {
                cx,
                kind: "Scale",
                api_version: "autoscaling/v1",
                ty,
                schema: knarr_api::facts::schema(),
                reset: &[],
                custom: false,
                versions: knarr_meta::managed::ONE_FORM,
                time: &time,
            };
            patch.apply_live(Some(&live), &by)
        };
        self.write_scale(call, paths, &patch.options, &make).await
    }

    async fn write_scale(
        &self,
        call: &Call<'_>,
        paths: &ScalePaths<'_>,
        options: &WriteOptions,
        make: &(dyn Fn(&RequestCx, Value) -> Result<Value, Status> + Send + Sync),
    ) -> Result<Answer, Status> {
        let (cx, resource) = (call.cx, call.resource);
        let view = move |parent: &Value| paths.view(parent).unwrap_or_default();
        let conversions = &Conversions::of(resource);
        let change = |old: Option<&Value>| {
            let old = old.ok_or_else(|| resource.not_found(&cx.info.name))?;
            let scale = make(cx, paths.base(old)?)?;
            let replicas = object::get_i64(&scale, &["spec", "replicas"]).unwrap_or(0);
            if paths.custom && replicas == UNSET {
                let path = knarr_meta::go::quote(&paths.spec_text());
                let text = format!("the spec replicas field {path} cannot be empty");
                return Err(Status::bad_request(text));
            }
            check_scale(cx, &scale, old, resource)?;
            let mut new = old.clone();
            object::set_path(&mut new, &paths.spec, replicas.into());
            let given = object::resource_version(&scale);
            object::set_resource_version(
                &mut new,
                if given.is_empty() { object::resource_version(old) } else { given },
            );
            self.track(cx, call.version, options, conversions, Some(old), &mut new)?;
            Ok(new)
        };
        let take = |parent: &mut Value, scale: &Value| {
            if let Some(replicas) = object::get_i64(scale, &["spec", "replicas"]) {
                object::set_path(parent, &paths.spec, replicas.into());
            }
        };
        let shown = View { kind: ("autoscaling", "v1", "Scale"), show: &view, take: &take };
        let what =
            Modify { cx, resource, part: Part::Main, uid: "", create: false, conversions, view: Some(shown) };
        Ok(match self.modify(what, &change).await? {
            Answer::Stored(code, stored) => Answer::Plain(code, paths.view(&stored.parse())?),
            Answer::Hub(code, value) => Answer::Plain(code, paths.view(&value)?),
            answer => answer,
        })
    }
}

/// The body of a subresource with a kind of its own.
pub(super) fn decode(call: &Call<'_>, sub: &Subresource) -> Result<Value, Status> {
    let options = WriteOptions::read(call.cx, &call.parts.headers, WriteKind::Create)?;
    let (group, version, kind) = sub.kind_in(&call.resource.def, &call.version.name);
    let api = api_version(group, version);
    let ty = knarr_api::facts::root(group, version, kind);
    let proto = knarr_api::proto::supports(&api, kind);
    let wanted = Wanted {
        kind,
        api_version: &api,
        ty: ty.as_ref(),
        schema: knarr_api::facts::schema(),
        proto,
        custom: None,
    };
    wanted.decode(call.cx, &call.parts.headers, &call.body, options.validation)
}

fn scale_type(ty: Option<&knarr_meta::schema::Type>) -> Wanted<'_> {
    Wanted {
        kind: "Scale",
        api_version: "autoscaling/v1",
        ty,
        schema: knarr_api::facts::schema(),
        proto: true,
        custom: None,
    }
}

fn check_scale(
    cx: &RequestCx,
    scale: &Value,
    parent: &Value,
    resource: &super::resource::Resource,
) -> Result<(), Status> {
    let (name, namespace) = (object::name(scale), object::namespace(scale));
    if name != cx.info.name {
        return Err(Status::bad_request(format!(
            "the name of the object ({name}) does not match the name on the URL ({})",
            cx.info.name
        )));
    }
    if !namespace.is_empty() && namespace != cx.info.namespace {
        return Err(Status::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    let (uid, current) = (object::uid(scale), object::uid(parent));
    if !uid.is_empty() && uid != current {
        let key = resource.key(&cx.info.namespace, name);
        return Err(Status::conflict(&resource.gr, name, super::write::uid_mismatch(&key, uid, current)));
    }
    let replicas = object::get_i64(scale, &["spec", "replicas"]).unwrap_or(0);
    if replicas < 0 {
        let mut errors = ErrorList::new();
        let path = Path::new("spec").child("replicas");
        errors.push(field::invalid(&path, replicas, "must be greater than or equal to 0"));
        return Err(Status::invalid("autoscaling", "Scale", name, errors));
    }
    Ok(())
}
