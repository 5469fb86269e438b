//! The daemon's end of a sandbox's control socket: many askers, one connection.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use clawkeep_isolation::proto::{Ended, Event, Message, Order, Reply, Request};
use clawkeep_isolation::{InitHandle, wire};
use tokio::io::unix::AsyncFd;
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::{mpsc, oneshot, watch};

type Answer = (Reply, Vec<OwnedFd>);

/// A connection to a sandbox's init.
#[derive(Debug, Clone)]
pub struct InitClient(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    connection: AsyncFd<OwnedFd>,
    number: AtomicU64,
    waiting: Mutex<HashMap<u64, oneshot::Sender<Answer>>>,
    /// How sessions ended, until somebody asks.
    sessions: watch::Sender<HashMap<String, Ended>>,
    gone: watch::Sender<bool>,
    pid: i32,
}

/// What a sandbox's init could not do, or that it is gone.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// The connection ended: the sandbox is gone.
    #[error("the sandbox is gone")]
    Gone,
    /// It said no.
    #[error("{step}: {reason}")]
    Failed {
        /// What was tried.
        step: String,
        /// Why not.
        reason: String,
    },
    /// The connection itself failed.
    #[error("talking to the sandbox: {0}")]
    Io(#[from] io::Error),
    /// It did not answer in time: it is stopped, or stuck in the kernel.
    #[error("the sandbox does not answer")]
    Hung,
    /// It answered something else.
    #[error("the sandbox answered something else than was asked")]
    Confused,
}

/// For an answer; init does nothing that takes long, but for killing.
const PATIENCE: Duration = Duration::from_secs(10);

/// For the answer to `KillAll`, in which init itself waits up to 10 s.
const KILL_PATIENCE: Duration = Duration::from_secs(20);

/// A question that is out; taken back when nobody waits for the answer any more.
struct Question<'a> {
    shared: &'a Shared,
    number: u64,
}

impl Drop for Question<'_> {
    fn drop(&mut self) {
        self.shared.waiting().remove(&self.number);
    }
}

/// Sessions' names begin with this; their ends are kept for whoever waits.
pub const SESSION: &str = "session-";

impl InitClient {
    /// Take over a connection. Events about gateways come over the channel, which ends with the connection.
    ///
    /// # Errors
    /// What the system said.
    pub fn new(handle: &InitHandle) -> io::Result<(Self, mpsc::UnboundedReceiver<Event>)> {
        let connection = handle.connection.try_clone()?;
        rustix::io::ioctl_fionbio(&connection, true)?;
        #[expect(deprecated, reason = "its successor is unsafe; an OwnedFd keeps what that one asks for")]
        let connection = AsyncFd::new(connection)?;
        let shared = Arc::new(Shared {
            connection,
            number: AtomicU64::new(0),
            waiting: Mutex::default(),
            sessions: watch::Sender::new(HashMap::new()),
            gone: watch::Sender::new(false),
            pid: handle.pid,
        });
        let (tell, events) = mpsc::unbounded_channel();
        let client = Self(Arc::clone(&shared));
        tokio::spawn(async move {
            loop {
                match shared.receive().await {
                    Ok(Some((Message::Reply { number, reply }, fds))) => {
                        shared.answered(number, (reply, fds))
                    }
                    Ok(Some((Message::Event(event), _))) => match event {
                        Event::Ended { id, how } if id.starts_with(SESSION) => {
                            shared.sessions.send_modify(|ended| {
                                ended.insert(id, how);
                            });
                        }
                        event => {
                            let _ = tell.send(event);
                        }
                    },
                    Ok(None) | Err(_) => {
                        shared.gone.send_replace(true);
                        shared.waiting().clear();
                        break;
                    }
                }
            }
        });
        Ok((client, events))
    }

    /// Init's pid on the host.
    pub fn pid(&self) -> i32 {
        self.0.pid
    }

    /// Ask, and wait for the answer.
    ///
    /// # Errors
    /// [`InitError`].
    pub async fn ask(&self, order: Order, fds: &[BorrowedFd<'_>]) -> Result<Answer, InitError> {
        let number = self.0.number.fetch_add(1, Ordering::Relaxed);
        let patience = if matches!(order, Order::KillAll { .. }) { KILL_PATIENCE } else { PATIENCE };
        let _question = Question { shared: &self.0, number };
        let (tell, answer) = oneshot::channel();
        self.0.waiting().insert(number, tell);
        if *self.0.gone.borrow() {
            return Err(InitError::Gone);
        }
        let request = Request { number, order };
        let sent = async {
            loop {
                let mut ready = self.0.connection.writable().await?;
                match ready.try_io(|connection| wire::send(connection.get_ref(), &request, fds)) {
                    Ok(result) => return result,
                    Err(_would_block) => {}
                }
            }
        };
        if let Err(error) = tokio::time::timeout(PATIENCE, sent).await.map_err(|_| InitError::Hung)? {
            return Err(match error.kind() {
                io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => InitError::Gone,
                _ => error.into(),
            });
        }
        match tokio::time::timeout(patience, answer).await {
            Ok(Ok((Reply::Failed { step, reason }, _))) => Err(InitError::Failed { step, reason }),
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) => Err(InitError::Gone),
            Err(_) => Err(InitError::Hung),
        }
    }

    /// An order that is answered with nothing but that it is done.
    ///
    /// # Errors
    /// [`InitError`].
    pub async fn order(&self, order: Order) -> Result<(), InitError> {
        match self.ask(order, &[]).await? {
            (Reply::Done, _) => Ok(()),
            _ => Err(InitError::Confused),
        }
    }

    /// A connection to a port on the sandbox's loopback, from inside: the peer sees 127.0.0.1.
    ///
    /// # Errors
    /// That of connect(2), or that the sandbox is gone.
    pub async fn connect(&self, port: u16) -> io::Result<TcpStream> {
        let socket = self.socket().await?;
        let stream = socket.connect((std::net::Ipv4Addr::LOCALHOST, port).into()).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    /// A TCP socket of the sandbox's network, not connected yet. `TimedOut` when init does not answer.
    ///
    /// # Errors
    /// As said, or that the sandbox is gone.
    pub async fn socket(&self) -> io::Result<TcpSocket> {
        let (_, mut fds) = self.ask(Order::Socket, &[]).await.map_err(|error| match error {
            InitError::Hung => io::Error::new(io::ErrorKind::TimedOut, error),
            other => io::Error::other(other),
        })?;
        let socket = fds.pop().ok_or_else(|| io::Error::other(InitError::Confused))?;
        Ok(TcpSocket::from_std_stream(socket.into()))
    }

    /// Wait until this session ends; `None` when the sandbox goes away first.
    pub async fn session_ended(&self, id: &str) -> Option<Ended> {
        let mut ended = self.0.sessions.subscribe();
        loop {
            if let Some(how) = ended.borrow_and_update().get(id) {
                return Some(*how);
            }
            tokio::select! {
                changed = ended.changed() => changed.ok()?,
                () = self.closed() => return ended.borrow().get(id).copied(),
            }
        }
    }

    /// Let go of what is kept about a session.
    pub async fn forget_session(&self, id: &str) {
        self.0.sessions.send_modify(|ended| {
            ended.remove(id);
        });
        // If it cannot be told, init is gone, and its memory with it.
        let _ = self.order(Order::Forget { id: id.to_owned() }).await;
    }

    /// Note a session's end that was told with the greeting.
    pub(crate) fn note_session(&self, id: String, how: Ended) {
        self.0.sessions.send_modify(|ended| {
            ended.insert(id, how);
        });
    }

    /// Wait until the connection has ended.
    pub(crate) async fn closed(&self) {
        // An error means that the sender is gone, which `self` rules out.
        let _ = self.0.gone.subscribe().wait_for(|gone| *gone).await;
    }
}

impl Shared {
    fn waiting(&self) -> std::sync::MutexGuard<'_, HashMap<u64, oneshot::Sender<Answer>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answered(&self, number: u64, answer: Answer) {
        if let Some(asker) = self.waiting().remove(&number) {
            // An asker that went away does not need it.
            let _ = asker.send(answer);
        }
    }

    async fn receive(&self) -> io::Result<Option<(Message, Vec<OwnedFd>)>> {
        loop {
            let mut ready = self.connection.readable().await?;
            match ready.try_io(|connection| wire::receive(connection.get_ref().as_fd())) {
                Ok(result) => return result,
                Err(_would_block) => {}
            }
        }
    }
}
