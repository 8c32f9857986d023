//! libFuzzer's way to `knarr_fuzz::protobuf`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| knarr_fuzz::protobuf(data));
