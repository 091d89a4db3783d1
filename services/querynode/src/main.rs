//! The binary `querynode`: query node.

use std::process::ExitCode;

use redkite_node::{Program, run_service};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let program = Program::service("querynode", "Redkite's query node", 21123);
    run_service(&program, redkite_querynode::run::run)
}
