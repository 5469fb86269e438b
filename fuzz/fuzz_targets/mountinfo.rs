//! `/proc/PID/mountinfo`, in which a mount's name may hold anything.
#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| clawkeep_isolation::fuzzing::mountinfo(text));
