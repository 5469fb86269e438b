//! A layer's archive.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| clawkeep_image::fuzzing::layer(bytes));
