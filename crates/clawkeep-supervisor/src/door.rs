//! The agent's own port, for whoever brings a secret there: a browser with a token, a question.

use std::io;

use clawkeep_isolation::SandboxSpec;
use clawkeep_plan::Tier;
use tokio::net::TcpStream;

use crate::blueprint::Blueprint;
use crate::client::InitClient;
use crate::identity::{Listener, on_this_host};

/// Where a sandbox's agent serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Door {
    port: u16,
    /// Whose listener it must be where others could listen there too.
    owner: Option<u32>,
}

impl Door {
    /// That of the agent of this blueprint; `None` for one that is not asked for its health.
    pub fn of(blueprint: &Blueprint) -> Option<Self> {
        let port = blueprint.adapter.health()?.port;
        Some(Self { port, owner: owner(&blueprint.spec) })
    }

    /// A connection to it, from the sandbox's loopback: the peer sees 127.0.0.1. Never to somebody else's listener:
    /// the one that is there before and after is the same, and the agent's user's.
    ///
    /// # Errors
    /// That of connect(2), that the sandbox is gone, or `PermissionDenied` with whose the port is.
    pub async fn open(self, client: &InitClient) -> io::Result<TcpStream> {
        let Some(owner) = self.owner else { return client.connect(self.port).await };
        let before = self.look(owner).await?;
        let stream = client.connect(self.port).await?;
        match self.look(owner).await? == before {
            true => Ok(stream),
            false => Err(io::ErrorKind::ConnectionReset.into()),
        }
    }

    /// The table is the whole host's, and anybody on it can make it long.
    async fn look(self, owner: u32) -> io::Result<Vec<Listener>> {
        tokio::task::spawn_blocking(move || self.listeners(owner)).await.map_err(io::Error::other)?
    }

    fn listeners(self, owner: u32) -> io::Result<Vec<Listener>> {
        let found = on_this_host(self.port);
        match found.iter().find(|listener| listener.uid != owner) {
            Some(Listener { uid, .. }) => {
                let what = format!("port {} of this host is user {uid}'s, not the agent's", self.port);
                Err(io::Error::new(io::ErrorKind::PermissionDenied, what))
            }
            None if found.is_empty() => Err(io::ErrorKind::ConnectionRefused.into()),
            None => Ok(found),
        }
    }
}

/// Whom a listener of a sandbox's must belong to; `None` where nobody else is on its loopback.
pub(crate) fn owner(spec: &SandboxSpec) -> Option<u32> {
    match spec.tier {
        Tier::Namespaces => None,
        Tier::Landlock => Some(spec.agent().0),
    }
}
