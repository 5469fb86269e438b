//! The last look at descriptors before a program is executed: it gets those that it was promised and no other.

use std::os::fd::{AsRawFd, OwnedFd};

use crate::procself::Status;
use crate::readback::{kept_over_exec, open_descriptors};
use crate::stage::{Failure, at};

/// Make sure that this process hands on at exec all descriptors below `end` and no other. `own` is what it keeps for
/// itself until then. Gives the numbers of those that exec does not close.
///
/// # Errors
/// When another descriptor is open, or one of them is not.
pub fn descriptors(status: &Status<'_>, end: i32, own: Option<&OwnedFd>) -> Result<Vec<i32>, Failure> {
    let open = open_descriptors(status).map_err(at("look at its descriptors"))?;
    as_declared(&open, end, own.map(AsRawFd::as_raw_fd))
}

/// The same of open descriptors, given with whether exec closes each.
fn as_declared(open: &[(i32, bool)], end: i32, own: Option<i32>) -> Result<Vec<i32>, Failure> {
    let wrong = |what: String| Err(at(what)(rustix::io::Errno::BADF));
    let undeclared = |number: i32, closes: bool| if closes { Some(number) != own } else { number >= end };
    if let Some((number, _)) = open.iter().find(|(number, closes)| undeclared(*number, *closes)) {
        return wrong(format!("descriptor {number} is open and was not declared"));
    }
    let kept = kept_over_exec(open);
    if !kept.iter().copied().eq(0..end) {
        return wrong(format!("of {end} descriptors {kept:?} are open"));
    }
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_declared_is_handed_on_and_anything_else_is_named() {
        let standard = [(0, false), (1, false), (2, false)];
        let with = |more: &[(i32, bool)]| {
            as_declared(&[&standard, more].concat(), 3, Some(10)).map_err(|failure| failure.step)
        };
        assert_eq!(with(&[(10, true)]), Ok(vec![0, 1, 2]));
        for leaked in [(3, false), (10, false), (9, true), (1023, false)] {
            let named = format!("descriptor {} is open and was not declared", leaked.0);
            assert_eq!(with(&[leaked]), Err(named));
        }
        let missing = as_declared(&standard[..2], 3, None).map_err(|failure| failure.step);
        assert_eq!(missing, Err("of 3 descriptors [0, 1] are open".into()));
    }
}
