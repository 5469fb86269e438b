//! The verified first request says exactly what is wrong.

mod common;

use std::time::Duration;

use ::http::{Request, Response};
use clawkeep_inference::{BoxBody, CANARY_ANSWER, Provider, Route, RouteProblem, Secret, Service, Timeouts};
use common::{KEY, http, raw, reply, service, service_within};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use serde_json::{Value, json};
use testkit::FakeProvider;
use tokio::io::AsyncWriteExt as _;

const LIST: &str = r#"{"object":"list","data":[{"id":"m0"},{"id":"m1"}]}"#;
const ANSWER: &str = r#"{"choices":[{"index":0,"message":{"role":"assistant","content":"p"}}]}"#;

async fn body_of(request: Request<Incoming>) -> Value {
    serde_json::from_slice(&request.into_body().collect().await.unwrap().to_bytes()).unwrap()
}

#[tokio::test]
async fn a_route_that_answers_is_reported() {
    let provider = FakeProvider::openai(&["m0", "m1"]);
    provider.accept_keys(&[KEY]);
    let report = service(&format!("http://{}/base/v1", provider.address())).check().await.unwrap();
    assert_eq!((report.provider, report.model.as_str(), report.listed), ("custom", "m1", Some(2)));
    assert!(report.turn > Duration::ZERO);
    let asked = provider.asked();
    let targets: Vec<_> = asked.iter().map(|asked| asked.target.as_str()).collect();
    assert_eq!(targets, ["/base/v1/models", "/base/v1/chat/completions"]);
    let body = asked[1].json();
    assert_eq!(
        (&body["model"], &body["max_tokens"], &body["stream"]),
        (&json!("m1"), &json!(1), &json!(false))
    );
}

#[tokio::test]
async fn a_provider_without_a_list_and_a_model_with_newer_limits_are_well() {
    let provider = http(|request: Request<Incoming>| async {
        if request.method() == "GET" {
            return reply(404, "no such page");
        }
        let body = body_of(request).await;
        if body.get("max_completion_tokens").is_some() {
            reply(200, ANSWER)
        } else {
            reply(400, r#"{"error":{"message":"use 'max_completion_tokens' instead"}}"#)
        }
    })
    .await;
    assert_eq!(service(&provider.url).check().await.unwrap().listed, None);
}

async fn problem_of<F, Fut>(each: F) -> RouteProblem
where
    F: Fn(bool) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = Response<BoxBody>> + Send + 'static,
{
    let provider = http(move |request: Request<Incoming>| each(request.method() == "GET")).await;
    service(&provider.url).check().await.unwrap_err()
}

#[tokio::test]
async fn each_failure_has_its_name_and_a_next_step() {
    let problem = problem_of(|_| async { reply(401, "{}") }).await;
    assert!(matches!(problem, RouteProblem::Unauthorized { status: 401, key_sent: true, .. }), "{problem}");
    assert!(problem.next_step().contains("Check the key"));

    let problem = problem_of(|list| async move { reply(if list { 200 } else { 403 }, LIST) }).await;
    assert!(matches!(problem, RouteProblem::Unauthorized { status: 403, .. }), "{problem}");

    let others = r#"{"data":[{"id":"models/a"},{"id":"b:latest\u001b[2J"}]}"#;
    let problem = problem_of(move |list| async move { reply(if list { 200 } else { 404 }, others) }).await;
    let RouteProblem::ModelAbsent { available, .. } = &problem else { panic!("{problem}") };
    assert_eq!(available, &["models/a", "b:latest [2J"]);
    assert!(problem.to_string().contains("has no model \"m1\"; it has models/a"), "{problem}");

    let problem = problem_of(|_| async { reply(200, "<html>Welcome</html>") }).await;
    assert!(matches!(problem, RouteProblem::Protocol { .. }), "{problem}");
    assert!(problem.next_step().contains("/v1"));

    let echo = format!("{{\"error\":{{\"message\":\"bad key {KEY}\\n\\u001b[31m{}\"}}}}", "x".repeat(999));
    let problem = problem_of(move |_| {
        let echo = echo.clone();
        async move { reply(500, &echo) }
    })
    .await;
    let text = problem.to_string();
    assert!(text.contains("HTTP 500: bad key ***"), "{text}");
    assert!(text.len() < 300 && !text.contains(|c: char| c.is_control()), "{text}");
}

#[tokio::test]
async fn each_failure_to_connect_has_its_name() {
    let refused = {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        format!("http://{}/v1", listener.local_addr().unwrap())
    };
    let problem = service(&refused).check().await.unwrap_err();
    assert!(matches!(problem, RouteProblem::Connect { .. }), "{problem}");

    let problem = service("http://no-such-host.invalid/v1").check().await.unwrap_err();
    assert!(matches!(problem, RouteProblem::Dns { .. }), "{problem}");
    assert!(problem.next_step().ends_with("getent hosts no-such-host.invalid"));

    let plain = raw(|mut stream| async move {
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
    })
    .await;
    let problem = service(&plain.url.replace("http:", "https:")).check().await.unwrap_err();
    assert!(matches!(problem, RouteProblem::Tls { .. }), "{problem}");

    let silent = http(|_| std::future::pending()).await;
    let timeouts = Timeouts { list: Duration::from_millis(500), ..Timeouts::default() };
    let problem = service_within(&silent.url, timeouts).check().await.unwrap_err();
    assert!(matches!(problem, RouteProblem::Timeout { .. }), "{problem}");
    assert!(problem.to_string().ends_with("did not answer within 0.5 s"), "{problem}");
}

/// Roots are read from the environment, which a test may not change for its neighbours: this one runs itself
/// again with a certificate file, once trusted and once not.
#[test]
fn https_is_verified_against_the_hosts_roots() {
    let directory = tempfile::tempdir().unwrap();
    for (trusted, verdict) in [(true, "well"), (false, "tls")] {
        let trust = directory.path().join(if trusted { "cert.pem" } else { "other.pem" });
        make_certificate(directory.path());
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "https_child", "--ignored", "--nocapture"])
            .env("CLAWKEEP_TEST_TLS", directory.path())
            .env("SSL_CERT_FILE", trust)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains(&format!("verdict: {verdict}\n")), "{text}");
    }
}

fn make_certificate(directory: &std::path::Path) {
    for name in ["cert", "other"] {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        std::fs::write(directory.join(format!("{name}.pem")), made.cert.pem()).unwrap();
        std::fs::write(directory.join(format!("{name}.key")), made.signing_key.serialize_pem()).unwrap();
    }
}

#[tokio::test]
#[ignore = "run by https_is_verified_against_the_hosts_roots"]
async fn https_child() {
    use rustls::pki_types::pem::PemObject as _;
    let Some(directory) = std::env::var_os("CLAWKEEP_TEST_TLS").map(std::path::PathBuf::from) else {
        eprintln!("nothing to do: https_child is run by another test, which sets CLAWKEEP_TEST_TLS");
        return;
    };
    let cert = rustls::pki_types::CertificateDer::from_pem_file(directory.join("cert.pem")).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::from_pem_file(directory.join("cert.key")).unwrap();
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(std::sync::Arc::new(config));
    let server = raw(move |stream| {
        let acceptor = acceptor.clone();
        async move {
            let Ok(stream) = acceptor.accept(stream).await else { return };
            let canary = std::sync::Arc::new(Service::canary());
            let answers = hyper::service::service_fn(move |mut request: Request<Incoming>| {
                let canary = canary.clone();
                async move {
                    assert_eq!(request.headers()["authorization"], format!("Bearer {KEY}"));
                    let path = request.uri().path().strip_prefix("/base").unwrap().to_owned();
                    *request.uri_mut() = path.parse().unwrap();
                    Ok::<_, std::convert::Infallible>(canary.respond(request).await)
                }
            });
            let io = hyper_util::rt::TokioIo::new(stream);
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(io, answers).await;
        }
    })
    .await;
    let url = server.url.replace("http://127.0.0.1", "https://localhost");
    let route = Route::new(Provider::Custom, Some(&url), "canary", true).unwrap();
    let service = Service::new(route, Some(Secret::new(KEY.to_owned()))).unwrap();
    match service.check().await {
        Ok(_) => {
            let body = r#"{"messages":[{"role":"user","content":"hi"}],"stream":true}"#;
            let (status, text) = common::whole(service.respond(common::chat(body)).await).await;
            assert_eq!(status, 200);
            assert!(text.contains(&CANARY_ANSWER[..20]));
            println!("verdict: well");
        }
        Err(problem) => println!("verdict: {}", problem.class()),
    }
}
