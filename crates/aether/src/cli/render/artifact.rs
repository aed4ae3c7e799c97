//! Artifacts.

use aether_proto::v1;

use super::{fields, or_dash, table};

/// One artifact with its manifest.
pub fn whole(artifact: &v1::Artifact) -> String {
    let mut text = fields(&[
        ("artifact", artifact.artifact.clone()),
        ("size", size(artifact.size_bytes)),
        ("sha256", artifact.sha256.clone()),
        ("held by", or_dash(&artifact.held_by.join(", "))),
    ]);
    if !artifact.manifest.is_empty() {
        text.push_str("\n\n");
        text.push_str(artifact.manifest.trim_end());
    }
    text
}

/// All artifacts, a row each.
pub fn list(response: &v1::ListArtifactsResponse) -> String {
    /// As much of a digest as tells two of them apart.
    const DIGEST_CHARS: usize = 12;
    let row = |artifact: &v1::Artifact| {
        vec![
            artifact.artifact.clone(),
            size(artifact.size_bytes),
            artifact.sha256.chars().take(DIGEST_CHARS).collect(),
            or_dash(&artifact.held_by.join(",")),
        ]
    };
    let rows = response.artifacts.iter().map(row).collect();
    table(&["ARTIFACT", "SIZE", "SHA256", "HELD BY"], rows)
}

fn size(bytes: u64) -> String {
    match bytes {
        0..1_024 => format!("{bytes} B"),
        1_024..1_048_576 => format!("{:.1} KiB", bytes as f64 / 1_024.0),
        _ => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn artifacts_are_listed_and_shown() {
        let artifact = v1::Artifact {
            artifact: "a.b:c:1.0.0".into(),
            sha256: "0123456789abcdef".into(),
            size_bytes: 1_536,
            held_by: vec!["n1".into(), "n2".into()],
            manifest: "artifact = 'a.b:c:1.0.0'\n".into(),
            ..Default::default()
        };
        assert_eq!(
            whole(&artifact),
            "artifact  a.b:c:1.0.0\nsize      1.5 KiB\nsha256    0123456789abcdef\n\
             held by   n1, n2\n\nartifact = 'a.b:c:1.0.0'"
        );
        let response =
            v1::ListArtifactsResponse { artifacts: vec![artifact], ..Default::default() };
        assert_eq!(
            list(&response),
            "ARTIFACT     SIZE     SHA256        HELD BY\na.b:c:1.0.0  1.5 KiB  0123456789ab  n1,n2"
        );
    }
}
