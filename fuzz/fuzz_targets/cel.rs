//! libFuzzer's way to `knarr_fuzz::cel`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| knarr_fuzz::cel(data));
