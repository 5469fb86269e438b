use proptest::prelude::*;

use super::*;

fn basic(text: &str) -> String {
    format!("Basic {}", STANDARD.encode(text))
}

fn filled(header: &str, value: &str, secret: &str) -> String {
    let found = Placeholder::find(header, value.as_bytes()).unwrap().unwrap();
    assert_eq!(found.name().as_str(), "GH");
    String::from_utf8(found.fill(&Secret::new(secret)).unwrap().expose().to_vec()).unwrap()
}

#[test]
fn each_form_is_filled_and_what_stands_around_it_stays() {
    assert_eq!(filled("X-Api-Key", "clawkeep:secret:GH", "s3 cret"), "s3 cret");
    assert_eq!(filled("authorization", "Bearer clawkeep:secret:GH", "s:1"), "Bearer s:1");
    assert_eq!(filled("PRIVATE-TOKEN", "clawkeep:secret:GH", "s"), "s");
    assert_eq!(filled("Authorization", "token clawkeep:secret:GH", "s"), "token s");
    assert_eq!(filled("Authorization", &basic("me:clawkeep:secret:GH"), "s:1"), basic("me:s:1"));
    assert_eq!(filled("Authorization", &basic(":clawkeep:secret:GH"), "s"), basic(":s"));
    assert_eq!(filled("Authorization", &basic("clawkeep:secret:GH:"), "s"), basic("s:"));
    assert_eq!(filled("Authorization", &basic("clawkeep:secret:GH:a:b"), "s"), basic("s:a:b"));
    let lower = basic("me:clawkeep:secret:GH").replace("Basic", "bAsIC");
    assert!(filled("Authorization", &lower, "s").starts_with("bAsIC "));
}

#[test]
fn what_is_nothing_like_one_is_left_alone() {
    for value in
        ["", "Bearer abc", "clawkeep", "clawkeep:secre", "Basic !!!", &basic("a:b"), "secret:clawkeep:"]
    {
        assert_eq!(Placeholder::find("User-Agent", value.as_bytes()), Ok(None), "{value}");
    }
    assert_eq!(Placeholder::find("Authorization", &[0xff; 4000]), Ok(None));
}

#[test]
fn what_is_nearly_one_is_refused() {
    for value in [
        "clawkeep:secret:",
        "clawkeep:secret:GH ",
        " clawkeep:secret:GH",
        "clawkeep:secret:GH,clawkeep:secret:GH",
        "clawkeep:secret:GH.x",
        "clawkeep:secret:GH:",
        "clawkeep:secret:1",
        "clawkeep:secret:\u{e9}",
        "clawkeep%3Asecret%3AGH",
        "CLAWKEEP:SECRET:GH",
        "Clawkeep:secret:GH",
        "xclawkeep:secret:GH",
        "Bearer  clawkeep:secret:GH",
        "Bearer\tclawkeep:secret:GH",
        "Bearer clawkeep:secret:GH x",
        "Bearer x clawkeep:secret:GH",
        "B\u{e4}rer clawkeep:secret:GH",
        "Basic clawkeep:secret:GH:x",
        &format!("{} clawkeep:secret:GH", "x".repeat(33)),
        &format!("clawkeep:secret:{}", "x".repeat(65)),
        &basic("clawkeep:secret:GH"),
        &basic("clawkeep:secret:GH:clawkeep:secret:GH"),
        &basic("me:clawkeep:secret:GHx/"),
        &basic("me:x clawkeep:secret:GH"),
        &basic("me:clawkeep:SECRET:GH"),
    ] {
        assert_eq!(Placeholder::find("Authorization", value.as_bytes()), Err(Refusal::Malformed), "{value}");
    }
}

#[test]
fn only_headers_for_credentials_carry_one() {
    for header in
        ["Authorization", "X-API-Key", "x-goog-api-key", "X-Auth-Token", "JOB-TOKEN", "X-Client-Secret"]
    {
        assert!(Placeholder::find(header, b"clawkeep:secret:GH").unwrap().is_some(), "{header}");
    }
    let sent_back = ["Idempotency-Key", "X-Idempotency-Key", "X-Cache-Key", "Surrogate-Key", "X-Author"];
    for header in
        ["User-Agent", "Host", "Cookie", "Referer", "X-Forwarded-For", "Proxy-Authorization", "Range", ""]
            .into_iter()
            .chain(sent_back)
    {
        let refused = Placeholder::find(header, b"clawkeep:secret:GH");
        assert_eq!(refused, Err(Refusal::WrongHeader(header.into())), "{header}");
    }
}

#[test]
fn a_secret_that_is_no_part_of_a_header_is_not_put_into_one() {
    let alone = Placeholder::find("X-Key", b"clawkeep:secret:GH").unwrap().unwrap();
    for bad in ["", "a\r\nHost: evil", "a\n", "a\0", " a", "a ", "\u{e9}", "a\u{7f}"] {
        assert!(matches!(alone.fill(&Secret::new(bad)), Err(Refusal::Unfit(_))), "{bad:?}");
    }
    let user = Placeholder::find("Authorization", basic("clawkeep:secret:GH:x").as_bytes()).unwrap().unwrap();
    assert!(matches!(user.fill(&Secret::new("a:b")), Err(Refusal::Unfit(_))));
    assert_eq!(format!("{:?}", user.fill(&Secret::new("hunter2")).unwrap()), "Filled(redacted)");
}

#[test]
fn a_mention_is_seen_in_every_spelling() {
    for text in
        ["/x?key=clawkeep:secret:GH", "/clawkeep%3asecret%3AGH", "cClawKeep:Secret:", "clawkeep%3Asecret:"]
    {
        assert!(mentioned(text.as_bytes()), "{text}");
    }
    for text in
        ["", "clawkeep", "clawkeep:", "clawkeep:secret", "clawkeep%3", "clawkeep%3Asecret%3", "keep:secret:"]
    {
        assert!(!mentioned(text.as_bytes()), "{text}");
    }
}

proptest! {
    #[test]
    fn a_value_that_is_filled_was_one_of_the_forms(
        before in "[A-Za-z :]{0,8}", name in "[A-Za-z][A-Za-z0-9_-]{0,8}", after in "[ -~]{0,3}",
    ) {
        let value = format!("{before}{PREFIX}{name}{after}");
        if let Ok(found) = Placeholder::find("Authorization", value.as_bytes()) {
            let found = found.unwrap();
            let whole = format!("{before}{PREFIX}{}", found.name());
            prop_assert_eq!(whole, &value[..], "the whole rest is the name");
            let scheme = before.strip_suffix(' ');
            prop_assert!(before.is_empty() || scheme.is_some_and(|s| s.bytes().all(|b| b.is_ascii_alphabetic())));
        }
    }

    #[test]
    fn basic_in_and_basic_out(user in "[ -9;-~]{0,12}", password in "[ -~]{0,12}", secret in "[!-9;-~]{1,12}") {
        for (inside, outside) in [
            (format!("{user}:{PREFIX}GH"), format!("{user}:{secret}")),
            (format!("{PREFIX}GH:{password}"), format!("{secret}:{password}")),
        ] {
            prop_assert_eq!(filled("Authorization", &basic(&inside), &secret), basic(&outside));
        }
    }

    #[test]
    fn no_bytes_panic(header: String, value: Vec<u8>) {
        crate::fuzzing::placeholder(&value);
        let _ = Placeholder::find(&header, &value);
    }
}
