//! Continue tokens of lists in pages (KEP-365): where the next page begins, and as of which revision, as upstream
//! encodes them. Depends on nothing else of this room, so that a fuzzer can have it alone.

use base64::alphabet::URL_SAFE;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use base64::{DecodeError, Engine};
use knarr_meta::status::Status;
use serde_json::Value;

/// As lenient as Go: bits that are left over do not matter.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new()
        .with_encode_padding(false)
        .with_decode_padding_mode(DecodePaddingMode::RequireNone)
        .with_decode_allow_trailing_bits(true),
);

/// Where a list goes on.
#[derive(Debug, PartialEq, Eq)]
pub struct Continue {
    /// The revision of the first page; negative for whatever is there now.
    pub revision: i64,
    /// The first key, as a whole.
    pub start: Vec<u8>,
}

impl Continue {
    /// Reads a token of a list below `scope`; it cannot lead out of there.
    pub fn decode(token: &str, scope: &[u8]) -> Result<Self, Status> {
        let bad = |why: &str| {
            Status::bad_request(format!("invalid continue token: continue key is not valid: {why}"))
        };
        let plain: String = token.chars().filter(|c| !matches!(c, '\r' | '\n')).collect();
        let json = BASE64.decode(&plain).map_err(|error| {
            let at = match error {
                DecodeError::InvalidByte(at, _) | DecodeError::InvalidLastSymbol(at, _) => at,
                _ => plain.len().saturating_sub(1),
            };
            bad(&format!("illegal base64 data at input byte {at}"))
        })?;
        let token: Value = serde_json::from_slice(&json).map_err(|e| bad(&e.to_string()))?;
        let version = token["v"].as_str().unwrap_or_default();
        if version != "meta.k8s.io/v1" {
            return Err(bad(&format!("server does not recognize this encoded version {version}")));
        }
        let revision = token["rv"].as_i64().unwrap_or(0);
        if revision == 0 {
            return Err(bad("incorrect encoded start resourceVersion (version meta.k8s.io/v1)"));
        }
        let start = token["start"].as_str().unwrap_or_default();
        if start.is_empty() {
            return Err(bad("encoded start key empty (version meta.k8s.io/v1)"));
        }
        let path = start.strip_prefix('/').unwrap_or(start);
        let clean = path.is_empty() || path.split('/').all(|part| !matches!(part, "" | "." | ".."));
        if !clean {
            return Err(bad(start));
        }
        Ok(Self { revision, start: [scope, path.as_bytes()].concat() })
    }

    /// The token for a list below `scope` that goes on at the key `start`.
    pub fn encode(revision: i64, start: &[u8], scope: &[u8]) -> String {
        let rest = String::from_utf8_lossy(start.get(scope.len()..).unwrap_or_default());
        let start = serde_json::to_string(&rest).expect("a text serializes");
        BASE64.encode(format!("{{\"v\":\"meta.k8s.io/v1\",\"rv\":{revision},\"start\":{start}}}"))
    }
}

/// For fuzzers: any text, and any JSON in base64, is read or refused; what is read stays below the scope and is
/// written and read again as the same.
#[allow(dead_code)] // fuzzers and tests
pub fn fuzz(data: &[u8]) {
    const SCOPE: &[u8] = b"/registry/pods/a/";
    let text = String::from_utf8_lossy(data);
    for token in [text.clone().into_owned(), BASE64.encode(data)] {
        let Ok(read) = Continue::decode(&token, SCOPE) else { continue };
        assert!(read.start.starts_with(SCOPE), "{token} leads out of its scope");
        let parts = read.start[SCOPE.len()..].split(|byte| *byte == b'/');
        assert!(parts.into_iter().all(|part| part != b".."), "{token} goes up");
        if read.start.len() > SCOPE.len() {
            let again = Continue::decode(&Continue::encode(read.revision, &read.start, SCOPE), SCOPE);
            assert_eq!(again.as_ref().ok(), Some(&read), "{token}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_refused_in_upstreams_words() {
        let token = |json: &str| BASE64.encode(json);
        for (token, message) in [
            ("***".to_owned(), "illegal base64 data at input byte 0"),
            ("eyJ2".to_owned() + "x", "illegal base64 data at input byte 4"),
            (token(r#"{"v":"v2","rv":1,"start":"a"}"#), "server does not recognize this encoded version v2"),
            (token("{}"), "server does not recognize this encoded version "),
            (
                token(r#"{"v":"meta.k8s.io/v1","rv":0,"start":"a"}"#),
                "incorrect encoded start resourceVersion (version meta.k8s.io/v1)",
            ),
            (
                token(r#"{"v":"meta.k8s.io/v1","rv":1,"start":""}"#),
                "encoded start key empty (version meta.k8s.io/v1)",
            ),
            (token(r#"{"v":"meta.k8s.io/v1","rv":1,"start":"../a"}"#), "../a"),
            (token(r#"{"v":"meta.k8s.io/v1","rv":1,"start":"a/./b"}"#), "a/./b"),
            (token(r#"{"v":"meta.k8s.io/v1","rv":1,"start":"a//b"}"#), "a//b"),
            (token(r#"{"v":"meta.k8s.io/v1","rv":1,"start":"a/"}"#), "a/"),
        ] {
            let refused = Continue::decode(&token, b"/registry/pods/").unwrap_err();
            let wanted = format!("invalid continue token: continue key is not valid: {message}");
            assert_eq!((refused.code, refused.message), (400, wanted), "{token}");
        }
        let good =
            Continue::decode(&token(r#"{"v":"meta.k8s.io/v1","rv":-1,"start":"/a/b"}"#), b"/registry/pods/");
        assert_eq!(good.unwrap(), Continue { revision: -1, start: b"/registry/pods/a/b".to_vec() });
    }

    #[test]
    fn any_token_is_read_or_refused_and_stays_below_its_scope() {
        let seeds: [&[u8]; 3] = [
            br#"{"v":"meta.k8s.io/v1","rv":12,"start":"web-0\u0000"}"#,
            br#"{"v":"meta.k8s.io/v1","rv":-1,"start":"../../secrets"}"#,
            b"eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6MSwic3RhcnQiOiJhIn0",
        ];
        knarr_meta::fuzzing::drive(&seeds, 20_000, fuzz);
    }
}
