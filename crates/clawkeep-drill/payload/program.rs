//! A program: a verb and its words.

use crate::report::Answer;
use crate::{foreign, look, machine, net, strain};

/// Run it to its answer.
pub fn run(words: &[&str]) -> Answer {
    match *words {
        ["nothing"] => Answer::done(),
        ["calls", ref calls @ ..] => machine::calls(calls),
        ["repeat", times, ref call @ ..] => machine::repeat(number(times), call),
        ["int80"] => foreign::int80(),
        ["x32"] => foreign::x32(),
        ["memfd", ref program @ ..] => foreign::memfd(program),
        ["http", port, request] => net::http(number(port), request),
        ["dns", name, kind, class] => net::dns(name, number(kind) as u16, number(class) as u16),
        ["loopback"] => net::loopback(),
        ["netlink", message] => net::netlink(message),
        ["families", ref allowed @ ..] => net::families(allowed),
        ["capabilities"] => look::capabilities(),
        ["groups"] => look::groups(),
        ["mounts"] => look::mounts(),
        ["descriptors"] => look::descriptors(),
        ["climb"] => look::climb(),
        ["read", path] => look::read(path),
        ["read-of-init", file] => look::read(&format!("/proc/{}/{file}", look::init())),
        ["write-of-init", file] => look::write(&format!("/proc/{}/{file}", look::init())),
        ["siblings", file] => look::siblings(file),
        ["status", key, wanted] => look::status(key, wanted),
        ["forks", most] => strain::forks(number(most)),
        ["eat", mib] => strain::eat(number(mib)),
        ["fill", path, mib] => strain::fill(path, number(mib)),
        ["bounded", path, mib, inodes] => strain::bounded(path, number(mib), number(inodes)),
        ["files", path, most] => strain::files(path, number(most)),
        ["attributes", path, most] => strain::attributes(path, number(most)),
        ["stop"] => strain::stop(),
        ["core-limit"] => look::core_limit(),
        ["core"] => strain::core(),
        ["kill-everything"] => strain::kill_everything(),
        ["kill-init"] => strain::kill_init(),
        _ => Answer::word("error", format!("no such program: {words:?}")),
    }
}

fn number(word: &str) -> u64 {
    word.parse().unwrap_or(0)
}
