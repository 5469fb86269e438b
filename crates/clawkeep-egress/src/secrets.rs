//! Secrets in the place of what an agent holds for them.

use std::future::Future;
use std::pin::Pin;

use clawkeep_credentials::{Filled, Placeholder, Toward, mentioned};
use http::{HeaderValue, Request};

use crate::refusal::Refusal;

/// The answer of [`Secrets`], when it comes: the header's new value, or why there is none, in words that may be told
/// inside.
pub type Filling<'a> = Pin<Box<dyn Future<Output = Result<Filled, String>> + Send + 'a>>;

/// Knows the secrets that placeholders stand for.
pub trait Secrets: Send + Sync {
    /// The value to send there instead of the one with this placeholder.
    fn fill<'a>(&'a self, placeholder: &'a Placeholder, toward: Toward<'a>) -> Filling<'a>;
}

/// Knows none.
pub struct NoSecrets;

impl Secrets for NoSecrets {
    fn fill<'a>(&'a self, placeholder: &'a Placeholder, _toward: Toward<'a>) -> Filling<'a> {
        let name = placeholder.name();
        Box::pin(async move { Err(format!("there is no credential {name} for this sandbox")) })
    }
}

/// Put the secrets into a request that the policy allows. Each placeholder is replaced or the request is refused:
/// none is sent to anybody.
pub(crate) async fn put_in<B>(
    request: &mut Request<B>,
    secrets: &dyn Secrets,
    toward: Toward<'_>,
) -> Result<(), Refusal> {
    let refused = |why: clawkeep_credentials::Refusal| Refusal::Secret(why.to_string());
    let url = request.uri().path_and_query().map_or("", |whole| whole.as_str());
    if mentioned(url.as_bytes()) {
        return Err(refused(clawkeep_credentials::Refusal::InUrl));
    }
    // Methods have a case, and servers that do not mind it.
    let traced = request.method().as_str().eq_ignore_ascii_case("TRACE");
    for (name, value) in request.headers_mut().iter_mut() {
        let Some(placeholder) = Placeholder::find(name.as_str(), value.as_bytes()).map_err(refused)? else {
            continue;
        };
        if traced {
            return Err(refused(clawkeep_credentials::Refusal::Traced));
        }
        let filled = secrets.fill(&placeholder, toward).await.map_err(Refusal::Secret)?;
        let unfit = |_| refused(clawkeep_credentials::Refusal::Unfit(placeholder.name().clone()));
        let mut secret = HeaderValue::from_bytes(filled.expose()).map_err(unfit)?;
        secret.set_sensitive(true);
        *value = secret;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clawkeep_credentials::Secret;

    use super::*;

    struct One;

    impl Secrets for One {
        fn fill<'a>(&'a self, placeholder: &'a Placeholder, toward: Toward<'a>) -> Filling<'a> {
            Box::pin(async move {
                let here =
                    toward.inspected && toward.host == "api.example" && placeholder.name().as_str() == "one";
                let secret = Secret::new(b"hunter2hunter2".to_vec());
                if here {
                    placeholder.fill(&secret).map_err(|why| why.to_string())
                } else {
                    Err("no".to_owned())
                }
            })
        }
    }

    #[tokio::test]
    async fn none_is_sent_where_the_answer_would_be_the_request() {
        let toward = Toward { host: "api.example", port: 443, inspected: true };
        let request = Request::builder().method("TRACE").uri("/");
        let mut request = request.header("authorization", "Bearer clawkeep:secret:one").body(()).unwrap();
        let refusal = put_in(&mut request, &One, toward).await.unwrap_err();
        assert!(matches!(&refusal, Refusal::Secret(why) if why.contains("TRACE")), "{refusal:?}");
        assert_eq!(request.headers()["authorization"], "Bearer clawkeep:secret:one");
        *request.headers_mut() = http::HeaderMap::new();
        put_in(&mut request, &One, toward).await.unwrap();
    }

    async fn sent(uri: &str, headers: &[(&str, &str)], toward: Toward<'_>) -> Result<Vec<String>, Refusal> {
        let mut request = Request::builder().uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut request = request.body(()).unwrap();
        put_in(&mut request, &One, toward).await?;
        assert!(request.headers().values().all(|value| {
            !value.as_bytes().windows(7).any(|part| part == b"hunter2") || value.is_sensitive()
        }));
        Ok(request.headers().values().map(|value| value.to_str().unwrap().to_owned()).collect())
    }

    #[tokio::test]
    async fn a_secret_takes_its_placeholders_place_toward_its_host_and_otherwise_nothing_is_sent() {
        let toward = Toward { host: "api.example", port: 443, inspected: true };
        let bearer = [("authorization", "Bearer clawkeep:secret:one"), ("accept", "*/*")];
        assert_eq!(sent("/v1", &bearer, toward).await.unwrap(), ["Bearer hunter2hunter2", "*/*"]);
        let plain = [("accept", "*/*")];
        assert_eq!(sent("/v1?a=b", &plain, toward).await.unwrap(), ["*/*"]);
        for (uri, headers, toward) in [
            ("/v1", &bearer[..], Toward { host: "other.example", ..toward }),
            ("/v1", &bearer[..], Toward { inspected: false, ..toward }),
            ("/v1", &[("authorization", "Bearer clawkeep:secret:two")], toward),
            ("/v1", &[("x-note", "clawkeep:secret:one")], toward),
            ("/v1", &[("authorization", "Bearer clawkeep:secret:one and more")], toward),
            ("/v1?key=clawkeep:secret:one", &plain[..], toward),
            ("/v1/clawkeep%3Asecret%3Aone", &plain[..], toward),
        ] {
            let refusal = sent(uri, headers, toward).await.unwrap_err();
            assert!(
                matches!(&refusal, Refusal::Secret(why) if !why.contains("hunter2")),
                "{uri}: {refusal:?}"
            );
        }
    }
}
