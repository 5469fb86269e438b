//! The proxy alone, in front of the canary, on the host's loopback: for trying clients by hand.
//!
//! `serve ADDRESS CA_FILE [POLICY_FILE]` writes the CA's certificate to the file and prints each event as a line of
//! JSON until it is interrupted. Without a policy nothing but `inference.local` is reached.

use std::sync::Arc;

use clawkeep_egress::{Authority, LivePolicy, NoCallers, Proxy};
use clawkeep_inference::{LiveService, Service};
use clawkeep_policy::{Matcher, Policy};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(address), Some(ca_file)) = (arguments.next(), arguments.next()) else {
        return Err("usage: serve ADDRESS CA_FILE [POLICY_FILE]".into());
    };
    let matcher = match arguments.next() {
        Some(file) => Matcher::new(&Policy::read(&std::fs::read_to_string(file)?)?.policy),
        None => Matcher::nothing(),
    };
    let authority = Authority::generate()?;
    std::fs::write(ca_file, authority.cert_pem())?;
    let (sender, mut events) = tokio::sync::mpsc::channel(256);
    let (inference, policy) = (LiveService::new(Service::canary()), LivePolicy::new(matcher));
    let proxy = Proxy::new(&authority, inference, policy, Arc::new(NoCallers), sender)?;
    let listener = tokio::net::TcpListener::bind(address).await?;
    eprintln!("listening on {}", listener.local_addr()?);
    let interrupted = async {
        let _ = tokio::signal::ctrl_c().await;
    };
    let print = async {
        while let Some(event) = events.recv().await {
            println!("{}", serde_json::to_string(&event).unwrap_or_default());
        }
    };
    tokio::join!(proxy.serve(listener, interrupted), print);
    Ok(())
}
