//! Who created the Pod? Three control-plane nodes, each of which knows a part, asked by somebody who may read audit logs and
//! nothing else.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::cluster::{Auditing, Cluster, Wanted};
use crate::launch::Lifetime;
use crate::node::Node;
use crate::progress::say;
use crate::run::{ended, output, refusal};
use crate::suite::Given;
use crate::{network, process, wait};

use super::operator::{self, NAMESPACE};

/// What a controller does, or a log shows, within seconds.
const SOON: Duration = Duration::from_secs(120);
/// A search of these logs takes a second; of a node that is down it takes until its silence is noticed.
const SEARCH: Duration = Duration::from_secs(120);

pub(super) fn run(given: &Given) -> Result<()> {
    let binary =
        given.operator.clone().context("needs the operator: --operator-binary or E2E_OPERATOR_BINARY")?;
    let program = binary.with_file_name("kubectl-audit");
    ensure!(program.is_file(), "no {} beside the operator's binary", program.display());
    let wanted = Wanted { nodes: 3, operator: Some(binary), lifetime: Lifetime::OfThisProcess };
    let cluster = Cluster::up_with(&given.state, &wanted, Auditing::Metadata)?;
    operator::install(&cluster)?;
    let places = Places::of(&cluster)?;
    let auditor = Person::new(&cluster, &program, "auditor")?;
    only_reading_is_given(&cluster, &places, &auditor)?;
    deploy(&cluster, &places)?;
    the_chain_lies_in_three_logs(&cluster, &places, &auditor)?;
    reading_is_in_the_log(&auditor)?;
    what_comes_is_followed(&cluster, &places, &auditor)?;
    a_search_hurts_nobody(&cluster, &places, &auditor)?;
    a_node_that_is_down_is_missed(&cluster, &places, &auditor)
}

/// Which node does what, so that each has a part of the story.
struct Places<'c> {
    /// Whose API server the controllers talk to.
    controllers: &'c Node,
    /// Whose API server the person talks to.
    person: &'c Node,
    /// Where the Pod runs, whose kubelet talks to its own API server.
    pod: &'c Node,
}

impl<'c> Places<'c> {
    fn of(cluster: &'c Cluster) -> Result<Self> {
        let holder = "jsonpath={.spec.holderIdentity}";
        let lease = ["get", "lease", "kube-controller-manager", "-n", "kube-system", "--output", holder];
        let holder = wait::until("a leading controller manager", SOON, || cluster.kubectl(&lease).map(Some))?;
        let leads = |node: &&Node| holder.split('_').next() == Some(&node.name);
        let controllers = cluster.nodes.iter().find(leads).with_context(|| format!("who is {holder}?"))?;
        // The node that is cut off later is the Pod's: not the first, through which everything else is asked.
        let mut others: Vec<&Node> = cluster.nodes.iter().filter(|node| !leads(node)).collect();
        others.sort_by_key(|node| node.number);
        let [person, pod] = others[..] else { bail!("not three nodes") };
        Ok(Self { controllers, person, pod })
    }
}

/// Somebody with credentials of their own and `kubectl audit`.
struct Person<'c> {
    cluster: &'c Cluster,
    program: PathBuf,
    kubeconfig: PathBuf,
}

/// What `kubectl audit` said.
struct Said {
    code: Option<i32>,
    out: String,
    err: String,
}

impl<'c> Person<'c> {
    fn new(cluster: &'c Cluster, program: &Path, name: &str) -> Result<Self> {
        let kubeconfig = cluster.user(name, &cluster.nodes[0])?;
        Ok(Self { cluster, program: program.to_owned(), kubeconfig })
    }

    fn command(&self, program: &Path) -> Result<Command> {
        let mut command = self.cluster.command(program)?;
        command.env("KUBECONFIG", &self.kubeconfig);
        Ok(command)
    }

    fn audit(&self, words: &[&str]) -> Result<Said> {
        let ended = ended(self.command(&self.program)?.args(words), SEARCH)?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok(Said { code: ended.status.code(), out: text(&ended.stdout), err: text(&ended.stderr) })
    }

    /// The answer to `who ... -o json`.
    fn who(&self, words: &[&str]) -> Result<Value> {
        let said = self.audit(&[&["who"], words, &["-o", "json"]].concat())?;
        serde_json::from_str(&said.out).with_context(|| format!("not JSON: {}{}", said.out, said.err))
    }

    fn kubectl(&self) -> Result<Command> {
        self.command(&self.cluster.program("kubectl")?)
    }
}

/// Without the role nothing is answered; with it, the search and nothing else.
fn only_reading_is_given(cluster: &Cluster, places: &Places<'_>, auditor: &Person<'_>) -> Result<()> {
    let said = auditor.audit(&["who", "pod/web"])?;
    ensure!(
        said.code == Some(1) && said.err.contains("forbidden"),
        "without any role: {}{}",
        said.out,
        said.err
    );

    let bind = |kind: &str, role: &str, more: &[&str]| {
        let words = ["create", kind, "auditor", role, "--user=auditor"];
        cluster.kubectl(&[&words[..], more].concat())
    };
    bind("rolebinding", "--role=audit-operator-log-reader", &["-n", NAMESPACE])?;
    // The right to exec alone is not the right to read.
    let said = auditor.audit(&["who", "pod/web"])?;
    ensure!(
        said.code == Some(1) && said.err.contains("auditnodes/log"),
        "with pods/exec alone: {}{}",
        said.out,
        said.err
    );
    bind("clusterrolebinding", "--clusterrole=audit-operator-log-reader", &[])?;
    wait::until("the role to count", SOON, || {
        let said = auditor.audit(&["who", "pod/web"])?;
        ensure!(said.err.contains("cannot be known from these logs"), "it says {}{}", said.out, said.err);
        Ok(Some(()))
    })?;

    let agent = agent_on(cluster, places.controllers)?;
    // Past kubectl, which would look at the Pod first, and that is not given either.
    let program = "command=/usr/local/bin/audit-operator&command=node&command=status";
    let path =
        format!("/api/v1/namespaces/{NAMESPACE}/pods/{agent}/exec?container=agent&stdout=true&{program}");
    let mut shell = auditor.kubectl()?;
    shell.args(["create", "--raw", &path, "--filename", "/dev/null"]);
    let said = refusal(&mut shell)?;
    ensure!(said.contains("nothing but `kubectl audit` may run"), "another command was refused with: {said}");
    let mut admin = cluster.kubectl_command()?;
    admin.args(["exec", "-n", NAMESPACE, &agent, "--", "sh"]);
    let said = refusal(&mut admin)?;
    ensure!(
        said.contains("nothing but `kubectl audit` may run"),
        "an administrator was refused with: {said}"
    );
    say!("the role log-reader gives the search, and nothing else");
    Ok(())
}

fn agent_on(cluster: &Cluster, node: &Node) -> Result<String> {
    let field = format!("spec.nodeName={}", node.name);
    let words = ["get", "pods", "-n", NAMESPACE, "--selector=app.kubernetes.io/component=agent"];
    let name = ["--field-selector", &field, "--output=jsonpath={.items[0].metadata.name}"];
    cluster.kubectl(&[&words[..], &name].concat())
}

fn server(node: &Node) -> String {
    format!("--server=https://{}:{}", node.address(), network::API_PORT)
}

/// `foobar`, impersonated by the administrator, deploys; each of three API servers sees a part.
fn deploy(cluster: &Cluster, places: &Places<'_>) -> Result<()> {
    cluster.kubectl(&["create", "rolebinding", "foobar", "--clusterrole=admin", "--user=foobar"])?;
    let deployment = format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: web, namespace: default}}\nspec:\n  \
         selector: {{matchLabels: {{app: web}}}}\n  template:\n    metadata: {{labels: {{app: web}}}}\n    spec:\n      \
         nodeSelector: {{kubernetes.io/hostname: {}}}\n      tolerations: [{{operator: Exists}}]\n      \
         containers: [{{name: nginx, image: nginx, imagePullPolicy: IfNotPresent}}]\n",
        places.pod.name
    );
    let file = places.person.folder().join("deployment.yaml");
    fs::write(&file, deployment)?;
    let (server, file) = (server(places.person), file.to_string_lossy().into_owned());
    cluster.kubectl(&[&server, "--as=foobar", "create", "--filename", &file])?;
    let ready = ["wait", "--for=condition=Ready", "pod", "--selector=app=web", "--timeout=5s"];
    wait::until("the Pod to run", operator::CHANGE, || cluster.kubectl(&ready).map(Some)).map(drop)
}

fn the_chain_lies_in_three_logs(cluster: &Cluster, places: &Places<'_>, auditor: &Person<'_>) -> Result<()> {
    let pod = cluster.kubectl(&[
        "get",
        "pods",
        "--selector=app=web",
        "--output=jsonpath={.items[0].metadata.name}",
    ])?;
    let started = Instant::now();
    let answer = auditor.who(&["pod", &pod])?;
    let seconds = started.elapsed().as_secs_f64();
    ensure!(answer["known"] == true, "not known: {answer:#}");
    let chain = answer["chain"].as_array().context("no chain")?;
    let told = |link: &Value| {
        let text =
            |pointer: &str| link.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        let node = text("/source").split(':').next().unwrap_or_default().to_owned();
        (text("/object/resource"), text("/user"), node)
    };
    let controller = |name: &str| format!("system:serviceaccount:kube-system:{name}-controller");
    let (by_controllers, by_person) = (&places.controllers.name, &places.person.name);
    let wanted = [
        ("pods".to_owned(), controller("replicaset"), by_controllers.clone()),
        ("replicasets".to_owned(), controller("deployment"), by_controllers.clone()),
        ("deployments".to_owned(), "kubernetes-admin".to_owned(), by_person.clone()),
    ];
    ensure!(chain.iter().map(told).eq(wanted.iter().cloned()), "the chain is {answer:#}");
    ensure!(chain[2]["impersonatedUser"] == "foobar", "foobar is not named: {answer:#}");
    ensure!(answer["notes"] == serde_json::json!([]), "every node answered, and yet: {answer:#}");

    // And the third log has its part: what the Pod's own kubelet says of it.
    let said = auditor.audit(&["grep", "--name", &pod, "--subresource", "status", "-o", "table"])?;
    let from_pod = format!("system:node:{}", places.pod.name);
    ensure!(said.out.contains(&from_pod), "nothing of the kubelet of {}: {}", places.pod.name, said.out);
    let text = auditor.audit(&["who", "pod", &pod])?.out;
    ensure!(text.contains("was created by foobar\n"), "it says:\n{text}");
    say!("pods {pod} leads to foobar over the logs of {by_controllers} and {by_person} ({seconds:.1} s)");

    let top = auditor.audit(&["top", "users", "-o", "json"])?;
    ensure!(top.out.contains("\"kubernetes-admin\""), "top users says {}{}", top.out, top.err);
    Ok(())
}

/// Who asked is in the log like everything else, with the question.
fn reading_is_in_the_log(auditor: &Person<'_>) -> Result<()> {
    wait::until("the auditor's own requests in the log", SOON, || {
        let words =
            ["grep", "--user", "auditor", "--resource", "pods", "--subresource", "exec", "-o", "jsonl"];
        let said = auditor.audit(&words)?.out;
        let asked =
            said.lines().filter(|line| line.contains("command=trail") && line.contains("command=--ask"));
        ensure!(asked.count() >= 3, "the log has of the auditor: {said}");
        Ok(Some(()))
    })?;
    say!("the auditor's own questions are in the audit log");
    Ok(())
}

/// `tail -f` shows what comes on every node; when it ends, so does its search on the nodes.
fn what_comes_is_followed(cluster: &Cluster, places: &Places<'_>, auditor: &Person<'_>) -> Result<()> {
    let mut command = auditor.command(&auditor.program)?;
    command.args(["tail", "-f", "--resource", "configmaps", "--name", "seen-*", "-o", "jsonl"]);
    let mut tail = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().context("starting tail")?;
    let lines = BufReader::new(tail.stdout.take().context("it has an output")?).lines();
    let searches = || process::find(|words| words.get(1).is_some_and(|word| word == "trail"));
    wait::until("a search on each node", SOON, || Ok((searches().len() == 3).then_some(())))?;
    let nodes = [places.controllers, places.person, places.pod];
    for node in nodes {
        let (server, name) = (server(node), format!("seen-on-{}", node.name));
        cluster.kubectl(&[&server, "create", "configmap", &name])?;
    }
    let seen = thread::spawn(move || {
        let names = lines.map_while(Result::ok).filter_map(|line| {
            let event: Value = serde_json::from_str(&line).ok()?;
            (event["verb"] == "create").then(|| event["objectRef"]["name"].as_str().map(str::to_owned))?
        });
        let mut names: Vec<String> = names.take(3).collect();
        names.sort();
        names
    });
    let shown = wait::until("what was done on each node", SOON, || Ok(seen.is_finished().then_some(())));
    tail.kill()?;
    tail.wait()?;
    let names = seen.join().ok().context("the reader panicked")?;
    shown.with_context(|| format!("only {names:?} were shown"))?;
    let mut wanted = nodes.map(|node| format!("seen-on-{}", node.name));
    wanted.sort();
    ensure!(names == wanted, "{names:?} were shown");
    wait::until("the searches to end with whoever asked", SOON, || {
        let left = searches();
        ensure!(left.is_empty(), "{} still run", left.len());
        Ok(Some(()))
    })?;
    say!("tail -f showed what was done on each node, and left nothing running");
    Ok(())
}

/// With a log that takes long to search, and searched all the time, the API server answers as before.
fn a_search_hurts_nobody(cluster: &Cluster, places: &Places<'_>, auditor: &Person<'_>) -> Result<()> {
    let node = places.person;
    let folder = node.path("/var/log/kubernetes/audit");
    let live = fs::read(folder.join("audit.log"))?;
    let whole = &live[..live.iter().rposition(|byte| *byte == b'\n').context("an empty log")? + 1];
    let copies = (512 << 20) / whole.len() + 1;
    let rotated = folder.join("audit-2026-01-02T03-04-05.678.log");
    fs::write(&rotated, whole.repeat(copies))?;

    let quiet = latency(cluster, node, Duration::from_secs(10))?;
    let begun = Instant::now();
    let (searched, busy) = thread::scope(|scope| {
        let search = scope.spawn(|| {
            let mut searches = 0;
            while begun.elapsed() < Duration::from_secs(12) {
                auditor.audit(&["top", "users"])?;
                searches += 1;
            }
            anyhow::Ok(searches)
        });
        let busy = latency(cluster, node, Duration::from_secs(10));
        (search.join(), busy)
    });
    let (searches, busy) = (searched.ok().context("the search panicked")??, busy?);
    fs::remove_file(&rotated)?;
    say!("API server of {}: {quiet:?} without, {busy:?} with {searches} searches of 512 MiB", node.name);
    ensure!(searches > 0, "no search came to its end");
    let figures = format!(
        "figure who-search-latency-median-ms {:.1} without {:.1}\nfigure who-search-latency-p99-ms {:.1} without {:.1}\n",
        busy.median, quiet.median, busy.p99, quiet.p99
    );
    std::io::Write::write_all(&mut std::io::stdout(), figures.as_bytes())?;
    ensure!(busy.failed == 0, "{} requests failed while it was searched", busy.failed);
    Ok(())
}

/// How long the API server of a node takes to answer, in milliseconds.
#[derive(Debug)]
struct Latency {
    median: f64,
    p99: f64,
    failed: usize,
}

fn latency(cluster: &Cluster, node: &Node, time: Duration) -> Result<Latency> {
    let client = crate::client::socket(&node.address(), network::API_PORT)?;
    let me = std::env::current_exe().context("finding this program")?;
    let mut command = cluster.command(&me)?;
    command.args(["latency", &client.to_string(), &time.as_secs().to_string()]);
    let said = output(&mut command)?;
    let numbers: Vec<f64> = said.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
    let [median, p99, failed] = numbers[..] else { bail!("it says {said}") };
    Ok(Latency { median, p99, failed: failed as usize })
}

/// With one node down, what the others know is told, and that it may not be all.
fn a_node_that_is_down_is_missed(cluster: &Cluster, places: &Places<'_>, auditor: &Person<'_>) -> Result<()> {
    let down = places.pod;
    let server = server(down);
    cluster.kubectl(&[&server, "create", "configmap", "only-there"])?;
    wait::until("the creation in the log", SOON, || {
        let answer = auditor.who(&["configmap/only-there"])?;
        Ok((answer["known"] == true).then_some(()))
    })?;
    down.cut()?;
    let name = &down.name;
    let started = Instant::now();
    let answer = auditor.who(&["configmap/only-there"])?;
    let seconds = started.elapsed().as_secs_f64();
    ensure!(answer["known"] == false, "{name} is down and yet: {answer:#}");
    let unknown = answer["unknown"].as_str().context("no reason")?;
    ensure!(
        unknown.contains(&format!("the control-plane node `{name}` has not answered")),
        "it says {unknown}"
    );

    let pod = cluster.kubectl(&[
        "get",
        "pods",
        "--selector=app=web",
        "--output=jsonpath={.items[0].metadata.name}",
    ])?;
    let answer = auditor.who(&["pod", &pod])?;
    // Where the scheduler's part was on that node too, nothing tells any more when the Pod was there.
    let root = answer["chain"].as_array().and_then(|chain| chain.last());
    ensure!(
        answer["known"] == false || root.is_some_and(|root| root["impersonatedUser"] == "foobar"),
        "what the others know: {answer:#}"
    );
    let told = format!("{}{}", answer["notes"], answer["unknown"]);
    ensure!(told.contains(&format!("the control-plane node `{name}` has not answered")), "it says {told}");
    say!("with {name} down the answer says so ({seconds:.1} s)");
    Ok(())
}
