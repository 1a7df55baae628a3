//! The command line, the configuration and the wiring: which rooms exist, in which order they start and stop.

mod access;
mod addons;
mod admission_chain;
mod bootstrap;
pub mod check;
mod clock_check;
mod component;
mod containers;
mod control;
pub mod credentials;
mod datastore;
mod encryption;
mod etcd;
mod image;
mod import;
mod joining;
pub mod layout;
mod masterleases;
mod members;
mod memory;
mod node;
pub mod node_address;
pub mod options;
mod registries;
mod s3;
mod server;
mod shared_encryption;
mod shared_keys;
mod snapshots;
mod state_commands;
mod status;
mod sys;

use std::process::ExitCode;

use anyhow::Context;
use options::{Cli, Command, OptionsError};

/// Threads that run tasks. Two suffice for a small box; more would only cost memory.
const WORKERS_MAX: usize = 4;

/// The whole program. Failures end as one sentence on standard error.
pub fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    if arguments.get(1).is_some_and(|a| a == runtime::init::COMMAND) {
        return ExitCode::from(u8::try_from(runtime::init::main(&arguments[2..])).unwrap_or(1));
    }
    let cli = match Cli::load(&arguments) {
        Ok(cli) => cli,
        Err(OptionsError::Usage(error)) => error.exit(),
        Err(error) => return fail(&anyhow::Error::from(error)),
    };
    match execute(cli) {
        Ok(code) => code,
        Err(error) => fail(&error),
    }
}

fn fail(error: &anyhow::Error) -> ExitCode {
    eprintln!("skiff: {error:#}");
    ExitCode::FAILURE
}

fn execute(cli: Cli) -> anyhow::Result<ExitCode> {
    let worked = |good: bool| if good { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    match cli.command {
        Command::Server(options) => {
            log_to_stderr("info");
            memory::configure();
            run(server::run(*options)).map(|()| ExitCode::SUCCESS)
        }
        Command::Image(options) => {
            log_to_stderr("warn");
            run(image::run(options)).map(|()| ExitCode::SUCCESS)
        }
        Command::Status(options) => {
            log_to_stderr("warn");
            run(status::run(&options)).map(worked)
        }
        Command::Snapshot(options) => {
            log_to_stderr("warn");
            run(state_commands::snapshot(*options)).map(|()| ExitCode::SUCCESS)
        }
        Command::Datastore(options) => {
            log_to_stderr("warn");
            run(state_commands::datastore(*options)).map(|()| ExitCode::SUCCESS)
        }
        Command::SecretsEncrypt(options) => {
            log_to_stderr("warn");
            run(state_commands::secrets_encrypt(options)).map(|()| ExitCode::SUCCESS)
        }
        Command::Component(command) => {
            log_to_stderr("info");
            run(component::run(command)).map(|()| ExitCode::SUCCESS)
        }
        Command::Check(options) => Ok(worked(check::run(&options))),
        Command::Kubeconfig(options) => {
            let path = layout::Layout::new(&options.data_dir).admin_kubeconfig();
            let text = std::fs::read_to_string(&path).with_context(|| {
                format!("cannot read {}: has a server run with this --data-dir, and are you root?", path.display())
            })?;
            print!("{text}");
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Runs a future on a runtime of our size.
fn run<T>(future: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let workers = std::thread::available_parallelism().map_or(2, |n| n.get().clamp(2, WORKERS_MAX));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers)
        .max_blocking_threads(64)
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    // Every TLS library of the process gets the same provider; an earlier one would be the same.
    let _installed = rustls::crypto::ring::default_provider().install_default();
    let result = runtime.block_on(future);
    // Blocking work that ignores its shutdown must not hold the process.
    runtime.shutdown_timeout(std::time::Duration::from_secs(2));
    result
}

/// Structured logs on standard error; `SKIFF_LOG` sets the level, in the syntax of `RUST_LOG`.
fn log_to_stderr(default: &str) {
    use tracing_subscriber::EnvFilter;
    let filter = EnvFilter::try_from_env("SKIFF_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
}
