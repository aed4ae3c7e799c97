//! The gateway over fake services, request by request.

mod errors;
mod fuzz;
mod routes;
mod serving;
mod support;
