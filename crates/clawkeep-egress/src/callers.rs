use std::net::SocketAddr;

/// Tells which program inside a sandbox is asking.
pub trait Callers: Send + Sync {
    /// The path of the executable that owns the socket `client` (its own address inside) which is connected to
    /// `server` (the proxy's address inside). `None`: it cannot be told, and rules that name programs do not
    /// apply. Called while connections wait, so it takes microseconds.
    fn executable(&self, client: SocketAddr, server: SocketAddr) -> Option<String>;
}

/// Tells of nobody: rules that name programs apply to no connection.
pub struct NoCallers;

impl Callers for NoCallers {
    fn executable(&self, _client: SocketAddr, _server: SocketAddr) -> Option<String> {
        None
    }
}
