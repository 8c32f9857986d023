//! libFuzzer's way to `knarr_fuzz::spdy`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| knarr_fuzz::spdy(data));
