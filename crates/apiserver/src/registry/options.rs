//! The options of requests (`ListOptions`, `CreateOptions`, `UpdateOptions`, `PatchOptions`, `DeleteOptions`)
//! out of query parameters and bodies, validated in upstream's words.

use super::parse;
use crate::request::RequestCx;
use bytes::Bytes;
use http::HeaderMap;
use knarr_meta::field::{self, ErrorList, Path};
use knarr_meta::status::Status;
use knarr_meta::validate::{validate_dry_run, validate_field_manager, validate_field_validation};
use serde_json::Value;
use std::num::IntErrorKind;
use std::time::Duration;

/// Upstream's limit of a field manager's name.
const MANAGER_MAX: usize = 128;

/// What to do about unknown and duplicate fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldValidation {
    /// Drop them.
    Ignore,
    /// Warn of them.
    Warn,
    /// Refuse them.
    Strict,
}

/// What create, update and patch have in common.
#[derive(Clone, Debug)]
pub struct WriteOptions {
    /// Who the written fields belong to.
    pub manager: String,
    /// Unknown and duplicate fields.
    pub validation: FieldValidation,
    /// For apply: take fields from other managers.
    pub force: bool,
}

/// Which options object an error is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteKind {
    /// CreateOptions.
    Create,
    /// UpdateOptions.
    Update,
    /// PatchOptions of anything but apply.
    Patch,
    /// PatchOptions of apply.
    Apply,
}

impl WriteOptions {
    /// Reads and validates them.
    pub fn read(cx: &RequestCx, headers: &HeaderMap, kind: WriteKind) -> Result<Self, Status> {
        let manager = cx.query("fieldManager").unwrap_or_default();
        let validation = cx.query("fieldValidation").unwrap_or_default();
        let force = boolean(cx, "force");
        let mut errors = ErrorList::new();
        match kind {
            WriteKind::Apply if manager.is_empty() => {
                errors.push(field::required(&Path::new("fieldManager"), "is required for apply patch"));
            }
            WriteKind::Patch if force.is_some() => {
                errors
                    .push(field::forbidden(&Path::new("force"), "may not be specified for non-apply patch"));
            }
            _ => {}
        }
        errors.extend(validate_field_manager(manager, &Path::new("fieldManager")));
        let dry_runs: Vec<&str> =
            cx.query.iter().filter(|(k, _)| k == "dryRun").map(|(_, v)| v.as_str()).collect();
        errors.extend(validate_dry_run(&dry_runs, &Path::new("dryRun")));
        errors.extend(validate_field_validation(validation, &Path::new("fieldValidation")));
        let validation = match validation {
            "Ignore" => FieldValidation::Ignore,
            "Strict" => FieldValidation::Strict,
            _ => FieldValidation::Warn,
        };
        if !errors.is_empty() {
            let kind = match kind {
                WriteKind::Create => "CreateOptions",
                WriteKind::Update => "UpdateOptions",
                WriteKind::Patch | WriteKind::Apply => "PatchOptions",
            };
            return Err(Status::invalid("meta.k8s.io", kind, "", errors));
        }
        let manager = if manager.is_empty() { manager_of_agent(headers) } else { manager.to_owned() };
        Ok(Self { manager, validation, force: force == Some(true) })
    }
}

/// The manager of clients that name none: their User-Agent up to the slash.
fn manager_of_agent(headers: &HeaderMap) -> String {
    let agent = headers.get(http::header::USER_AGENT).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let mut name: String =
        agent.split('/').next().unwrap_or_default().chars().filter(|c| !c.is_control()).collect();
    while name.len() > MANAGER_MAX {
        name.pop();
    }
    name
}

/// A boolean parameter, as apimachinery reads it: whatever is not false is true.
pub fn boolean(cx: &RequestCx, name: &str) -> Option<bool> {
    cx.query(name).map(|text| !matches!(text.to_ascii_lowercase().as_str(), "false" | "0"))
}

fn integer(cx: &RequestCx, name: &str) -> Result<Option<i64>, Status> {
    match cx.query(name) {
        None | Some("") => Ok(None),
        Some(text) => text.parse::<i64>().map(Some).map_err(|error| {
            Status::bad_request(format!("strconv.ParseInt: {}", not_a_number(text, error.kind())))
        }),
    }
}

/// What Go says of a text that should be a number.
fn not_a_number(text: &str, kind: &IntErrorKind) -> String {
    let why = match kind {
        IntErrorKind::PosOverflow | IntErrorKind::NegOverflow => "value out of range",
        _ => "invalid syntax",
    };
    format!("parsing {}: {why}", knarr_meta::go::quote(text))
}

/// A `resourceVersion`: none when it is empty. The error is upstream's, as the storage words it.
pub fn parse_version(text: &str) -> Result<Option<u64>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|error: std::num::ParseIntError| {
        format!(
            "resourceVersion: Invalid value: {}: strconv.ParseUint: {}",
            knarr_meta::go::quote(text),
            not_a_number(text, error.kind())
        )
    })
}

/// How `resourceVersion` is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Match {
    /// That revision.
    Exact,
    /// That revision or a later one.
    NotOlderThan,
}

/// ListOptions.
#[derive(Clone, Debug, Default)]
pub struct ListOptions {
    /// As sent, see [`parse_version`].
    pub version: String,
    /// `resourceVersionMatch`.
    pub matching: Option<Match>,
    /// At most so many items, 0 for all.
    pub limit: usize,
    /// Where to go on.
    pub token: String,
    /// For watches: the current objects first.
    pub initial_events: Option<bool>,
    /// For watches: say where the watch stands now and then.
    pub bookmarks: bool,
    /// For watches: how long.
    pub timeout: Option<Duration>,
}

impl ListOptions {
    /// Reads and validates them (selectors are read elsewhere).
    pub fn read(cx: &RequestCx) -> Result<Self, Status> {
        // The old paths with /watch/ are watches without saying so in their options.
        let watch = boolean(cx, "watch") == Some(true);
        let version = cx.query("resourceVersion").unwrap_or_default();
        let mut matching = cx.query("resourceVersionMatch").unwrap_or_default();
        let token = cx.query("continue").unwrap_or_default();
        let mut initial = boolean(cx, "sendInitialEvents");
        let limit = integer(cx, "limit")?.unwrap_or(0);
        // Zero is none; a time that is over already ends the watch at once.
        let timeout = integer(cx, "timeoutSeconds")?.filter(|seconds| *seconds != 0);
        if watch && initial.is_none() && matching.is_empty() && matches!(version, "" | "0") {
            initial = Some(true);
            matching = "NotOlderThan";
        }
        let errors = check_list(watch, version, matching, token, initial);
        if !errors.is_empty() {
            return Err(Status::invalid("meta.k8s.io", "ListOptions", "", errors));
        }
        if cx.info.verb == "watch" && initial.is_none() && matches!(version, "" | "0") {
            initial = Some(true);
        }
        Ok(Self {
            version: version.to_owned(),
            matching: match matching {
                "Exact" => Some(Match::Exact),
                "NotOlderThan" => Some(Match::NotOlderThan),
                _ => None,
            },
            limit: usize::try_from(limit).unwrap_or(0),
            token: token.to_owned(),
            initial_events: initial,
            bookmarks: boolean(cx, "allowWatchBookmarks") == Some(true),
            timeout: timeout.map(|seconds| Duration::from_secs(u64::try_from(seconds).unwrap_or(0))),
        })
    }
}

fn check_list(watch: bool, version: &str, matching: &str, token: &str, initial: Option<bool>) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = Path::new("resourceVersionMatch");
    if watch {
        if initial.is_some() && matching != "NotOlderThan" {
            let detail = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
            errors.push(field::forbidden(&path, detail));
        }
        if !matching.is_empty() {
            if initial.is_none() {
                let detail =
                    "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided";
                errors.push(field::forbidden(&path, detail));
            }
            if matching != "NotOlderThan" {
                errors.push(field::not_supported(&path, matching, &["NotOlderThan"]));
            }
            if !token.is_empty() {
                let detail = "resourceVersionMatch is forbidden when continue is provided";
                errors.push(field::forbidden(&path, detail));
            }
        }
        return errors;
    }
    if !matching.is_empty() {
        if version.is_empty() {
            let detail = "resourceVersionMatch is forbidden unless resourceVersion is provided";
            errors.push(field::forbidden(&path, detail));
        }
        if !token.is_empty() {
            let detail = "resourceVersionMatch is forbidden when continue is provided";
            errors.push(field::forbidden(&path, detail));
        }
        if !matches!(matching, "Exact" | "NotOlderThan") {
            errors.push(field::not_supported(&path, matching, &["Exact", "NotOlderThan", ""]));
        }
        if matching == "Exact" && version == "0" {
            let detail = "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"";
            errors.push(field::forbidden(&path, detail));
        }
    }
    if initial.is_some() {
        let path = Path::new("sendInitialEvents");
        errors.push(field::forbidden(&path, "sendInitialEvents is forbidden for list"));
    }
    errors
}

/// What becomes of dependents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    /// They are deleted after the owner.
    Background,
    /// The owner waits for them.
    Foreground,
    /// They stay.
    Orphan,
}

/// DeleteOptions.
#[derive(Clone, Debug, Default)]
pub struct DeleteOptions {
    /// Seconds of grace.
    pub grace: Option<i64>,
    /// Only the object of this UID.
    pub uid: Option<String>,
    /// Only at this resourceVersion.
    pub revision: Option<String>,
    /// The older way to say propagationPolicy.
    pub orphan: Option<bool>,
    /// What becomes of dependents.
    pub propagation: Option<Propagation>,
    /// Nothing may be deleted.
    pub dry_run: bool,
}

impl DeleteOptions {
    /// Reads them from the body if there is one, else from the query.
    pub fn read(cx: &RequestCx, headers: &HeaderMap, body: &Bytes) -> Result<Self, Status> {
        let value = if body.is_empty() { Self::from_query(cx)? } else { Self::from_body(headers, body)? };
        Self::from_value(&value, cx.dry_run)
    }

    /// As an object, but for its kind.
    pub fn to_value(&self) -> Value {
        let mut value = serde_json::Map::new();
        let mut set = |key: &str, item: Option<Value>| {
            if let Some(item) = item {
                value.insert(key.to_owned(), item);
            }
        };
        set("gracePeriodSeconds", self.grace.map(Value::from));
        set("orphanDependents", self.orphan.map(Value::from));
        let policy = self.propagation.map(|policy| match policy {
            Propagation::Background => "Background",
            Propagation::Foreground => "Foreground",
            Propagation::Orphan => "Orphan",
        });
        set("propagationPolicy", policy.map(Value::from));
        let mut preconditions = serde_json::Map::new();
        for (key, text) in [("uid", &self.uid), ("resourceVersion", &self.revision)] {
            if let Some(text) = text {
                preconditions.insert(key.to_owned(), text.as_str().into());
            }
        }
        set("preconditions", (!preconditions.is_empty()).then_some(Value::Object(preconditions)));
        set("dryRun", self.dry_run.then(|| vec!["All"].into()));
        Value::Object(value)
    }

    fn from_query(cx: &RequestCx) -> Result<Value, Status> {
        let mut value = serde_json::Map::new();
        if let Some(grace) = integer(cx, "gracePeriodSeconds")? {
            value.insert("gracePeriodSeconds".to_owned(), grace.into());
        }
        if let Some(orphan) = boolean(cx, "orphanDependents") {
            value.insert("orphanDependents".to_owned(), orphan.into());
        }
        if let Some(policy) = cx.query("propagationPolicy") {
            value.insert("propagationPolicy".to_owned(), policy.into());
        }
        let dry: Vec<Value> =
            cx.query.iter().filter(|(k, _)| k == "dryRun").map(|(_, v)| v.as_str().into()).collect();
        if !dry.is_empty() {
            value.insert("dryRun".to_owned(), dry.into());
        }
        Ok(Value::Object(value))
    }

    fn from_body(headers: &HeaderMap, body: &Bytes) -> Result<Value, Status> {
        use super::negotiate::{Media, body_media};
        let value = match body_media(headers, true)? {
            Media::Json => parse::json(body).map_err(Status::bad_request)?.value,
            Media::Yaml => parse::yaml(body).map_err(Status::bad_request)?.value,
            Media::Proto => knarr_api::proto::decode(body).map_err(|e| Status::bad_request(e.to_string()))?,
        };
        if !value.is_object() {
            return Err(Status::bad_request("decoded object cannot be converted to DeleteOptions"));
        }
        let kind = knarr_meta::object::kind(&value);
        if !kind.is_empty() && kind != "DeleteOptions" {
            return Err(Status::bad_request("decoded object cannot be converted to DeleteOptions"));
        }
        Ok(value)
    }

    fn from_value(value: &Value, dry_run: bool) -> Result<Self, Status> {
        let text = |value: &Value| value.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
        let mut errors = ErrorList::new();
        let orphan = value["orphanDependents"].as_bool();
        let policy = text(&value["propagationPolicy"]);
        let path = Path::new("propagationPolicy");
        if let (Some(_), Some(policy)) = (orphan, &policy) {
            let detail = "orphanDependents and deletionPropagation cannot be both set";
            errors.push(field::invalid(&path, policy, detail));
        }
        let propagation = match policy.as_deref() {
            None => None,
            Some("Background") => Some(Propagation::Background),
            Some("Foreground") => Some(Propagation::Foreground),
            Some("Orphan") => Some(Propagation::Orphan),
            Some(other) => {
                let allowed = ["Foreground", "Background", "Orphan", "nil"];
                errors.push(field::not_supported(&path, other, &allowed));
                None
            }
        };
        let dry: Vec<&str> =
            value["dryRun"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        errors.extend(validate_dry_run(&dry, &Path::new("dryRun")));
        if !errors.is_empty() {
            return Err(Status::invalid("meta.k8s.io", "DeleteOptions", "", errors));
        }
        Ok(Self {
            grace: value["gracePeriodSeconds"].as_i64(),
            uid: text(&value["preconditions"]["uid"]),
            revision: text(&value["preconditions"]["resourceVersion"]),
            orphan,
            propagation,
            dry_run: dry_run || !dry.is_empty(),
        })
    }
}
