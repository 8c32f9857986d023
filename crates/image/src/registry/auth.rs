//! How a registry is convinced: `WWW-Authenticate` challenges (RFC 9110, 11) and Docker's token protocol.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// Credentials for one registry. Never printed.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Auth {
    /// User name.
    pub username: String,
    /// Password or access token.
    pub password: String,
    /// A ready bearer token that the registry takes as it is.
    pub registry_token: String,
    /// A refresh token that the registry's token service takes in place of a password.
    pub identity_token: String,
}

impl std::fmt::Debug for Auth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Auth").field("username", &self.username).finish_non_exhaustive()
    }
}

impl Auth {
    /// The value of an `Authorization: Basic` header; `None` without a user.
    pub(super) fn basic(&self) -> Option<String> {
        if self.username.is_empty() && self.password.is_empty() {
            return None;
        }
        Some(format!("Basic {}", STANDARD.encode(format!("{}:{}", self.username, self.password))))
    }
}

/// A challenge: its scheme in lower case and its parameters.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Challenge {
    pub(super) scheme: String,
    params: Vec<(String, String)>,
}

impl Challenge {
    pub(super) fn parse(header: &str) -> Self {
        let (scheme, mut rest) = header.trim().split_once(' ').unwrap_or((header.trim(), ""));
        let mut params = Vec::new();
        while let Some((name, after)) = rest.split_once('=') {
            let name = name.trim_matches([' ', ',']).to_lowercase();
            let (value, after) = match after.strip_prefix('"') {
                Some(quoted) => quoted.split_once('"').unwrap_or((quoted, "")),
                None => after.split_once(',').unwrap_or((after, "")),
            };
            params.push((name, value.trim().to_owned()));
            rest = after;
        }
        Self { scheme: scheme.to_lowercase(), params }
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.params.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// Where to fetch a token for pulling from `repository`; `None` without a usable realm.
    pub(super) fn token_url(&self, repository: &str) -> Option<String> {
        let realm = self.get("realm")?;
        let joint = if realm.contains('?') { '&' } else { '?' };
        Some(format!("{realm}{joint}{}", self.token_query(repository)))
    }

    /// The form that exchanges a refresh token (OAuth 2.0, RFC 6749, section 6, as Docker's registries take it).
    pub(super) fn refresh_form(&self, repository: &str, token: &str) -> String {
        let query = self.token_query(repository);
        format!("grant_type=refresh_token&client_id=knarr&refresh_token={}&{query}", escaped(token))
    }

    fn token_query(&self, repository: &str) -> String {
        let scope = format!("repository:{repository}:pull");
        let scope = self.get("scope").filter(|s| !s.is_empty()).unwrap_or(&scope);
        match self.get("service") {
            Some(service) => format!("service={}&scope={}", escaped(service), escaped(scope)),
            None => format!("scope={}", escaped(scope)),
        }
    }
}

fn escaped(value: &str) -> String {
    let mut text = String::new();
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            text.push(byte as char);
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_read_with_quotes_and_commas_inside() {
        let challenge = Challenge::parse(
            r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull,push", error="invalid_token""#,
        );
        assert_eq!(challenge.scheme, "bearer");
        assert_eq!(challenge.get("scope"), Some("repository:a/b:pull,push"));
        assert_eq!(challenge.get("error"), Some("invalid_token"));
        assert_eq!(
            challenge.token_url("x").unwrap(),
            "https://auth.docker.io/token?service=registry.docker.io&scope=repository%3Aa%2Fb%3Apull%2Cpush"
        );
        assert_eq!(Challenge::parse("Basic realm=x").scheme, "basic");
        assert_eq!(Challenge::parse("Bearer").token_url("x"), None);
    }

    #[test]
    fn secrets_are_not_printed() {
        let auth = Auth {
            username: "u".into(),
            password: "hidden".into(),
            registry_token: "hidden".into(),
            identity_token: "hidden".into(),
        };
        assert!(!format!("{auth:?}").contains("hidden"));
        assert_eq!(auth.basic().unwrap(), "Basic dTpoaWRkZW4=");
        assert_eq!(Auth::default().basic(), None);
    }
}
