//! A control plane that says what a test wants, and hears what agents report.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aether_proto::v1;
use aether_proto::v1::agent_up::Message;
use aether_proto::v1::agents_server::{Agents, AgentsServer};
use aether_proto::v1::artifacts_server::{Artifacts, ArtifactsServer};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_stream::wrappers::{TcpListenerStream, WatchStream};
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

/// Longest wait for anything; a busy machine takes its time.
pub const LIMIT: Duration = Duration::from_secs(30);

/// A fake voter.
pub struct Plane {
    pub address: SocketAddr,
    wanted: watch::Sender<v1::AgentDown>,
    reports: watch::Receiver<(u64, v1::AgentReport)>,
    hello: watch::Receiver<v1::AgentHello>,
    archives: Arc<Mutex<HashMap<String, Vec<u8>>>>,
    takes: Arc<AtomicBool>,
    /// Of its own, so that ending it closes every connection at once.
    runtime: Option<tokio::runtime::Runtime>,
}

#[derive(Clone)]
struct Service {
    wanted: watch::Sender<v1::AgentDown>,
    reports: watch::Sender<(u64, v1::AgentReport)>,
    hello: watch::Sender<v1::AgentHello>,
    archives: Arc<Mutex<HashMap<String, Vec<u8>>>>,
    takes: Arc<AtomicBool>,
}

impl Plane {
    /// Listens on a free port, or on the one given.
    pub async fn start(address: Option<SocketAddr>) -> Self {
        let address = address.unwrap_or_else(|| "127.0.0.1:0".parse().unwrap());
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let wanted = watch::Sender::new(v1::AgentDown::default());
        let (reports, heard) = watch::channel(Default::default());
        let (hello, greeted) = watch::channel(Default::default());
        let archives = Arc::<Mutex<HashMap<_, _>>>::default();
        let takes = Arc::new(AtomicBool::new(true));
        let service = Service {
            wanted: wanted.clone(),
            reports,
            hello,
            archives: archives.clone(),
            takes: takes.clone(),
        };
        let listener = listener.into_std().unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        runtime.spawn(async move {
            let listener = TcpListener::from_std(listener).unwrap();
            tonic::transport::Server::builder()
                .add_service(AgentsServer::new(service.clone()))
                .add_service(ArtifactsServer::new(service))
                .serve_with_incoming(TcpListenerStream::new(listener))
                .await
                .unwrap();
        });
        let runtime = Some(runtime);
        Self { address, wanted, reports: heard, hello: greeted, archives, takes, runtime }
    }

    /// Sends a complete desired set at a log index.
    pub fn want(&self, index: u64, assignments: Vec<v1::Assignment>) {
        self.wanted.send_modify(|down| {
            *down = v1::AgentDown {
                incarnation: 0,
                term: 1,
                index,
                lease_ms: 300,
                assignments,
                taken: down.taken,
                ..down.clone()
            };
        });
    }

    /// What assignments may name from now on.
    pub fn configs(&self, configs: Vec<v1::InstanceConfig>) {
        self.wanted.send_modify(|down| down.configs = configs);
    }

    /// Says which of the archives that the agent holds are needed, and which
    /// belong to no artifact.
    pub fn list_archives(&self, needed: &[&str], unnamed: &[&str]) {
        let texts = |digests: &[&str]| digests.iter().map(|text| text.to_string()).collect();
        self.wanted.send_modify(|down| {
            down.needed_sha256 = texts(needed);
            down.unnamed_sha256 = texts(unnamed);
            down.lists_archives = true;
        });
    }

    /// From now on it hears reports and confirms none, as without a quorum.
    pub fn take_nothing(&self) {
        self.takes.store(false, Ordering::Relaxed);
    }

    /// Makes an archive available, or a damaged one under its name.
    pub fn publish(&self, digest: &str, archive: Vec<u8>) {
        self.archives.lock().unwrap().insert(digest.to_owned(), archive);
    }

    pub fn hello(&self) -> v1::AgentHello {
        self.hello.borrow().clone()
    }

    pub fn last_report(&self) -> v1::AgentReport {
        self.reports.borrow().1.clone()
    }

    /// Waits for a report that fits.
    pub async fn report(
        &self,
        what: &str,
        fits: impl Fn(&v1::AgentReport) -> bool,
    ) -> v1::AgentReport {
        let mut reports = self.reports.clone();
        let fitting = reports.wait_for(|(count, report)| *count > 0 && fits(report));
        let result = tokio::time::timeout(LIMIT, fitting).await;
        match result {
            Ok(report) => report.unwrap().1.clone(),
            Err(_) => panic!("no report with {what}; the last one: {:#?}", self.last_report()),
        }
    }

    /// Waits for an instance to be reported as `observed`.
    pub async fn observed(&self, instance: &str, observed: &str) -> v1::InstanceObservation {
        self.instance(instance, observed, |seen| seen.observed == observed).await
    }

    /// Waits for a reason to be reported of an instance.
    pub async fn reason(&self, instance: &str, code: &str) -> v1::InstanceObservation {
        self.instance(instance, code, |seen| seen.reason_code == code).await
    }

    /// Waits for an observation of an instance that fits.
    pub async fn instance(
        &self,
        instance: &str,
        what: &str,
        fits: impl Fn(&v1::InstanceObservation) -> bool,
    ) -> v1::InstanceObservation {
        let find = |report: &v1::AgentReport| {
            report.instances.iter().find(|seen| seen.instance_id == instance && fits(seen)).cloned()
        };
        let what = format!("{instance} {what}");
        let report = self.report(&what, |report| find(report).is_some()).await;
        find(&report).unwrap()
    }

    /// Waits until at least `more` further reports came in.
    pub async fn reports_after_now(&self, more: u64) -> v1::AgentReport {
        let now = self.reports.borrow().0;
        let mut reports = self.reports.clone();
        let later = reports.wait_for(|(count, _)| *count >= now + more);
        tokio::time::timeout(LIMIT, later).await.expect("no further report").unwrap().1.clone()
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

type Down<T> = std::pin::Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Agents for Service {
    type AttachStream = Down<v1::AgentDown>;

    async fn attach(
        &self,
        request: Request<Streaming<v1::AgentUp>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        let mut up = request.into_inner();
        let service = self.clone();
        tokio::spawn(async move {
            let mut first = true;
            while let Ok(Some(message)) = up.message().await {
                match message.message {
                    Some(Message::Hello(hello)) if first => drop(service.hello.send_replace(hello)),
                    Some(Message::Report(report)) if !first => {
                        if report.receipt > 0 && service.takes.load(Ordering::Relaxed) {
                            service.wanted.send_modify(|down| down.taken = report.receipt);
                        }
                        service.reports.send_modify(|last| *last = (last.0 + 1, report));
                    }
                    other => panic!("unexpected message: {other:?}"),
                }
                first = false;
            }
        });
        let wanted = WatchStream::new(self.wanted.subscribe());
        // Index 0: nothing was said yet.
        let wanted = wanted.filter(|down| down.index > 0).map(Ok);
        Ok(Response::new(Box::pin(wanted)))
    }
}

#[tonic::async_trait]
impl Artifacts for Service {
    type FetchStream = Down<v1::FetchResponse>;

    async fn fetch(
        &self,
        request: Request<v1::FetchRequest>,
    ) -> Result<Response<Self::FetchStream>, Status> {
        let digest = request.into_inner().sha256;
        let archive = self.archives.lock().unwrap().get(&digest).cloned();
        let archive = archive.ok_or_else(|| Status::not_found("nobody holds it"))?;
        let chunks: Vec<_> = archive
            .chunks(1_000)
            .map(|chunk| Ok(v1::FetchResponse { chunk: chunk.to_vec() }))
            .collect();
        Ok(Response::new(Box::pin(tokio_stream::iter(chunks))))
    }

    async fn push(
        &self,
        _: Request<Streaming<v1::PushRequest>>,
    ) -> Result<Response<v1::Artifact>, Status> {
        Err(Status::unimplemented("agents push nothing"))
    }

    async fn remove(
        &self,
        _: Request<v1::RemoveArtifactRequest>,
    ) -> Result<Response<v1::RemoveArtifactResponse>, Status> {
        Err(Status::unimplemented("agents remove nothing"))
    }

    async fn list(
        &self,
        _: Request<v1::ListArtifactsRequest>,
    ) -> Result<Response<v1::ListArtifactsResponse>, Status> {
        Err(Status::unimplemented("agents list nothing"))
    }

    async fn info(
        &self,
        _: Request<v1::ArtifactInfoRequest>,
    ) -> Result<Response<v1::Artifact>, Status> {
        Err(Status::unimplemented("agents ask for no info"))
    }
}
