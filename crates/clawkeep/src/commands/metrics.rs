//! Figures for a monitoring system.

use std::net::SocketAddr;

use clawkeep_daemon::api::{MetricsStatus, Request, Value};

use crate::host::{Host, unexpected};
use crate::output;
use crate::problem::{Outcome, Problem};

/// What `metrics` takes.
#[derive(Debug, clap::Args)]
#[command(after_help = "For the collector of text files of node_exporter, without a port:\n  \
    clawkeep metrics > /PLACE/clawkeep.new && mv /PLACE/clawkeep.new /PLACE/clawkeep.prom\n\
    What is served over HTTP can be read by every user of this machine. It has names of sandboxes, providers and\n\
    models in it, and no secrets.")]
pub struct Options {
    /// Serve them over HTTP from now on, at this address of the loopback, as /metrics; the daemon remembers it
    #[arg(long, value_name = "ADDRESS:PORT", conflicts_with = "off")]
    listen: Option<SocketAddr>,
    /// Serve them no longer
    #[arg(long)]
    off: bool,
}

/// `metrics`: all of them, in Prometheus' text format.
pub fn run(host: &Host, options: &Options) -> Outcome {
    if options.listen.is_none() && !options.off {
        return match host.ask(&Request::Metrics, |_| ())? {
            Value::Text(text) => {
                output::print(&text);
                Ok(0)
            }
            _ => Err(unexpected()),
        };
    }
    if let Some(listen) = options.listen.filter(|listen| !listen.ip().is_loopback()) {
        let message = format!("{listen} is not an address of the loopback: others could read it");
        return Err(Problem::usage("not-loopback", message, "clawkeep metrics --listen 127.0.0.1:9464"));
    }
    match host.order(&Request::ServeMetrics { listen: options.listen }, |_| ())? {
        Value::Metrics(MetricsStatus { listen: Some(listen), .. }) => {
            output::print(&format!(
                "metrics are served at http://{listen}/metrics, to every user of this machine\n"
            ));
            Ok(0)
        }
        Value::Metrics(_) => {
            output::print("metrics are not served\n");
            Ok(0)
        }
        _ => Err(unexpected()),
    }
}
