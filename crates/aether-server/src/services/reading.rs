//! Streams down to those who only read. A message is made when the transport
//! asks for it, in the task that sends it: a change wakes one task for each
//! reader, and nothing is queued.
//!
//! The transport stops asking while a reader takes nothing. So whoever is not
//! asked for anything for long lets go of all that it holds for that reader.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures::Stream;
use tonic::{Response, Status};

use super::Streamed;
use super::following::too_slow;

/// How often somebody looks whether a reader's stream has been asked since, which
/// one that is read is more often: it wakes for every pulse.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// At how many looks in a row nobody may have asked before the reader counts as
/// stuck. Counted, so that a node that was paused blames no reader for it.
const UNREAD_LOOKS_MAX: u32 = 3;

/// Where a stream's messages are handed over, one at a time.
pub struct Handover<T>(Arc<Mutex<Option<T>>>);

impl<T> Handover<T> {
    /// Hands a message over. Returns when the next one is asked for; a stream whose
    /// reader has left is dropped here.
    pub async fn tell(&self, message: T) {
        *locked(&self.0) = Some(message);
        // Whoever asks again has taken it.
        poll_fn(|_| if locked(&self.0).is_some() { Poll::Pending } else { Poll::Ready(()) }).await;
    }
}

/// A stream of what `push` hands over. The error with which it ends is the last that
/// the reader gets.
pub fn answer<T, F>(push: impl FnOnce(Handover<T>) -> F) -> Response<Streamed<T>>
where
    T: Send + 'static,
    F: Future<Output = Result<(), Status>> + Send + 'static,
{
    Response::new(Box::pin(Told::new(LOOK_EVERY, push)))
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("a stream that panicked is not asked again")
}

/// A stream that is being read, or was.
struct Told<T> {
    course: Arc<Mutex<Course>>,
    slot: Arc<Mutex<Option<T>>>,
}

enum Course {
    On {
        push: Push,
        /// Who waits for the next message.
        asking: Waker,
        unread_looks: u32,
    },
    /// The error is still to be told.
    Over(Option<Status>),
}

type Push = Pin<Box<dyn Future<Output = Result<(), Status>> + Send>>;

impl<T: Send + 'static> Told<T> {
    fn new<F>(look_every: Duration, push: impl FnOnce(Handover<T>) -> F) -> Self
    where
        F: Future<Output = Result<(), Status>> + Send + 'static,
    {
        let slot = Arc::default();
        let push = Box::pin(push(Handover(Arc::clone(&slot))));
        let course = Course::On { push, asking: Waker::noop().clone(), unread_looks: 0 };
        let course = Arc::new(Mutex::new(course));
        tokio::spawn(look_after(Arc::downgrade(&course), look_every));
        Self { course, slot }
    }
}

impl<T> Stream for Told<T> {
    type Item = Result<T, Status>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut course = locked(&self.course);
        if let Course::On { push, asking, unread_looks } = &mut *course {
            *unread_looks = 0;
            asking.clone_from(context.waker());
            match push.as_mut().poll(context) {
                Poll::Pending => {
                    let message = locked(&self.slot).take();
                    return message.map_or(Poll::Pending, |message| Poll::Ready(Some(Ok(message))));
                }
                Poll::Ready(ended) => *course = Course::Over(ended.err()),
            }
        }
        let Course::Over(status) = &mut *course else { unreachable!("it has just ended") };
        Poll::Ready(status.take().map(Err))
    }
}

/// Lets go of what a stream holds once it is not read any more.
async fn look_after(course: Weak<Mutex<Course>>, every: Duration) {
    loop {
        tokio::time::sleep(every).await;
        let Some(course) = course.upgrade() else { return };
        let mut course = locked(&course);
        let Course::On { asking, unread_looks, .. } = &mut *course else { return };
        *unread_looks += 1;
        if *unread_looks > UNREAD_LOOKS_MAX {
            let asking = asking.clone();
            let unread = format!("nothing was read for {:?}", every * UNREAD_LOOKS_MAX);
            *course = Course::Over(Some(too_slow(unread)));
            asking.wake();
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use aether_proto::v1;
    use aether_proto::v1::routing_client::RoutingClient;
    use aether_proto::v1::routing_server::{Routing, RoutingServer};
    use futures::StreamExt;
    use tokio::sync::{OwnedSemaphorePermit, Semaphore};
    use tokio::time::{advance, timeout};
    use tokio_stream::wrappers::TcpListenerStream;
    use tonic::transport::Server;
    use tonic::{Code, Request, Streaming};

    use super::*;

    /// Tells numbers for ever, one each second, and holds a place meanwhile.
    fn clock(place: OwnedSemaphorePermit) -> Told<u32> {
        Told::new(LOOK_EVERY, |to| async move {
            let _place = place;
            for number in 0.. {
                to.tell(number).await;
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            Ok(())
        })
    }

    fn one_place() -> (Arc<Semaphore>, OwnedSemaphorePermit) {
        let places = Arc::new(Semaphore::new(1));
        let place = Arc::clone(&places).try_acquire_owned().unwrap();
        (places, place)
    }

    #[tokio::test]
    async fn messages_come_in_order_and_the_error_after_them() {
        let stream = answer(|to| async move {
            for number in 0..100 {
                to.tell(number).await;
                if number % 3 == 0 {
                    tokio::task::yield_now().await;
                }
            }
            Err(Status::unavailable("gone"))
        });
        let told: Vec<Result<i32, Status>> = stream.into_inner().collect().await;
        let (last, messages) = told.split_last().unwrap();
        assert_eq!(last.as_ref().unwrap_err().message(), "gone");
        assert!(messages.iter().map(|told| *told.as_ref().unwrap()).eq(0..100));
        let ended = answer(|to| async move {
            to.tell(7).await;
            Ok(())
        });
        let told: Vec<Result<i32, Status>> = ended.into_inner().collect().await;
        assert!(matches!(told[..], [Ok(7)]), "{told:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_asks_for_nothing_is_let_go_and_told_so() {
        let (places, place) = one_place();
        let mut told = clock(place);
        assert_eq!(told.next().await.unwrap().unwrap(), 0);
        tokio::time::sleep(LOOK_EVERY * UNREAD_LOOKS_MAX).await;
        assert_eq!(places.available_permits(), 0, "it may still come back");
        tokio::time::sleep(LOOK_EVERY + Duration::from_secs(1)).await;
        assert_eq!(places.available_permits(), 1, "nothing is held for it");
        let status = told.next().await.unwrap().unwrap_err();
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert_eq!(aether_proto::errors::code_of(&status).unwrap(), "resource_exhausted");
        assert!(told.next().await.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_asks_now_and_then_stays_and_so_does_one_of_a_paused_node() {
        let (places, place) = one_place();
        let mut told = clock(place);
        for number in 0..20 {
            tokio::time::sleep(LOOK_EVERY * UNREAD_LOOKS_MAX - Duration::from_secs(1)).await;
            assert_eq!(told.next().await.unwrap().unwrap(), number);
        }
        advance(LOOK_EVERY * 100).await;
        tokio::task::yield_now().await;
        assert!(told.next().await.unwrap().is_ok());
        drop(told);
        assert_eq!(places.available_permits(), 1, "nothing outlives its reader");
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_waits_is_woken_when_it_is_let_go() {
        let mut told = Told::<u32>::new(LOOK_EVERY, |_| std::future::pending());
        let waiting = tokio::spawn(async move { told.next().await });
        let told = timeout(LOOK_EVERY * 10, waiting).await.expect("it is woken").unwrap();
        assert!(told.unwrap().is_err());
    }

    /// What the client of a stream over HTTP/2 does not take.
    struct Flood(Arc<Semaphore>);

    #[tonic::async_trait]
    impl Routing for Flood {
        type WatchStream = Streamed<v1::RoutingDown>;

        async fn watch(
            &self,
            _: Request<Streaming<v1::RoutingUp>>,
        ) -> Result<Response<Self::WatchStream>, Status> {
            let place = Arc::clone(&self.0).try_acquire_owned().unwrap();
            let told = Told::new(Duration::from_millis(50), |to| async move {
                let _place = place;
                loop {
                    let full = vec!["x".repeat(1_000)];
                    to.tell(v1::RoutingDown { removed: full, ..Default::default() }).await;
                }
            });
            Ok(Response::new(Box::pin(told)))
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn the_transport_does_not_ask_for_a_reader_that_takes_nothing() {
        const LIMIT: Duration = Duration::from_secs(30);
        let places = Arc::new(Semaphore::new(1));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = Server::builder().add_service(RoutingServer::new(Flood(Arc::clone(&places))));
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        let mut client = RoutingClient::connect(format!("http://{address}")).await.unwrap();
        let mut down = client.watch(futures::stream::pending()).await.unwrap().into_inner();
        assert!(down.message().await.unwrap().is_some());
        timeout(LIMIT, places.acquire()).await.expect("it is let go").unwrap().forget();
        // What is under way comes, and why no more does.
        let end = timeout(LIMIT, async {
            loop {
                if let Err(status) = down.message().await {
                    return status;
                }
            }
        });
        assert_eq!(end.await.unwrap().code(), Code::ResourceExhausted);
    }
}
