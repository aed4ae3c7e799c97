//! tower's `Balance`: the better of two by chance. It knows loads and no ratio, and a call
//! needs it alone, so threads share it behind a lock.
//!
//! With accounts, its load is the number of calls in flight, and what a call took goes into a
//! histogram of the `prometheus` crate, whose handles are looked up before.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use anyhow::Result;
use prometheus::{Histogram, HistogramOpts, HistogramVec};
use quanta::Instant;
use tower::Service;
use tower::balance::p2c::Balance;
use tower::discover::ServiceList;
use tower::load::{CompleteOnResponse, Constant, Load, PendingRequests};

use super::Peer;
use crate::fleet::Fleet;

/// An endpoint that answers at once with its number.
struct Endpoint {
    number: usize,
}

impl Service<()> for Endpoint {
    type Response = usize;
    type Error = Infallible;
    type Future = Ready<Result<usize, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, (): ()) -> Self::Future {
        ready(Ok(self.number))
    }
}

/// A balancer that threads share.
type Shared<S> = Arc<Mutex<Balance<ServiceList<Vec<S>>, ()>>>;

fn shared<S>(fleet: Fleet, wrap: impl Fn(Endpoint) -> S) -> Shared<S>
where
    S: Service<(), Response = usize, Error = Infallible> + Load,
    S::Metric: std::fmt::Debug,
{
    let numbers = 0..2 * usize::from(fleet.endpoints);
    let services: Vec<S> = numbers.map(|number| wrap(Endpoint { number })).collect();
    Arc::new(Mutex::new(Balance::new(ServiceList::new::<()>(services))))
}

/// One call, which is answered at once: the number of its endpoint.
fn call<S>(balance: &Shared<S>) -> usize
where
    S: Service<(), Response = usize, Error = Infallible> + Load,
    S::Metric: std::fmt::Debug,
{
    let mut context = Context::from_waker(Waker::noop());
    let mut balance = balance.lock().expect("nobody panics in it");
    let is_ready = Service::<()>::poll_ready(&mut *balance, &mut context).is_ready();
    assert!(is_ready, "all of them are");
    let call = std::pin::pin!(balance.call(()));
    match call.poll(&mut context) {
        Poll::Ready(answer) => answer.expect("it answers"),
        Poll::Pending => unreachable!("it answers at once"),
    }
}

/// Alone.
pub fn peer(fleet: Fleet) -> Peer {
    let balance = shared(fleet, |endpoint| Constant::new(endpoint, 1_u32));
    let endpoints = usize::from(fleet.endpoints);
    Peer::picking("tower p2c, mutex", false, move || {
        let balance = Arc::clone(&balance);
        Box::new(move || call(&balance) < endpoints)
    })
}

/// With accounts.
pub fn accounting(fleet: Fleet) -> Result<Peer> {
    let balance =
        shared(fleet, |endpoint| PendingRequests::new(endpoint, CompleteOnResponse::default()));
    let latency = HistogramVec::new(HistogramOpts::new("latency", "of calls"), &["endpoint"])?;
    let numbers = 0..2 * usize::from(fleet.endpoints);
    let latency: Vec<Histogram> =
        numbers.map(|number| latency.with_label_values(&[&number.to_string()])).collect();
    let latency = Arc::new(latency);
    let endpoints = usize::from(fleet.endpoints);
    Ok(Peer::accounting("tower p2c, mutex; prometheus", move || {
        let (balance, latency) = (Arc::clone(&balance), Arc::clone(&latency));
        Box::new(move || {
            let began = Instant::now();
            let number = call(&balance);
            latency[number].observe(began.elapsed().as_secs_f64());
            number < endpoints
        })
    }))
}
