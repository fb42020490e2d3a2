#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| lm4lv_fuzz::weights(data));
