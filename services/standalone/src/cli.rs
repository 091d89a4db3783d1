//! Flags and subcommands.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser as _;
use redkite_config::{ConfigArgs, LoadOptions, Result};
use redkite_node::options::split_address;
use redkite_node::process::CONFIG_HELP;
use redkite_node::{Launch, NodeOptions, Program};

use crate::admin::{self, RaftCommand, SagaCommand};
use crate::export::{self, ExportArgs};
use crate::fsck::{self, FsckArgs};
use crate::gc::{self, GcArgs};
use crate::meta::{self, MetaCommand};
use crate::snapshot::{self, SnapshotCommand};

const PROGRAM: Program = Program {
    name: "redkite",
    about: "All services in one process",
    default_port: 19530,
    listen_flag: "--port",
    admin_flag: "--admin-port",
    owns_data_dir: true,
};

/// Redkite: a distributed vector database that speaks Milvus
#[derive(Debug, clap::Parser)]
#[command(name = "redkite", version, after_help = CONFIG_HELP)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Run all services in this process
    #[command(after_help = CONFIG_HELP)]
    Standalone(StandaloneArgs),
    /// Show the metadata of a running deployment or a stopped data directory, also as it was
    #[command(subcommand)]
    Meta(MetaCommand),
    /// Show the DDL that is under way in a running deployment
    #[command(subcommand)]
    Saga(SagaCommand),
    /// Show the raft group of a running deployment
    #[command(subcommand)]
    Raft(RaftCommand),
    /// Write rows of a collection as Parquet or JSON files
    Export(ExportArgs),
    /// Show snapshots, and what has changed between two of them
    #[command(subcommand)]
    Snapshot(SnapshotCommand),
    /// Delete files that nothing refers to, or list them
    Gc(GcArgs),
    /// Check metadata, logs and files of a stopped data directory or a running deployment
    #[command(after_help = FSCK_HELP)]
    Fsck(FsckArgs),
}

const FSCK_HELP: &str = "\
Prints one line for each problem: where, what, and what is lost. Exit code 0: nothing is wrong, 1:
something is, 2: the check could not run.";

/// The flags of `redkite standalone`. They stand above file and environment.
#[derive(Debug, clap::Args)]
struct StandaloneArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Directory of all data; made if need be [default: ./data]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Port that clients connect to [default: 19530]
    #[arg(long)]
    port: Option<u16>,
    /// Address to listen on, 0.0.0.0 for all [default: 127.0.0.1]
    #[arg(long, value_name = "HOST")]
    listen_host: Option<String>,
    /// Port of /healthz, /readyz and /metrics, on the same host as configured [default: 9091]
    #[arg(long, value_name = "PORT")]
    admin_port: Option<u16>,
}

impl StandaloneArgs {
    fn load_options(&self) -> Result<LoadOptions> {
        let mut load = self.config.load_options()?;
        if let Some(dir) = &self.data_dir {
            load = load.set("common.data_dir", dir)?;
        }
        // A flag changes one half of an address that a file may have set as a whole.
        let common = redkite_config::load::<NodeOptions>(&load)?.common;
        if self.port.is_some() || self.listen_host.is_some() {
            let configured = common.listen.unwrap_or_default();
            let fallback = ("127.0.0.1", PROGRAM.default_port);
            let listen = merged(
                &configured,
                fallback,
                self.listen_host.as_deref(),
                self.port,
            );
            load = load.set("common.listen", listen)?;
        }
        if self.admin_port.is_some() {
            let fallback = ("127.0.0.1", 0);
            let listen = merged(&common.admin_listen, fallback, None, self.admin_port);
            load = load.set("common.admin_listen", listen)?;
        }
        Ok(load)
    }
}

/// An address with one or both halves replaced.
fn merged(
    configured: &str,
    fallback: (&str, u16),
    host: Option<&str>,
    port: Option<u16>,
) -> String {
    let (old_host, old_port) = split_address(configured).unwrap_or(fallback);
    let host = host.unwrap_or(old_host);
    let port = port.unwrap_or(old_port);
    if host.contains(':') && !host.starts_with('[') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

/// Parses the command line and does what it says.
pub fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Standalone(args) => standalone(&args),
        Command::Meta(command) => ask(meta::meta(command)),
        Command::Saga(command) => ask(admin::saga(command)),
        Command::Raft(command) => ask(admin::raft(command)),
        Command::Export(args) => ask(export::export(args)),
        Command::Snapshot(command) => ask(snapshot::snapshot(command)),
        Command::Gc(args) => ask(gc::gc(args)),
        Command::Fsck(args) => check(args),
    }
}

/// Runs a command that asks another process.
fn ask(command: impl Future<Output = anyhow::Result<()>>) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    match runtime
        .map_err(anyhow::Error::from)
        .and_then(|runtime| runtime.block_on(command))
    {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the check, whose exit codes are its own.
fn check(args: FsckArgs) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    match runtime {
        Ok(runtime) => runtime.block_on(fsck::fsck(args)),
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}

fn standalone(args: &StandaloneArgs) -> ExitCode {
    match args.load_options() {
        Ok(load) => {
            let launch = Launch {
                load,
                dump_config: args.config.dump_config,
            };
            redkite_node::run(&PROGRAM, launch, crate::run::run)
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_flag_changes_its_half_of_an_address() {
        let fallback = ("127.0.0.1", 19530);
        assert_eq!(merged("", fallback, None, Some(7)), "127.0.0.1:7");
        assert_eq!(merged("0.0.0.0:9", fallback, None, Some(7)), "0.0.0.0:7");
        assert_eq!(
            merged("0.0.0.0:9", fallback, Some("10.0.0.1"), None),
            "10.0.0.1:9"
        );
        assert_eq!(merged("", fallback, Some("::1"), None), "[::1]:19530");
    }
}
