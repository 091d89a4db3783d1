//! The binary `datanode`: data node.

use std::process::ExitCode;

use redkite_node::{Program, run_service};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let program = Program::service("datanode", "Redkite's data node", 21124);
    run_service(&program, redkite_datanode::run::run)
}
