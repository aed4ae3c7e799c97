//! `aether deploy`, `scale`, `undeploy`, `slices` and `logs`.

use aether_proto::v1;
use tonic::Status;

use super::answers::{old, slice, slices};
use super::scene::Scene;

#[tokio::test]
async fn deployed() {
    let mut scene = Scene::new().await;
    let noted = v1::Slice { note: "one node has room for all".into(), ..slice(3, 0) };
    scene.node.will_answer("Slices/Deploy", &noted);
    scene.node.will_answer("Slices/Scale", &slice(2, 1));
    scene.node.will_answer("Slices/Undeploy", &v1::UndeployResponse::default());
    scene.node.will_answer("Slices/List", &slices(vec![slice(3, 3)]));
    scene
        .run_all(&[
            "deploy org.example:my-slice:1.0.0",
            "deploy org.example:my-slice:1.0.0 --instances 3 --wait -o json",
            "scale org.example:my-slice -n 2",
            "scale org.example:my-slice -i 1 -o yaml",
            "undeploy org.example:my-slice",
            "undeploy org.example:my-slice:2.0.0@blue --yes -o json",
        ])
        .await;
    scene.node.will_answer("Slices/List", &slices(vec![slice(3, 1)]));
    scene.run("deploy org.example:my-slice:1.0.0 --wait --wait-timeout 4s").await;
    scene.node.will_answer("Slices/List", &slices(Vec::new()));
    scene.run("deploy org.example:my-slice:1.0.0 --wait").await;
    let note = "update u1f is rolled back, which removes 2.0.0";
    scene.node.will_answer("Slices/Undeploy", &v1::UndeployResponse { note: note.into() });
    scene.run("undeploy org.example:my-slice:2.0.0").await;
    scene.ends("slices_changes");
}

#[tokio::test]
async fn listed() {
    let mut scene = Scene::new().await;
    let updated = v1::Slice {
        slice: "org.example:other@blue".into(),
        live_update: Some("u1f".into()),
        retained_instances: 3,
        retained_version: Some("0.9.0".into()),
        routing: "1:3".into(),
        ..slice(1, 1)
    };
    scene.node.will_answer("Slices/List", &slices(vec![slice(2, 1), updated]));
    scene.run_all(&["slices", "slices -o json", "slices -o yaml"]).await;
    let stale = v1::ListSlicesResponse { as_of: old(), ..slices(vec![slice(2, 2)]) };
    scene.node.will_answer("Slices/List", &stale);
    scene.run_all(&["slices --stale", "slices org.example:my-slice --stale"]).await;
    scene.node.will_answer("Slices/List", &slices(Vec::new()));
    scene.run_all(&["slices", "slices org.example:nothing"]).await;
    scene.ends("slices_listed");
}

#[tokio::test]
async fn logs() {
    let mut scene = Scene::new().await;
    let line = |stream: &str, line: &str| v1::LogLine {
        instance_id: "my-slice-5-0".into(),
        node: "n1".into(),
        stream: stream.into(),
        line: line.into(),
    };
    let lines = [
        line("stdout", "listening"),
        line("aether", "n2 is away; its lines are missing"),
        line("stderr", "READY: yes"),
    ];
    scene.node.will_stream_all("Slices/Logs", &lines);
    scene
        .run_all(&[
            "logs org.example:my-slice",
            "logs my-slice-5-0 --follow --tail 0 --color always",
            "logs org.example:my-slice:1.0.0@blue -o json",
            "logs org.example:my-slice -o yaml",
        ])
        .await;
    let broken = vec![Ok(lines[0].clone()), Err(Status::unavailable("n1 is going down"))];
    scene.node.will_stream("Slices/Logs", broken);
    scene.run("logs org.example:my-slice").await;
    scene.node.will_stream("Slices/Logs", vec![Ok(lines[0].clone())]);
    scene.run("logs org.example:my-slice --timeout 6s").await;
    scene.ends("logs");
}
