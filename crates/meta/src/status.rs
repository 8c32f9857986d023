//! `Status`, the answer to a request that failed (apimachinery's `api/errors`), with upstream's texts.

use crate::field::ErrorList;
use crate::go;
use crate::gvk::GroupResource;
use serde::ser::SerializeStruct;
use serde::{Serialize, Serializer};
use serde_json::Value;
use std::fmt;

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// Why a request failed, as clients tell it apart.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
        pub enum Reason { $($(#[$doc])* $name,)* }

        impl Reason {
            /// The text in `reason`; empty for `Unknown`.
            pub fn as_str(self) -> &'static str {
                match self { $(Reason::$name => $text,)* }
            }

            /// The reason of that text; `Unknown` for texts that are none of upstream's.
            pub fn parse(text: &str) -> Self {
                match text { $($text => Reason::$name,)* _ => Reason::Unknown }
            }
        }
    };
}

reasons! {
    /// Nothing is known but the code.
    #[default]
    Unknown = "",
    /// 401: no or wrong credentials.
    Unauthorized = "Unauthorized",
    /// 403: the user may not do this.
    Forbidden = "Forbidden",
    /// 404.
    NotFound = "NotFound",
    /// 409 on create.
    AlreadyExists = "AlreadyExists",
    /// 409 on everything else.
    Conflict = "Conflict",
    /// 410: not there any more, nor elsewhere.
    Gone = "Gone",
    /// 422: the object is malformed; details list every error.
    Invalid = "Invalid",
    /// 500: try again.
    ServerTimeout = "ServerTimeout",
    /// 500: an object in the store cannot be read.
    StoreReadError = "StorageReadError",
    /// 504: not done in time.
    Timeout = "Timeout",
    /// 429.
    TooManyRequests = "TooManyRequests",
    /// 400.
    BadRequest = "BadRequest",
    /// 405.
    MethodNotAllowed = "MethodNotAllowed",
    /// 406.
    NotAcceptable = "NotAcceptable",
    /// 413.
    RequestEntityTooLarge = "RequestEntityTooLarge",
    /// 415.
    UnsupportedMediaType = "UnsupportedMediaType",
    /// 500.
    InternalError = "InternalError",
    /// 410: a resource version or continue token is too old.
    Expired = "Expired",
    /// 503.
    ServiceUnavailable = "ServiceUnavailable",
}

/// What a status is about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Details {
    /// The object's name.
    pub name: String,
    /// Its group.
    pub group: String,
    /// Its resource, or its kind.
    pub kind: String,
    /// Its UID.
    pub uid: String,
    /// The single errors.
    pub causes: Vec<Cause>,
    /// When to try again; 0 says nothing of it.
    pub retry_after_seconds: u32,
    /// Where an expired list can go on; written as the status's own `metadata.continue`.
    pub continue_token: String,
}

impl Details {
    /// Whether there is anything to write beside the token, or nothing at all (which upstream writes as `{}`).
    fn is_shown(&self) -> bool {
        let token_alone = Self { continue_token: self.continue_token.clone(), ..Self::default() };
        self.continue_token.is_empty() || *self != token_alone
    }
}

/// One error of several.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cause {
    /// Machine-readable, such as `FieldValueInvalid`.
    pub reason: String,
    /// For people.
    pub message: String,
    /// The field in question.
    pub field: String,
}

/// The outcome of a request. Codes below 400 (0 included: it is not written) are successes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// The HTTP status code.
    pub code: u16,
    /// Why, for programs.
    pub reason: Reason,
    /// Why, for people.
    pub message: String,
    /// What it is about.
    pub details: Option<Box<Details>>,
}

impl Status {
    /// A failure without details.
    pub fn new(code: u16, reason: Reason, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into(), details: None }
    }

    /// The answer to a request that succeeded and has no object to show, such as a finished delete.
    pub fn success(details: Option<Details>) -> Self {
        Self { details: details.map(Box::new), ..Self::default() }
    }

    /// The same with these details.
    pub fn with_details(mut self, details: Details) -> Self {
        self.details = Some(Box::new(details));
        self
    }

    fn about(self, gr: &GroupResource, name: &str, retry_after_seconds: u32) -> Self {
        self.with_details(Details {
            name: name.to_owned(),
            group: gr.group.to_string(),
            kind: gr.resource.to_string(),
            retry_after_seconds,
            ..Details::default()
        })
    }

    /// 404: no such object.
    pub fn not_found(gr: &GroupResource, name: &str) -> Self {
        Self::new(404, Reason::NotFound, format!("{gr} {} not found", go::quote(name))).about(gr, name, 0)
    }

    /// 404 for a path that leads nowhere.
    pub fn no_such_path() -> Self {
        Self::new(404, Reason::NotFound, "the server could not find the requested resource")
            .with_details(Details::default())
    }

    /// 409: the name is taken.
    pub fn already_exists(gr: &GroupResource, name: &str) -> Self {
        Self::new(409, Reason::AlreadyExists, format!("{gr} {} already exists", go::quote(name)))
            .about(gr, name, 0)
    }

    /// 409: each name tried for `generateName` is taken.
    pub fn generate_name_conflict(gr: &GroupResource, name: &str, retry_after_seconds: u32) -> Self {
        let message = format!(
            "{gr} {} already exists, the server was not able to generate a unique name for the object",
            go::quote(name)
        );
        Self::new(409, Reason::AlreadyExists, message).about(gr, name, retry_after_seconds)
    }

    /// 409: somebody else was faster.
    pub fn conflict(gr: &GroupResource, name: &str, msg: impl fmt::Display) -> Self {
        let message = format!("Operation cannot be fulfilled on {gr} {}: {msg}", go::quote(name));
        Self::new(409, Reason::Conflict, message).about(gr, name, 0)
    }

    /// 409: other managers own fields that an apply wants; one cause per field.
    pub fn apply_conflict(causes: Vec<Cause>, message: impl Into<String>) -> Self {
        Self::new(409, Reason::Conflict, message).with_details(Details { causes, ..Details::default() })
    }

    /// 422: every error of the object. `name` is empty where the name itself is generated.
    pub fn invalid(group: &str, kind: &str, name: &str, errors: ErrorList) -> Self {
        let group_kind = if group.is_empty() { kind.to_owned() } else { format!("{kind}.{group}") };
        let mut message = format!("{group_kind} {} is invalid", go::quote(name));
        if !errors.is_empty() {
            message.push_str(": ");
            message.push_str(&errors.to_string());
        }
        let causes = errors
            .into_iter()
            .map(|error| Cause {
                reason: error.kind.cause().to_owned(),
                message: error.body(),
                field: error.field,
            })
            .collect();
        Self::new(422, Reason::Invalid, message).with_details(Details {
            name: name.to_owned(),
            group: group.to_owned(),
            kind: kind.to_owned(),
            causes,
            ..Details::default()
        })
    }

    /// 403: not permitted. `name` is empty for requests about a whole collection.
    pub fn forbidden(gr: &GroupResource, name: &str, msg: impl fmt::Display) -> Self {
        let message = if gr.is_empty() {
            format!("forbidden: {msg}")
        } else if name.is_empty() {
            format!("{gr} is forbidden: {msg}")
        } else {
            format!("{gr} {} is forbidden: {msg}", go::quote(name))
        };
        Self::new(403, Reason::Forbidden, message).about(gr, name, 0)
    }

    /// 400.
    pub fn bad_request(msg: impl Into<String>) -> Self {
        Self::new(400, Reason::BadRequest, msg)
    }

    /// 410: not there any more. For too old versions use [`Status::expired`].
    pub fn gone(msg: impl Into<String>) -> Self {
        Self::new(410, Reason::Gone, msg)
    }

    /// 410: a resource version or continue token is too old.
    pub fn expired(msg: impl Into<String>) -> Self {
        Self::new(410, Reason::Expired, msg)
    }

    /// 401; an empty text becomes upstream's own.
    pub fn unauthorized(msg: &str) -> Self {
        Self::new(401, Reason::Unauthorized, if msg.is_empty() { "not authorized" } else { msg })
    }

    /// 405.
    pub fn method_not_supported(gr: &GroupResource, action: &str) -> Self {
        let message =
            format!("{action} is not supported on resources of kind {}", go::quote(&gr.to_string()));
        Self::new(405, Reason::MethodNotAllowed, message).about(gr, "", 0)
    }

    /// 405 for a method that no route has.
    pub fn method_not_allowed() -> Self {
        let message = "the server does not allow this method on the requested resource";
        Self::new(405, Reason::MethodNotAllowed, message).with_details(Details::default())
    }

    /// 406.
    pub fn not_acceptable(msg: impl Into<String>) -> Self {
        Self::new(406, Reason::NotAcceptable, msg)
    }

    /// 415.
    pub fn unsupported_media_type(msg: impl Into<String>) -> Self {
        Self::new(415, Reason::UnsupportedMediaType, msg)
    }

    /// 413.
    pub fn too_large(msg: impl fmt::Display) -> Self {
        Self::new(413, Reason::RequestEntityTooLarge, format!("Request entity too large: {msg}"))
    }

    /// 500: something of ours broke.
    pub fn internal(msg: impl fmt::Display) -> Self {
        let text = msg.to_string();
        Self::new(500, Reason::InternalError, format!("Internal error occurred: {text}")).with_details(
            Details { causes: vec![Cause { message: text, ..Cause::default() }], ..Details::default() },
        )
    }

    /// 504: not done in time.
    pub fn timeout(msg: impl fmt::Display, retry_after_seconds: u32) -> Self {
        Self::new(504, Reason::Timeout, format!("Timeout: {msg}"))
            .with_details(Details { retry_after_seconds, ..Details::default() })
    }

    /// 500: could not be done now, may be tried again.
    pub fn server_timeout(gr: &GroupResource, operation: &str, retry_after_seconds: u32) -> Self {
        let message = format!(
            "The {operation} operation against {gr} could not be completed at this time, please try again."
        );
        Self::new(500, Reason::ServerTimeout, message).about(gr, operation, retry_after_seconds)
    }

    /// 429.
    pub fn too_many_requests(msg: impl Into<String>, retry_after_seconds: u32) -> Self {
        Self::new(429, Reason::TooManyRequests, msg)
            .with_details(Details { retry_after_seconds, ..Details::default() })
    }

    /// 503.
    pub fn service_unavailable(msg: impl Into<String>) -> Self {
        Self::new(503, Reason::ServiceUnavailable, msg)
    }

    /// What a client makes of an answer that is not a Status (apimachinery's `NewGenericServerResponse`).
    pub fn generic_server_response(
        code: u16,
        verb: &str,
        gr: &GroupResource,
        name: &str,
        body: &str,
    ) -> Self {
        let (reason, text) = match code {
            409 if verb.eq_ignore_ascii_case("post") => (Reason::AlreadyExists, "the server reported a conflict".into()),
            409 => (Reason::Conflict, "the server reported a conflict".into()),
            404 => (Reason::NotFound, "the server could not find the requested resource".into()),
            400 => (Reason::BadRequest, "the server rejected our request for an unknown reason".into()),
            401 => (Reason::Unauthorized, "the server has asked for the client to provide credentials".into()),
            403 => (Reason::Forbidden, body.to_owned()),
            406 if body.is_empty() || body == "unknown" => (
                Reason::NotAcceptable,
                "the server was unable to respond with a content type that the client supports".into(),
            ),
            406 => (Reason::NotAcceptable, body.to_owned()),
            415 => (Reason::UnsupportedMediaType, body.to_owned()),
            405 => {
                (Reason::MethodNotAllowed, "the server does not allow this method on the requested resource".into())
            }
            422 => (Reason::Invalid, "the server rejected our request due to an error in our request".into()),
            503 => (Reason::ServiceUnavailable, "the server is currently unable to handle the request".into()),
            504 => (
                Reason::Timeout,
                "the server was unable to return a response in the time allotted, but may still be processing the request"
                    .into(),
            ),
            429 => (
                Reason::TooManyRequests,
                "the server has received too many requests and has asked us to try again later".into(),
            ),
            500.. => (
                Reason::InternalError,
                format!("an error on the server ({}) has prevented the request from succeeding", go::quote(body)),
            ),
            _ => (
                Reason::Unknown,
                format!("the server responded with the status code {code} but did not return more information"),
            ),
        };
        let verb = verb.to_ascii_lowercase();
        let message = match (gr.is_empty(), name.is_empty()) {
            (true, _) => text,
            (false, true) => format!("{text} ({verb} {gr})"),
            (false, false) => format!("{text} ({verb} {gr} {name})"),
        };
        Self::new(code, reason, message).about(gr, name, 0)
    }

    /// Whether it reports a success.
    pub fn is_success(&self) -> bool {
        self.code < 400
    }

    /// Seconds after which to try again, if it says so.
    pub fn retry_after(&self) -> Option<u32> {
        self.details.as_ref().map(|details| details.retry_after_seconds).filter(|seconds| *seconds > 0)
    }

    /// The `v1` Status object as a value (keys in a value are sorted; [`Status::to_bytes`] keeps upstream's
    /// order).
    pub fn to_json(&self) -> Value {
        serde_json::to_value(self).expect("a status has string keys only")
    }

    /// The `v1` Status object as upstream writes it, without the newline that upstream's encoder appends.
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a status has string keys only")
    }

    /// The status in a `v1` Status object; none if the value is something else.
    pub fn from_json(value: &Value) -> Option<Self> {
        if value["kind"] != "Status" || !matches!(value["apiVersion"].as_str(), Some("v1" | "meta.k8s.io/v1"))
        {
            return None;
        }
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let details = value["details"].is_object().then(|| {
            let details = &value["details"];
            Box::new(Details {
                name: text(&details["name"]),
                group: text(&details["group"]),
                kind: text(&details["kind"]),
                uid: text(&details["uid"]),
                causes: details["causes"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .map(|cause| Cause {
                        reason: text(&cause["reason"]),
                        message: text(&cause["message"]),
                        field: text(&cause["field"]),
                    })
                    .collect(),
                retry_after_seconds: number(&details["retryAfterSeconds"]),
                continue_token: text(&value["metadata"]["continue"]),
            })
        });
        let failed = value["status"] != "Success";
        let code = number(&value["code"]);
        Some(Self {
            code: if failed && code == 0 { 500 } else { code },
            reason: Reason::parse(value["reason"].as_str().unwrap_or_default()),
            message: text(&value["message"]),
            details,
        })
    }
}

fn number<N: TryFrom<u64> + Default>(value: &Value) -> N {
    value.as_u64().and_then(|n| N::try_from(n).ok()).unwrap_or_default()
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Status {}

impl Serialize for Status {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        struct Metadata<'a>(&'a str);
        impl Serialize for Metadata<'_> {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                let mut s = serializer.serialize_struct("ListMeta", 1)?;
                serialize_texts(&mut s, &[("continue", self.0)])?;
                s.end()
            }
        }
        let token = self.details.as_ref().map_or("", |details| details.continue_token.as_str());
        let mut s = serializer.serialize_struct("Status", 8)?;
        s.serialize_field("kind", "Status")?;
        s.serialize_field("apiVersion", "v1")?;
        s.serialize_field("metadata", &Metadata(token))?;
        s.serialize_field("status", if self.is_success() { "Success" } else { "Failure" })?;
        if !self.message.is_empty() {
            s.serialize_field("message", &self.message)?;
        }
        if self.reason != Reason::Unknown {
            s.serialize_field("reason", self.reason.as_str())?;
        }
        if let Some(details) = self.details.as_ref().filter(|details| details.is_shown()) {
            s.serialize_field("details", details)?;
        }
        if self.code != 0 {
            s.serialize_field("code", &self.code)?;
        }
        s.end()
    }
}

fn serialize_texts<S: SerializeStruct>(s: &mut S, fields: &[(&'static str, &str)]) -> Result<(), S::Error> {
    for (name, text) in fields.iter().filter(|(_, text)| !text.is_empty()) {
        s.serialize_field(name, text)?;
    }
    Ok(())
}

impl Serialize for Details {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut s = serializer.serialize_struct("StatusDetails", 6)?;
        serialize_texts(
            &mut s,
            &[("name", &self.name), ("group", &self.group), ("kind", &self.kind), ("uid", &self.uid)],
        )?;
        if !self.causes.is_empty() {
            s.serialize_field("causes", &self.causes)?;
        }
        if self.retry_after_seconds > 0 {
            s.serialize_field("retryAfterSeconds", &self.retry_after_seconds)?;
        }
        s.end()
    }
}

impl Serialize for Cause {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut s = serializer.serialize_struct("StatusCause", 3)?;
        serialize_texts(
            &mut s,
            &[("reason", &self.reason), ("message", &self.message), ("field", &self.field)],
        )?;
        s.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::field::{self, Path};

    fn text(status: &Status) -> String {
        String::from_utf8(status.to_bytes()).unwrap()
    }

    #[test]
    fn a_status_is_written_as_upstream_writes_it() {
        let pods = GroupResource::new("", "pods");
        let deployments = GroupResource::new("apps", "deployments");
        assert_eq!(
            text(&Status::not_found(&pods, "x")),
            r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"pods \"x\" not found","reason":"NotFound","details":{"name":"x","kind":"pods"},"code":404}"#
        );
        assert_eq!(
            text(&Status::bad_request("no")),
            r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"no","reason":"BadRequest","code":400}"#
        );
        assert_eq!(
            Status::conflict(&deployments, "x", "changed").message,
            "Operation cannot be fulfilled on deployments.apps \"x\": changed"
        );
        assert_eq!(
            text(&Status::success(Some(Details {
                name: "x".into(),
                kind: "pods".into(),
                ..Details::default()
            }))),
            r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Success","details":{"name":"x","kind":"pods"}}"#
        );
        let mut errors = ErrorList::new();
        errors.push(field::invalid(
            &Path::new("spec").child("replicas"),
            -1,
            "must be greater than or equal to 0",
        ));
        let invalid = Status::invalid("apps", "Deployment", "x", errors);
        assert_eq!(
            invalid.message,
            "Deployment.apps \"x\" is invalid: spec.replicas: Invalid value: -1: must be greater than or equal to 0"
        );
        assert_eq!(
            invalid.to_json()["details"]["causes"][0],
            serde_json::json!({"reason": "FieldValueInvalid", "field": "spec.replicas",
                "message": "Invalid value: -1: must be greater than or equal to 0"})
        );
    }

    #[test]
    fn a_status_survives_the_wire() {
        let pods = GroupResource::new("", "pods");
        for status in [
            Status::not_found(&pods, "x"),
            Status::too_many_requests("slow down", 3),
            Status::internal("broken"),
            Status::success(None),
            Status::generic_server_response(502, "GET", &pods, "x", "bad gateway"),
        ] {
            assert_eq!(Status::from_json(&status.to_json()), Some(status));
        }
        assert_eq!(Status::from_json(&serde_json::json!({"kind": "Pod", "apiVersion": "v1"})), None);
    }
}
