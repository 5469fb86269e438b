use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use proptest::prelude::*;

use super::*;

fn secrets() -> (tempfile::TempDir, Secrets, SandboxName) {
    let temp = tempfile::tempdir().unwrap();
    let home = Home::open(&temp.path().join("home")).unwrap();
    (temp, Secrets::new(&home), "box".parse().unwrap())
}

fn text(secret: Option<Secret>) -> Option<String> {
    secret.map(|secret| secret.expose_str().unwrap().to_owned())
}

#[test]
fn stores_replaces_lists_and_forgets() {
    let (_temp, secrets, name) = secrets();
    assert_eq!(text(secrets.get(&name, "KEY").unwrap()), None);
    assert!(!secrets.remove(&name, "KEY").unwrap());
    secrets.put(&name, "KEY", &Secret::new("one")).unwrap();
    secrets.put(&name, "KEY", &Secret::new("two")).unwrap();
    secrets.put(&name, "ca.key", &Secret::new([0xff])).unwrap();
    assert_eq!(text(secrets.get(&name, "KEY").unwrap()), Some("two".into()));
    assert_eq!(secrets.get(&name, "ca.key").unwrap().unwrap().expose_str(), None);
    assert_eq!(secrets.keys(&name).unwrap(), ["KEY", "ca.key"]);
    let file = secrets.root.join("box/KEY");
    assert_eq!(std::fs::metadata(&file).unwrap().mode() & 0o7777, 0o600);
    assert_eq!(std::fs::metadata(file.parent().unwrap()).unwrap().mode() & 0o7777, 0o700);
    assert!(secrets.remove(&name, "KEY").unwrap());
    assert_eq!(secrets.keys(&name).unwrap(), ["ca.key"]);
    secrets.remove_all(&name).unwrap();
    secrets.remove_all(&name).unwrap();
    assert_eq!(secrets.keys(&name).unwrap(), Vec::<String>::new());
}

#[test]
fn refuses_a_file_that_others_could_have_made_or_seen() {
    let (_temp, secrets, name) = secrets();
    secrets.put(&name, "K", &Secret::new("x")).unwrap();
    let file = secrets.root.join("box/K");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o640)).unwrap();
    assert!(matches!(secrets.get(&name, "K"), Err(SecretError::Exposed(_))));
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::hard_link(&file, secrets.root.join("box/L")).unwrap();
    assert!(matches!(secrets.get(&name, "K"), Err(SecretError::Exposed(_))));
    symlink("K", secrets.root.join("box/M")).unwrap();
    assert!(matches!(secrets.get(&name, "M"), Err(SecretError::Exposed(_))));
    std::fs::create_dir(secrets.root.join("box/N")).unwrap();
    assert!(matches!(secrets.get(&name, "N"), Err(SecretError::Exposed(_))));
    secrets.put(&name, "K", &Secret::new("y")).unwrap();
    assert_eq!(text(secrets.get(&name, "K").unwrap()), Some("y".into()));
}

#[test]
fn bounds_keys_and_sizes_and_shows_nothing() {
    let (_temp, secrets, name) = secrets();
    for bad in ["", ".x", "..", "a/b", "a b", "é", "a\0", &"x".repeat(65)] {
        assert!(matches!(secrets.get(&name, bad), Err(SecretError::BadKey(_))), "{bad:?}");
        assert!(matches!(secrets.put(&name, bad, &Secret::new("")), Err(SecretError::BadKey(_))));
    }
    let large = Secret::new(vec![b'x'; MAX_SECRET + 1]);
    assert!(matches!(secrets.put(&name, "K", &large), Err(SecretError::TooLarge)));
    std::fs::create_dir_all(secrets.root.join("box")).unwrap();
    std::fs::write(secrets.root.join("box/K"), large.expose()).unwrap();
    let private = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(secrets.root.join("box/K"), private).unwrap();
    assert!(matches!(secrets.get(&name, "K"), Err(SecretError::TooLarge)));
    assert_eq!(format!("{:?}", Some(Secret::new("hunter2"))), "Some(Secret(redacted))");
}

/// As a version without encryption at rest left it.
fn leave_in_the_clear(secrets: &Secrets, key: &str, text: &str) {
    let dir = secrets.root.join("box");
    home::own_dir(&dir).unwrap();
    atomic::write(atomic::open_dir(&dir).unwrap(), key, text.as_bytes(), Mode::RUSR | Mode::WUSR).unwrap();
}

fn on_disk(secrets: &Secrets, key: &str) -> Vec<u8> {
    std::fs::read(secrets.root.join("box").join(key)).unwrap()
}

#[test]
fn what_lies_in_the_clear_is_read_until_all_is_sealed() {
    let (_temp, secrets, name) = secrets();
    leave_in_the_clear(&secrets, "K", "old");
    assert_eq!(text(secrets.get(&name, "K").unwrap()), Some("old".into()));
    assert_eq!(on_disk(&secrets, "K"), b"old", "only looked at");
    let done = secrets.seal_all().unwrap();
    assert!(done.changed == 1 && done.left.is_empty(), "{done:?}");
    assert!(!on_disk(&secrets, "K").windows(3).any(|window| window == b"old"));
    assert_eq!(text(secrets.get(&name, "K").unwrap()), Some("old".into()));
    assert_eq!(secrets.seal_all().unwrap().changed, 0);
    leave_in_the_clear(&secrets, "K", "slipped in");
    assert!(matches!(secrets.get(&name, "K"), Err(SecretError::Altered(_))));
    let done = secrets.seal_all().unwrap();
    assert!(done.changed == 0 && matches!(done.left[..], [SecretError::Altered(_)]), "{done:?}");
}

#[test]
fn one_that_cannot_be_sealed_keeps_none_of_the_others_from_it() {
    let (_temp, secrets, name) = secrets();
    for key in ["A", "B", "C"] {
        leave_in_the_clear(&secrets, key, key);
    }
    let shown = std::fs::Permissions::from_mode(0o644);
    std::fs::set_permissions(secrets.root.join("box/B"), shown).unwrap();
    let done = secrets.seal_all().unwrap();
    assert!(done.changed == 2 && matches!(done.left[..], [SecretError::Exposed(_)]), "{done:?}");
    leave_in_the_clear(&secrets, "B", "B");
    assert_eq!(text(secrets.get(&name, "B").unwrap()), Some("B".into()), "not all is sealed yet");
    assert_eq!(secrets.seal_all().unwrap().changed, 1);
}

#[test]
fn a_lost_key_is_told_from_an_altered_file() {
    let (_temp, secrets, name) = secrets();
    secrets.put(&name, "K", &Secret::new("x")).unwrap();
    secrets.put(&name, "L", &Secret::new("y")).unwrap();
    let (key, aside) = (secrets.keyring.file(), secrets.root.join("../aside"));
    std::fs::rename(&key, &aside).unwrap();
    let error = secrets.get(&name, "K").unwrap_err();
    assert!(matches!(&error, SecretError::NoKey { key: told, .. } if *told == key), "{error}");
    // Storing again makes a new key; what the old one sealed comes back with it.
    secrets.put(&name, "K", &Secret::new("z")).unwrap();
    assert_eq!(text(secrets.get(&name, "K").unwrap()), Some("z".into()));
    assert!(matches!(secrets.get(&name, "L"), Err(SecretError::NoKey { .. })));
    assert_eq!(secrets.keys(&name).unwrap(), ["K", "L"]);
    std::fs::rename(&aside, &key).unwrap();
    assert_eq!(text(secrets.get(&name, "L").unwrap()), Some("y".into()));
    assert!(matches!(secrets.get(&name, "K"), Err(SecretError::NoKey { .. })));
    std::fs::copy(secrets.root.join("box/L"), secrets.root.join("box/K")).unwrap();
    assert!(matches!(secrets.get(&name, "K"), Err(SecretError::Altered(_))), "in another's place");
    std::fs::write(&key, "short").unwrap();
    assert!(matches!(secrets.get(&name, "L"), Err(SecretError::BadKeyFile { .. })));
}

#[test]
fn a_key_of_the_service_manager_takes_over_from_the_file() {
    let (temp, mut secrets, name) = secrets();
    let given = tempfile::tempdir().unwrap();
    secrets.put(&name, "K", &Secret::new("x")).unwrap();
    std::fs::write(given.path().join("clawkeep.key"), [9; 32]).unwrap();
    secrets.keyring = Keyring::at(&temp.path().join("home"), Some(given.path()));
    assert_eq!(text(secrets.get(&name, "K").unwrap()), Some("x".into()));
    assert_eq!(secrets.seal_all().unwrap().changed, 1);
    std::fs::remove_file(secrets.keyring.file()).unwrap();
    assert_eq!(text(secrets.get(&name, "K").unwrap()), Some("x".into()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn any_bytes_come_back(bytes: Vec<u8>) {
        let (_temp, secrets, name) = secrets();
        secrets.put(&name, "K", &Secret::new(bytes.clone())).unwrap();
        let back = secrets.get(&name, "K").unwrap().unwrap();
        prop_assert_eq!(back.expose(), &bytes[..]);
    }
}
