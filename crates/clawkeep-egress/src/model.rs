//! The model route, `inference.local`, which is answered in this process.

use std::sync::Arc;

use clawkeep_inference::BoxBody;
use clawkeep_policy::Target;
use http::{Request, Response, header};
use hyper::body::Incoming;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::time::timeout;

use crate::addressed::{Scheme, target_of};
use crate::connection::{Client, Outer};
use crate::event::{Action, Event, Reason};
use crate::front::Front;
use crate::refusal::{Refusal, Subject};
use crate::server;

/// A tunnel to the model route.
pub(crate) async fn tunnel(mut front: Outer, target: Target, client: Arc<Client>) {
    client.tell(Event::about(target.host(), target.port(), Action::Allow, Reason::ModelRoute));
    if front.write_all(crate::tunnel::ESTABLISHED).await.is_err() {
        return;
    }
    let (front, limit) = (front.into_tunnel(), client.shared.limits.head);
    if target.port() == Scheme::Http.default_port() {
        return http(Front::new(front, limit), Scheme::Http, target, client).await;
    }
    // A handshake that fails, or takes too long, ends the connection; TLS has said why.
    let Ok(Ok(stream)) = timeout(limit, client.shared.model_tls.accept(front)).await else { return };
    let name = stream.get_ref().1.server_name().map(str::to_owned);
    if let Some(name) = name.filter(|name| !name.eq_ignore_ascii_case(target.host())) {
        let subject = Subject { host: target.host().to_owned(), port: target.port(), ..Subject::default() };
        return client.tell_refused(&Refusal::OtherHost(name), &subject, None);
    }
    http(Front::new(stream, limit), Scheme::Https, target, client).await;
}

async fn http<T>(stream: Front<T>, scheme: Scheme, target: Target, client: Arc<Client>)
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let answer = |request: Request<Incoming>| {
        let (client, target) = (client.clone(), target.clone());
        async move {
            match target_of(&request, scheme, Some(&target)) {
                Ok(_) => respond(request, &client).await,
                Err((refusal, subject)) => client.reply(&refusal, &subject, None, request.version()),
            }
        }
    };
    server::http1(stream, answer, std::future::pending()).await;
}

/// The model's answer to a request that has been found to be for it.
pub(crate) async fn respond(request: Request<Incoming>, client: &Client) -> Response<BoxBody> {
    if request.headers().contains_key(header::UPGRADE) {
        let refusal = Refusal::Protocol("the model route has no WebSockets");
        let (host, port) = (clawkeep_inference::HOST.to_owned(), 0);
        let subject = Subject { host, port, ..Subject::default() };
        return client.reply(&refusal, &subject, None, request.version());
    }
    client.shared.inference.respond(request).await
}
