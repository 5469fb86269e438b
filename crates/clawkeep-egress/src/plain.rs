//! Requests to the proxy itself: absolute-form HTTP/1.1, each to the target that it names.

use std::sync::{Arc, Mutex, PoisonError};

use clawkeep_inference::BoxBody;
use clawkeep_policy::{Matcher, Target};
use http::{Request, Response};
use hyper::body::Incoming;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::addressed::{Refused, Scheme, asked_of, subject_of, target_of};
use crate::connection::{Client, Outer, Place, place};
use crate::event::{Action, Event, Reason};
use crate::exchange::{Switch, drain, exchange};
use crate::hold::{Asked, Hold, UnderWay};
use crate::origin::{Origin, Sender};
use crate::refusal::Refusal;
use crate::tunnel::{forward, granted};
use crate::{model, server};

/// The connection to the origin of the last request, kept for the next one to the same.
struct Line {
    hold: Arc<Hold>,
    sender: Sender,
    _driver: JoinSet<()>,
}

/// What is to be done with a request.
enum Decided {
    Model,
    Line { line: Arc<Line>, fresh: bool, asked: Asked, under_way: UnderWay },
}

/// One client's requests.
struct Requests {
    client: Arc<Client>,
    line: tokio::sync::Mutex<Option<Arc<Line>>>,
    /// The same line's, for a new policy to be put to.
    held: Mutex<Option<Arc<Hold>>>,
    switch: Switch,
}

pub(crate) async fn serve(front: Outer, client: Arc<Client>) {
    let policy = client.shared.policy.subscribe();
    let requests = Arc::new(Requests {
        client: client.clone(),
        line: tokio::sync::Mutex::new(None),
        held: Mutex::new(None),
        switch: Switch::new(front.opened()),
    });
    let answer = |request| {
        let requests = requests.clone();
        async move { requests.answer(request).await }
    };
    let served = async {
        server::http1(front, answer, std::future::pending()).await;
        requests.switch.go_on().await;
    };
    let revoked = tokio::select! {
        () = served => None,
        revoked = requests.revoked(policy) => Some(revoked),
    };
    if let Some((hold, refusal)) = revoked {
        client.tell_refused(&refusal, &hold.subject(), Some(&hold));
    }
    if let Some(hold) = requests.held() {
        client.tell(hold.ended(&client.meter));
    }
}

impl Requests {
    fn held(&self) -> Option<Arc<Hold>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn revoked(&self, mut policy: watch::Receiver<Matcher>) -> (Arc<Hold>, Refusal) {
        loop {
            if policy.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
            let matcher = policy.borrow_and_update().clone();
            if let Some(hold) = self.held()
                && let Err(refusal) = hold.renew(&matcher, &self.client.shared)
            {
                return (hold, refusal);
            }
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<BoxBody> {
        let version = request.version();
        let answered = match self.decide(&request).await {
            Ok(Decided::Model) => return model::respond(request, &self.client).await,
            Ok(Decided::Line { line, fresh, asked, under_way }) => {
                let subject = subject_of(&line.hold.target, &asked.method, asked.path.path());
                self.carry(request, line, fresh, &asked, under_way)
                    .await
                    .map_err(|refusal| (refusal, subject))
            }
            Err(refused) => {
                drain(request).await;
                Err(refused)
            }
        };
        answered.unwrap_or_else(|(refusal, subject)| self.client.reply(&refusal, &subject, None, version))
    }

    async fn decide(&self, request: &Request<Incoming>) -> Result<Decided, Refused> {
        let target = target_of(request, Scheme::Http, None)?;
        let subject = || subject_of(&target, request.method().as_str(), request.uri().path());
        match place(&target).map_err(|refusal| (refusal, subject()))? {
            Place::Model => {
                let (host, port) = (target.host(), target.port());
                self.client.tell(Event::about(host, port, Action::Allow, Reason::ModelRoute));
                return Ok(Decided::Model);
            }
            Place::Elsewhere => {}
        }
        let asked = asked_of(request, &target)?;
        let subject = || subject_of(&target, &asked.method, asked.path.path());
        let (line, fresh) = self.line_to(&target).await.map_err(|refusal| (refusal, subject()))?;
        let under_way = granted(&line.hold, &asked, &self.client).map_err(|refusal| (refusal, subject()))?;
        Ok(Decided::Line { line, fresh, asked, under_way })
    }

    async fn carry(
        &self,
        mut request: Request<Incoming>,
        line: Arc<Line>,
        fresh: bool,
        asked: &Asked,
        under_way: UnderWay,
    ) -> Result<Response<BoxBody>, Refusal> {
        self.client.fill(&mut request, &line.hold.target, Scheme::Http).await?;
        let switch = Some(&self.switch);
        match forward(request, &line.hold, Scheme::Http, asked, under_way, &line.sender, switch).await {
            // The origin had closed the connection meanwhile, and nothing was sent: once more on a new one.
            Err((_, Some((request, _)))) if !fresh && !asked.upgrade => {
                let line = self.new_line(&line.hold.target).await?;
                let under_way = granted(&line.hold, asked, &self.client)?;
                exchange(&line.sender, request, under_way, None).await.map_err(|(refusal, _)| refusal)
            }
            answered => answered.map_err(|(refusal, _)| refusal),
        }
    }

    /// The line of the last request if it leads there and still may, else a new one.
    async fn line_to(&self, target: &Target) -> Result<(Arc<Line>, bool), Refusal> {
        let last = self.line.lock().await.clone();
        if let Some(line) = last
            && line.hold.target == *target
            && !line.sender.is_closed().await
            && line.hold.renew(&self.client.shared.policy.current(), &self.client.shared).is_ok()
        {
            return Ok((line, false));
        }
        Ok((self.new_line(target).await?, true))
    }

    async fn new_line(&self, target: &Target) -> Result<Arc<Line>, Refusal> {
        let shared = &self.client.shared;
        let passage = shared.pass(target, self.client.ends).await.map_err(|(refusal, _)| refusal)?;
        let (hold, stream) = Hold::new(passage, &self.client);
        let (sender, driver) = Origin::plain(stream, &shared.limits).await?.split();
        let line = Arc::new(Line { hold: hold.clone(), sender, _driver: driver });
        let before = self.held.lock().unwrap_or_else(PoisonError::into_inner).replace(hold.clone());
        // A policy that came in between was put to the line before.
        hold.renew(&shared.policy.current(), shared)?;
        if let Some(before) = before {
            self.client.tell(before.ended(&self.client.meter));
        }
        *self.line.lock().await = Some(line.clone());
        Ok(line)
    }
}
