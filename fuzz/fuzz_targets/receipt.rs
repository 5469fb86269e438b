//! What comes over a receipt pipe, whose other end the agent holds.
#![no_main]

use clawkeep_plan::{MAX_RECEIPT_BYTES, Receipt};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(receipt) = Receipt::parse(bytes) {
        assert!(bytes.len() <= MAX_RECEIPT_BYTES);
        let lines: String = receipt.guards.iter().map(|guard| guard.to_line()).collect();
        let again = receipt.isolation.to_line() + &lines;
        assert_eq!(Receipt::parse(again.as_bytes()).as_ref(), Ok(&receipt), "what it says can be said again");
    }
});
