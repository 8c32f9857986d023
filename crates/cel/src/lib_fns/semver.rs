//! Semantic versions (semver.org 2.0.0): the library `semver` (KEP-4381).

use super::opaque::Opaque;
use super::{Args, Outcome, no_overload, text};
use crate::error::EvalError;
use crate::value::Value;
use knarr_meta::go::quote;
use std::cmp::Ordering;
use std::fmt;

/// A version.
#[derive(Clone, Debug)]
pub(crate) struct Semver {
    major: u64,
    minor: u64,
    patch: u64,
    pre: Vec<Pre>,
    build: Vec<String>,
}

/// An identifier of a pre-release.
#[derive(Clone, Debug, PartialEq)]
enum Pre {
    Number(u64),
    Text(String),
}

impl Semver {
    pub fn parse(raw: &str) -> Result<Self, String> {
        if raw.is_empty() {
            return Err("Version string empty".to_owned());
        }
        let parts: Vec<&str> = raw.splitn(3, '.').collect();
        let [major, minor, rest] = parts[..] else {
            return Err("No Major.Minor.Patch elements found".to_owned());
        };
        let major = number(major, "major")?;
        let minor = number(minor, "minor")?;
        let (rest, build) = match rest.split_once('+') {
            Some((rest, build)) => (rest, Some(build)),
            None => (rest, None),
        };
        let (patch, pre) = match rest.split_once('-') {
            Some((patch, pre)) => (patch, Some(pre)),
            None => (rest, None),
        };
        let patch = number(patch, "patch")?;
        let mut version = Self { major, minor, patch, pre: Vec::new(), build: Vec::new() };
        let allowed = |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        for identifier in pre.into_iter().flat_map(|pre| pre.split('.')) {
            if identifier.is_empty() {
                return Err("Prerelease is empty".to_owned());
            }
            version.pre.push(if identifier.bytes().all(|b| b.is_ascii_digit()) {
                if identifier.len() > 1 && identifier.starts_with('0') {
                    let quoted = quote(identifier);
                    return Err(format!(
                        "Numeric PreRelease version must not contain leading zeroes {quoted}"
                    ));
                }
                Pre::Number(parse_u64(identifier)?)
            } else if allowed(identifier) {
                Pre::Text(identifier.to_owned())
            } else {
                return Err(format!("Invalid character(s) found in prerelease {}", quote(identifier)));
            });
        }
        for identifier in build.into_iter().flat_map(|build| build.split('.')) {
            if identifier.is_empty() {
                return Err("Build meta data is empty".to_owned());
            }
            if !allowed(identifier) {
                return Err(format!("Invalid character(s) found in build meta data {}", quote(identifier)));
            }
            version.build.push(identifier.to_owned());
        }
        Ok(version)
    }

    /// Takes a leading `v`, leading zeros and missing parts.
    fn parse_tolerant(raw: &str) -> Result<Self, String> {
        let raw = raw.strip_prefix('v').unwrap_or(raw);
        let mut parts: Vec<String> = raw.splitn(3, '.').map(str::to_owned).collect();
        for part in &mut parts {
            if part.len() > 1 {
                let trimmed = part.trim_start_matches('0');
                let digit = trimmed.starts_with(|c: char| c.is_ascii_digit());
                *part = if digit { trimmed.to_owned() } else { format!("0{trimmed}") };
            }
        }
        if parts.len() < 3 && parts.last().is_some_and(|last| last.contains(['+', '-'])) {
            return Err("short version cannot contain PreRelease/Build meta data".to_owned());
        }
        while parts.len() < 3 {
            parts.push("0".to_owned());
        }
        Self::parse(&parts.join("."))
    }

    /// The order of versions; build data does not count.
    pub fn compare(&self, other: &Self) -> Ordering {
        let numbers = (self.major, self.minor, self.patch).cmp(&(other.major, other.minor, other.patch));
        numbers.then_with(|| match (self.pre.is_empty(), other.pre.is_empty()) {
            (true, true) => Ordering::Equal,
            (true, false) => Ordering::Greater,
            (false, true) => Ordering::Less,
            (false, false) => {
                let pairs = self.pre.iter().zip(&other.pre).map(|pair| match pair {
                    (Pre::Number(a), Pre::Number(b)) => a.cmp(b),
                    (Pre::Number(_), Pre::Text(_)) => Ordering::Less,
                    (Pre::Text(_), Pre::Number(_)) => Ordering::Greater,
                    (Pre::Text(a), Pre::Text(b)) => a.cmp(b),
                });
                pairs.fold(Ordering::Equal, Ordering::then).then(self.pre.len().cmp(&other.pre.len()))
            }
        })
    }
}

impl fmt::Display for Semver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)?;
        for (index, pre) in self.pre.iter().enumerate() {
            f.write_str(if index == 0 { "-" } else { "." })?;
            match pre {
                Pre::Number(number) => write!(f, "{number}")?,
                Pre::Text(text) => f.write_str(text)?,
            }
        }
        for (index, build) in self.build.iter().enumerate() {
            write!(f, "{}{build}", if index == 0 { '+' } else { '.' })?;
        }
        Ok(())
    }
}

fn number(raw: &str, what: &str) -> Result<u64, String> {
    if !raw.bytes().all(|b| b.is_ascii_digit()) {
        return Err(format!("Invalid character(s) found in {what} number {}", quote(raw)));
    }
    if raw.len() > 1 && raw.starts_with('0') {
        let what = what[..1].to_uppercase() + &what[1..];
        return Err(format!("{what} number must not contain leading zeroes {}", quote(raw)));
    }
    parse_u64(raw)
}

fn parse_u64(raw: &str) -> Result<u64, String> {
    raw.parse().map_err(|_| {
        let why = if raw.is_empty() { "invalid syntax" } else { "value out of range" };
        format!("strconv.ParseUint: parsing {}: {why}", quote(raw))
    })
}

fn read(args: &[Value<'_>]) -> Result<Result<Semver, String>, EvalError> {
    let raw = text(&args[0])?;
    Ok(match args.get(1) {
        None | Some(Value::Bool(false)) => Semver::parse(raw),
        Some(Value::Bool(true)) => Semver::parse_tolerant(raw),
        Some(_) => return Err(no_overload()),
    })
}

pub(super) fn semver<'a>(args: Args<'_, 'a>) -> Outcome<'a> {
    read(args)?.map(|version| Value::opaque(Opaque::Semver(version))).map_err(EvalError::new)
}

pub(super) fn is_semver<'a>(args: Args<'_, 'a>) -> Outcome<'a> {
    Ok(Value::Bool(read(args)?.is_ok()))
}

/// The version of a value, if it is one.
pub(super) fn version<'v>(value: &'v Value<'_>) -> Option<&'v Semver> {
    match value {
        Value::Opaque(opaque) => match &opaque.0 {
            Opaque::Semver(version) => Some(version),
            _ => None,
        },
        _ => None,
    }
}

pub(super) fn major<'a>(args: Args<'_, 'a>) -> Outcome<'a> {
    version(&args[0]).map(|version| Value::Int(version.major as i64)).ok_or_else(no_overload)
}

pub(super) fn minor<'a>(args: Args<'_, 'a>) -> Outcome<'a> {
    version(&args[0]).map(|version| Value::Int(version.minor as i64)).ok_or_else(no_overload)
}

pub(super) fn patch<'a>(args: Args<'_, 'a>) -> Outcome<'a> {
    version(&args[0]).map(|version| Value::Int(version.patch as i64)).ok_or_else(no_overload)
}
