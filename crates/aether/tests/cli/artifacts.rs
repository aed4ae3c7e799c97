//! `aether artifact …`

use aether_proto::v1;

use super::answers::{artifact, fresh, old};
use super::scene::Scene;

#[tokio::test]
async fn looked_at() {
    let mut scene = Scene::new().await;
    let list = v1::ListArtifactsResponse {
        artifacts: vec![artifact()],
        as_of: old(),
        ..Default::default()
    };
    scene.node.will_answer("Artifacts/List", &list);
    scene.node.will_answer("Artifacts/Info", &v1::Artifact { as_of: fresh(), ..artifact() });
    scene
        .run_all(&[
            "artifact list",
            "artifact list org.example:my-slice -o json",
            "artifact info org.example:my-slice:1.0.0",
            "artifact info org.example:my-slice:1.0.0 -o yaml",
        ])
        .await;
    let note = "org.example:my-slice:1.0.0 is removed from n1 and n2";
    scene.node.will_answer("Artifacts/Remove", &v1::RemoveArtifactResponse { note: note.into() });
    scene
        .run_all(&[
            "artifact remove org.example:my-slice:1.0.0",
            "artifact remove org.example:my-slice:1.0.0 --yes -o json",
        ])
        .await;
    scene.ends("artifacts");
}

#[tokio::test]
async fn pushed() {
    let mut scene = Scene::new().await;
    scene.node.will_answer("Artifacts/Push", &artifact());
    let manifest = "artifact = 'org.example:my-slice:1.0.0'\n[run]\ncommand = ['./server']\n";
    scene.file("slice/slice.toml", manifest);
    scene.file("slice/server", "#!/bin/sh\n");
    let slice = scene.dir().join("slice");
    let command = scene.command(["artifact", "push", slice.to_str().unwrap()]);
    let output =
        tokio::time::timeout(super::scene::PATIENCE, command_output(command)).await.unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    // How many bytes an archive has is the packer's business.
    let asked = scene.node.take_asked().remove(0);
    assert!(asked.contains("header={artifact=org.example:my-slice:1.0.0 sha256="), "{asked}");
    assert!(asked.contains(" actor=tester} chunk=("), "{asked}");
    scene.note(&String::from_utf8_lossy(&output.stdout));
    scene.file("no-archive.tar.gz", "not an archive");
    scene.file("no-manifest/server", "");
    for path in ["absent", "no-archive.tar.gz", "no-manifest"] {
        let path = scene.dir().join(path).display().to_string();
        scene.run(&format!("artifact push {path}")).await;
    }
    scene.ends("artifact_push");
}

async fn command_output(mut command: tokio::process::Command) -> std::process::Output {
    command.output().await.unwrap()
}
