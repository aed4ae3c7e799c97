//! Requests to a cluster over any of its nodes.
//!
//! A request goes to the first address that answers. Where a node says that it
//! cannot serve now, the next one is asked, for as long as `--timeout` allows. A
//! write is never under way to two nodes at once, and carries a request id, so
//! that asking again after silence cannot do it twice.

use std::cell::Cell;
use std::error::Error;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use aether_proto::errors::is_expired;
use http::uri::Authority;
use tokio::time::Instant;
use tokio::time::error::Elapsed;
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status, TimeoutExpired};

use super::exit::{Exit, Failure, Kind, leaves_open};
use super::interrupt;
use super::reach::{CLIENT_PORT, Reach};

/// Pause between two rounds over the addresses: about one election.
const ROUND_PAUSE: Duration = Duration::from_millis(200);

/// A try with less time than this is cut off more likely than it is answered,
/// and a write that is cut off leaves a doubt where there was none.
const TRY_TIME_MIN: Duration = Duration::from_millis(500);

/// `host:port` of a node's client gRPC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address(String);

impl FromStr for Address {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let plain = text.strip_prefix("http://").unwrap_or(text);
        let shown: String = text.chars().take(80).collect();
        let bad = || format!("'{shown}' is not the address of a node, such as 127.0.0.1:8090");
        // A URI's authority may also have a user and lack a port.
        let authority: Authority = plain.parse().map_err(|_| bad())?;
        let has_port = authority.port_u16().is_some_and(|port| port > 0);
        if authority.host().is_empty() || plain.contains('@') || !has_port {
            return Err(bad());
        }
        Ok(Self(plain.to_owned()))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What came of one try at one address.
enum Try<T> {
    /// An answer.
    Done(T),
    /// A refusal that every node would give.
    Refused(Failure),
    /// A node that cannot serve now, and has done nothing.
    NotNow(String),
    /// A listener that does not serve this, and will not.
    Elsewhere(String),
    /// Sent, and nothing certain came back.
    Open(String),
    /// Sent, and nothing came back.
    Silent(String),
}

/// A way to a cluster.
pub struct Client {
    addresses: Vec<Address>,
    timeout: Duration,
    actor: String,
    /// The address to begin with: the last that answered.
    first: Cell<usize>,
}

impl Client {
    /// A client over these addresses, of which there must be one.
    pub fn new(addresses: Vec<Address>, timeout: Duration, actor: String) -> Result<Self, Failure> {
        if addresses.is_empty() {
            return Err(Failure::usage("--addr names no node"));
        }
        if timeout.is_zero() {
            return Err(Failure::usage(
                "the timeout of the context must be above zero, such as 10s",
            ));
        }
        Ok(Self { addresses, timeout, actor, first: Cell::new(0) })
    }

    /// Who asks.
    pub fn actor(&self) -> String {
        self.actor.clone()
    }

    /// How long a request may take.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// How many addresses there are.
    pub fn nodes(&self) -> usize {
        self.addresses.len()
    }

    /// The same client with more time for what takes longer.
    pub fn slower_by(&self, more: Duration) -> Self {
        Self {
            addresses: self.addresses.clone(),
            timeout: self.timeout.saturating_add(more),
            actor: self.actor.clone(),
            first: self.first.clone(),
        }
    }

    /// An id for a write, the same for all its tries.
    pub fn request_id(&self) -> String {
        format!("cli-{:032x}", rand::random::<u128>())
    }

    /// Begins with another address next time.
    pub fn turn(&self) {
        self.first.set((self.first.get() + 1) % self.addresses.len());
    }

    /// Asks something that changes nothing.
    pub async fn read<M: Clone, T>(
        &self,
        message: M,
        call: impl AsyncFn(Channel, Request<M>) -> Result<Response<T>, Status>,
    ) -> Result<T, Failure> {
        self.call(Kind::Read, &|time| with_deadline(message.clone(), time), &call).await
    }

    /// Asks for a change.
    pub async fn write<M: Clone, T>(
        &self,
        message: M,
        call: impl AsyncFn(Channel, Request<M>) -> Result<Response<T>, Status>,
    ) -> Result<T, Failure> {
        let done =
            self.call(Kind::Write, &|time| with_deadline(message.clone(), time), &call).await;
        interrupt::writing(false);
        done
    }

    /// Opens a stream of answers. Only its beginning has a deadline.
    pub async fn open<M: Clone, T>(
        &self,
        message: M,
        call: impl AsyncFn(Channel, Request<M>) -> Result<Response<T>, Status>,
    ) -> Result<T, Failure> {
        self.call(Kind::Read, &|_| Request::new(message.clone()), &call).await
    }

    async fn call<M, T>(
        &self,
        kind: Kind,
        request: &impl Fn(Duration) -> Request<M>,
        call: &impl AsyncFn(Channel, Request<M>) -> Result<Response<T>, Status>,
    ) -> Result<T, Failure> {
        let deadline = Instant::now() + self.timeout;
        let mut last = "no answer in time".to_owned();
        let (mut left_open, mut reached, mut said) = (false, false, false);
        loop {
            let mut round = Reach::new(&self.addresses, self.first.get());
            let mut anyone = false;
            for share in (1..=self.addresses.len() as u32).rev() {
                // With somebody to ask again, the silent are waited for no longer.
                let pause = Instant::now() + ROUND_PAUSE;
                let until = if anyone { pause.min(deadline) } else { deadline };
                let Some((at, found)) = round.next(until).await else { break };
                let address = &self.addresses[at];
                let channel = match found {
                    Ok(channel) => channel,
                    Err(why) => {
                        if !reached {
                            last = format!("{address}: {why}");
                        }
                        continue;
                    }
                };
                let left = deadline.saturating_duration_since(Instant::now());
                if left < TRY_TIME_MIN && reached && !left_open {
                    return Err(self.unreachable(reached, &last));
                }
                // The time is shared by the addresses that are left.
                let patience = (left / share).max(TRY_TIME_MIN).min(left);
                interrupt::writing(kind == Kind::Write);
                let answer = call(channel, request(patience));
                let answer = judge(address, tokio::time::timeout(patience, answer).await, kind);
                let is_node = !matches!(answer, Try::Elsewhere(_));
                (anyone, reached) = (anyone || is_node, reached || is_node);
                match answer {
                    Try::Elsewhere(_) if reached => {}
                    Try::Elsewhere(why) => last = why,
                    Try::Done(answer) => {
                        self.first.set(at);
                        return Ok(answer);
                    }
                    Try::Refused(failure) => return Err(failure),
                    Try::NotNow(why) => (said, last) = (true, why),
                    Try::Open(why) => (left_open, said, last) = (true, true, why),
                    // What a node said tells more than that one was silent later.
                    Try::Silent(_) if said => left_open = true,
                    Try::Silent(why) => (left_open, last) = (true, why),
                }
            }
            // Another round makes sense only where somebody may recover, or
            // where an earlier try has to be made certain.
            let again = anyone || left_open;
            if !again || Instant::now() + ROUND_PAUSE >= deadline {
                return Err(match (kind, left_open) {
                    (Kind::Write, true) => outcome_unknown(&last),
                    _ => self.unreachable(reached, &last),
                });
            }
            tokio::time::sleep(ROUND_PAUSE).await;
        }
    }

    fn unreachable(&self, reached: bool, last: &str) -> Failure {
        let message = if reached {
            format!("the cluster cannot serve this now ({last}); try again, or with another --addr")
        } else {
            let tried: Vec<String> = self.addresses.iter().map(Address::to_string).collect();
            format!(
                "no node answers at {} ({last}); name others with --addr, or start a cluster \
                 with 'aether dev'",
                tried.join(", ")
            )
        };
        Failure::new(Exit::Unreachable, message)
    }
}

fn outcome_unknown(last: &str) -> Failure {
    Failure::new(
        Exit::Unknown,
        format!("it is not known whether this was carried out ({last}); look before you repeat it"),
    )
}

/// What an answer, or silence, means for the next address.
fn judge<T>(
    address: &Address,
    answer: Result<Result<Response<T>, Status>, Elapsed>,
    kind: Kind,
) -> Try<T> {
    let status = match answer {
        Ok(Ok(response)) => return Try::Done(response.into_inner()),
        Ok(Err(status)) => status,
        Err(_) => return Try::Silent(format!("{address}: no answer in time")),
    };
    // The channel keeps the same time, and may be the first to say that it is over.
    if status.code() == Code::Cancelled && status.message() == TimeoutExpired(()).to_string() {
        return Try::Silent(format!("{address}: no answer in time"));
    }
    let why = || format!("{address}: {}", status.message());
    // A status with a source was made here, of a broken connection.
    if status.source().is_some() || leaves_open(&status, kind) {
        return Try::Open(why());
    }
    match status.code() {
        Code::Unavailable => Try::NotNow(why()),
        Code::Unimplemented => Try::Elsewhere(format!(
            "{address}: it does not know this request: it is a peer listener, or a node of an \
             older release; {CLIENT_PORT}"
        )),
        Code::DeadlineExceeded if is_expired(&status) => Try::NotNow(why()),
        Code::DeadlineExceeded => Try::Open(why()),
        _ => Try::Refused(Failure::from_status(&status, kind)),
    }
}

fn with_deadline<M>(message: M, timeout: Duration) -> Request<M> {
    let mut request = Request::new(message);
    request.set_timeout(timeout);
    request
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use std::cell::RefCell;
    use std::net::TcpListener;

    #[test]
    fn addresses_need_a_host_and_a_port() {
        for text in ["127.0.0.1:8090", "localhost:1", "[::1]:8090", "http://a.b:65535"] {
            assert!(text.parse::<Address>().is_ok(), "{text}");
        }
        for text in
            ["", "localhost", "a:70000", "a:0", ":1", "a b:1", "https://a:1", "a:x", "a/b:1"]
        {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
    }

    /// A client over `n` nodes that live.
    async fn client(n: usize, timeout_ms: u64) -> Client {
        let mut addresses = Vec::new();
        for _ in 0..n {
            addresses.push(Fake::default().serve().await);
        }
        client_of(&addresses, timeout_ms)
    }

    fn client_of(addresses: &[String], timeout_ms: u64) -> Client {
        let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
        Client::new(addresses, Duration::from_millis(timeout_ms), "test".into()).unwrap()
    }

    /// An address where nobody listens.
    fn nobody() -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().to_string()
    }

    /// Answers each try with the next of `answers`, the last one for ever, and
    /// counts the tries.
    async fn tries(
        client: &Client,
        kind: Kind,
        answers: &[Result<u32, Status>],
    ) -> (Result<u32, Failure>, usize) {
        let count = RefCell::new(0);
        let call = async |_: Channel, _: Request<()>| {
            let nth = count.replace_with(|n| *n + 1);
            answers[nth.min(answers.len() - 1)].clone().map(Response::new)
        };
        let result = client.call(kind, &|_| Request::new(()), &call).await;
        (result, count.take())
    }

    #[test]
    fn the_time_that_the_channel_keeps_is_silence_like_our_own() {
        let address: Address = "127.0.0.1:1".parse().unwrap();
        let expired = Status::from_error(Box::new(TimeoutExpired(())));
        for kind in [Kind::Read, Kind::Write] {
            let tried = judge::<()>(&address, Ok(Err(expired.clone())), kind);
            assert!(matches!(&tried, Try::Silent(why) if why.ends_with("no answer in time")));
        }
        let said = judge::<()>(&address, Ok(Err(Status::cancelled("left"))), Kind::Write);
        assert!(!matches!(said, Try::Silent(_)));
    }

    #[tokio::test]
    async fn nobody_there_is_unreachable_at_once() {
        let client = client_of(&[nobody(), nobody()], 60_000);
        let (result, tried) = tries(&client, Kind::Write, &[Ok(1)]).await;
        let failure = result.unwrap_err();
        assert_eq!((failure.exit(), tried), (Exit::Unreachable, 0));
        assert!(failure.message().contains("aether dev"), "{}", failure.message());
    }

    #[tokio::test]
    async fn a_node_that_is_away_is_passed_over_and_not_asked_first_again() {
        let client = client_of(&[nobody(), Fake::default().serve().await], 60_000);
        assert_eq!(tries(&client, Kind::Write, &[Ok(7)]).await, (Ok(7), 1));
        assert_eq!(client.first.get(), 1);
    }

    #[tokio::test]
    async fn a_node_that_accepts_and_says_nothing_is_passed_over_and_sent_nothing() {
        let (silent, _listener) = frozen();
        let client = client_of(&[silent.clone(), Fake::default().serve().await], 60_000);
        assert_eq!(tries(&client, Kind::Write, &[Ok(7)]).await, (Ok(7), 1));
        assert_eq!(client.first.get(), 1);
        let client = client_of(&[silent], 300);
        let (result, tried) = tries(&client, Kind::Write, &[Ok(7)]).await;
        assert_eq!((result.unwrap_err().exit(), tried), (Exit::Unreachable, 0));
    }

    /// A last try that is cut off would turn a certain answer into a doubt.
    #[tokio::test]
    async fn a_write_that_was_not_done_is_not_tried_again_in_the_last_moment() {
        let client = client(2, 900).await;
        let count = RefCell::new(0);
        let call = async |_: Channel, request: Request<()>| {
            count.replace_with(|n| *n + 1);
            assert!(request.metadata().contains_key("grpc-timeout"), "{request:?}");
            // Longer than what would be left for the second.
            tokio::time::sleep(Duration::from_millis(450)).await;
            Err::<Response<()>, _>(Status::unavailable("no leader"))
        };
        let result = client.write((), call).await;
        assert_eq!((result.unwrap_err().exit(), count.take()), (Exit::Unreachable, 1));
    }

    #[tokio::test]
    async fn a_node_without_a_leader_is_asked_again() {
        let client = client(2, 60_000).await;
        let no_leader = || Err(Status::unavailable("no leader"));
        let answers = [no_leader(), no_leader(), no_leader(), Ok(3)];
        assert_eq!(tries(&client, Kind::Write, &answers).await, (Ok(3), 4));
    }

    #[tokio::test]
    async fn a_refusal_is_not_asked_again() {
        let client = client(2, 60_000).await;
        let (result, tried) =
            tries(&client, Kind::Write, &[Err(Status::failed_precondition("no"))]).await;
        assert_eq!((result.unwrap_err().exit(), tried), (Exit::Refused, 1));
    }

    #[tokio::test]
    async fn another_kind_of_listener_is_passed_over_and_alone_it_is_unreachable_at_once() {
        let unknown = || Err(Status::unimplemented(""));
        let client = client(2, 60_000).await;
        assert_eq!(tries(&client, Kind::Write, &[unknown(), Ok(3)]).await, (Ok(3), 2));
        let (result, tried) = tries(&client, Kind::Write, &[unknown()]).await;
        let failure = result.unwrap_err();
        assert_eq!((failure.exit(), tried), (Exit::Unreachable, 2));
        let said = failure.message();
        assert!(said.contains("peer listener") && said.contains("8090 by default"), "{said}");
    }

    #[tokio::test]
    async fn a_write_left_open_is_made_certain_or_said_to_be_unknown() {
        let client = client(1, 1_500).await;
        let lost = || Err(Status::unknown("connection lost"));
        assert_eq!(tries(&client, Kind::Write, &[lost(), Ok(5)]).await, (Ok(5), 2));
        let (result, _) = tries(&client, Kind::Write, &[lost()]).await;
        assert_eq!(result.unwrap_err().exit(), Exit::Unknown);
        let late = [Err(Status::unavailable("no leader"))];
        let (result, _) = tries(&client, Kind::Write, &late).await;
        assert_eq!(result.unwrap_err().exit(), Exit::Unreachable);
    }

    #[tokio::test]
    async fn a_read_that_hangs_is_unreachable() {
        let client = client(1, 300).await;
        let call = async |_: Channel, _: Request<()>| {
            std::future::pending::<Result<Response<()>, Status>>().await
        };
        let read = client.call(Kind::Read, &|_| Request::new(()), &call).await;
        assert_eq!(read.unwrap_err().exit(), Exit::Unreachable);
        let write = client.call(Kind::Write, &|_| Request::new(()), &call).await;
        assert_eq!(write.unwrap_err().exit(), Exit::Unknown);
    }

    use super::super::fake::{Fake, frozen};
    use super::super::update::updates;
    use aether_proto::errors::{OUTCOME_UNKNOWN, Problem};
    use aether_proto::v1;

    /// An update of which only id and state matter.
    pub fn update(id: &str, state: &str) -> v1::Update {
        v1::Update { update_id: id.into(), state: state.into(), ..Default::default() }
    }

    /// A client over these addresses.
    pub fn over(addresses: &[String]) -> Client {
        client_of(addresses, 20_000)
    }

    async fn complete(client: &Client) -> Result<v1::Update, Failure> {
        let message = v1::CompleteRequest {
            update_id: "u1".into(),
            request_id: client.request_id(),
            ..Default::default()
        };
        client.write(message, async |c, request| updates(c).complete(request).await).await
    }

    #[tokio::test]
    async fn a_write_that_one_node_lost_is_repeated_at_another_under_the_same_id() {
        let lost = Problem::new(Code::Unavailable, OUTCOME_UNKNOWN, "leadership moved").status();
        let (first, second) = (Fake::default(), Fake::default());
        first.will_refuse(lost);
        second.will_answer("Updates/Complete", &update("u1", "COMPLETING"));
        let client = over(&[first.serve().await, second.serve().await]);
        assert_eq!(complete(&client).await.unwrap(), update("u1", "COMPLETING"));
        let (first, second) = (first.asked(), second.asked());
        assert_eq!(first, second, "the same request, id included");
        assert!(first[0].starts_with("Updates/Complete update_id=u1 request_id=cli-"), "{first:?}");
    }

    #[tokio::test]
    async fn a_connection_that_breaks_leaves_a_write_open_and_a_read_unreachable() {
        let fake = Fake::default();
        let client = client_of(&[fake.serve_until_asked().await], 700);
        assert_eq!(complete(&client).await.unwrap_err().exit(), Exit::Unknown);
        let client = client_of(&[fake.serve_until_asked().await], 700);
        let message = v1::ListUpdatesRequest::default();
        let read = client.read(message, async |c, request| updates(c).list(request).await).await;
        assert_eq!(read.unwrap_err().exit(), Exit::Unreachable);
    }
}
