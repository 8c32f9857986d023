//! Every fuzz target as a plain function: any bytes, no panic, no unbounded time or memory. Bounded runs of the same
//! functions are tests of their rooms.
//!
//! With cargo-fuzz: `cargo fuzz run --sanitizer none protobuf`. Without it, on the stable toolchain:
//!
//! ```sh
//! RUSTFLAGS="--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
//!   -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
//!   -Ccodegen-units=1" cargo build --release --target x86_64-unknown-linux-gnu
//! target/x86_64-unknown-linux-gnu/release/protobuf -max_total_time=600 -rss_limit_mb=1024 corpus/protobuf
//! ```

#[path = "../../crates/apiserver/src/registry/continue_token.rs"]
mod token;

#[path = "../../crates/kubelet/src/server/spdy/frame.rs"]
#[allow(dead_code)]
mod frame;

/// Protobuf envelopes, messages and watch events.
pub use knarr_api::fuzzing::protobuf;

/// JSON, merge and strategic merge patches of pods.
pub use knarr_api::fuzzing::patches;

/// Server-side apply of pods, and stored field sets.
pub use knarr_api::fuzzing::apply;

/// Label and field selectors.
pub use knarr_meta::fuzzing::selectors;

/// Expressions through parser, checker, cost estimate and evaluation.
pub use knarr_cel::fuzz::expression as cel;

/// Continue tokens.
pub use token::fuzz as continue_token;

/// SPDY frames and header blocks.
pub use frame::fuzz as spdy;
