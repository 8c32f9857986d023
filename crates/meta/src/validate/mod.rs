//! Formats of names, labels, ports and such, and what is generic about an object's metadata.
//!
//! Functions over a single text answer with upstream's messages (apimachinery's `util/validation` and
//! `api/validate/content`); no messages mean that the text is fine.

mod formats;
mod meta;
mod options;
mod webhook;

pub use formats::*;
pub use meta::*;
pub use options::*;
pub use webhook::*;
