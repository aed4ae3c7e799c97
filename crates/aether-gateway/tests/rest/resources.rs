//! Slices, nodes and artifacts, the document, and what HTTP asks of any path.

use axum::body::Body;
use http::Request;

use crate::support::{ARCHIVE, Gateway, SHA256};

/// `:` and `@` as they are, and percent-encoded.
const SLICES: [&str; 2] = ["org.example:my-slice@blue", "org.example%3Amy-slice%40blue"];
const ARTIFACT: &str = "/api/artifacts/org.example:my-slice:1.0.0";

#[tokio::test]
async fn slices_are_deployed_scaled_read_and_removed() {
    let gateway = Gateway::new();
    let headers = [("idempotency-key", "k-1"), ("aether-actor", "ci")];
    let body = r#"{"artifact":"org.example:my-slice:1.0.0@blue","instances":3}"#;
    let answer = gateway.post_with("/api/slices", body, &headers).await;
    assert_eq!(answer.status, 201, "{}", answer.text);
    assert_eq!(answer.header("location"), "/api/slices/org.example:my-slice");
    let asked = gateway.fake.asked().unwrap();
    assert!(asked.contains("instances: Some(3), request_id: \"k-1\", actor: \"ci\""), "{asked}");
    for slice in SLICES {
        let path = format!("/api/slices/{slice}");
        let answer = gateway.get(&format!("{path}?stale=true")).await;
        assert_eq!(answer.json()["asOf"]["node"], "n1", "{}", answer.text);
        let asked = gateway.fake.asked().unwrap();
        assert!(asked.contains("slice: \"org.example:my-slice@blue\", stale: true"), "{asked}");
        let scaled =
            gateway.post_with(&format!("{path}/scale"), r#"{"instances":5}"#, &headers).await;
        assert_eq!(scaled.status, 200, "{}", scaled.text);
        let asked = gateway.fake.asked().unwrap();
        assert!(asked.contains("instances: 5, request_id: \"k-1\""), "{asked}");
        let set = gateway
            .post_with(&format!("{path}/set-current"), r#"{"version":"2.0.0"}"#, &headers)
            .await;
        assert_eq!(set.status, 200, "{}", set.text);
        let asked = gateway.fake.asked().unwrap();
        assert!(asked.contains("version: \"2.0.0\", request_id: \"k-1\""), "{asked}");
        for (query, names) in [("", "my-slice@blue"), ("?version=2.0.0", "my-slice:2.0.0@blue")] {
            let request = Request::delete(format!("{path}{query}"))
                .header("idempotency-key", "k-2")
                .body(Body::empty());
            assert_eq!(gateway.send(request.unwrap()).await.status, 202);
            let asked = gateway.fake.asked().unwrap();
            assert!(asked.contains(&format!("{names}\", request_id: \"k-2\"")), "{asked}");
        }
    }
}

#[tokio::test]
async fn logs_are_lines_of_json_or_of_text() {
    let gateway = Gateway::new();
    let path = "/api/slices/org.example:my-slice/logs?tail=5&version=1.0.0";
    let answer = gateway.get(path).await;
    assert_eq!(answer.header("content-type"), "application/x-ndjson");
    let lines: Vec<serde_json::Value> =
        answer.text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines[1]["line"], "two");
    assert_eq!(lines[0]["instanceId"], "my-slice-1-0");
    let asked = gateway.fake.asked().unwrap();
    assert!(asked.contains("my-slice:1.0.0@default\", follow: false, tail: Some(5)"), "{asked}");
    let request = Request::get(path).header("accept", "text/plain").body(Body::empty());
    let answer = gateway.send(request.unwrap()).await;
    assert_eq!(answer.text, "my-slice-1-0 stdout one\nmy-slice-1-0 stdout two\n");
}

#[tokio::test]
async fn one_node_is_found_by_its_name() {
    let gateway = Gateway::new();
    assert_eq!(gateway.get("/api/nodes/n1").await.json()["instancesMax"], 7);
    assert_eq!(gateway.get("/api/nodes/n2").await.problem(404), "unknown_node");
    assert_eq!(gateway.get("/api/nodes/.hidden").await.problem(400), "bad_node");
}

#[tokio::test]
async fn nodes_are_cordoned_drained_and_forgotten() {
    let gateway = Gateway::new();
    let headers = [("idempotency-key", "k-1")];
    for (verb, schedule) in [("cordon", "CORDONED"), ("uncordon", "OPEN"), ("drain", "DRAINING")] {
        let answer = gateway.post_with(&format!("/api/nodes/n1/{verb}"), "", &headers).await;
        assert_eq!(answer.json()["schedule"], "CORDONED", "what the service answered");
        let asked = gateway.fake.asked().unwrap();
        let part = format!("node: \"n1\", schedule: \"{schedule}\", request_id: \"k-1\"");
        assert!(asked.contains(&part), "{asked}");
    }
    let request = Request::delete("/api/nodes/n1?force=true").body(Body::empty());
    assert_eq!(gateway.send(request.unwrap()).await.json()["note"], "n1 is forgotten");
    assert!(gateway.fake.asked().unwrap().contains("node: \"n1\", force: true"));
}

#[tokio::test]
async fn voters_are_listed_added_removed_and_made_the_leader() {
    let gateway = Gateway::new();
    assert_eq!(gateway.get("/api/voters").await.json()["members"][0]["voter"], true);
    let headers = [("idempotency-key", "k-1"), ("content-type", "application/json")];
    let body = r#"{"node":"n4","peerAddress":"h:8091","replaces":"n2"}"#;
    let answer = gateway.post_with("/api/voters", body, &headers).await;
    assert_eq!(answer.json()["stage"], "INVITED", "{}", answer.text);
    let asked = gateway.fake.asked().unwrap();
    let part =
        "node: \"n4\", peer_address: \"h:8091\", replaces: Some(\"n2\"), request_id: \"k-1\"";
    assert!(asked.contains(part), "{asked}");
    assert_eq!(gateway.post("/api/voters", r#"{"node":"n4"}"#).await.problem(400), "bad_member");

    let request = Request::delete("/api/voters/n4").body(Body::empty());
    assert_eq!(gateway.send(request.unwrap()).await.json()["stage"], "CHANGING");
    let transfer = "/api/leader/transfer";
    assert_eq!(gateway.post(transfer, r#"{"to":"n2"}"#).await.json()["leader"], "n2");
    assert!(gateway.fake.asked().unwrap().contains("to: Some(\"n2\")"));
    assert_eq!(gateway.post(transfer, "").await.json()["leader"], "n2");
}

#[tokio::test]
async fn an_update_is_planned_set_and_undone() {
    let gateway = Gateway::new();
    let body = r#"{"artifactBase":"a.b:c","version":"1.0.0","preset":"strict","minRequests":5}"#;
    let plan = gateway.post("/rolling-update/plan", body).await;
    assert_eq!(plan.json()["steps"][0]["byPerson"], true, "{}", plan.text);
    let asked = gateway.fake.asked().unwrap();
    assert!(asked.contains("preset: \"strict\", min_requests: Some(5)"), "{asked}");
    let request = Request::patch("/rolling-update/u1f")
        .header("content-type", "application/json")
        .header("if-match", "\"42\"")
        .body(Body::from(r#"{"maxLatencyMs":100,"requireManualApproval":false}"#));
    assert_eq!(gateway.send(request.unwrap()).await.header("etag"), "\"42\"");
    let asked = gateway.fake.asked().unwrap();
    for part in
        ["max_latency_ms: Some(100)", "manual_approval: Some(false)", "if_modified: Some(42)"]
    {
        assert!(asked.contains(part), "{part} in {asked}");
    }
    let undone = gateway.post("/rolling-update/u1f/undo", r#"{"routing":"1:1"}"#).await;
    assert_eq!((undone.status.as_u16(), undone.header("location")), (201, "/rolling-update/u1f"));
    assert!(gateway.fake.asked().unwrap().contains("routing: \"1:1\", force: false"));
    let diff = gateway.get("/api/slices/a.b:c/diff?from=1&to=2").await;
    assert_eq!(diff.json()["changes"][0]["after"], "\"fast\"");
    assert!(gateway.fake.asked().unwrap().contains("from_revision: 1, to_revision: 2"));
}

fn put(path: &str, headers: &[(&str, &str)], body: Body) -> Request<Body> {
    let mut request = Request::put(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(body).unwrap()
}

#[tokio::test]
async fn an_archive_is_streamed_to_the_service_with_what_is_said_of_it() {
    let gateway = Gateway::new();
    // More than one message's worth, in pieces of any size.
    let bytes: Vec<u8> = (0..5_000_000_u32).map(|n| n.to_le_bytes()[0]).collect();
    let pieces: Vec<_> = [&bytes[..10], &bytes[10..3_000_000], &bytes[3_000_000..]]
        .map(|piece| Ok::<_, std::io::Error>(axum::body::Bytes::copy_from_slice(piece)))
        .into();
    let body = Body::from_stream(tokio_stream::iter(pieces));
    let digest = "sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:";
    let path = "/api/artifacts/org.example:my-slice:2.0.0";
    let headers =
        [("repr-digest", digest), ("idempotency-key", "k-1"), ("content-type", "application/gzip")];
    let answer = gateway.send(put(path, &headers, body)).await;
    assert_eq!(answer.status, 201, "{}", answer.text);
    assert_eq!(answer.header("location"), path);
    assert!(gateway.fake.archive() == bytes, "the archive came through changed");
    let asked = gateway.fake.asked().unwrap();
    assert!(asked.contains(&format!("my-slice:2.0.0\", sha256: \"{SHA256}\"")), "{asked}");
    assert!(asked.contains("size_bytes: 0, request_id: \"k-1\", actor: \"rest\""), "{asked}");
    let request = Request::delete(path).header("idempotency-key", "k-2").body(Body::empty());
    assert_eq!(gateway.send(request.unwrap()).await.json()["note"], "it goes");
    assert!(gateway.fake.asked().unwrap().contains("my-slice:2.0.0\", request_id: \"k-2\""));
    // What is known already, by query, and with its length.
    let headers = [("content-length", "3")];
    let path = format!("{ARTIFACT}?sha256={SHA256}");
    let answer = gateway.send(put(&path, &headers, Body::from("abc"))).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert!(gateway.fake.asked().unwrap().contains("size_bytes: 3"));
}

#[tokio::test]
async fn an_archive_that_is_none_or_does_not_come_whole_is_refused() {
    let gateway = Gateway::new();
    let refused = async |path: &str, headers: &[(&str, &str)], body: Body| {
        let answer = gateway.send(put(path, headers, body)).await;
        answer.problem(answer.status.as_u16())
    };
    let form = [("content-type", "application/x-www-form-urlencoded")];
    assert_eq!(refused(ARTIFACT, &form, Body::from("abc")).await, "not_an_archive");
    let long = (aether_gateway::ARCHIVE_BYTES_MAX + 1).to_string();
    assert_eq!(refused(ARTIFACT, &[("content-length", &long)], "".into()).await, "body_too_large");
    for digest in ["sha-256=AA", "sha-256=:AA==:"] {
        let headers = [("content-digest", digest)];
        assert_eq!(refused(ARTIFACT, &headers, "abc".into()).await, "bad_digest");
    }
    let path = format!("{ARTIFACT}?sha256=00");
    assert_eq!(refused(&path, &[], "abc".into()).await, "bad_digest");
    let name = "/api/artifacts/org.example:my-slice";
    assert_eq!(refused(name, &[], "abc".into()).await, "bad_artifact");
    assert_eq!(
        refused(ARTIFACT, &[("if-match", "\"1\"")], "abc".into()).await,
        "if_match_unsupported"
    );
    assert_eq!(
        refused(ARTIFACT, &[("content-encoding", "gzip")], "abc".into()).await,
        "packed_body"
    );
    assert_eq!(gateway.fake.asked(), None);
    let cut = tokio_stream::iter([Ok("abc"), Err(std::io::Error::other("connection reset"))]);
    assert_eq!(refused(ARTIFACT, &[], Body::from_stream(cut)).await, "bad_body");
    assert!(gateway.fake.archive().is_empty(), "a part of an archive was taken for the whole");
}

#[tokio::test]
async fn an_archive_is_downloaded_unless_it_is_known() {
    let gateway = Gateway::new();
    let path = format!("{ARTIFACT}/archive");
    let answer = gateway.get(&path).await;
    assert_eq!(answer.text.as_bytes(), ARCHIVE);
    assert_eq!(answer.header("content-length"), ARCHIVE.len().to_string());
    assert_eq!(answer.header("etag"), format!("\"{SHA256}\""));
    let digest = "sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:";
    assert_eq!(answer.header("repr-digest"), digest);
    let name = "attachment; filename=\"my-slice-1.0.0.tar.gz\"";
    assert_eq!(answer.header("content-disposition"), name);
    let tag = format!("\"{SHA256}\"");
    let request = Request::get(&path).header("if-none-match", &tag).body(Body::empty());
    let answer = gateway.send(request.unwrap()).await;
    assert_eq!((answer.status.as_u16(), &*answer.text, answer.header("etag")), (304, "", &*tag));
}

#[tokio::test]
async fn an_update_that_is_known_is_not_sent_again() {
    let gateway = Gateway::new();
    for (tag, status) in [("\"42\"", 304), ("W/\"42\"", 304), ("*", 304), ("\"41\"", 200)] {
        let request =
            Request::get("/rolling-update/u1f").header("if-none-match", tag).body(Body::empty());
        let answer = gateway.send(request.unwrap()).await;
        assert_eq!((answer.status.as_u16(), answer.header("etag")), (status, "\"42\""), "{tag}");
        assert_eq!(answer.text.is_empty(), status == 304, "{tag}");
    }
}

#[tokio::test]
async fn packed_bodies_are_refused_before_they_are_unpacked() {
    let gateway = Gateway::new();
    for path in ["/rolling-update/start", "/rolling-update/u1f/complete", "/api/slices"] {
        let headers = [("content-encoding", "gzip")];
        let answer = gateway.post_with(path, "{}", &headers).await;
        assert_eq!(answer.problem(415), "packed_body", "{path}");
        assert_eq!(answer.header("accept-encoding"), "identity");
    }
    assert_eq!(gateway.fake.asked(), None);
}

/// Every path of the document, with each method that HTTP has.
#[tokio::test]
async fn the_document_says_what_each_path_takes() {
    let gateway = Gateway::new();
    let document = gateway.contract().await.0.clone();
    let mut ids = std::collections::BTreeSet::new();
    for (template, item) in document["paths"].as_object().unwrap() {
        let path = template
            .replace("{id}", "u1f")
            .replace("{slice}", "org.example:my-slice")
            .replace("{artifact}", "org.example:my-slice:1.0.0")
            .replace("{name}", "n1")
            .replace("{key}", "meta/cluster");
        for method in ["GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE", "TRACE"] {
            let request = Request::builder().method(method).uri(&path).body(Body::empty());
            let answer = gateway.send(request.unwrap()).await;
            let described = match method {
                "HEAD" => !item["get"].is_null(),
                _ => !item[method.to_lowercase()].is_null(),
            };
            match method {
                "OPTIONS" => assert_eq!(answer.status, 204, "{path}"),
                _ => assert_eq!(answer.status == 405, !described, "{method} {path}"),
            }
            if !described {
                let mut allowed: Vec<&str> = answer.header("allow").split(',').collect();
                allowed.retain(|method| *method != "HEAD");
                let mut known: Vec<String> =
                    item.as_object().unwrap().keys().map(|method| method.to_uppercase()).collect();
                known.sort_unstable();
                allowed.sort_unstable();
                assert_eq!(allowed, known, "{path}");
            }
        }
        for (method, operation) in item.as_object().unwrap() {
            let id = operation["operationId"].as_str().unwrap();
            assert_ne!(operation.get("parameters"), Some(&serde_json::Value::Null), "{id}");
            assert!(ids.insert(id.to_owned()), "{id} is there twice");
            assert!(operation["summary"].is_string(), "{method} {template}");
        }
    }
    assert!(ids.len() >= 35, "{ids:?}");
}

/// Routes are made from their descriptions. One that is not would be missing in
/// the document, so there is no other way to make one.
#[test]
fn no_route_goes_past_the_document() {
    let sources = concat!(env!("CARGO_MANIFEST_DIR"), "/src");
    for entry in std::fs::read_dir(sources).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let code = text.split("#[cfg(test)]").next().unwrap();
        for word in [".route(", ".route_service(", ".nest_service("] {
            assert!(!code.contains(word), "{}: {word}", path.display());
        }
    }
}

#[tokio::test]
async fn the_document_is_strict() {
    let gateway = Gateway::new();
    let document = &gateway.contract().await.0;
    assert_eq!(document["openapi"], "3.1.0");
    for (name, schema) in document["components"]["schemas"].as_object().unwrap() {
        let is_object = schema["type"] == "object";
        assert!(!is_object || schema["additionalProperties"] == false, "{name}: {schema}");
    }
    let update = &document["components"]["schemas"]["Update"];
    assert_eq!(update["properties"]["oldVersion"]["type"], "string");
    assert!(update["properties"]["pause"]["$ref"].is_string(), "{update}");
    let start = &document["paths"]["/rolling-update/start"]["post"];
    let names = start["parameters"].as_array().unwrap().iter().map(|p| p["name"].as_str().unwrap());
    assert_eq!(names.collect::<Vec<_>>(), ["Idempotency-Key", "Aether-Actor"]);
    assert_eq!(start["requestBody"]["required"], true);
    let complete = &document["paths"]["/rolling-update/{id}/complete"]["post"];
    assert_ne!(complete["requestBody"]["required"], true);
}
