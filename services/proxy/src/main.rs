//! The binary `proxy`: proxy, which faces the clients.

use std::process::ExitCode;

use redkite_node::{Program, run_service};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let program = Program::service("proxy", "Redkite's proxy, which faces the clients", 19530);
    run_service(&program, redkite_proxy::run::run)
}
