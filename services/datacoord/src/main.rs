//! The binary `datacoord`: data coordinator.

use std::process::ExitCode;

use redkite_node::{Program, run_service};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let program = Program::service("datacoord", "Redkite's data coordinator", 13333);
    run_service(&program, redkite_datacoord::run::run)
}
