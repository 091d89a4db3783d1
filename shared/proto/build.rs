//! Generates the Rust side of every `.proto` file under `/proto` (no protoc needed: protox reads them).

use std::error::Error;
use std::path::{Path, PathBuf};
use std::{env, fs};

/// The folders of `/proto` that are compiled. Files import each other from `/proto`: `import "milvus/common.proto"`.
const FOLDERS: [&str; 2] = ["milvus", "redkite"];

fn main() -> Result<(), Box<dyn Error>> {
    let root = Path::new(&env::var("CARGO_MANIFEST_DIR")?).join("../../proto");
    let out_dir = PathBuf::from(env::var("OUT_DIR")?);

    let mut files = Vec::new();
    for folder in FOLDERS {
        let folder = root.join(folder);
        println!("cargo:rerun-if-changed={}", folder.display());
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            if path
                .extension()
                .is_some_and(|extension| extension == "proto")
            {
                println!("cargo:rerun-if-changed={}", path.display());
                files.push(path);
            }
        }
    }
    // Folder order is up to the file system; sorted input gives the same output on every machine.
    files.sort();

    let mut compiler = protox::Compiler::new([&root])?;
    compiler
        .include_imports(true)
        .include_source_info(true)
        .open_files(&files)?;
    fs::write(
        out_dir.join("redkite_descriptor.bin"),
        compiler.encode_file_descriptor_set(),
    )?;

    tonic_prost_build::configure()
        .build_client(true)
        .build_server(true)
        // No `Client::connect(address)`: it would clash with the RPC `Connect`, and channels with
        // their deadlines and keep-alive are made in one place, not here. Use `Client::new(channel)`.
        .build_transport(false)
        // Column bytes are slices of the received message, not copies.
        .bytes(".")
        .include_file("redkite_generated.rs")
        .compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}
