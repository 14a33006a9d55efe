//! A cluster: the hub, its nodes, kubeadm's work on them, and kubectl on top.

use std::ffi::OsString;
use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::image::{self, Names};
use crate::launch::{self, Lifetime};
use crate::node::Node;
use crate::probe::Probe;
use crate::programs::{Programs, check_machine};
use crate::progress::say;
use crate::run::{ended, output, output_of, output_within, tail};
use crate::state::State;
use crate::{client, evidence, hub, kubeadm, network, teardown, wait};

/// kubeadm init takes 12 s and a join 28 s here; Pods and nodes become ready within seconds.
pub(crate) const PATIENCE: Duration = Duration::from_secs(300);

/// kubeadm's own limits (4 minutes for the first API server, 5 for etcd's learner) end it before this one does.
const KUBEADM: Duration = Duration::from_secs(900);
/// What a question may take that is asked again and again: the answer of a server that hangs is not to be waited for.
const QUESTION: Duration = Duration::from_secs(20);

/// A running cluster.
#[derive(Clone, Debug)]
pub(crate) struct Cluster {
    state: State,
    programs: Programs,
    names: Names,
    /// The images a new node gets; none in a cluster that was found running.
    archives: Vec<PathBuf>,
    auditing: Auditing,
    /// Its nodes, n1 first.
    pub(crate) nodes: Vec<Node>,
}

/// What to bring up.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    /// How many control-plane nodes.
    pub(crate) nodes: u8,
    /// The operator's static binary, to be imported as an image.
    pub(crate) operator: Option<PathBuf>,
    /// How long the cluster lives.
    pub(crate) lifetime: Lifetime,
}

/// What the API servers log from their first start on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Auditing {
    /// Nothing, as kubeadm has it.
    Off,
    /// Everything at level Metadata, into the operator's default folder.
    Metadata,
}

impl Cluster {
    /// The cluster that runs in this state folder.
    pub(crate) fn running(state: &State) -> Result<Self> {
        ensure!(state.hub().is_some(), "no cluster is up in {}; `e2e up` starts one", state.root().display());
        let programs = Programs::find()?;
        let numbers = state.nodes().into_iter().filter_map(|name| network::number(&name));
        let nodes: Vec<Node> = numbers.map(|number| Node::new(state, &programs, number)).collect();
        ensure!(!nodes.is_empty(), "the hub runs but there is no node; `e2e down` and `e2e up`");
        let names = Names::ask(&programs)?;
        Ok(Self {
            state: state.clone(),
            programs,
            names,
            archives: Vec::new(),
            auditing: Auditing::Off,
            nodes,
        })
    }

    /// Brings a cluster up in an empty state folder, and once more from scratch when that fails: what kubeadm
    /// does on a loaded machine is not what is tested here.
    pub(crate) fn up(state: &State, wanted: &Wanted) -> Result<Self> {
        Self::up_with(state, wanted, Auditing::Off)
    }

    /// The same, with auditing as kubeadm sets it up.
    pub(crate) fn up_with(state: &State, wanted: &Wanted, auditing: Auditing) -> Result<Self> {
        check_machine()?;
        let programs = Programs::find()?;
        let names = Names::ask(&programs)?;
        let first = Self::bring_up(state, &programs, &names, wanted, auditing);
        let Err(error) = first else { return first };
        if launch::is_closed() {
            return Err(error);
        }
        say!("the bring-up failed, once more from scratch: {error:#}");
        evidence::collect(state, &programs, "bring-up", &format!("{error:#}\n"))?;
        teardown::down(state)?;
        Self::bring_up(state, &programs, &names, wanted, auditing)
    }

    fn bring_up(
        state: &State,
        programs: &Programs,
        names: &Names,
        wanted: &Wanted,
        auditing: Auditing,
    ) -> Result<Self> {
        let archives = image::make(programs, names, wanted.operator.as_deref(), &state.images())?;
        let (programs, names) = (programs.clone(), names.clone());
        let mut cluster =
            Self { state: state.clone(), programs, names, archives, auditing, nodes: Vec::new() };
        // Where there are several, more can join.
        let balanced = if wanted.nodes > 1 { network::MOST_NODES } else { 1 };
        hub::up(state, balanced, wanted.lifetime)?;
        for _ in 0..wanted.nodes {
            cluster.add_node(wanted.lifetime)?;
        }
        Ok(cluster)
    }

    /// Adds the next node and gives its name. The first makes the control plane, the others join it.
    pub(crate) fn add_node(&mut self, lifetime: Lifetime) -> Result<String> {
        let number = u8::try_from(self.nodes.len() + 1).context("too many nodes")?;
        ensure!(number <= network::MOST_NODES, "there can be {} nodes", network::MOST_NODES);
        let node = Node::new(&self.state, &self.programs, number);
        self.nodes.push(node.clone());
        self.switch_on(&node, lifetime)?;
        for archive in &self.archives {
            node.run("ctr", &["--namespace", "k8s.io", "images", "import", &archive.to_string_lossy()])?;
        }
        if self.auditing == Auditing::Metadata {
            let policy = node.path(kubeadm::AUDIT_POLICY);
            fs::create_dir_all(policy.parent().context("a path below /")?)?;
            fs::write(&policy, kubeadm::METADATA_FOR_ALL)?;
        }
        if node.number == 1 {
            self.init(&node)?
        } else {
            self.join(&node)?
        }
        self.start_kube_proxy(&node)?;
        self.wait_for_node(&node)?;
        say!("{} is Ready", node.name);
        Ok(node.name)
    }

    /// Switches a node on, for the first time or after a power cut.
    pub(crate) fn switch_on(&self, node: &Node, lifetime: Lifetime) -> Result<()> {
        node.up(&self.names.of("pause")?, lifetime)
    }

    /// The node with this name.
    pub(crate) fn node(&self, name: &str) -> Result<&Node> {
        self.nodes.iter().find(|node| node.name == name).with_context(|| format!("there is no node {name}"))
    }

    /// kubectl, helm or any program of the built ones, beside the nodes on the bridge and with this machine's own
    /// files, as the administrator of the first node.
    pub(crate) fn command(&self, program: &Path) -> Result<Command> {
        let hub = self.state.hub().context("the hub is not running")?;
        let mut command = Command::new("nsenter");
        command.args(["--target", &hub.to_string(), "--net", "--"]).arg(program);
        command.env("KUBECONFIG", self.kubeconfig(&self.nodes[0]));
        Ok(command)
    }

    /// A search path with the built programs before this machine's own.
    pub(crate) fn search_path(&self) -> Result<OsString> {
        self.programs.search_path()
    }

    /// The folder for commands of the documentation, until the cluster is taken away.
    pub(crate) fn desk(&self) -> PathBuf {
        self.state.desk()
    }

    /// The full path of one of the built programs.
    pub(crate) fn program(&self, name: &str) -> Result<PathBuf> {
        self.programs.path(name)
    }

    /// kubectl, still without arguments.
    pub(crate) fn kubectl_command(&self) -> Result<Command> {
        self.command(&self.program("kubectl")?)
    }

    /// Credentials of a client certificate that no role knows of yet, as a kubeconfig for one node's API server.
    pub(crate) fn user(&self, name: &str, node: &Node) -> Result<PathBuf> {
        let configuration = node.folder().join("kubeadm-client.yaml");
        let words =
            ["kubeconfig", "user", "--client-name", name, "--config", &configuration.to_string_lossy()];
        let by_name = format!("https://{}:{}", network::CONTROL_PLANE, network::API_PORT);
        let by_address = format!("https://{}:{}", node.address(), network::API_PORT);
        let path = node.folder().join(format!("kubeconfig-{name}"));
        write_secret(&path, &node.run("kubeadm", &words)?.replace(&by_name, &by_address))?;
        Ok(path)
    }

    /// kubectl to its end; gives what it printed.
    pub(crate) fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        output(self.kubectl_command()?.args(arguments))
    }

    /// `kubectl apply` of objects given as text.
    pub(crate) fn apply(&self, objects: &str) -> Result<()> {
        let mut command = self.kubectl_command()?;
        output_of(command.args(["apply", "--filename", "-"]), objects.as_bytes()).map(drop)
    }

    /// Clients of a node's API server from now on, beside the nodes, who ask whether it is ready.
    pub(crate) fn probe(&self, address: &str) -> Result<Probe> {
        self.clients(address, "/readyz")
    }

    /// The same, who ask for something else.
    pub(crate) fn clients(&self, address: &str, path: &str) -> Result<Probe> {
        let me = std::env::current_exe().context("finding this program")?;
        Probe::start(self.command(&me)?, client::socket(address, network::API_PORT)?, path)
    }

    /// Clients on a node itself, of its own API server at the node's own address, as its kubelet is one.
    pub(crate) fn clients_on(&self, node: &Node, path: &str) -> Result<Probe> {
        Self::clients_inside(node, client::socket(&node.address(), network::API_PORT)?, path)
    }

    /// Clients on a node, of the Service `kubernetes`, as Pods are.
    pub(crate) fn clients_of_service(&self, node: &Node, path: &str) -> Result<Probe> {
        Self::clients_inside(node, client::socket(network::SERVICE, network::SERVICE_PORT)?, path)
    }

    fn clients_inside(node: &Node, to: SocketAddr, path: &str) -> Result<Probe> {
        let mut command = Command::new("nsenter");
        command.args(["--target", &node.init()?.to_string(), "--net", "--"]);
        command.arg(std::env::current_exe().context("finding this program")?);
        Probe::start(command, to, path)
    }

    /// Whether one node's own API server says it is alive, asked at that node's address.
    pub(crate) fn api_is_alive(&self, node: &Node) -> Result<bool> {
        self.api_says_ok(node, "/livez")
    }

    /// Whether it says it is ready.
    pub(crate) fn api_is_ready(&self, node: &Node) -> Result<bool> {
        self.api_says_ok(node, "/readyz")
    }

    fn api_says_ok(&self, node: &Node, path: &str) -> Result<bool> {
        let server = format!("https://{}:{}", node.address(), network::API_PORT);
        let mut command = self.kubectl_command()?;
        command.args(["--server", &server, "--request-timeout=2s", "get", "--raw", path]);
        let answer = output_within(&mut command, QUESTION);
        Ok(answer.is_ok_and(|text| text == "ok"))
    }

    fn init(&self, node: &Node) -> Result<()> {
        let version = &self.names.version;
        say!("{}: kubeadm init, Kubernetes {version}", node.name);
        let configuration = match self.auditing {
            Auditing::Off => kubeadm::init(version),
            Auditing::Metadata => kubeadm::init_audited(version),
        };
        self.run_kubeadm(node, &configuration, &["init", "--skip-phases=addon", "--upload-certs"])?;
        // The name of the control plane is only known on the nodes; its certificate has this address too.
        let admin = fs::read_to_string(node.path("/etc/kubernetes/admin.conf"))?;
        let by_name = format!("https://{}:{}", network::CONTROL_PLANE, network::API_PORT);
        let by_address = format!("https://{}:{}", node.address(), network::API_PORT);
        ensure!(admin.contains(&by_name), "kubeadm's admin.conf does not name {by_name}");
        write_secret(&self.kubeconfig(node), &admin.replace(&by_name, &by_address))
    }

    fn join(&self, node: &Node) -> Result<()> {
        say!("{}: kubeadm join", node.name);
        self.run_kubeadm(node, &kubeadm::join(node.number), &["join"])
    }

    fn run_kubeadm(&self, node: &Node, configuration: &str, arguments: &[&str]) -> Result<()> {
        let file = node.folder().join("kubeadm.yaml");
        fs::write(&file, configuration)?;
        let mut command = node.command("kubeadm")?;
        command.args(arguments).arg("--config").arg(&file).args(["--ignore-preflight-errors=all", "-v1"]);
        let ended = ended(&mut command, KUBEADM)?;
        fs::write(node.log("kubeadm"), [ended.stdout, ended.stderr.clone()].concat())?;
        let said = String::from_utf8_lossy(&ended.stderr);
        let (what, status) = (arguments[0], ended.status);
        ensure!(status.success(), "kubeadm {what} on {} ended with {status}:{}", node.name, tail(&said));
        Ok(())
    }

    /// As its own user, so that the audit log does not take it for the administrator. `system:kube-proxy` has its
    /// rights from the API server's own bootstrap policy.
    fn start_kube_proxy(&self, node: &Node) -> Result<()> {
        // The first node made the signing keys and every control-plane node has them.
        let configuration = node.folder().join("kubeadm-client.yaml");
        fs::write(&configuration, kubeadm::init(&self.names.version))?;
        let configuration = configuration.to_string_lossy();
        let user = ["kubeconfig", "user", "--client-name", "system:kube-proxy", "--config", &configuration];
        let kubeconfig = node.run("kubeadm", &user)?;
        write_secret(&node.path("/etc/kubernetes/kube-proxy.conf"), &kubeconfig)?;
        // The last file it waits for.
        fs::write(node.path("/etc/kubernetes/kube-proxy.yaml"), kubeadm::kube_proxy(node.number))?;
        Ok(())
    }

    /// Until the API knows all of the node, and Pods can be made: without its mirror Pods a static Pod cannot be
    /// asked for, and without the service account no Pod is admitted.
    fn wait_for_node(&self, node: &Node) -> Result<()> {
        wait::until(&format!("{} to be Ready", node.name), PATIENCE, || {
            self.kubectl(&["wait", "--for=condition=Ready", "--timeout=1s", "node", &node.name])?;
            let programs = ["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"];
            let pods = programs.map(|program| format!("pod/{program}-{}", node.name));
            let ready = ["wait", "--for=condition=Ready", "--timeout=1s", "--namespace=kube-system"];
            self.kubectl(&ready.into_iter().chain(pods.iter().map(String::as_str)).collect::<Vec<_>>())?;
            self.kubectl(&["get", "serviceaccount", "default"])?;
            ensure!(self.api_is_alive(node)?, "its API server is not alive");
            Ok(Some(()))
        })
    }

    fn kubeconfig(&self, node: &Node) -> PathBuf {
        node.folder().join("kubeconfig")
    }
}

fn write_secret(path: &Path, text: &str) -> Result<()> {
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes()).with_context(|| format!("writing {}", path.display()))
}
