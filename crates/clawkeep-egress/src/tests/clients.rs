//! Clients as people have them.

use std::process::Stdio;

use super::world::{World, matcher, text};

/// What curl prints for these arguments, through the proxy.
async fn curl(world: &World, arguments: &[&str]) -> String {
    let ca = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(ca.path(), world.ca_pem()).unwrap();
    let output = tokio::process::Command::new("curl")
        .args(["--silent", "--show-error", "--max-time", "30", "--noproxy", "", "--proxy"])
        .arg(format!("http://{}", world.address))
        .arg("--cacert")
        .arg(ca.path())
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .await
        .unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[tokio::test]
async fn curl_in_every_way() {
    if std::process::Command::new("curl").arg("--version").output().is_err() {
        eprintln!("SKIPPED: there is no curl on this host");
        return;
    }
    let ((plain, one), (tls, two)) = (World::origin().await, World::origin().await);
    let mut world = World::new(matcher(&[
        format!("{{host: a.example, port: {one}}}"),
        format!("{{host: a.example, port: {two}, protocol: rest, access: read-only}}"),
    ]))
    .await;
    world.http(plain, None, |request| async move { text(format!("{:?}", request.version())) });
    world.http(
        tls,
        Some(("a.example", true)),
        |request| async move { text(format!("{:?}", request.version())) },
    );
    let (http, https) = (format!("http://a.example:{one}/"), format!("https://a.example:{two}/"));
    assert_eq!(curl(&world, &[&http]).await, "HTTP/1.1");
    assert_eq!(curl(&world, &["--proxytunnel", &http]).await, "HTTP/1.1");
    assert_eq!(curl(&world, &["--http1.1", &https]).await, "HTTP/1.1");
    assert_eq!(curl(&world, &["--http2", &https]).await, "HTTP/2.0");
    let refused = curl(&world, &["--request", "DELETE", &https]).await;
    assert!(refused.contains("clawkeep box policy requests"), "{refused}");
    let refused = curl(&world, &["https://b.example/"]).await;
    assert!(refused.contains("403"), "{refused}");
}
