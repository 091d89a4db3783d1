//! The binary `querycoord`: query coordinator.

use std::process::ExitCode;

use redkite_node::{Program, run_service};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let program = Program::service("querycoord", "Redkite's query coordinator", 19531);
    run_service(&program, redkite_querycoord::run::run)
}
