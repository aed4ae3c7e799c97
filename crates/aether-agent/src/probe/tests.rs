//! Each kind of probe against each kind of answer.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tonic_health::ServingStatus;

use super::*;

/// Longest wait for a probe that has to succeed on a busy machine.
const LIMIT: Duration = Duration::from_secs(30);

fn target(address: SocketAddr) -> Target {
    let path = std::env::var("PATH").unwrap_or_default();
    let env = BTreeMap::from([("PATH".to_owned(), path), ("WORD".to_owned(), "told".to_owned())]);
    Target { address, work_dir: std::env::temp_dir(), env: Arc::new(env) }
}

async fn answering(answer: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut buffer = [0; 1024];
            let _ = stream.read(&mut buffer).await;
            let _ = stream.write_all(answer.as_bytes()).await;
            if answer.is_empty() {
                tokio::time::sleep(Duration::from_secs(60)).await;
            }
        }
    });
    address
}

async fn closed() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap()
}

#[tokio::test]
async fn each_http_answer_is_told_apart() {
    let http = || Probe::Http("/ready".into());
    let ok = answering("HTTP/1.1 204 No Content\r\n\r\n").await;
    assert_eq!(ask(target(ok), http(), LIMIT).await, Probed::Passed);
    let busy = answering("HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n").await;
    let probed = ask(target(busy), http(), LIMIT).await;
    assert_eq!(probed, Probed::Status(503));
    let problem = probed.problem(busy, &http()).unwrap();
    assert_eq!(probed.code(), "probe_failed");
    assert!(problem.ends_with("/ready: http status 503"), "{problem}");
    let garbage = answering("hello\r\n\r\n").await;
    assert!(matches!(ask(target(garbage), http(), LIMIT).await, Probed::Broken(_)));
    let silent = answering("").await;
    let soon = Duration::from_millis(200);
    assert_eq!(ask(target(silent), http(), soon).await, Probed::TimedOut(soon));
    assert_eq!(ask(target(silent), Probe::Tcp, LIMIT).await, Probed::Passed);
    assert_eq!(ask(target(closed().await), http(), LIMIT).await, Probed::Closed);
}

#[tokio::test]
async fn each_grpc_status_is_named() {
    let (reporter, service) = tonic_health::server::health_reporter();
    reporter.set_service_status("up", ServingStatus::Serving).await;
    reporter.set_service_status("down", ServingStatus::NotServing).await;
    let incoming =
        tonic::transport::server::TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = incoming.local_addr().unwrap();
    let server = tonic::transport::Server::builder().add_service(service);
    tokio::spawn(server.serve_with_incoming(incoming));
    let check = |name: &str| ask(target(address), Probe::Grpc(name.to_owned()), LIMIT);
    assert_eq!(check("up").await, Probed::Passed);
    assert_eq!(check("").await, Probed::Passed, "the whole server");
    assert_eq!(check("down").await, Probed::NotServing("NOT_SERVING".into()));
    let probed = check("gone").await;
    let problem = probed.problem(address, &Probe::Grpc("gone".into())).unwrap();
    assert!(problem.contains("Check of 'gone'") && problem.ends_with(": NOT_FOUND"), "{problem}");
}

#[tokio::test]
async fn a_server_without_the_health_service_or_without_http2_fails_by_name() {
    // A router with a service that is not the one asked for.
    let incoming =
        tonic::transport::server::TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = incoming.local_addr().unwrap();
    let other = tonic::service::Routes::default();
    tokio::spawn(
        tonic::transport::Server::builder().add_routes(other).serve_with_incoming(incoming),
    );
    let grpc = || Probe::Grpc(String::new());
    let probed = ask(target(address), grpc(), LIMIT).await;
    assert_eq!(probed, Probed::NotServing("UNIMPLEMENTED".into()));
    let http1 = answering("HTTP/1.1 200 OK\r\n\r\n").await;
    let probed = ask(target(http1), grpc(), LIMIT).await;
    assert!(matches!(probed, Probed::Broken(_)), "{probed:?}");
    assert_eq!(ask(target(closed().await), grpc(), LIMIT).await, Probed::Closed);
}

fn shell(script: &str) -> Probe {
    Probe::Exec(["/bin/sh", "-c", script].map(str::to_owned).into())
}

#[tokio::test]
async fn a_command_passes_with_status_0_and_its_failure_says_how_and_why() {
    let at = closed().await;
    let run = async |script: &str| ask(target(at), shell(script), LIMIT).await;
    assert_eq!(run("test \"$WORD\" = told && test -z \"$HOME\"").await, Probed::Passed);
    let probed = run("echo first; echo 'no database' >&2; echo; exit 7").await;
    let expected =
        Probed::Exited { how: "exited with status 7".into(), line: "no database".into() };
    assert_eq!(probed, expected);
    let problem = probed.problem(at, &shell("x")).unwrap();
    assert_eq!(problem, "running '/bin/sh -c x': exited with status 7; its last line: no database");
    let probed = run("kill -KILL $$").await;
    assert_eq!(probed, Probed::Exited { how: "ended by signal SIGKILL".into(), line: "".into() });
    let gone = Probe::Exec(vec!["/nonexistent/check".into()]);
    assert!(matches!(ask(target(at), gone, LIMIT).await, Probed::Broken(_)));
    let probed = run("i=0; while [ $i -lt 3000 ]; do echo 0123456789; i=$((i+1)); done; printf '%01000d' 1; exit 1").await;
    let Probed::Exited { line, .. } = probed else { panic!("{probed:?}") };
    assert_eq!(line.len(), 200, "bounded");
}

#[tokio::test]
async fn a_command_that_hangs_is_killed_with_everything_it_started() {
    let dir = tempfile::tempdir().unwrap();
    let at = closed().await;
    let mut target = target(at);
    target.work_dir = dir.path().to_owned();
    // The child writes its process id before anything can time out.
    let hangs = shell("sleep 1000 & echo $! >pid; mv pid started; wait");
    let started = dir.path().join("started");
    let most = Duration::from_secs(5);
    let probed = ask(target.clone(), hangs, most).await;
    assert_eq!(probed, Probed::TimedOut(most));
    let pid: i32 = std::fs::read_to_string(&started).unwrap().trim().parse().unwrap();
    let gone = async {
        while crate::procfs::stat(pid).is_some_and(|stat| !stat.zombie) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LIMIT, gone).await.expect("its child was killed too");
    // One that ends and leaves a process in its group behind does not hang.
    let leaves = shell("sleep 1000 & echo $! >left; exit 0");
    assert_eq!(ask(target, leaves, LIMIT).await, Probed::Passed);
    let pid: i32 =
        std::fs::read_to_string(dir.path().join("left")).unwrap().trim().parse().unwrap();
    let gone = async {
        while crate::procfs::stat(pid).is_some_and(|stat| !stat.zombie) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LIMIT, gone).await.expect("what it left was killed");
}
