//! The hash that names a template's ReplicaSet. Only equality matters to others, not the value; like upstream's it
//! is FNV-1a over the template and the collision count, in an alphabet that spells no words.

use knarr_api::core::v1::PodTemplateSpec;

const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// The hash of a template.
pub fn template_hash(template: &PodTemplateSpec, collisions: Option<i32>) -> String {
    // The typed form has its fields in a fixed order and its maps sorted.
    let mut bytes = format!("{template:?}").into_bytes();
    bytes.extend_from_slice(&collisions.unwrap_or_default().to_le_bytes());
    let hash =
        bytes.iter().fold(0x811c_9dc5u32, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193));
    hash.to_string().bytes().map(|digit| ALPHABET[usize::from(digit) % ALPHABET.len()] as char).collect()
}
