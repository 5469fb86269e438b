//! `/proc/PID/stat`, `status` and `uid_map`: a process's name may hold anything.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| clawkeep_isolation::fuzzing::proc(bytes));
