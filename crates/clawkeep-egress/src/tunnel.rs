//! CONNECT: a tunnel to one target, passed through or inspected.

use std::sync::Arc;

use clawkeep_inference::BoxBody;
use clawkeep_policy::{Handling, Target};
use http::{Request, Response};
use hyper::body::Incoming;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use crate::addressed::{Refused, Scheme, asked_of, subject_of, target_of};
use crate::connection::{Client, Outer, Place, place};
use crate::event::{Action, Event, Reason, printable_host};
use crate::exchange::{Failed, Switch, drain, exchange, outgoing};
use crate::front::Front;
use crate::head::Head;
use crate::hold::{Asked, Hold, UnderWay};
use crate::model;
use crate::opening::{Hello, Opening, opening};
use crate::origin::{Origin, Sender};
use crate::refusal::{Refusal, Subject};
use crate::relay::relay;
use crate::server;

/// The answer to a CONNECT that is agreed to.
pub(crate) const ESTABLISHED: &[u8] = b"HTTP/1.1 200 Connection established\r\n\r\n";

/// The alert that TLS has for a name that is not served here: fatal, unrecognized_name (RFC 6066, 3).
const UNRECOGNIZED_NAME: &[u8] = &[0x15, 3, 3, 0, 2, 2, 112];

pub(crate) async fn serve(mut front: Outer, head: &Head, client: Arc<Client>) {
    let Ok(target) = Target::parse(&head.target, None) else {
        let subject = Subject { host: printable_host(&head.target), ..Subject::default() };
        return client.refuse(front, Refusal::Malformed, subject).await;
    };
    let subject = Subject { host: target.host().to_owned(), port: target.port(), ..Subject::default() };
    match place(&target) {
        Ok(Place::Model) => return model::tunnel(front, target, client).await,
        Ok(Place::Elsewhere) => {}
        Err(refusal) => return client.refuse(front, refusal, subject).await,
    }
    // From here on no replacement of the policy is missed.
    let policy = client.shared.policy.subscribe();
    let (hold, origin) = match client.shared.pass(&target, client.ends).await {
        Ok(passage) => Hold::new(passage, &client),
        Err((refusal, caller)) => {
            let event = crate::connection::refused_event(&refusal, &subject, None);
            client.tell(Event { caller, ..event });
            return client.answer_and_close(front, &refusal, &subject).await;
        }
    };
    client.tell(hold.event(Action::Allow, Reason::Rule));
    if front.write_all(ESTABLISHED).await.is_err() {
        return;
    }
    let ended = tokio::select! {
        ended = carry(front.into_tunnel(), origin, &hold, &client) => ended,
        refusal = hold.revoked(policy, &client.shared) => Err(refusal),
    };
    if let Err(refusal) = ended {
        client.tell_refused(&refusal, &subject, Some(&hold));
    }
    client.tell(hold.ended(&client.meter));
}

async fn carry(
    mut front: Outer,
    origin: TcpStream,
    hold: &Arc<Hold>,
    client: &Arc<Client>,
) -> Result<(), Refusal> {
    let passing = hold.handling == Handling::Passthrough;
    let opening = opening(&mut front, client.shared.limits.head, passing.then_some(&origin)).await?;
    match opening {
        Opening::Closed => Ok(()),
        Opening::Http => {
            let origin = Origin::plain(origin, &client.shared.limits).await;
            let front = Front::new(front, client.shared.limits.head);
            http1(front, Scheme::Http, origin, hold, client).await;
            Ok(())
        }
        Opening::Tls(hello) => {
            if let Err(refusal) = same_name(&hello, &hold.target) {
                let _ = front.write_all(UNRECOGNIZED_NAME).await;
                return Err(refusal);
            }
            if passing {
                pass_through(front, &origin, client).await;
                return Ok(());
            }
            inspect(front, origin, &hello, hold, client).await
        }
        Opening::Other if !passing => {
            Err(Refusal::Protocol("the policy inspects this connection, and it carries neither TLS nor HTTP"))
        }
        Opening::Other if hold.target.port() == Scheme::Https.default_port() => {
            Err(Refusal::Protocol("a tunnel to port 443 carries TLS or HTTP"))
        }
        Opening::Other => {
            pass_through(front, &origin, client).await;
            Ok(())
        }
    }
}

/// The name in a TLS greeting must be the tunnel's. None at all is well only where there is no name.
fn same_name(hello: &Hello, target: &Target) -> Result<(), Refusal> {
    match &hello.name {
        Some(name) if name.eq_ignore_ascii_case(target.host()) => Ok(()),
        Some(name) => Err(Refusal::OtherHost(printable_host(name.as_bytes()))),
        None if target.is_address() => Ok(()),
        None => Err(Refusal::Protocol("the TLS greeting does not say for which host it is (SNI)")),
    }
}

async fn pass_through(front: Outer, origin: &TcpStream, client: &Client) {
    let (idle, early) = front.into_parts();
    // Whichever side fails, the connection has ended.
    let _ = relay(&idle.into_inner(), origin, &early, client.shared.limits.idle, &client.meter).await;
}

async fn inspect(
    front: Outer,
    origin: TcpStream,
    hello: &Hello,
    hold: &Arc<Hold>,
    client: &Arc<Client>,
) -> Result<(), Refusal> {
    let (shared, host) = (&client.shared, hold.target.host());
    // The origin first: what it speaks is offered to the client. If it cannot be had, the client learns of it in
    // an answer that it can read.
    let origin = Origin::tls(origin, host, hello.http2, shared).await;
    let http2 = origin.as_ref().is_ok_and(Origin::is_http2);
    if let Err(refusal) = &origin {
        client.tell_refused(refusal, &hold.subject(), Some(hold));
    }
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let config = shared.leaves.server_config(bare, http2);
    let config = config.map_err(|_| Refusal::Protocol("no certificate can be made for this host"))?;
    let greeted = timeout(shared.limits.head, TlsAcceptor::from(config).accept(front)).await;
    let stream = greeted.map_err(|_| Refusal::Slow)?.map_err(|_| {
        Refusal::Protocol("the program inside ended the TLS handshake; it may not trust the sandbox's CA")
    })?;
    let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    if !http2 {
        http1(Front::new(stream, shared.limits.head), Scheme::Https, origin, hold, client).await;
        return Ok(());
    }
    let (line, driver) = Line::new(Scheme::Https, origin, hold, client);
    let answer = |request| {
        let line = line.clone();
        async move { line.answer(request, None).await }
    };
    server::http2(stream, answer, gone(driver)).await;
    Ok(())
}

async fn http1<T>(
    front: Front<T>,
    scheme: Scheme,
    origin: Result<Origin, Refusal>,
    hold: &Arc<Hold>,
    client: &Arc<Client>,
) where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let switch = Arc::new(Switch::new(front.opened()));
    let (line, driver) = Line::new(scheme, origin, hold, client);
    let answer = |request| {
        let (line, switch) = (line.clone(), switch.clone());
        async move { line.answer(request, Some(&switch)).await }
    };
    let gone = async {
        gone(driver).await;
        // The connection to the origin ends as such when both sides leave HTTP; this one does so by itself.
        if switch.is_asked() {
            std::future::pending().await
        }
    };
    server::http1(front, answer, gone).await;
    switch.go_on().await;
}

/// Ready when the connection to the origin has ended, whose driver this is: then the client's ends as well, as it
/// would if there were no proxy.
async fn gone(driver: Option<JoinSet<()>>) {
    match driver {
        Some(mut driver) => while driver.join_next().await.is_some() {},
        None => std::future::pending().await,
    }
}

/// The requests of one tunnel, and the connection to the origin that they go to.
struct Line {
    scheme: Scheme,
    sender: Result<Sender, Refusal>,
    hold: Arc<Hold>,
    client: Arc<Client>,
}

impl Line {
    fn new(
        scheme: Scheme,
        origin: Result<Origin, Refusal>,
        hold: &Arc<Hold>,
        client: &Arc<Client>,
    ) -> (Arc<Self>, Option<JoinSet<()>>) {
        let (sender, driver) = match origin {
            Ok(origin) => {
                let (sender, driver) = origin.split();
                (Ok(sender), Some(driver))
            }
            Err(refusal) => (Err(refusal), None),
        };
        (Arc::new(Self { scheme, sender, hold: hold.clone(), client: client.clone() }), driver)
    }

    async fn answer(&self, mut request: Request<Incoming>, switch: Option<&Switch>) -> Response<BoxBody> {
        let (version, target) = (request.version(), &self.hold.target);
        let decided = match self.decide(&request) {
            Ok(decided) => match self.client.fill(&mut request, target, self.scheme).await {
                Ok(()) => Ok(decided),
                Err(refusal) => Err((refusal, subject_of(target, &decided.0.method, decided.0.path.path()))),
            },
            refused => refused,
        };
        let answered = match decided {
            Ok((asked, under_way, sender)) => {
                let subject = subject_of(target, &asked.method, asked.path.path());
                forward(request, &self.hold, self.scheme, &asked, under_way, sender, switch)
                    .await
                    .map_err(|(refusal, _)| (refusal, subject))
            }
            Err(refused) => {
                drain(request).await;
                Err(refused)
            }
        };
        answered.unwrap_or_else(|(refusal, subject)| {
            self.client.reply(&refusal, &subject, Some(&self.hold), version)
        })
    }

    fn decide(&self, request: &Request<Incoming>) -> Result<(Asked, UnderWay, &Sender), Refused> {
        let target = &self.hold.target;
        target_of(request, self.scheme, Some(target))?;
        let asked = asked_of(request, target)?;
        let subject = || subject_of(target, &asked.method, asked.path.path());
        let under_way = granted(&self.hold, &asked, &self.client).map_err(|refusal| (refusal, subject()))?;
        let sender = self.sender.as_ref().map_err(|refusal| (refusal.clone(), subject()))?;
        Ok((asked, under_way, sender))
    }
}

/// Put a request to the policy, and record what it allows.
pub(crate) fn granted(hold: &Arc<Hold>, asked: &Asked, client: &Client) -> Result<UnderWay, Refusal> {
    let (permit, under_way) = hold.request(asked)?;
    let subject = subject_of(&hold.target, &asked.method, asked.path.path());
    let (reason, message) = match &permit.audit {
        Some(denial) => (Reason::Audit, denial.message()),
        None => (Reason::Rule, String::new()),
    };
    client.tell(Event {
        rule: Some(permit.rule.to_string()),
        method: subject.method,
        path: subject.path,
        message,
        ..hold.event(Action::Allow, reason)
    });
    Ok(under_way)
}

/// Send a request that was granted.
pub(crate) async fn forward(
    mut request: Request<Incoming>,
    hold: &Hold,
    scheme: Scheme,
    asked: &Asked,
    under_way: UnderWay,
    sender: &Sender,
    switch: Option<&Switch>,
) -> Result<Response<BoxBody>, Failed> {
    let upgrade = match switch {
        Some(switch) if asked.upgrade => Some((hyper::upgrade::on(&mut request), switch)),
        _ => None,
    };
    let http2 = matches!(sender, Sender::Http2(_));
    if asked.upgrade && (upgrade.is_none() || http2) {
        return Err((Refusal::Protocol("WebSockets are carried over HTTP/1.1"), None));
    }
    let request = outgoing(request, &hold.target, scheme, asked, http2).map_err(|refusal| (refusal, None))?;
    exchange(sender, request, under_way, upgrade).await
}
