//! `audit-operator`: controller, agent, and the same engine by hand. Parse, set up tracing, call, exit.

#![expect(clippy::disallowed_methods, reason = "the edge of the process")]

use std::net::SocketAddr;
use std::process::ExitCode;

use anyhow::Context;
use audit_operator::cli::{self, generate, node, proofs, trail};
use audit_operator::host::{self, Host, Identity};
use audit_operator::{agent, controller, installer, telemetry};
use kube::Client;
use tokio::signal::unix::{SignalKind, signal};
use tracing::info;
use tracing_subscriber::EnvFilter;

/// Kubernetes audit logging on kubeadm clusters as one object in Git.
///
/// Exit codes: 0 done; 1 an error, a refusal or bad usage; 2 only from `node plan`: there is a change.
#[derive(clap::Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// How to write log lines to standard error; RUST_LOG chooses which.
    #[arg(long, global = true, value_enum, default_value = "text")]
    log_format: LogFormat,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Reconcile AuditConfigurations: render revisions, permit one node's plan at a time.
    Controller {
        /// Namespace of the operator; the rendered revisions are kept in it.
        #[arg(long, value_name = "NAMESPACE")]
        namespace: String,
        /// A further namespace whose ConfigMaps may hold policies; may be given several times.
        #[arg(long = "config-map-namespace", value_name = "NAMESPACE")]
        config_map_namespaces: Vec<String>,
        /// Names this process in the Lease; the host's name and a random number when it is not given.
        #[arg(long, value_name = "NAME", env = "POD_NAME")]
        identity: Option<String>,
        /// The node that this Pod runs on; it is changed last.
        #[arg(long, value_name = "NAME", env = "NODE_NAME")]
        own_node: Option<String>,
        /// Where to serve /metrics, /healthz and /readyz, such as 0.0.0.0:8080; nowhere when it is not given.
        #[arg(long, value_name = "HOST:PORT")]
        metrics_address: Option<SocketAddr>,
    },
    /// Look after this control-plane node: plan, report, and carry out what is permitted.
    Agent {
        /// Name of this node in Kubernetes.
        #[arg(long, value_name = "NAME")]
        node_name: String,
        /// Namespace of the operator.
        #[arg(long, value_name = "NAMESPACE")]
        namespace: String,
        /// Where the node's folders are mounted.
        #[arg(long, value_name = "DIR", default_value = "/")]
        root: String,
        /// The manifest, below the root.
        #[arg(long, value_name = "PATH", default_value = host::MANIFEST)]
        manifest: String,
        /// Name of the Pod this agent runs in; the installer's static Pod gets the same image.
        #[arg(long, value_name = "NAME", env = "POD_NAME")]
        pod_name: String,
        /// Service account of this Pod: as that it proves that events land. Without it, as nobody.
        #[arg(long, value_name = "NAME")]
        service_account: Option<String>,
        /// Where to serve /metrics, /healthz and /readyz, such as 127.0.0.1:9469; nowhere when it is not given.
        #[arg(long, value_name = "HOST:PORT")]
        metrics_address: Option<SocketAddr>,
    },
    /// Carry out one order on this node, without an API server; the agent starts it as a static Pod.
    Installer {
        /// Identity of the order.
        #[arg(long, value_name = "ID")]
        order: String,
        /// Name of this node in Kubernetes.
        #[arg(long, value_name = "NAME")]
        node_name: String,
        /// Where the node's folders are mounted.
        #[arg(long, value_name = "DIR", default_value = "/")]
        root: String,
        /// The manifest, below the root.
        #[arg(long, value_name = "PATH", default_value = host::MANIFEST)]
        manifest: String,
    },
    /// The same engine without a cluster: for image builds, the first control-plane node, and break-glass.
    #[command(subcommand)]
    Node(node::Verb),
    /// Wait until every node that an AuditConfiguration has says that an event landed in its log; `helm test` runs this.
    Proofs(proofs::Args),
    /// This node's part of a question of `kubectl audit`, run in the agent's container.
    #[command(hide = true)]
    Trail(trail::Args),
    /// Write the files that follow from the types.
    #[command(subcommand)]
    Generate(generate::What),
}

fn main() -> ExitCode {
    let cli: Cli = cli::parse();
    // Verbs for people speak through their output; the log is for when something is wrong.
    let level = match cli.command {
        Command::Controller { .. } | Command::Agent { .. } | Command::Installer { .. } => "info",
        Command::Node(_) | Command::Proofs(_) | Command::Trail(_) | Command::Generate(_) => "error",
    };
    let filter = std::env::var("RUST_LOG").unwrap_or_else(|_| level.to_owned());
    // The client logs every failed request as an error of its own; we say it once, with what it was for.
    let filter = if filter.contains("kube_client") { filter } else { format!("{filter},kube_client=off") };
    let filter = EnvFilter::builder().parse_lossy(filter);
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match cli.log_format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().init(),
    }
    // One thread: both loops wait nearly all the time, and a node's memory is not ours to spend.
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return cli::main(|_| Err(error).context("cannot start")),
    };
    cli::main(|streams| match cli.command {
        Command::Controller { namespace, config_map_namespaces, identity, own_node, metrics_address } => {
            let identity = identity.unwrap_or_else(random_identity);
            let options = controller::Options { namespace, config_map_namespaces, identity, own_node };
            runtime.block_on(run_controller(options, metrics_address))
        }
        Command::Agent {
            node_name,
            namespace,
            root,
            manifest,
            pod_name,
            service_account,
            metrics_address,
        } => {
            let host = Host::new(root, manifest, Some(node_name.clone()));
            let identity = service_account.map(|name| Identity::of_this_pod(&namespace, &name)).transpose();
            let identity = identity.map_err(anyhow::Error::msg).context("--service-account")?;
            let options = agent::Options { node_name, namespace, pod_name, identity };
            info!(
                landlock = host::confine(&host.agents_folders()),
                "rights that are not needed are given up"
            );
            runtime.block_on(run_agent(host, options, metrics_address))
        }
        Command::Installer { order, node_name, root, manifest } => {
            let host = Host::new(root, manifest, Some(node_name));
            info!(
                landlock = host::confine(&host.installers_folders()),
                "rights that are not needed are given up"
            );
            runtime.block_on(async {
                installer::run(&host, &order, shutdown()?).await?;
                Ok(cli::OK)
            })
        }
        Command::Node(verb) => runtime.block_on(node::run(&verb, streams)),
        Command::Proofs(args) => runtime.block_on(proofs::run(&args, streams)),
        Command::Trail(args) => trail::run(&args, streams),
        Command::Generate(what) => generate::run(&what, streams),
    })
}

async fn run_controller(options: controller::Options, address: Option<SocketAddr>) -> anyhow::Result<u8> {
    let (mut registry, health) = (telemetry::Registry::default(), telemetry::Health::default());
    let metrics = telemetry::ControllerMetrics::register(&mut registry);
    let endpoint = telemetry::serve(address, registry, health.clone());
    let run = controller::run(client().await?, options, &metrics, &health, shutdown()?);
    tokio::select! {
        result = run => result?,
        stopped = endpoint => stopped?,
    }
    Ok(cli::OK)
}

async fn run_agent(host: Host, options: agent::Options, address: Option<SocketAddr>) -> anyhow::Result<u8> {
    let (mut registry, health) = (telemetry::Registry::default(), telemetry::Health::default());
    let metrics = telemetry::NodeMetrics::register(&mut registry);
    let endpoint = telemetry::serve(address, registry, health.clone());
    let run = agent::run(client().await?, host, options, &metrics, &health, shutdown()?);
    tokio::select! {
        result = run => result?,
        stopped = endpoint => stopped?,
    }
    Ok(cli::OK)
}

/// Outside of a Pod: unique, because two processes on one host must not take each other for themselves.
fn random_identity() -> String {
    use std::hash::{BuildHasher, RandomState};
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    format!("{host}-{:016x}", RandomState::new().hash_one(std::process::id()))
}

async fn client() -> anyhow::Result<Client> {
    Client::try_default()
        .await
        .context("no way to an API server: neither a Pod's service account nor a kubeconfig")
}

/// Ends at SIGTERM (from the kubelet) or SIGINT (from a terminal).
fn shutdown() -> anyhow::Result<impl Future<Output = ()>> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
