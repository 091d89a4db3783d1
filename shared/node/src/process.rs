//! The life of a process, from its flags to its exit code.

use std::fmt::Write as _;
use std::future::Future;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{CommandFactory as _, FromArgMatches as _};
use redkite_config::{LoadOptions, Validate};
use redkite_rpc::{Connector, ServerBuilder, admin};
use redkite_runtime::{
    CancellationToken, Health, OnFailure, Shutdown, TaskGroup, TaskOutput, shutdown_signal,
};
use redkite_telemetry::chain;
use redkite_types::Coded;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::TcpListener;
use tracing::{error, info, warn};

use crate::args::NodeArgs;
use crate::error::{Error, Result};
use crate::listen::bind;
use crate::lock::DataDirLock;
use crate::options::NodeOptions;
use crate::stops::{Phase, Stops};

/// How long tasks that belong to no phase may take to end.
const STOP_TASKS: Duration = Duration::from_secs(3);
/// How long threads that are busy with files may hold up the end.
const STOP_THREADS: Duration = Duration::from_secs(1);

/// What follows the flags in every `--help`.
pub const CONFIG_HELP: &str = "\
Configuration: defaults, then the file given with --config (TOML, one table a section), then the
environment, then the command line; the later wins. A variable is named after its key, for example
REDKITE__COMMON__DATA_DIR=/var/lib/redkite for data_dir in [common]. --dump-config prints all keys
with their values and exits.";

/// What a binary is.
#[derive(Clone, Copy, Debug)]
pub struct Program {
    /// Its name in logs and traces.
    pub name: &'static str,
    /// One line for `--help`.
    pub about: &'static str,
    /// The port that it listens on unless told otherwise.
    pub default_port: u16,
    /// The flag that changes the port.
    pub listen_flag: &'static str,
    /// The flag that changes the admin port.
    pub admin_flag: &'static str,
    /// Whether the data directory is its alone.
    pub owns_data_dir: bool,
}

impl Program {
    /// A binary with one service and the flags of [`NodeArgs`].
    pub const fn service(name: &'static str, about: &'static str, default_port: u16) -> Self {
        Self {
            name,
            about,
            default_port,
            listen_flag: "--listen",
            admin_flag: "--admin-listen",
            owns_data_dir: false,
        }
    }
}

/// What the command line asks for.
#[derive(Clone, Debug)]
pub struct Launch {
    /// Where configuration comes from.
    pub load: LoadOptions,
    /// Print the configuration instead of running.
    pub dump_config: bool,
}

/// What the services of one process share before there is any metadata. Clones are the same.
#[derive(Clone, Debug)]
pub struct Process {
    /// The configuration that every process has.
    pub options: Arc<NodeOptions>,
    /// Ways to other services, and those of this process.
    pub connector: Arc<Connector>,
    /// All tasks; its failure stops the process.
    pub tasks: TaskGroup,
    /// What `/readyz` says.
    pub health: Health,
    /// What is to be done at the end.
    pub stops: Stops,
    /// What services add to the admin port.
    pub admin: admin::LateRoutes,
    servers: TaskGroup,
}

impl Process {
    /// A process without listeners. Needs a tokio runtime.
    pub fn new(name: &'static str, options: NodeOptions) -> Self {
        let tasks = TaskGroup::new(name);
        let stops = Stops::default();
        let servers = tasks.child("servers");
        stops.add_group(Phase::Servers, servers.clone());
        Self {
            connector: Arc::new(Connector::new(options.rpc.clone())),
            options: Arc::new(options),
            tasks,
            health: Health::new(),
            stops,
            admin: admin::LateRoutes::default(),
            servers,
        }
    }

    /// An empty server with the process's limits and health.
    pub fn server(&self) -> ServerBuilder {
        ServerBuilder::new(self.options.rpc.clone(), self.health.clone())
    }

    /// Serves until the process stops.
    pub fn serve(&self, name: &'static str, server: ServerBuilder, listener: TcpListener) {
        let serving = server.serve(listener, self.servers.token());
        self.servers.spawn(name, OnFailure::Shutdown, serving);
    }

    /// Runs a server of another kind, which must end soon after [`Process::draining`] is cancelled.
    pub fn serve_other<T: TaskOutput>(
        &self,
        name: &'static str,
        serving: impl Future<Output = T> + Send + 'static,
    ) {
        self.servers.spawn(name, OnFailure::Shutdown, serving);
    }

    /// Cancelled when the servers take no more calls and wait for those that run. A call that has no
    /// end of its own must end then.
    pub fn draining(&self) -> CancellationToken {
        self.servers.token()
    }

    /// Goes through the phases of a stop.
    pub async fn stop(&self) {
        self.health.stopping();
        let mut shutdown = Shutdown::new(self.options.common.stop_timeout.get());
        self.stops.run(&mut shutdown).await;
        let limit = shutdown.deadline().left().min(STOP_TASKS);
        if let Err(left) = self.tasks.shutdown(limit).await {
            warn!(%left, "tasks did not stop in time");
        }
    }
}

/// The `main` of a binary with one service: parses its flags, then [`run`].
pub fn run_service<S, B, F>(program: &Program, body: B) -> ExitCode
where
    S: Serialize + DeserializeOwned + Default + Validate,
    B: FnOnce(Process, S, TcpListener) -> F,
    F: Future<Output = Result<()>>,
{
    let command = NodeArgs::command()
        .name(program.name)
        .about(program.about)
        .version(env!("CARGO_PKG_VERSION"))
        .after_help(CONFIG_HELP);
    let parsed = command
        .try_get_matches()
        .and_then(|matches| NodeArgs::from_arg_matches(&matches));
    let args = match parsed {
        Ok(args) => args,
        // `--help` and `--version` come here too, and are no failure.
        Err(usage) => {
            let _ = usage.print();
            return ExitCode::from(u8::try_from(usage.exit_code()).unwrap_or(2));
        }
    };
    match args.load_options() {
        Ok(load) => run(
            program,
            Launch {
                load,
                dump_config: args.config.dump_config,
            },
            body,
        ),
        Err(error) => failed(&error.into()),
    }
}

/// Runs a process to its end. `body` starts the services, on the listener it is given, and returns
/// once they serve; `S` are the sections of their configuration.
///
/// The first SIGINT or SIGTERM stops the process in an orderly way, with exit code 0; the second
/// ends it at once. A failure that the process cannot live with stops it with exit code 1.
pub fn run<S, B, F>(program: &Program, launch: Launch, body: B) -> ExitCode
where
    S: Serialize + DeserializeOwned + Default + Validate,
    B: FnOnce(Process, S, TcpListener) -> F,
    F: Future<Output = Result<()>>,
{
    match try_run(program, launch, body) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}

fn failed(error: &Error) -> ExitCode {
    // Also where there is no log yet, or it goes elsewhere.
    eprintln!("error: {}", chain(error));
    ExitCode::FAILURE
}

fn try_run<S, B, F>(program: &Program, launch: Launch, body: B) -> Result<()>
where
    S: Serialize + DeserializeOwned + Default + Validate,
    B: FnOnce(Process, S, TcpListener) -> F,
    F: Future<Output = Result<()>>,
{
    let load = launch.load;
    let options: NodeOptions = redkite_config::load_valid(&load)?;
    let sections: S = redkite_config::load_valid(&load)?;
    if launch.dump_config {
        let mut text = redkite_config::dump(&options)?;
        let _ = write!(text, "\n{}", redkite_config::dump(&sections)?);
        print(&text);
        return Ok(());
    }
    let mut telemetry = options.telemetry.clone();
    if telemetry.service_name == redkite_telemetry::TelemetryOptions::default().service_name {
        telemetry.service_name = program.name.to_owned();
    }
    let telemetry = redkite_telemetry::init(&telemetry)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .thread_name("redkite")
        .enable_all()
        .build()
        .map_err(Error::start("start threads"))?;
    let outcome = runtime.block_on(Box::pin(live(program, options, sections, body)));
    runtime.shutdown_timeout(STOP_THREADS);
    telemetry.shutdown();
    outcome
}

/// Writes to standard output, which may be closed.
pub fn print(text: &str) {
    use std::io::Write as _;
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

async fn live<S, B, F>(program: &Program, options: NodeOptions, sections: S, body: B) -> Result<()>
where
    B: FnOnce(Process, S, TcpListener) -> F,
    F: Future<Output = Result<()>>,
{
    let signal = shutdown_signal().map_err(Error::start("handle signals"))?;
    tokio::pin!(signal);
    let common = &options.common;
    info!(
        version = env!("CARGO_PKG_VERSION"),
        data_dir = %common.data_dir.display(),
        "{} is starting",
        program.name
    );
    let _lock = if program.owns_data_dir {
        Some(DataDirLock::take(&common.data_dir)?)
    } else {
        None
    };
    let listen = match &common.listen {
        Some(address) => address.clone(),
        None => format!("127.0.0.1:{}", program.default_port),
    };
    let listener = bind(&listen, program.listen_flag).await?;
    let admin_listener = bind(&common.admin_listen, program.admin_flag).await?;
    let process = Process::new(program.name, options);
    // Its own group: it answers until the very end.
    let admin_tasks = process.tasks.child("admin");
    let routes = admin::routes(process.health.clone(), process.admin.clone());
    let serving = admin::serve(admin_listener, routes, admin_tasks.token());
    admin_tasks.spawn("admin", OnFailure::Shutdown, serving);

    let started = tokio::select! {
        started = Box::pin(body(process.clone(), sections, listener)) => Some(started),
        reason = process.tasks.failed() => Some(Err(Error::Failed { reason })),
        _ = &mut signal => None,
    };
    let outcome = match started {
        Some(Ok(())) => {
            process.health.ready();
            info!("{} is ready", program.name);
            tokio::select! {
                _ = &mut signal => Ok(()),
                reason = process.tasks.failed() => Err(Error::Failed { reason }),
            }
        }
        Some(Err(error)) => Err(error),
        None => Ok(()),
    };
    if let Err(error) = &outcome {
        error!(code = error.code().number(), error = %chain(error), "stopping");
    }
    process.stop().await;
    info!("{} has stopped", program.name);
    outcome
}
