//! The proxy between real sockets: origins on the loopback, behind addresses that the policy takes for public.

mod clients;
mod inspection;
mod load;
mod passing;
mod reload;
mod stages;
mod world;
