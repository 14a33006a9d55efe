//! What a manifest says, as facts for those who do not edit it: flags, mounts, probes, image, our revision.

use super::pod::Pod;
use super::tree::{self, Node};
use super::{REVISION_ANNOTATION, Refusals};

/// The facts of one kube-apiserver manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// `metadata.name`; the kubelet appends the node's name to it.
    pub name: String,
    /// `metadata.namespace`; `default` when absent, as for the kubelet.
    pub namespace: String,
    /// Name of the kube-apiserver container.
    pub container: String,
    /// Image of the kube-apiserver container.
    pub image: Option<String>,
    /// All flags of kube-apiserver in the order of its arguments, repeats included.
    pub flags: Vec<ReadFlag>,
    /// Value of [`REVISION_ANNOTATION`]: the audit settings are ours.
    pub revision: Option<String>,
    /// Seconds from the order to end until the kubelet kills it, where the manifest says so; the kubelet's default is 30.
    pub termination_grace_seconds: Option<u32>,
    /// Where the kubelet asks whether the server is ready.
    pub readiness: Option<Probe>,
    /// Where the kubelet asks whether the server is alive.
    pub liveness: Option<Probe>,
    /// The Pod's volumes.
    pub volumes: Vec<Volume>,
    /// The mounts of the kube-apiserver container.
    pub mounts: Vec<VolumeMount>,
}

/// A flag as it is in the manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadFlag {
    /// Name without dashes in front, underscores as dashes: the server takes them for the same.
    pub name: String,
    /// Value; `true` for a flag that is only named.
    pub value: String,
    /// Line counted from 1.
    pub line: usize,
}

/// An HTTP probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// `HTTP` or `HTTPS`.
    pub scheme: String,
    /// Host to ask; the Pod's own address when absent.
    pub host: Option<String>,
    /// Port number; a named port is resolved through the container's `ports`.
    pub port: u16,
    /// Path, with its query if there is one.
    pub path: String,
}

/// A volume of the Pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// Name, unique in the Pod.
    pub name: String,
    /// Path on the node, for a hostPath volume.
    pub host_path: Option<String>,
    /// `hostPath.type`, where given.
    pub path_type: Option<String>,
    /// Line counted from 1.
    pub line: usize,
}

/// A mount of the kube-apiserver container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeMount {
    /// Name of the volume.
    pub name: String,
    /// Path in the container.
    pub mount_path: String,
    /// Whether the container may only read.
    pub read_only: bool,
    /// Whether only a part of the volume is mounted (`subPath`, `subPathExpr`).
    pub sub_path: bool,
    /// Line counted from 1.
    pub line: usize,
}

impl Manifest {
    /// The port kube-apiserver serves on.
    pub fn secure_port(&self) -> u16 {
        self.flag("secure-port").and_then(|port| port.parse().ok()).unwrap_or(6443)
    }

    /// Where this node's own API server answers, as a URL; `None` when the manifest does not say its address.
    pub fn server_url(&self) -> Option<String> {
        let address = self.flag("advertise-address").filter(|address| !address.is_empty())?;
        let address = if address.contains(':') { format!("[{address}]") } else { address.to_owned() };
        Some(format!("https://{address}:{}", self.secure_port()))
    }

    /// The value of a flag by its name without dashes in front: the last one given, as for the server.
    pub fn flag(&self, name: &str) -> Option<&str> {
        self.flags.iter().rfind(|flag| flag.name == name).map(|flag| flag.value.as_str())
    }

    /// The file on the node that a flag names, through the mount that serves it; `None` when it cannot be seen from there.
    pub fn file_of(&self, flag: &str) -> Option<String> {
        let path = self.flag(flag).filter(|path| path.starts_with('/'))?;
        let mounts = self.mounts.iter().filter_map(|mount| {
            let rest = path.strip_prefix(mount.mount_path.trim_end_matches('/'))?;
            (rest.is_empty() || rest.starts_with('/')).then_some((mount, rest))
        });
        let (mount, rest) = mounts.max_by_key(|(mount, _)| mount.mount_path.trim_end_matches('/').len())?;
        let volume = self.volumes.iter().find(|volume| volume.name == mount.name)?;
        let host_path = volume.host_path.as_ref().filter(|_| !mount.sub_path)?;
        Some(format!("{}{rest}", host_path.trim_end_matches('/')))
    }

    /// The tag of the image, which for Kubernetes' own images is the version: `v1.37.2`. None for a bare digest.
    pub fn server_version_tag(&self) -> Option<&str> {
        let image = self.image.as_deref()?;
        let named = image.split_once('@').map_or(image, |(named, _digest)| named);
        // A colon before the last slash belongs to the registry's port.
        let repository = named.rfind('/').map_or(0, |slash| slash + 1);
        named[repository..].split_once(':').map(|(_, tag)| tag)
    }
}

/// Reads a manifest. Refuses what cannot be understood; what is there and not wanted is no reason.
pub fn read(text: &str) -> Result<Manifest, Refusals> {
    let root = tree::parse(text)?;
    let pod = Pod::locate(&root)?;
    Ok(Manifest {
        name: pod.name.to_owned(),
        namespace: pod.metadata.value.text("namespace").unwrap_or("default").to_owned(),
        container: pod.container.text("name").unwrap_or_default().to_owned(),
        image: pod.container.text("image").map(str::to_owned),
        flags: pod
            .flags
            .iter()
            .map(|flag| ReadFlag {
                name: flag.name.clone(),
                value: flag.value().to_owned(),
                line: pod.argv[flag.first].node.line,
            })
            .collect(),
        revision: pod.annotation(REVISION_ANNOTATION).map(str::to_owned),
        termination_grace_seconds: (pod.spec.value.get("terminationGracePeriodSeconds"))
            .and_then(|seconds| seconds.as_scalar()?.parse().ok()),
        readiness: probe(pod.container, "readinessProbe"),
        liveness: probe(pod.container, "livenessProbe"),
        volumes: pod.volumes,
        mounts: pod.mounts,
    })
}

/// None also for a probe that is not HTTP, or whose port is a name that `ports` does not have.
fn probe(container: &Node, key: &str) -> Option<Probe> {
    let http = container.get(key)?.get("httpGet")?;
    let port = http.get("port")?;
    Some(Probe {
        scheme: http.text("scheme").unwrap_or("HTTP").to_owned(),
        host: http.get("host").and_then(Node::as_scalar).filter(|host| !host.is_empty()).map(str::to_owned),
        port: port.as_scalar()?.parse().ok().or_else(|| named_port(container, port.as_str()?))?,
        path: http.text("path").unwrap_or("/").to_owned(),
    })
}

fn named_port(container: &Node, name: &str) -> Option<u16> {
    let port = container.get("ports")?.items()?.iter().find(|port| port.text("name") == Some(name))?;
    port.get("containerPort")?.as_scalar()?.parse().ok()
}
