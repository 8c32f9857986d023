//! Names that callers give: of pods, containers and signals.

use crate::RuntimeError;

/// Names become file names, so they hold nothing that leads elsewhere.
pub fn check_name(what: &str, name: &str) -> Result<(), RuntimeError> {
    let fine = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if name.is_empty() || name.len() > 128 || name.starts_with('.') || !name.bytes().all(fine) {
        return Err(RuntimeError::Invalid(format!("invalid {what} {name:?}")));
    }
    Ok(())
}

/// The number of a signal given by name (with or without `SIG`) or number.
pub fn signal_number(name: &str) -> Result<i32, RuntimeError> {
    use std::str::FromStr;
    if let Ok(number) = name.parse::<i32>()
        && (1..=64).contains(&number)
    {
        return Ok(number);
    }
    let upper = name.to_ascii_uppercase();
    let full = if upper.starts_with("SIG") { upper } else { format!("SIG{upper}") };
    if let Ok(signal) = nix::sys::signal::Signal::from_str(&full) {
        return Ok(signal as i32);
    }
    // Real-time signals: SIGRTMIN, SIGRTMIN+n, SIGRTMAX-n, SIGRTMAX; the C library keeps 32 and 33.
    let offset = |text: &str, sign: char| match text.strip_prefix(sign) {
        Some(number) => number.parse::<i32>().ok(),
        None if text.is_empty() => Some(0),
        None => None,
    };
    let number = match (full.strip_prefix("SIGRTMIN"), full.strip_prefix("SIGRTMAX")) {
        (Some(rest), _) => offset(rest, '+').map(|n| 34 + n),
        (_, Some(rest)) => offset(rest, '-').map(|n| 64 - n),
        _ => None,
    };
    number
        .filter(|n| (34..=64).contains(n))
        .ok_or_else(|| RuntimeError::Invalid(format!("unknown signal {name:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_known_by_name_and_number() {
        for (name, number) in
            [("SIGTERM", 15), ("term", 15), ("9", 9), ("SIGRTMIN+3", 37), ("RTMAX-1", 63), ("SIGWINCH", 28)]
        {
            assert_eq!(signal_number(name).unwrap(), number, "{name}");
        }
        for name in ["", "SIGNOPE", "0", "65", "SIGRTMIN+99"] {
            assert!(signal_number(name).is_err(), "{name}");
        }
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        assert!(check_name("id", "0ce5a1d8-4c0b-4bd4-95a4-7e1d6a3b2c1d").is_ok());
        for name in ["", "..", "a/b", ".hidden", "a b"] {
            assert!(check_name("id", name).is_err(), "{name}");
        }
    }
}
