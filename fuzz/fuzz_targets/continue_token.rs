//! libFuzzer's way to `knarr_fuzz::continue_token`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| knarr_fuzz::continue_token(data));
