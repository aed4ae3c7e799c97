//! The gateway over fake services, request by request.

mod errors;
mod events;
mod fuzz;
mod routes;
mod serving;
mod support;
