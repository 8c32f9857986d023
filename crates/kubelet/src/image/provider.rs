//! Credential providers (KEP-2133, the kubelet-credential-provider page): programs of the node that give credentials for
//! images, as registries of clouds want them. Which there are stands in a CredentialProviderConfig; what they say is kept for
//! as long as they say. Service account tokens for them (KEP-4412, `tokenAttributes`) are refused.

use super::keyring::{Keyring, fits};
use crate::util::parse_go_duration;
use knarr_base::ClockRef;
use knarr_base::clock::timeout;
use knarr_image::Auth;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::Deserialize;
use serde_json::json;
use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// A program has to answer by then.
const LIMIT: Duration = Duration::from_secs(60);
const VERSIONS: [&str; 3] = [
    "credentialprovider.kubelet.k8s.io/v1",
    "credentialprovider.kubelet.k8s.io/v1beta1",
    "credentialprovider.kubelet.k8s.io/v1alpha1",
];
/// Where credentials are kept that are for every image; no image is called so.
const GLOBAL: &str = "<global>";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    kind: String,
    api_version: String,
    #[serde(default)]
    providers: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Entry {
    #[serde(default)]
    name: String,
    #[serde(default)]
    match_images: Vec<String>,
    default_cache_duration: Option<String>,
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    args: Vec<String>,
    #[serde(default)]
    env: Vec<Variable>,
    token_attributes: Option<serde_json::Value>,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Variable {
    name: String,
    value: String,
}

/// What a program answers.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Response {
    kind: String,
    api_version: String,
    cache_key_type: String,
    cache_duration: Option<String>,
    #[serde(default)]
    auth: BTreeMap<String, Words>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Words {
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
}

/// Credentials by what they are for.
type Found = Vec<(String, Auth)>;

struct Provider {
    name: String,
    program: PathBuf,
    api_version: String,
    match_images: Vec<String>,
    default_cache: Duration,
    args: Vec<String>,
    env: Vec<Variable>,
    /// By image, registry or [`GLOBAL`], with the time at which they are too old.
    kept: Mutex<HashMap<String, (Instant, Found)>>,
    /// One call at a time: those who wait mostly find what they need once it is over.
    calling: tokio::sync::Mutex<()>,
}

/// The credential providers of a node; none by default.
#[derive(Default)]
pub struct CredentialProviders(Vec<Provider>);

impl std::fmt::Debug for CredentialProviders {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.iter().map(|provider| &provider.name)).finish()
    }
}

impl CredentialProviders {
    /// Reads a CredentialProviderConfig (kubelet.config.k8s.io/v1, YAML or JSON), whose programs are in `bin_dir`. All
    /// mistakes are told at once.
    pub fn read(config: &Path, bin_dir: &Path) -> Result<Self, String> {
        let text =
            std::fs::read_to_string(config).map_err(|e| format!("cannot read {}: {e}", config.display()))?;
        let file: File = serde_saphyr::from_str(&text).map_err(|e| format!("{}: {e}", config.display()))?;
        if file.kind != "CredentialProviderConfig"
            || !file.api_version.starts_with("kubelet.config.k8s.io/v1")
        {
            return Err(format!(
                "{}: {} of {} is no CredentialProviderConfig of kubelet.config.k8s.io/v1",
                config.display(),
                file.kind,
                file.api_version
            ));
        }
        let mut wrong = Vec::new();
        if file.providers.is_empty() {
            wrong.push("providers: Required value: at least 1 item in plugins is required".to_owned());
        }
        let mut all: Vec<Provider> = Vec::new();
        for entry in file.providers {
            let program = bin_dir.join(&entry.name);
            let mut note = |field: &str, problem: String| wrong.push(format!("providers.{field}: {problem}"));
            let bad_name = |why: &str| format!("Invalid value: {:?}: provider name cannot {why}", entry.name);
            match &*entry.name {
                name if name.contains('/') => note("name", bad_name("contain '/'")),
                name if name.contains(' ') => note("name", bad_name("contain spaces")),
                "." | ".." => note("name", bad_name(&format!("be '{}'", entry.name))),
                name if all.iter().any(|other| other.name == name) => {
                    note("name", format!("Duplicate value: {name:?}"));
                }
                name if name.is_empty() || !program.is_file() => {
                    note("name", format!("plugin binary executable {} did not exist", program.display()));
                }
                _ => {}
            }
            if !VERSIONS.contains(&&*entry.api_version) {
                note(
                    "apiVersion",
                    format!(
                        "Unsupported value: {:?}: supported values: {}",
                        entry.api_version,
                        VERSIONS.join(", ")
                    ),
                );
            }
            if entry.match_images.is_empty() {
                note("matchImages", "Required value: at least 1 item in matchImages is required".to_owned());
            }
            let default_cache = match entry.default_cache_duration.as_deref().map(parse_go_duration) {
                Some(Some(duration)) => duration,
                Some(None) => {
                    note(
                        "defaultCacheDuration",
                        "Invalid value: must be greater than or equal to 0".to_owned(),
                    );
                    Duration::ZERO
                }
                None => {
                    note("defaultCacheDuration", "Required value".to_owned());
                    Duration::ZERO
                }
            };
            if entry.token_attributes.is_some() {
                note(
                    "tokenAttributes",
                    "Forbidden: service account tokens are not given to plugins here".to_owned(),
                );
            }
            all.push(Provider {
                name: entry.name,
                program,
                api_version: entry.api_version,
                match_images: entry.match_images,
                default_cache,
                args: entry.args,
                env: entry.env,
                kept: Mutex::default(),
                calling: tokio::sync::Mutex::default(),
            });
        }
        if wrong.is_empty() { Ok(Self(all)) } else { Err(wrong.join("\n")) }
    }

    /// Credentials for a repository of a registry, the most specific first. What a provider cannot give is missing, and
    /// the log says why.
    pub(super) async fn lookup(&self, clock: &ClockRef, domain: &str, path: &str) -> Vec<Auth> {
        let image = format!("{domain}/{path}");
        let mut keyring = Keyring::default();
        for provider in self.0.iter().filter(|p| p.match_images.iter().any(|pattern| fits(pattern, &image))) {
            match provider.provide(clock, &image).await {
                Ok(found) => {
                    found.into_iter().for_each(|(location, auth)| keyring.insert(&location, None, auth))
                }
                Err(error) => {
                    tracing::error!(provider = provider.name, image, error, "no credentials from a provider");
                }
            }
        }
        keyring.lookup(domain, path).into_iter().map(|(_, auth)| auth).collect()
    }
}

impl Provider {
    fn kept(&self, image: &str, now: Instant) -> Option<Found> {
        let mut kept = self.kept.lock().expect("no holder of credentials panics");
        kept.retain(|_, (until, _)| now < *until);
        [image, registry(image), GLOBAL].iter().find_map(|key| Some(kept.get(*key)?.1.clone()))
    }

    async fn provide(&self, clock: &ClockRef, image: &str) -> Result<Found, String> {
        let _one = self.calling.lock().await;
        if let Some(found) = self.kept(image, clock.instant()) {
            return Ok(found);
        }
        let response = self.call(clock, image).await?;
        let key = match &*response.cache_key_type {
            "Image" => image,
            "Registry" => registry(image),
            "Global" => GLOBAL,
            other => {
                return Err(format!(
                    "credential provider plugin did not return a valid cacheKeyType: {other}"
                ));
            }
        };
        let found: Found = response
            .auth
            .into_iter()
            .map(|(location, Words { username, password })| {
                (location, Auth { username, password, ..Auth::default() })
            })
            .collect();
        let keep = match response.cache_duration.as_deref() {
            None => self.default_cache,
            Some(text) => {
                parse_go_duration(text).ok_or_else(|| format!("cacheDuration {text:?} is no duration"))?
            }
        };
        if !keep.is_zero() {
            let until = clock.instant() + keep;
            let mut kept = self.kept.lock().expect("no holder of credentials panics");
            kept.insert(key.to_owned(), (until, found.clone()));
        }
        Ok(found)
    }

    /// Asks the program.
    async fn call(&self, clock: &ClockRef, image: &str) -> Result<Response, String> {
        let failed = |why: String| {
            format!("error execing credential provider plugin {} for image {image}: {why}", self.name)
        };
        let request = json!({
            "kind": "CredentialProviderRequest", "apiVersion": self.api_version, "image": image,
        });
        let mut child = Command::new(&self.program)
            .args(&self.args)
            .envs(self.env.iter().map(|v| (&v.name, &v.value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|e| failed(e.to_string()))?;
        let process = pidfd_open(Pid::from_child(&child), PidfdFlags::empty());
        let work = tokio::task::spawn_blocking(move || -> std::io::Result<Output> {
            if let Some(mut stdin) = child.stdin.take() {
                // A program that does not want to hear it may answer all the same.
                let _ = stdin.write_all(request.to_string().as_bytes());
            }
            child.wait_with_output()
        });
        let Some(ended) = timeout(&**clock, LIMIT, work).await else {
            if let Ok(process) = process {
                let _ = pidfd_send_signal(process, Signal::KILL);
            }
            return Err(failed(format!("no answer within {} s", LIMIT.as_secs())));
        };
        let output = ended.map_err(|e| failed(e.to_string()))?.map_err(|e| failed(e.to_string()))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(failed(format!("{}: {}", output.status, said.trim())));
        }
        let response: Response = serde_json::from_slice(&output.stdout)
            .map_err(|e| format!("error decoding credential provider plugin response from stdout: {e}"))?;
        if (&*response.kind, &response.api_version) != ("CredentialProviderResponse", &self.api_version) {
            return Err(format!(
                "apiVersion from credential plugin response did not match expected apiVersion:{}, actual apiVersion:{}",
                self.api_version, response.api_version
            ));
        }
        Ok(response)
    }
}

/// The registry of an image.
fn registry(image: &str) -> &str {
    image.split('/').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use knarr_base::ManualClock;
    use std::os::unix::fs::PermissionsExt;
    use std::sync::Arc;
    use std::time::SystemTime;

    fn program(dir: &Path, name: &str, script: &str) {
        let path = dir.join(name);
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn read(dir: &Path, providers: &str) -> Result<CredentialProviders, String> {
        let file = dir.join("config.yaml");
        let head = "kind: CredentialProviderConfig\napiVersion: kubelet.config.k8s.io/v1\nproviders:\n";
        std::fs::write(&file, format!("{head}{providers}")).unwrap();
        CredentialProviders::read(&file, dir)
    }

    /// Answers with its argument as type of the key, and notes each request.
    const ANSWERS: &str = r#"cat >> "$(dirname "$0")/asked"; echo >> "$(dirname "$0")/asked"
printf '{"kind":"CredentialProviderResponse","apiVersion":"credentialprovider.kubelet.k8s.io/v1","cacheKeyType":"%s"%s,"auth":{"%s":{"username":"%s","password":"p"}}}' "$1" "$2" "$3" "$USER_NAME""#;

    #[tokio::test(flavor = "multi_thread")]
    async fn what_a_program_says_is_kept_for_what_and_as_long_as_it_says() {
        // (type of the key, in the answer, images asked for with the second at which, how often the program ran)
        type Case<'a> = (&'a str, &'a str, &'a [(&'a str, u64)], usize);
        let cases: [Case<'_>; 6] = [
            ("Image", "", &[("r.example/a", 0), ("r.example/a", 1), ("r.example/b", 1)], 2),
            ("Registry", "", &[("r.example/a", 0), ("r.example/b", 1), ("x.example/a", 1)], 2),
            ("Global", "", &[("r.example/a", 0), ("r.example/b", 1), ("x.example/a", 1)], 1),
            // Ten seconds are the default here.
            ("Global", "", &[("r.example/a", 0), ("r.example/a", 9), ("r.example/a", 11)], 2),
            (
                "Global",
                r#","cacheDuration":"1m0s""#,
                &[("r.example/a", 0), ("r.example/a", 59), ("r.example/a", 61)],
                2,
            ),
            ("Global", r#","cacheDuration":"0s""#, &[("r.example/a", 0), ("r.example/a", 0)], 2),
        ];
        for (kind, more, asked, runs) in cases {
            let dir = tempfile::tempdir().unwrap();
            program(dir.path(), "answers", ANSWERS);
            let args = serde_json::to_string(&[kind, more, "*.example"]).unwrap();
            let providers = read(
                dir.path(),
                &format!("- {{name: answers, apiVersion: credentialprovider.kubelet.k8s.io/v1, matchImages: ['*.example'], defaultCacheDuration: 10s, args: {args}, env: [{{name: USER_NAME, value: me}}]}}\n"),
            )
            .unwrap();
            let manual = ManualClock::at(SystemTime::UNIX_EPOCH);
            let clock: ClockRef = manual.clone();
            let mut now = 0;
            for (image, second) in asked {
                manual.advance(Duration::from_secs(second - now));
                now = *second;
                let (domain, path) = image.split_once('/').unwrap();
                let found = providers.lookup(&clock, domain, path).await;
                let users: Vec<_> = found.iter().map(|auth| (&*auth.username, &*auth.password)).collect();
                assert_eq!(users, [("me", "p")], "{kind} {image}");
            }
            let requests = std::fs::read_to_string(dir.path().join("asked")).unwrap();
            assert_eq!(requests.lines().count(), runs, "{kind}{more}: {requests}");
            let first: serde_json::Value = serde_json::from_str(requests.lines().next().unwrap()).unwrap();
            assert_eq!(
                first,
                json!({ "kind": "CredentialProviderRequest", "apiVersion": VERSIONS[0], "image": "r.example/a" })
            );
            // An image that it is not for is not asked about.
            assert!(providers.lookup(&clock, "docker.io", "library/a").await.is_empty());
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_program_that_fails_gives_nothing() {
        let other = r#"echo '{"kind":"CredentialProviderResponse","apiVersion":"credentialprovider.kubelet.k8s.io/v1beta1","cacheKeyType":"Image"}'"#;
        let odd = r#"echo '{"kind":"CredentialProviderResponse","apiVersion":"credentialprovider.kubelet.k8s.io/v1","cacheKeyType":"Odd"}'"#;
        for (script, words) in [
            ("echo sorry >&2; exit 3", "exit status: 3: sorry"),
            ("echo nonsense", "error decoding credential provider plugin response"),
            (other, "did not match expected apiVersion"),
            (odd, "valid cacheKeyType: Odd"),
        ] {
            let dir = tempfile::tempdir().unwrap();
            program(dir.path(), "fails", script);
            let providers = read(dir.path(), "- {name: fails, apiVersion: credentialprovider.kubelet.k8s.io/v1, matchImages: [r.example], defaultCacheDuration: 10s}\n").unwrap();
            let clock: ClockRef = Arc::new(knarr_base::SystemClock::new());
            assert!(providers.lookup(&clock, "r.example", "a").await.is_empty());
            let why = providers.0[0].provide(&clock, "r.example/a").await.unwrap_err();
            assert!(why.contains(words), "{why}");
        }
    }

    #[test]
    fn all_mistakes_of_the_configuration_are_told() {
        let dir = tempfile::tempdir().unwrap();
        program(dir.path(), "there", "true");
        let wrong = read(
            dir.path(),
            "- {name: a/b, apiVersion: v2, matchImages: [], tokenAttributes: {cacheType: Token}}\n- {name: gone, apiVersion: credentialprovider.kubelet.k8s.io/v1, matchImages: [a], defaultCacheDuration: -1s}\n- {name: there, apiVersion: credentialprovider.kubelet.k8s.io/v1, matchImages: [a], defaultCacheDuration: 0s}\n",
        )
        .unwrap_err();
        let gone = dir.path().join("gone");
        assert_eq!(
            wrong.lines().collect::<Vec<_>>(),
            [
                "providers.name: Invalid value: \"a/b\": provider name cannot contain '/'",
                "providers.apiVersion: Unsupported value: \"v2\": supported values: credentialprovider.kubelet.k8s.io/v1, credentialprovider.kubelet.k8s.io/v1beta1, credentialprovider.kubelet.k8s.io/v1alpha1",
                "providers.matchImages: Required value: at least 1 item in matchImages is required",
                "providers.defaultCacheDuration: Required value",
                "providers.tokenAttributes: Forbidden: service account tokens are not given to plugins here",
                &format!("providers.name: plugin binary executable {} did not exist", gone.display()),
                "providers.defaultCacheDuration: Invalid value: must be greater than or equal to 0",
            ]
        );
        let unknown = read(dir.path(), "- {name: there, colour: red}\n").unwrap_err();
        assert!(unknown.contains("colour"), "{unknown}");
    }
}
