//! The gateway over fake services, request by request.

mod contract;
mod errors;
mod resources;
mod routes;
mod serving;
mod support;
