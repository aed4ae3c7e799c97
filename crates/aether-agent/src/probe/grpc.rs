//! A probe by `grpc.health.v1`, over HTTP/2 without TLS.

use std::net::SocketAddr;

use tonic::Code;
use tonic::transport::Endpoint;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::Probed;
use crate::fetch::root_cause;

/// Asks for the status of a service; the empty name is the whole server.
pub(super) async fn check(address: SocketAddr, service: &str) -> Probed {
    let endpoint = match Endpoint::from_shared(format!("http://{address}")) {
        Ok(endpoint) => endpoint,
        Err(error) => return Probed::Broken(error.to_string()),
    };
    // A connection of its own for each probe: whether one can be made is a part
    // of what is asked.
    let channel = match endpoint.connect().await {
        Ok(channel) => channel,
        Err(error) if is_refused(&error) => return Probed::Closed,
        Err(error) => return Probed::Broken(root_cause(&error)),
    };
    let request = HealthCheckRequest { service: service.to_owned() };
    match HealthClient::new(channel).check(request).await {
        Ok(answer) => match ServingStatus::try_from(answer.get_ref().status) {
            Ok(ServingStatus::Serving) => Probed::Passed,
            Ok(status) => Probed::NotServing(status.as_str_name().to_owned()),
            Err(_) => Probed::NotServing(format!("status {}", answer.get_ref().status)),
        },
        Err(status) => match status.code() {
            // The transport's own words, for example of a server that does not
            // speak HTTP/2.
            Code::Unknown | Code::Unavailable | Code::Internal if status.message() != "" => {
                Probed::Broken(format!("{}: {}", name_of(status.code()), status.message()))
            }
            code => Probed::NotServing(name_of(code)),
        },
    }
}

fn is_refused(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        let io = error.downcast_ref::<std::io::Error>();
        if io.is_some_and(|io| io.kind() == std::io::ErrorKind::ConnectionRefused) {
            return true;
        }
        next = error.source();
    }
    false
}

/// The code's name as in the protocol: `NOT_FOUND`.
fn name_of(code: Code) -> String {
    let mut name = String::new();
    for letter in format!("{code:?}").chars() {
        if letter.is_ascii_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(letter.to_ascii_uppercase());
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_named_as_in_the_protocol() {
        for (code, name) in [
            (Code::NotFound, "NOT_FOUND"),
            (Code::Unimplemented, "UNIMPLEMENTED"),
            (Code::DeadlineExceeded, "DEADLINE_EXCEEDED"),
        ] {
            assert_eq!(name_of(code), name);
        }
    }
}
