//! A resolver's message, as an agent sends it to the name server.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| clawkeep_egress::fuzzing::question(bytes));
