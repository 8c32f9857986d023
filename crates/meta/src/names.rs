//! Names the server makes from `metadata.generateName` (apiserver's `storage/names`).

const MAX_NAME_LENGTH: usize = 63;
/// How many random characters are appended.
pub const SUFFIX_LENGTH: usize = 5;

/// The name for `base`: cut so that the result has at most 63 bytes, then the suffix that `suffix` makes of
/// the number of characters asked for (`knarr_base`'s `Rng::name_suffix`).
pub fn generate_name(base: &str, suffix: impl FnOnce(usize) -> String) -> String {
    let mut end = base.len().min(MAX_NAME_LENGTH - SUFFIX_LENGTH);
    while !base.is_char_boundary(end) {
        end -= 1;
    }
    let suffix = suffix(SUFFIX_LENGTH);
    let mut name = String::with_capacity(end + suffix.len());
    name.push_str(&base[..end]);
    name.push_str(&suffix);
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_bases_are_cut() {
        let suffix = |n: usize| "x".repeat(n);
        assert_eq!(generate_name("web-", suffix), "web-xxxxx");
        let long = generate_name(&"a".repeat(100), suffix);
        assert_eq!((long.len(), &long[57..]), (63, "axxxxx"));
        assert!(generate_name(&"é".repeat(40), suffix).len() <= 63);
    }
}
