//! The proxy alone, in front of the canary, on the host's loopback: for trying clients by hand.
//!
//! `serve_canary ADDRESS CA_FILE` writes the CA's certificate to the file and prints each verdict as a line of
//! JSON until it is interrupted.

use clawkeep_egress::{Authority, Proxy};
use clawkeep_inference::{LiveService, Service};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(address), Some(ca_file)) = (arguments.next(), arguments.next()) else {
        return Err("usage: serve_canary ADDRESS CA_FILE".into());
    };
    let authority = Authority::generate()?;
    std::fs::write(ca_file, authority.cert_pem())?;
    let (events, mut verdicts) = tokio::sync::mpsc::channel(256);
    let proxy = Proxy::new(&authority, LiveService::new(Service::canary()), events)?;
    let listener = tokio::net::TcpListener::bind(address).await?;
    eprintln!("listening on {}", listener.local_addr()?);
    let interrupted = async {
        let _ = tokio::signal::ctrl_c().await;
    };
    let print = async {
        while let Some(verdict) = verdicts.recv().await {
            println!("{}", serde_json::to_string(&verdict).unwrap_or_default());
        }
    };
    tokio::join!(proxy.serve(listener, interrupted), print);
    Ok(())
}
