//! Requests to the places of a repository: each place answers its own challenges and gets its own credentials, busy ones
//! are asked again, and what one does not have or cannot give is asked of the next.

use super::auth::{Auth, Challenge};
use super::config::Place;
use super::http::{Ask, Failure, Http, Kind, is_loopback};
use crate::error::PullFailure;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use hyper::body::Incoming;
use knarr_base::Backoff;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, UNIX_EPOCH};

/// Attempts at one request of one place.
const MOST_ATTEMPTS: usize = 5;
const FIRST_WAIT: Duration = Duration::from_millis(250);
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// A registry that wants to be left alone for longer is not waited for here: the kubelet's back-off does that.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(30);

pub(super) struct Endpoint {
    place: Place,
    auth: Auth,
    authorization: Mutex<Option<HeaderValue>>,
    /// It could not be reached: not asked again by this pull, unless it is the last.
    down: AtomicBool,
    /// This machine's registry without TLS.
    plain: AtomicBool,
}

/// A repository, wherever it can be had.
pub(super) struct Repository<'a> {
    pub(super) http: Http<'a>,
    pub(super) endpoints: Vec<Endpoint>,
    /// The registry that the image names, which a mirror is told.
    pub(super) domain: String,
    /// The normalized reference, for messages.
    pub(super) reference: String,
}

impl Endpoint {
    pub(super) fn new(place: Place, auth: Auth) -> Self {
        let ready = (!auth.registry_token.is_empty()).then(|| bearer(&auth.registry_token)).flatten();
        Self {
            place,
            auth,
            authorization: Mutex::new(ready),
            down: AtomicBool::new(false),
            plain: AtomicBool::new(false),
        }
    }

    fn url(&self, path: &str, domain: &str) -> String {
        let Place { base, path: repository, mirror, .. } = &self.place;
        let base = match base.strip_prefix("https://") {
            Some(rest) if self.plain.load(Ordering::Relaxed) => format!("http://{rest}"),
            _ => base.clone(),
        };
        // A mirror of several registries is told which one is meant, as containerd does.
        let namespace = if *mirror { format!("?ns={domain}") } else { String::new() };
        format!("{base}/{repository}/{path}{namespace}")
    }

    fn authorize(&self, value: Option<HeaderValue>) {
        *self.authorization.lock().expect("never poisoned") = value;
    }
}

impl Repository<'_> {
    /// GET under the repository, from the first place that has it.
    pub(super) async fn get(
        &self,
        path: &str,
        headers: &HeaderMap,
    ) -> Result<Response<Incoming>, PullFailure> {
        let mut first: Option<PullFailure> = None;
        let last = self.endpoints.len().saturating_sub(1);
        for (at, endpoint) in self.endpoints.iter().enumerate() {
            if at < last && endpoint.down.load(Ordering::Relaxed) {
                continue;
            }
            match self.ask(endpoint, path, headers).await {
                Ok(response) => return Ok(response),
                Err(failure) => {
                    if at < last {
                        tracing::info!(%failure, mirror = endpoint.place.host, "a registry mirror does not serve");
                    }
                    if matches!(failure, PullFailure::Request { .. }) {
                        endpoint.down.store(true, Ordering::Relaxed);
                    }
                    // What a place said counts for more than that one could not be asked.
                    first = match first {
                        Some(before) if matches!(failure, PullFailure::Request { .. }) => Some(before),
                        _ => Some(failure),
                    };
                }
            }
        }
        Err(first.unwrap_or_else(|| PullFailure::NotFound(self.reference.clone())))
    }

    async fn ask(
        &self,
        endpoint: &Endpoint,
        path: &str,
        headers: &HeaderMap,
    ) -> Result<Response<Incoming>, PullFailure> {
        let mut backoff = Backoff::new(FIRST_WAIT, 2.0, LONGEST_WAIT);
        let mut challenged = false;
        let mut attempt = 0;
        loop {
            attempt += 1;
            let url = endpoint.url(path, &self.domain);
            let mut headers = headers.clone();
            if let Some(value) = endpoint.authorization.lock().expect("never poisoned").clone() {
                headers.insert(header::AUTHORIZATION, value);
            }
            let response = match self.http.send(Ask::get(&url), &headers).await {
                Ok(response) => response,
                Err(failure) if failure.kind == Kind::Broken && attempt < MOST_ATTEMPTS => {
                    self.http.ctx.clock.sleep(backoff.step()).await;
                    continue;
                }
                Err(failure)
                    if failure.kind == Kind::Tls
                        && is_loopback(&endpoint.place.host)
                        && self.http.registries.tls(&endpoint.place.host).is_none()
                        && !endpoint.plain.swap(true, Ordering::Relaxed) =>
                {
                    continue;
                }
                Err(failure) => return Err(self.request_failed(failure)),
            };
            match response.status() {
                StatusCode::UNAUTHORIZED if !challenged => {
                    challenged = true;
                    self.answer_challenge(endpoint, &response).await?;
                }
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                    let detail = self.server_message(response, "authorization failed").await;
                    return Err(PullFailure::Denied { reference: self.reference.clone(), detail });
                }
                StatusCode::NOT_FOUND => return Err(PullFailure::NotFound(self.reference.clone())),
                status if status.is_success() => return Ok(response),
                status => {
                    let wait = self.wait(&response, &mut backoff);
                    if let (true, Some(wait)) = (attempt < MOST_ATTEMPTS, wait) {
                        self.http.ctx.clock.sleep(wait).await;
                        continue;
                    }
                    return Err(PullFailure::Status {
                        reference: self.reference.clone(),
                        request: format!("GET request to {url}"),
                        status: status.to_string(),
                    });
                }
            }
        }
    }

    /// How long to wait before asking a busy registry again; `None` when asking again is no use.
    fn wait(&self, response: &Response<Incoming>, backoff: &mut Backoff) -> Option<Duration> {
        let status = response.status();
        if !(status.is_server_error()
            || matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT))
        {
            return None;
        }
        let own = backoff.step();
        let asked = response.headers().get(header::RETRY_AFTER).and_then(|v| v.to_str().ok());
        match asked.and_then(|text| retry_after(text, self.unix_seconds())) {
            Some(asked) if asked > LONGEST_RETRY_AFTER => None,
            Some(asked) => Some(asked.max(own)),
            None => Some(own),
        }
    }

    fn unix_seconds(&self) -> u64 {
        self.http.ctx.clock.now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
    }

    pub(super) fn request_failed(&self, failure: Failure) -> PullFailure {
        PullFailure::Request { reference: self.reference.clone(), detail: failure.text }
    }

    async fn answer_challenge(
        &self,
        endpoint: &Endpoint,
        response: &Response<Incoming>,
    ) -> Result<(), PullFailure> {
        let denied = |detail: &str| PullFailure::Denied {
            reference: self.reference.clone(),
            detail: detail.to_owned(),
        };
        let challenges = response.headers().get_all(header::WWW_AUTHENTICATE);
        for challenge in challenges.iter().filter_map(|c| c.to_str().ok()).map(Challenge::parse) {
            match challenge.scheme.as_str() {
                "basic" => {
                    let basic = endpoint.auth.basic().and_then(|b| sensitive(&b));
                    let basic =
                        basic.ok_or_else(|| denied("authorization failed: no basic auth credentials"))?;
                    endpoint.authorize(Some(basic));
                    return Ok(());
                }
                "bearer" => {
                    let Some(url) = challenge.token_url(&endpoint.place.path) else { continue };
                    let token = self.token(endpoint, &challenge, &url).await.map_err(|e| match e {
                        Ok(failure) => self.request_failed(failure),
                        Err(detail) => denied(&detail),
                    })?;
                    endpoint.authorize(bearer(&token));
                    return Ok(());
                }
                _ => {}
            }
        }
        Err(denied("authorization failed"))
    }

    /// A token of the registry's token service. An error is a failed request, or a refusal's text.
    async fn token(
        &self,
        endpoint: &Endpoint,
        challenge: &Challenge,
        url: &str,
    ) -> Result<String, Result<Failure, String>> {
        let mut headers = HeaderMap::new();
        let realm = challenge.get("realm").unwrap_or_default();
        let refresh = &endpoint.auth.identity_token;
        let form = (!refresh.is_empty()).then(|| challenge.refresh_form(&endpoint.place.path, refresh));
        let ask = match &form {
            Some(form) => {
                let kind = HeaderValue::from_static("application/x-www-form-urlencoded");
                headers.insert(header::CONTENT_TYPE, kind);
                Ask { method: &Method::POST, url: realm, form: Some(form) }
            }
            None => {
                if let Some(basic) = endpoint.auth.basic().and_then(|b| sensitive(&b)) {
                    headers.insert(header::AUTHORIZATION, basic);
                }
                Ask::get(url)
            }
        };
        let answer = self.http.send(ask, &headers).await.map_err(Ok)?;
        let status = answer.status();
        if !status.is_success() {
            return Err(Err(format!(
                "failed to authorize: failed to fetch oauth token: unexpected status from {} request to {}: {status}",
                ask.method, ask.url
            )));
        }
        let body = self.http.body(answer, 1 << 20).await.map_err(Ok)?;
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
        let token = body["token"].as_str().or_else(|| body["access_token"].as_str());
        token
            .map(str::to_owned)
            .ok_or_else(|| Err("authorization server did not include a token in the response".to_owned()))
    }

    /// The registry's own words about a refusal.
    async fn server_message(&self, response: Response<Incoming>, fallback: &str) -> String {
        let scope = response
            .headers()
            .get(header::WWW_AUTHENTICATE)
            .and_then(|c| c.to_str().ok())
            .map(Challenge::parse)
            .and_then(|c| c.get("error").map(str::to_owned));
        match scope {
            Some(error) => format!("server message: {error}: {fallback}"),
            None => {
                let body = self.http.body(response, 1 << 20).await.unwrap_or_default();
                let body: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
                match body["errors"][0]["message"].as_str() {
                    Some(message) => format!("server message: {message}: {fallback}"),
                    None => fallback.to_owned(),
                }
            }
        }
    }
}

fn bearer(token: &str) -> Option<HeaderValue> {
    sensitive(&format!("Bearer {token}"))
}

fn sensitive(value: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(value).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// `Retry-After` (RFC 9110, 10.2.3): seconds, or a date.
fn retry_after(text: &str, now_unix_seconds: u64) -> Option<Duration> {
    let text = text.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    // `Fri, 31 Dec 1999 23:59:59 GMT`, the one form that is still made.
    let mut words = text.split([' ', ':']).skip(1);
    let day: i64 = words.next()?.parse().ok()?;
    let month = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let name = words.next()?;
    let month = month.iter().position(|m| *m == name)? as i64 + 1;
    let mut number = || words.next()?.parse::<i64>().ok();
    let (year, hour, minute, second) = (number()?, number()?, number()?, number()?);
    // Days since 1970 of a date of the Gregorian calendar, years counted from March.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1 - 719_468;
    let then = ((days * 24 + hour) * 60 + minute) * 60 + second;
    Some(Duration::from_secs(u64::try_from(then).ok()?.saturating_sub(now_unix_seconds)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registries_say_when_to_come_back_in_seconds_or_by_a_date() {
        for (text, now, seconds) in [
            ("7", 0, Some(7)),
            ("Thu, 01 Jan 1970 00:00:09 GMT", 2, Some(7)),
            ("Tue, 29 Feb 2000 12:00:00 GMT", 951_825_590, Some(10)),
            ("Fri, 31 Dec 1999 23:59:59 GMT", 951_825_590, Some(0)),
            ("soon", 0, None),
            ("Fri, 31 Foo 1999 23:59:59 GMT", 0, None),
        ] {
            assert_eq!(retry_after(text, now), seconds.map(Duration::from_secs), "{text}");
        }
    }
}
