//! One connection from inside, from its first request to its end.

use std::sync::Arc;
use std::time::Duration;

use clawkeep_credentials::Toward;
use clawkeep_inference::{BoxBody, HOST};
use clawkeep_policy::Target;
use http::{Request, Response, Version};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::addressed::Scheme;
use crate::event::{Action, Event, Reason, printable};
use crate::front::{First, Front};
use crate::gate::Ends;
use crate::hold::Hold;
use crate::idle::Idle;
use crate::meter::Meter;
use crate::proxy::Shared;
use crate::refusal::{self, Refusal, Subject};
use crate::{plain, secrets, tunnel};

/// What every stage of a connection knows: whose it is, and where decisions are told.
pub(crate) struct Client {
    pub(crate) shared: Arc<Shared>,
    pub(crate) ends: Ends,
    pub(crate) meter: Arc<Meter>,
}

/// The first stage's stream.
pub(crate) type Outer = Front<Idle<TcpStream>>;

/// Serve one connection to its end.
pub(crate) async fn serve(stream: TcpStream, shared: Arc<Shared>) {
    // Answers are small and waited for; without this each would wait for the peer's delayed ACK.
    let _ = stream.set_nodelay(true);
    let Ok(ends) = Ends::of(&stream) else { return };
    let meter = Arc::<Meter>::default();
    let mut front = Front::new(Idle::new(stream, shared.limits.idle, meter.clone()), shared.limits.head);
    let client = Arc::new(Client { shared, ends, meter });
    match front.first_head().await {
        First::Head(head) if head.method == "CONNECT" => tunnel::serve(front, &head, client).await,
        First::Head(_) => plain::serve(front, client).await,
        First::Refused(error) => client.refuse(front, Refusal::Head(error), Subject::default()).await,
        First::TooSlow => client.refuse(front, Refusal::Slow, Subject::default()).await,
        First::Closed => {}
    }
}

/// What kind of place a target is.
pub(crate) enum Place {
    /// The model route, which is answered in this process.
    Model,
    /// For the policy to decide.
    Elsewhere,
}

pub(crate) fn place(target: &Target) -> Result<Place, Refusal> {
    match (target.host() == HOST, target.port()) {
        (true, 80 | 443) => Ok(Place::Model),
        (true, _) => Err(Refusal::ModelPort),
        (false, _) => Ok(Place::Elsewhere),
    }
}

impl Client {
    /// Record a decision. Of what the policy refuses it is told who asked, whether a rule wants to know that or not:
    /// an approval is for that program alone.
    pub(crate) fn tell(&self, mut event: Event) {
        if matches!(event.reason, Reason::Policy(_)) && event.caller.is_none() {
            let caller = self.shared.callers.executable(self.ends.client, self.ends.server);
            event.caller = caller.map(|caller| printable(caller.as_bytes()));
        }
        self.shared.tell(event);
    }

    /// Put secrets in for the placeholders of a request that the policy allows.
    pub(crate) async fn fill<B>(
        &self,
        request: &mut Request<B>,
        target: &Target,
        scheme: Scheme,
    ) -> Result<(), Refusal> {
        let inspected = scheme == Scheme::Https;
        let toward = Toward { host: target.host(), port: target.port(), inspected };
        secrets::put_in(request, &*self.shared.secrets, toward).await
    }

    /// Record a refusal.
    pub(crate) fn tell_refused(&self, refusal: &Refusal, subject: &Subject, hold: Option<&Hold>) {
        self.tell(refused_event(refusal, subject, hold));
    }

    /// Record a refusal and answer it with hyper.
    pub(crate) fn reply(
        &self,
        refusal: &Refusal,
        subject: &Subject,
        hold: Option<&Hold>,
        version: Version,
    ) -> Response<BoxBody> {
        self.tell_refused(refusal, subject, hold);
        refusal::reply(refusal, subject, &self.shared.name, version)
    }

    /// Record a refusal, answer it and close.
    pub(crate) async fn refuse<T>(&self, stream: T, refusal: Refusal, subject: Subject)
    where
        T: AsyncRead + AsyncWrite + Unpin,
    {
        self.tell_refused(&refusal, &subject, None);
        self.answer_and_close(stream, &refusal, &subject).await;
    }

    /// Answer what has been recorded, and close.
    pub(crate) async fn answer_and_close<T>(&self, mut stream: T, refusal: &Refusal, subject: &Subject)
    where
        T: AsyncRead + AsyncWrite + Unpin,
    {
        if stream.write_all(&refusal::raw(refusal, subject, &self.shared.name)).await.is_ok() {
            close_gently(stream).await;
        }
    }
}

/// The record of a refusal.
pub(crate) fn refused_event(refusal: &Refusal, subject: &Subject, hold: Option<&Hold>) -> Event {
    let (host, port, reason) = (&subject.host, subject.port, refusal.reason());
    let known = match hold {
        Some(hold) => hold.event(Action::Deny, reason),
        None => Event::about(host, port, Action::Deny, reason),
    };
    Event {
        rule: refusal.rule().or(known.rule.clone()),
        method: subject.method.clone(),
        path: subject.path.clone(),
        message: refusal.message(host, port),
        ..known
    }
}

/// Close so that the peer can still read what was written: a close with unread bytes would reset the
/// connection and may take the answer with it.
pub(crate) async fn close_gently<T: AsyncRead + AsyncWrite + Unpin>(mut stream: T) {
    if stream.shutdown().await.is_err() {
        return;
    }
    let drain = async {
        let mut block = [0_u8; 1024];
        for _ in 0..256 {
            if !matches!(stream.read(&mut block).await, Ok(n) if n > 0) {
                break;
            }
        }
    };
    let _ = timeout(Duration::from_secs(1), drain).await;
}
