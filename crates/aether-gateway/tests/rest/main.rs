//! The gateway over fake services, request by request.

mod contract;
mod errors;
mod events;
mod fuzz;
mod resources;
mod routes;
mod serving;
mod support;
