//! Content negotiation (apiserver's `endpoints/handlers/negotiation`): which media type and which
//! transformation (Table, PartialObjectMetadata) an `Accept` header asks for, and what a body is in.

use http::HeaderMap;
use http::header::{ACCEPT, CONTENT_TYPE, USER_AGENT};
use knarr_meta::status::Status;

/// An encoding of objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Media {
    /// `application/json`
    Json,
    /// `application/yaml`
    Yaml,
    /// `application/vnd.kubernetes.protobuf`
    Proto,
}

impl Media {
    /// All, in the order upstream names them.
    pub const ALL: [Self; 3] = [Self::Json, Self::Yaml, Self::Proto];

    /// The media type.
    pub fn name(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Yaml => "application/yaml",
            Self::Proto => knarr_api::proto::MEDIA_TYPE,
        }
    }

    /// The media type of a watch stream, if there is one.
    pub fn stream_name(self) -> Option<&'static str> {
        match self {
            Self::Json => Some("application/json"),
            Self::Yaml => None,
            Self::Proto => Some("application/vnd.kubernetes.protobuf;stream=watch"),
        }
    }
}

/// What an object is turned into.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transform {
    /// A Table.
    Table,
    /// PartialObjectMetadata.
    Partial,
    /// PartialObjectMetadataList.
    PartialList,
}

/// The outcome of a negotiation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accept {
    /// The encoding.
    pub media: Media,
    /// Indented, for people.
    pub pretty: bool,
    /// A transformation and the version of `meta.k8s.io` it is asked in.
    pub transform: Option<(Transform, &'static str)>,
}

impl Accept {
    /// Plain JSON.
    pub const JSON: Self = Self { media: Media::Json, pretty: false, transform: None };
}

/// One entry of an `Accept` header.
struct Clause<'a> {
    kind: &'a str,
    sub: &'a str,
    params: Vec<(&'a str, &'a str)>,
    q: f32,
}

fn clauses(header: &str) -> Vec<Clause<'_>> {
    let mut all: Vec<Clause<'_>> = header
        .split(',')
        .filter_map(|part| {
            let mut fields = part.split(';').map(str::trim);
            let (kind, sub) = match fields.next()? {
                "*" => ("*", "*"),
                media => media.split_once('/')?,
            };
            let mut clause = Clause { kind: kind.trim(), sub: sub.trim(), params: Vec::new(), q: 1.0 };
            for field in fields {
                let Some((key, value)) = field.split_once('=') else { continue };
                let (key, value) = (key.trim(), value.trim().trim_matches('"'));
                if key == "q" {
                    clause.q = value.parse().unwrap_or(1.0);
                } else {
                    clause.params.push((key, value));
                }
            }
            Some(clause)
        })
        .collect();
    // Stable: what is equal stays in the order it was sent; wildcards come after what is named.
    all.sort_by(|a, b| {
        b.q.total_cmp(&a.q)
            .then((a.kind == "*").cmp(&(b.kind == "*")))
            .then((a.sub == "*").cmp(&(b.sub == "*")))
    });
    all
}

/// What the endpoint serves beside plain objects.
#[derive(Clone, Copy, Debug)]
pub struct Offers {
    /// Whether objects have a protobuf form.
    pub proto: bool,
    /// Whether Tables are served (not of kinds that are only ever created).
    pub tables: bool,
    /// Whether PartialObjectMetadata is served.
    pub transforms: bool,
    /// Whether the answer is a watch stream.
    pub stream: bool,
}

/// Chooses the form of the answer.
pub fn accept(headers: &HeaderMap, pretty_query: Option<&str>, offers: Offers) -> Result<Accept, Status> {
    let header = headers.get(ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let mut chosen = choose(header, offers).ok_or_else(|| not_acceptable(offers))?;
    if offers.stream && chosen.media.stream_name().is_none() {
        return Err(not_acceptable(offers));
    }
    chosen.pretty |= is_pretty(headers, pretty_query);
    chosen.pretty &= chosen.media == Media::Json;
    Ok(chosen)
}

/// The form of an error for whoever sent this header: JSON where it asks for nothing that is served.
pub fn accept_for_error(header: Option<&str>) -> Accept {
    let offers = Offers { proto: true, tables: true, transforms: true, stream: false };
    let chosen = choose(header.unwrap_or_default(), offers).unwrap_or(Accept::JSON);
    Accept { transform: None, ..chosen }
}

fn is_pretty(headers: &HeaderMap, query: Option<&str>) -> bool {
    if let Some(value) = query.filter(|value| !value.is_empty()) {
        return matches!(value, "1" | "t" | "T" | "true" | "TRUE" | "True");
    }
    let agent = headers.get(USER_AGENT).and_then(|v| v.to_str().ok()).unwrap_or_default();
    ["curl", "Wget", "Mozilla/5.0"].iter().any(|prefix| agent.starts_with(prefix))
}

fn choose(header: &str, offers: Offers) -> Option<Accept> {
    if header.is_empty() {
        return Some(Accept::JSON);
    }
    // What nearly every client sends.
    if header == "application/json" {
        return Some(Accept::JSON);
    }
    clauses(header).iter().find_map(|clause| {
        Media::ALL.iter().find_map(|media| {
            let (kind, sub) = media.name().split_once('/')?;
            let fits = (clause.kind == kind && (clause.sub == sub || clause.sub == "*"))
                || (clause.kind == "*" && clause.sub == "*");
            // Metadata has a protobuf form whatever it is of.
            let served =
                |accept: &Accept| offers.proto || *media != Media::Proto || accept.transform.is_some();
            if fits { with_params(*media, &clause.params, offers).filter(served) } else { None }
        })
    })
}

fn with_params(media: Media, params: &[(&str, &str)], offers: Offers) -> Option<Accept> {
    let mut accept = Accept { media, pretty: false, transform: None };
    let (mut kind, mut group, mut version) = (None, "", "");
    for (key, value) in params {
        match *key {
            "as" => kind = Some(*value),
            "g" => group = value,
            "v" => version = value,
            "stream" if !value.is_empty() && (*value != "watch" || media.stream_name().is_none()) => {
                return None;
            }
            "sv" if !value.is_empty() && *value != "v1" => return None,
            "pretty" => accept.pretty = *value == "1",
            _ => {}
        }
    }
    if kind.is_none() && group.is_empty() && version.is_empty() {
        return Some(accept);
    }
    if !offers.transforms || group != "meta.k8s.io" {
        return None;
    }
    let version = match version {
        "v1" => "v1",
        "v1beta1" => "v1beta1",
        _ => return None,
    };
    let transform = match kind? {
        "Table" if media != Media::Proto && offers.tables => Transform::Table,
        "PartialObjectMetadata" => Transform::Partial,
        "PartialObjectMetadataList" => Transform::PartialList,
        _ => return None,
    };
    accept.transform = Some((transform, version));
    Some(accept)
}

fn media_list(proto: bool) -> Vec<&'static str> {
    Media::ALL.iter().filter(|media| proto || **media != Media::Proto).map(|media| media.name()).collect()
}

fn not_acceptable(offers: Offers) -> Status {
    let names: Vec<String> = if offers.stream {
        let streams =
            [Media::Json, Media::Proto].into_iter().filter(|media| offers.proto || *media != Media::Proto);
        streams.map(|media| format!("{};stream=watch", media.name())).collect()
    } else {
        media_list(offers.proto).into_iter().map(str::to_owned).collect()
    };
    Status::not_acceptable(format!("only the following media types are accepted: {}", names.join(", ")))
}

/// The encoding of a request's body.
pub fn body_media(headers: &HeaderMap, proto: bool) -> Result<Media, Status> {
    let header = headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    if header.is_empty() {
        return Ok(Media::Json);
    }
    let name = header.split(';').next().unwrap_or_default().trim();
    Media::ALL
        .into_iter()
        .find(|media| media.name().eq_ignore_ascii_case(name) && (proto || *media != Media::Proto))
        .ok_or_else(|| unsupported(&media_list(proto)))
}

/// 415 in upstream's words.
pub fn unsupported(accepted: &[&str]) -> Status {
    Status::unsupported_media_type(format!(
        "the body of the request was in an unknown format - accepted media types include: {}",
        accepted.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: Offers = Offers { proto: true, tables: true, transforms: true, stream: false };

    fn media_of(header: &str, offers: Offers) -> Option<(Media, Option<Transform>)> {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, header.parse().unwrap());
        accept(&headers, None, offers).ok().map(|a| (a.media, a.transform.map(|(t, _)| t)))
    }

    #[test]
    fn the_first_clause_that_is_served_wins() {
        let kubectl = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        let table = Some((Media::Json, Some(Transform::Table)));
        for (header, offers, want) in [
            ("", LIST, Some((Media::Json, None))),
            ("*/*", LIST, Some((Media::Json, None))),
            ("application/*", LIST, Some((Media::Json, None))),
            (kubectl, LIST, table),
            (kubectl, Offers { tables: false, ..LIST }, Some((Media::Json, None))),
            ("application/json;as=Table;v=v1;g=meta.k8s.io", Offers { tables: false, ..LIST }, None),
            ("application/vnd.kubernetes.protobuf,application/json", LIST, Some((Media::Proto, None))),
            (
                "application/vnd.kubernetes.protobuf,application/json",
                Offers { proto: false, ..LIST },
                Some((Media::Json, None)),
            ),
            ("application/json;q=0.5, application/yaml", LIST, Some((Media::Yaml, None))),
            ("application/vnd.kubernetes.protobuf;as=Table;v=v1;g=meta.k8s.io", LIST, None),
            (
                "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;v=v1;g=meta.k8s.io",
                LIST,
                Some((Media::Proto, Some(Transform::Partial))),
            ),
            ("application/json;as=Table;v=v2;g=meta.k8s.io", LIST, None),
            ("application/json;stream=watch", Offers { stream: true, ..LIST }, Some((Media::Json, None))),
            ("application/yaml", Offers { stream: true, ..LIST }, None),
            ("text/html", LIST, None),
        ] {
            assert_eq!(media_of(header, offers), want, "{header}");
        }
    }

    #[test]
    fn bodies_are_json_unless_they_say_otherwise() {
        let of = |header: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, header.parse().unwrap());
            body_media(&headers, true)
        };
        assert_eq!(body_media(&HeaderMap::new(), true).unwrap(), Media::Json);
        assert_eq!(of("application/json; charset=utf-8").unwrap(), Media::Json);
        let refused = of("text/plain").unwrap_err();
        assert_eq!(
            (refused.code, refused.message.as_str()),
            (
                415,
                "the body of the request was in an unknown format - accepted media types include: application/json, application/yaml, application/vnd.kubernetes.protobuf"
            )
        );
    }

    #[test]
    fn curl_and_the_query_ask_for_indented_json() {
        let mut headers = HeaderMap::new();
        headers.insert(USER_AGENT, "curl/8".parse().unwrap());
        assert!(accept(&headers, None, LIST).unwrap().pretty);
        assert!(!accept(&headers, Some("false"), LIST).unwrap().pretty);
        assert!(accept(&HeaderMap::new(), Some("true"), LIST).unwrap().pretty);
    }
}
