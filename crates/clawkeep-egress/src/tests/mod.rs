//! The proxy between real sockets: origins on the loopback, behind addresses that the policy takes for public.

mod clients;
mod inspection;
mod load;
mod passing;
mod reload;
mod stages;
#[path = "../../tests/common/wire.rs"]
mod wire;
mod world;
