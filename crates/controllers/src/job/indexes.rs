//! Sets of completion indexes in the compressed form of a Job's status (`1,3-5,7`, KEP-2214).

use std::fmt;

/// Ordered intervals, first and last included, that neither overlap nor touch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Indexes(Vec<(i32, i32)>);

impl Indexes {
    /// Reads the compressed form; parts that are no numbers are left out, and so is what is not below `completions`.
    pub fn parse(text: &str, completions: i32) -> Self {
        let mut intervals = Vec::new();
        for part in text.split(',').filter(|p| !p.is_empty()) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (Ok(first), Ok(last)) = (first.parse::<i32>(), last.parse::<i32>()) else { continue };
            if (0..completions).contains(&first) && first <= last {
                intervals.push((first, last.min(completions - 1)));
            }
        }
        Self::from_intervals(intervals)
    }

    fn from_intervals(mut intervals: Vec<(i32, i32)>) -> Self {
        intervals.sort_unstable();
        let mut merged: Vec<(i32, i32)> = Vec::new();
        for (first, last) in intervals {
            match merged.last_mut() {
                Some(held) if first <= held.1.saturating_add(1) => held.1 = held.1.max(last),
                _ => merged.push((first, last)),
            }
        }
        Self(merged)
    }

    /// These and single indexes.
    pub fn with(&self, more: impl IntoIterator<Item = i32>) -> Self {
        Self::from_intervals(self.0.iter().copied().chain(more.into_iter().map(|i| (i, i))).collect())
    }

    /// These and others.
    pub fn union(&self, other: &Self) -> Self {
        Self::from_intervals(self.0.iter().chain(&other.0).copied().collect())
    }

    /// Whether an index is among them.
    pub fn has(&self, index: i32) -> bool {
        let after = self.0.partition_point(|(_, last)| *last < index);
        self.0.get(after).is_some_and(|(first, _)| *first <= index)
    }

    /// How many there are.
    pub fn total(&self) -> i32 {
        self.0.iter().map(|(first, last)| last - first + 1).sum()
    }

    /// How many these and others have in common.
    pub fn common(&self, other: &Self) -> i32 {
        let overlap = |a: &(i32, i32), b: &(i32, i32)| (a.1.min(b.1) - a.0.max(b.0) + 1).max(0);
        let (mut mine, mut theirs, mut sum) = (self.0.iter().peekable(), other.0.iter().peekable(), 0);
        while let (Some(a), Some(b)) = (mine.peek(), theirs.peek()) {
            sum += overlap(a, b);
            if a.1 < b.1 {
                mine.next()
            } else {
                theirs.next()
            };
        }
        sum
    }

    /// The first `count` indexes below `completions` that are not among them.
    pub fn first_missing(&self, count: usize, completions: i32) -> Vec<i32> {
        let (mut missing, mut candidate) = (Vec::new(), 0);
        for (first, last) in self.0.iter().copied().chain([(completions, completions)]) {
            while candidate < first.min(completions) && missing.len() < count {
                missing.push(candidate);
                candidate += 1;
            }
            candidate = candidate.max(last.saturating_add(1));
        }
        missing
    }
}

impl fmt::Display for Indexes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, (first, last)) in self.0.iter().enumerate() {
            let comma = if position > 0 { "," } else { "" };
            match last - first {
                0 => write!(f, "{comma}{first}")?,
                1 => write!(f, "{comma}{first},{last}")?,
                _ => write!(f, "{comma}{first}-{last}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_compressed_form_reads_and_writes() {
        for (text, completions, written, total) in [
            ("", 5, "", 0),
            ("0,1,2", 5, "0-2", 3),
            ("1,3-5,7", 10, "1,3-5,7", 5),
            ("1,3-5,7", 5, "1,3,4", 3),
            ("x,2-y,4", 10, "4", 1),
            ("8,9", 10, "8,9", 2),
        ] {
            let indexes = Indexes::parse(text, completions);
            assert_eq!((indexes.to_string().as_str(), indexes.total()), (written, total), "{text}");
        }
    }

    #[test]
    fn sets_are_joined_searched_and_filled() {
        let set = Indexes::parse("1,3-5", 10);
        assert_eq!(set.with([2, 9]).to_string(), "1-5,9");
        assert_eq!(set.union(&Indexes::parse("0,5-7", 10)).to_string(), "0,1,3-7");
        assert!(set.has(4) && set.has(1) && !set.has(2) && !set.has(6));
        assert_eq!(set.common(&Indexes::parse("0-3,5,8", 10)), 3);
        assert_eq!(set.first_missing(3, 10), [0, 2, 6]);
        assert_eq!(set.first_missing(9, 7), [0, 2, 6]);
        assert_eq!(Indexes::default().first_missing(2, 1), [0]);
    }
}
