//! Measurements against a real, tiny server and real programs.

use std::time::Instant;

use aether_core::planner::Measurement;
use aether_core::records::{Gate, GateSource, GateVerdict, GateWhen, UpdateState};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use super::*;
use GateVerdict::{Fail, Inconclusive, Pass};

fn measurement(source: GateSource) -> Measurement {
    Measurement {
        update: "u1f".parse().unwrap(),
        slice: "org.example:my-slice".parse().unwrap(),
        gate: Gate { timeout_ms: 30_000, ..Gate::new("g", GateWhen::Before, source) },
        step: 2,
        last_step: 3,
        weights_of_step: Some("1:1".parse().unwrap()),
        weights: "1:9".parse().unwrap(),
        state: UpdateState::Routing,
        from: Some("1.0.0".parse().unwrap()),
        to: "2.0.0".parse().unwrap(),
        since_ms: 77,
        number: 4,
    }
}

fn webhook(url: &str) -> Measurement {
    measurement(GateSource::Webhook { url: url.to_owned() })
}

fn query(url: &str) -> Measurement {
    let (query, condition) = ("up{a=\"b\"}".to_owned(), "< 0.05".to_owned());
    measurement(GateSource::Prometheus { url: url.to_owned(), query, condition })
}

/// Answers one request with these bytes. Its address, and what it was sent.
async fn answering(answer: impl Into<Vec<u8>>) -> (String, oneshot::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/judge?a=b", listener.local_addr().unwrap());
    let (sent, request) = oneshot::channel();
    let answer = answer.into();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut got = Vec::new();
        let mut buffer = [0; 4096];
        // The head, and as much of the body as it announces.
        loop {
            let read = stream.read(&mut buffer).await.unwrap();
            got.extend_from_slice(&buffer[..read]);
            let text = String::from_utf8_lossy(&got).into_owned();
            let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            if body.len() >= length.map_or(0, |length| length.parse().unwrap()) {
                let _ = sent.send(text);
                break;
            }
        }
        // Whoever asks may hang up on an answer that is too long.
        let _ = stream.write_all(&answer).await;
    });
    (url, request)
}

fn http(status: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

async fn measured(measurement: &Measurement) -> (GateVerdict, String) {
    measure(measurement, "n1", &GatePrograms::All).await
}

#[tokio::test]
async fn a_webhook_is_told_where_the_update_is_and_its_verdict_is_taken() {
    let answer = http("200 OK", r#"{"verdict":"fail","message":"too\nslow"}"#);
    let (url, request) = answering(answer).await;
    let asked = webhook(&url);
    assert_eq!(measured(&asked).await, (Fail, "too slow".to_owned()), "in one line");
    let request = request.await.unwrap();
    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("POST /judge?a=b HTTP/1.1\r\n"), "{head}");
    assert!(head.contains(&format!("idempotency-key: {}", asked.key())), "{head}");
    let told: serde_json::Value = serde_json::from_str(body).unwrap();
    let expected = serde_json::json!({
        "gate": "g", "measurement": "u1f.before-2.g.77.4", "update": "u1f",
        "slice": "org.example:my-slice", "fromVersion": "1.0.0", "toVersion": "2.0.0",
        "when": "before", "step": 2, "steps": 3, "weights": "1:9", "stepWeights": "1:1",
        "phase": "ROUTING", "attempt": 4,
    });
    assert_eq!(told, expected);
}

#[tokio::test]
async fn a_query_is_sent_as_a_form_and_judged_by_its_condition() {
    let data = r#"{"resultType":"vector","result":[{"metric":{},"value":[1,"0.2"]}]}"#;
    let body = format!(r#"{{"status":"success","data":{data}}}"#);
    let (url, request) = answering(http("200 OK", &body)).await;
    let base = url.replace("/judge?a=b", "/prom/");
    assert_eq!(measured(&query(&base)).await, (Fail, "0.2 is not < 0.05".to_owned()));
    let request = request.await.unwrap();
    assert!(request.starts_with("POST /prom/api/v1/query HTTP/1.1\r\n"), "{request}");
    assert!(request.ends_with("\r\n\r\nquery=up%7Ba%3D%22b%22%7D"), "{request}");
}

#[tokio::test]
async fn what_is_no_verdict_is_inconclusive_and_says_why() {
    let huge = "x".repeat(2 * http::BODY_BYTES_MAX);
    let endless = "HTTP/1.1 200 OK\r\nx: ".to_owned() + &huge;
    for (answer, says) in [
        (http("500 Oh", r#"{"verdict":"pass"}"#), "status 500"),
        (http("200 OK", "<html>"), "JSON"),
        (http("200 OK", &huge), "200, with an answer of more than 65536 bytes"),
        ("garbage\r\n\r\n".to_owned(), "gave no answer"),
        ("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{".to_owned(), "broke off"),
        (endless, "gave no answer"),
        (String::new(), "gave no answer"),
    ] {
        for kind in [webhook, query] {
            let (url, _request) = answering(answer.clone()).await;
            let (verdict, message) = measured(&kind(&url.replace("?a=b", ""))).await;
            assert_eq!(verdict, Inconclusive, "{message}");
            assert!(message.contains(says), "{message} for {says}");
        }
    }
}

#[tokio::test]
async fn nobody_there_is_inconclusive_too() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let (verdict, message) = measured(&webhook(&url)).await;
    assert_eq!(verdict, Inconclusive);
    assert!(message.contains("cannot be reached"), "{message}");
}

#[tokio::test]
async fn who_does_not_answer_in_time_is_not_waited_for() {
    // It takes the connection, and says nothing.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut asked = webhook(&format!("http://{}", listener.local_addr().unwrap()));
    asked.gate.timeout_ms = 50;
    assert_eq!(measured(&asked).await, (Inconclusive, "no answer within 50 ms".to_owned()));
}

fn program(script: &str) -> Measurement {
    let arguments = vec!["-c".to_owned(), script.to_owned()];
    measurement(GateSource::Command { program: "/bin/sh".to_owned(), arguments })
}

#[tokio::test]
async fn a_program_passes_by_its_status_and_says_why_on_its_last_line() {
    for (script, verdict, message) in [
        ("exit 0", Pass, "it ended with 0"),
        ("echo a; echo; echo fine; echo", Pass, "fine"),
        ("echo bad; exit 1", Fail, "bad"),
        ("echo odd; exit 2", Inconclusive, "it ended with 2: odd"),
        ("kill -9 $$", Inconclusive, "it was ended by a signal: "),
        ("echo $AETHER_UPDATE $AETHER_STEP/$AETHER_STEPS $AETHER_TO", Pass, "u1f 2/3 2.0.0"),
        // Nothing of this process's environment, whatever runs it.
        ("echo ${HOME:-none} ${CARGO_MANIFEST_DIR:-none}", Pass, "none none"),
        // What it leaves behind holds the pipe open.
        ("sleep 600 & echo left", Pass, "left"),
        ("head -c 100000 /dev/zero | tr '\\0' x; echo; echo end", Pass, "end"),
    ] {
        let (got, said) = measured(&program(script)).await;
        assert_eq!((got, said.as_str()), (verdict, message.trim()), "{script}");
    }
    let none = measurement(GateSource::Command { program: "/none".into(), arguments: vec![] });
    let (verdict, message) = measured(&none).await;
    assert!(verdict == Inconclusive && message.contains("cannot be started"), "{message}");
}

#[tokio::test]
async fn a_program_that_hangs_is_killed_with_all_of_its_group() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("pid");
    // A child of it, which would outlive it.
    let mut asked = program(&format!("sleep 600 & echo $! > {}; wait", file.display()));
    asked.gate.timeout_ms = 2_000;
    let begun = Instant::now();
    assert_eq!(measured(&asked).await.0, Inconclusive);
    assert!(begun.elapsed().as_secs() < 300);
    let pid: i32 = std::fs::read_to_string(&file).unwrap().trim().parse().unwrap();
    let is_gone = || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // Nobody may have waited for it yet.
        stat.is_empty() || stat.contains(") Z ")
    };
    while !is_gone() {
        assert!(begun.elapsed().as_secs() < 300, "{pid} is still there");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_program_that_the_node_does_not_list_is_not_run() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("ran");
    let asked = program(&format!("touch {}", file.display()));
    let others = GatePrograms::Listed(["/bin/true".to_owned()].into());
    for programs in [GatePrograms::None, others] {
        let (verdict, message) = measure(&asked, "n1", &programs).await;
        assert_eq!(verdict, Inconclusive);
        assert!(message.contains("node n1 does not: list it in gates.commands"), "{message}");
    }
    assert!(!file.exists());
    let listed = GatePrograms::Listed(["/bin/sh".to_owned()].into());
    assert_eq!(measure(&asked, "n1", &listed).await.0, Pass);
    assert!(file.exists());
}

#[test]
fn a_message_is_one_line_and_fits_the_record() {
    assert_eq!(clean(" a\r\n\tb\u{1b}[1m "), "a   b [1m");
    let long = clean(&"é".repeat(400));
    assert_eq!((long.len(), long.chars().count()), (GATE_MESSAGE_BYTES_MAX, 250));
}
