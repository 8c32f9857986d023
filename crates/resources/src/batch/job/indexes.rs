//! Sets of indexes as jobs write them: `1,3-5,7`.

/// Parses the set; the error is upstream's text.
pub fn parse(text: &str, completions: i32) -> Result<Vec<(i32, i32)>, String> {
    let mut out: Vec<(i32, i32)> = Vec::new();
    if text.is_empty() {
        return Ok(out);
    }
    for interval in text.split(',') {
        let parts: Vec<&str> = interval.split('-').collect();
        if parts.len() > 2 {
            return Err(format!(
                "the fragment {interval:?} violates the requirement that an index interval can have at most two parts separated by '-'"
            ));
        }
        let index = |part: &str| {
            part.parse::<i32>().map_err(|_| format!("cannot convert string to integer for index: {part:?}"))
        };
        let first = index(parts[0])?;
        if first >= completions {
            return Err(format!("too large index: {:?}", parts[0]));
        }
        let last = match parts.get(1) {
            None => first,
            Some(part) => {
                let last = index(part)?;
                if last >= completions {
                    return Err(format!("too large index: {part:?}"));
                }
                if first >= last {
                    return Err(format!("non-increasing order, previous: {first}, current: {last}"));
                }
                last
            }
        };
        if let Some((_, previous)) = out.last()
            && *previous >= first
        {
            return Err(format!("non-increasing order, previous: {previous}, current: {first}"));
        }
        out.push((first, last));
    }
    Ok(out)
}

/// How many indexes the set has.
pub fn count(intervals: &[(i32, i32)]) -> i64 {
    intervals.iter().map(|(a, b)| i64::from(*b) - i64::from(*a) + 1).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_must_grow_and_stay_below_the_completions() {
        assert_eq!(parse("0,2-4", 5), Ok(vec![(0, 0), (2, 4)]));
        assert_eq!(count(&[(0, 0), (2, 4)]), 4);
        for (text, want) in [
            ("5", "too large index"),
            ("3,2", "non-increasing order, previous: 3, current: 2"),
            ("a", "cannot convert string to integer"),
            ("1-2-3", "at most two parts"),
        ] {
            assert!(parse(text, 5).unwrap_err().contains(want), "{text}");
        }
    }
}
