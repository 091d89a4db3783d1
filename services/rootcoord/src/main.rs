//! The binary `rootcoord`: root coordinator and metastore.

use std::process::ExitCode;

use redkite_node::{Program, run_service};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let about = "Redkite's root coordinator, which hosts the metastore";
    let program = Program {
        owns_data_dir: true,
        ..Program::service("rootcoord", about, 53100)
    };
    run_service(&program, redkite_rootcoord::run::run)
}
