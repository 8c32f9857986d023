//! Conversion of custom resources between the versions of their definition (apiextensions.k8s.io/v1
//! `spec.conversion`): by name alone, or by a webhook that is asked once for all objects of a read.

use bytes::Bytes;
use futures_util::future::BoxFuture;
use knarr_apiextensions::{Conversion, Definition};
use knarr_base::Ctx;
use knarr_meta::field::{ErrorList, Path};
use knarr_meta::status::{Reason, Status};
use knarr_meta::validate::{validate_annotations, validate_labels};
use knarr_meta::{go, object};
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// Versions of ConversionReview that are spoken.
const REVIEWS: [&str; 2] = ["v1", "v1beta1"];

/// Calls webhooks. The real one is the client in `crate::webhook`; tests have others.
pub trait Outbound: Send + Sync {
    /// Posts a body to where `client_config` (as in a definition) says; the error is in upstream's words.
    fn call<'a>(&'a self, client_config: &'a Value, body: Bytes) -> BoxFuture<'a, Result<Bytes, String>>;
}

/// Converts objects of one definition.
pub enum Converter {
    /// Only `apiVersion` changes.
    None,
    /// A webhook does it.
    Webhook(Webhook),
}

/// A definition's conversion webhook.
pub struct Webhook {
    ctx: Ctx,
    outbound: Arc<dyn Outbound>,
    client_config: Value,
    review_versions: Vec<String>,
}

impl Converter {
    /// The converter of a definition.
    pub fn of(ctx: &Ctx, definition: &Definition, outbound: &Arc<dyn Outbound>) -> Self {
        match &definition.conversion {
            Conversion::None => Self::None,
            Conversion::Webhook { client_config, review_versions } => Self::Webhook(Webhook {
                ctx: ctx.clone(),
                outbound: outbound.clone(),
                client_config: client_config.clone(),
                review_versions: review_versions.clone(),
            }),
        }
    }

    /// Converts objects, none of which is in the wanted version yet.
    pub async fn convert(&self, mut objects: Vec<Value>, api_version: &str) -> Result<Vec<Value>, Status> {
        match self {
            Self::None => {
                for object in &mut objects {
                    object["apiVersion"] = api_version.into();
                }
                Ok(objects)
            }
            Self::Webhook(webhook) => match objects.first() {
                None => Ok(objects),
                Some(first) => {
                    let kind = describe(first);
                    webhook.convert(objects, api_version).await.map_err(|failure| {
                        let text = match failure {
                            Failure::Plain(why) => why,
                            Failure::Failed(why) => format!("conversion webhook for {kind} failed: {why}"),
                            Failure::Returned(what) => {
                                format!("conversion webhook for {kind} returned {what}")
                            }
                        };
                        Status::new(500, Reason::Unknown, text)
                    })
                }
            },
        }
    }
}

/// Group, version and kind of an object as Go prints them.
fn describe(object: &Value) -> String {
    format!("{}, Kind={}", object::api_version(object), object::kind(object))
}

/// What is wrong with a webhook, by the words it is told in.
enum Failure {
    Plain(String),
    Failed(String),
    Returned(String),
}

impl Webhook {
    async fn convert(&self, objects: Vec<Value>, api_version: &str) -> Result<Vec<Value>, Failure> {
        let version = self.review_versions.iter().find(|version| REVIEWS.contains(&version.as_str()));
        let version =
            version.ok_or_else(|| Failure::Plain("no supported conversion review versions".into()))?;
        let uid = self.ctx.rng.uuid();
        let review = json!({
            "kind": "ConversionReview",
            "apiVersion": format!("apiextensions.k8s.io/{version}"),
            "request": {"uid": uid, "desiredAPIVersion": api_version, "objects": objects},
        });
        let body = serde_json::to_vec(&review).expect("a JSON value always serializes");
        let answer = self.outbound.call(&self.client_config, body.into()).await.map_err(Failure::Failed)?;
        let answer: Value = serde_json::from_slice(&answer)
            .map_err(|e| Failure::Failed(format!("couldn't get version/kind; json parse error: {e}")))?;
        let converted = converted_objects(answer, version, &uid).map_err(Failure::Failed)?;
        if converted.len() != objects.len() {
            let (got, expected) = (converted.len(), objects.len());
            return Err(Failure::Returned(format!("{got} objects, expected {expected}")));
        }
        let single = objects.len() == 1;
        let mut done = Vec::with_capacity(objects.len());
        for (index, (original, mut converted)) in objects.iter().zip(converted).enumerate() {
            check(original, &converted, api_version).map_err(|wrong| {
                Failure::Returned(match (wrong, single) {
                    (Wrong::Type(why), true) => format!("invalid object at index 0: {why}"),
                    (Wrong::Identity(why), true) => format!("invalid object: {why}"),
                    (Wrong::Type(why) | Wrong::Identity(why), false) => {
                        format!("invalid converted object at index {index}: {why}")
                    }
                })
            })?;
            keep_metadata(original, &mut converted).map_err(|why| {
                Failure::Returned(match single {
                    true => format!("invalid metadata: {why}"),
                    false => format!("invalid metadata in object at index {index}: {why}"),
                })
            })?;
            done.push(converted);
        }
        Ok(done)
    }
}

/// The objects of a review that succeeded.
fn converted_objects(mut review: Value, version: &str, uid: &str) -> Result<Vec<Value>, String> {
    if version == "v1" {
        let (api_version, kind) = (object::api_version(&review), object::kind(&review));
        if (api_version, kind) != ("apiextensions.k8s.io/v1", "ConversionReview") {
            return Err(format!(
                "expected webhook response of apiextensions.k8s.io/v1, Kind=ConversionReview, got {}",
                describe(&review)
            ));
        }
    }
    let Some(response) = review.get_mut("response").filter(|response| response.is_object()) else {
        return Err("no response provided".to_owned());
    };
    let given = response["uid"].as_str().unwrap_or_default();
    if version == "v1" && given != uid {
        return Err(format!("expected response.uid={}, got {}", go::quote(uid), go::quote(given)));
    }
    let status = response["result"]["status"].as_str().unwrap_or_default();
    if status != "Success" {
        let message = response["result"]["message"].as_str().unwrap_or_default();
        return Err(match message {
            "" => format!("response.result.status was '{status}', not 'Success'"),
            message => message.to_owned(),
        });
    }
    Ok(match response["convertedObjects"].take() {
        Value::Array(objects) => objects,
        _ => Vec::new(),
    })
}

enum Wrong {
    Type(String),
    Identity(String),
}

/// A converted object must be the same object in the version that was asked for.
fn check(original: &Value, converted: &Value, api_version: &str) -> Result<(), Wrong> {
    let got = object::api_version(converted);
    if got != api_version {
        return Err(Wrong::Type(format!("invalid groupVersion (expected {api_version}, received {got})")));
    }
    let (expected, got) = (object::kind(original), object::kind(converted));
    if expected != got {
        return Err(Wrong::Type(format!("invalid kind (expected {expected}, received {got})")));
    }
    for (what, of) in
        [("name", object::name as fn(&Value) -> &str), ("namespace", object::namespace), ("UID", object::uid)]
    {
        let (before, after) = (of(original), of(converted));
        if before != after {
            return Err(Wrong::Identity(format!("must have the same {what}: {before} != {after}")));
        }
    }
    Ok(())
}

/// Webhooks may change labels and annotations, and nothing else of the metadata.
fn keep_metadata(original: &Value, converted: &mut Value) -> Result<(), String> {
    let answered = match converted.get_mut("metadata") {
        None => return Err("missing metadata in converted object".to_owned()),
        Some(Value::Object(metadata)) => std::mem::take(metadata),
        Some(other) => {
            return Err(format!("invalid metadata of type {} in converted object", go_type(other)));
        }
    };
    let mut kept = object::metadata(original).cloned().unwrap_or_default();
    for (name, validate) in [
        ("labels", validate_labels as fn(&Map<String, Value>, &Path) -> ErrorList),
        ("annotations", validate_annotations),
    ] {
        let texts = match answered.get(name) {
            None | Some(Value::Null) => {
                kept.remove(name);
                continue;
            }
            Some(Value::Object(texts)) => texts,
            Some(other) => {
                return Err(format!(
                    "invalid metadata.{name} of type {} in converted object",
                    go_type(other)
                ));
            }
        };
        if let Some((key, value)) = texts.iter().find(|(_, value)| !value.is_string()) {
            let ty = go_type(value);
            return Err(format!("metadata.{name}[{key}] must be a string, but is {ty} in converted object"));
        }
        if kept.get(name).and_then(Value::as_object) != Some(texts) {
            let shown = if name == "labels" { name } else { "annotation" };
            let errors = validate(texts, &Path::new("metadata").child(shown));
            if !errors.is_empty() {
                return Err(errors.to_string());
            }
        }
        kept.insert(name.to_owned(), Value::Object(texts.clone()));
    }
    converted["metadata"] = Value::Object(kept);
    Ok(())
}

/// The type of a value as Go's reflection prints it.
pub(crate) fn go_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "<nil>",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}
