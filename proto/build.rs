//! Compiles every .proto file with protox (no system protoc) and writes two file
//! descriptor sets beside the generated code: of the public ones, for reflection,
//! and of all, for the test of what is frozen.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::{env, fs};

use prost::Message;

const ROOT: &str = "proto";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed={ROOT}");
    println!("cargo:rerun-if-changed=build.rs");

    let public = proto_files_under("aether/v1")?;
    let descriptors = protox::compile(&public, [ROOT])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("public.bin"), descriptors.encode_to_vec())?;

    let names: Vec<String> = descriptors
        .file
        .iter()
        .flat_map(|file| file.service.iter().map(|s| format!("{}.{}", file.package(), s.name())))
        .collect();
    fs::write(out.join("public_services.rs"), format!("&{names:?}"))?;

    let mut files = vec![PathBuf::from("raft.proto"), PathBuf::from("peer.proto")];
    files.extend(public);
    let descriptors = protox::compile(&files, [ROOT])?;
    fs::write(out.join("all.bin"), descriptors.encode_to_vec())?;

    tonic_prost_build::configure()
        .build_client(true)
        .build_server(true)
        // The replica passes entry bodies on without copying them.
        .bytes(".aether.raft.v1")
        // The same content has the same bytes.
        .btree_map(".aether.v1.InstanceConfig")
        .btree_map(".aether.v1.PushConfigRequest")
        .btree_map(".aether.v1.SliceConfig")
        // Public messages are also what `-o json` and REST show.
        .type_attribute(".aether.v1", "#[derive(serde::Serialize)]")
        .type_attribute(".aether.v1", "#[serde(rename_all = \"camelCase\")]")
        .type_attribute(".aether.v1", "#[cfg_attr(feature = \"schema\", derive(utoipa::ToSchema))]")
        // A list that is whole looks as if there were no pages.
        .field_attribute("next_page_token", "#[serde(skip_serializing_if = \"String::is_empty\")]")
        .compile_fds(descriptors)?;
    Ok(())
}

/// The .proto files of one folder, sorted, relative to [`ROOT`]; none if the
/// folder isn't there.
fn proto_files_under(folder: &str) -> Result<Vec<PathBuf>, Box<dyn Error>> {
    let path = Path::new(ROOT).join(folder);
    if !path.is_dir() {
        return Ok(Vec::new());
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(&path)? {
        let file = entry?.path();
        if file.extension().is_some_and(|e| e == "proto") {
            files.push(file.strip_prefix(ROOT)?.to_path_buf());
        }
    }
    files.sort();
    Ok(files)
}
