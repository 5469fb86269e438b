//! The documents of an image layout.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| clawkeep_image::fuzzing::layout(bytes));
