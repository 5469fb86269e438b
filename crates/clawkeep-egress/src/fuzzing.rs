//! The strict reading of requests and of questions for names, for the fuzzer in `fuzz/`.

use clawkeep_policy::Target;

use crate::dns::question::{Answer, Read, read};
use crate::head::{Framing, find_end, parse};

/// Whatever comes, and in whatever pieces, is read in one way or refused.
///
/// # Panics
/// When it is not.
pub fn head(bytes: &[u8]) {
    let whole = find_end(bytes, 0);
    // In two pieces, as a slow sender's.
    let half = bytes.len() / 2;
    let in_pieces = match find_end(&bytes[..half], 0) {
        Ok(None) => find_end(bytes, half),
        found => found,
    };
    assert_eq!(whole, in_pieces, "the same in one piece and in two");
    if let Ok(Some(end)) = whole {
        let head = &bytes[..end];
        if let Ok(read) = parse(head) {
            let lines = || head.split(|byte| *byte == b'\n').map(<[u8]>::to_ascii_lowercase);
            let framings = lines().filter(|line| {
                line.starts_with(b"content-length:") || line.starts_with(b"transfer-encoding:")
            });
            assert!(framings.count() <= 1, "one framing at most");
            assert!(read.framing != Framing::Chunked || read.method != "CONNECT");
            assert!(!read.upgrade || (read.method == "GET" && read.framing == Framing::Sized(0)));
            let _ = Target::parse(&read.target, Some(80));
        }
    }
    if let Ok(target) = Target::parse(bytes, None) {
        let again = format!("{}:{}", target.host(), target.port());
        assert_eq!(Target::parse(again.as_bytes(), None).as_ref(), Ok(&target), "its own name is its name");
    }
}

/// Whatever comes to the name server is a question, an error, or nothing; every question can be answered, and no answer
/// is answered again.
///
/// # Panics
/// When it is not.
pub fn question(bytes: &[u8]) {
    match read(bytes) {
        Read::Nothing => {}
        Read::Answered(answer) => assert!(matches!(read(&answer), Read::Nothing)),
        Read::Question(question) => {
            assert!(question.name.is_ascii());
            let most = question.max_datagram();
            for answer in [
                Answer::Addresses(vec![[8, 8, 8, 8].into(); 20]),
                Answer::NoSuchName,
                Answer::Refused,
                Answer::Failed,
            ] {
                let bytes = question.answer(&answer, most).expect("an answer");
                assert!(bytes.len() <= most && matches!(read(&bytes), Read::Nothing));
            }
        }
    }
}
