//! What kubeadm and kube-proxy are told. The secrets are fixed: this control plane has no way out of its machine.

use crate::network;

const TOKEN: &str = "abcdef.0123456789abcdef";
const CERTIFICATE_KEY: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// How a node registers. `Never`: preflight would try to pull images that were imported.
fn registration(number: u8) -> String {
    let (name, address) = (network::name(number), network::address(number));
    format!(
        "nodeRegistration:
  name: {name}
  criSocket: unix:///run/containerd/containerd.sock
  imagePullPolicy: Never
  kubeletExtraArgs:
  - {{name: node-ip, value: {address}}}
"
    )
}

/// The configuration of `kubeadm init` on the first node.
///
/// `failCgroupV1: false`: kubelets from 1.35 refuse cgroup v1 otherwise. The disk is the whole machine's: by their usual
/// thresholds (15 % free) kubelets would evict Pods, and remove images that nobody can pull again, on a machine whose
/// disk is large and well used.
pub(crate) fn init(version: &str) -> String {
    let (registration, address) = (registration(1), network::address(1));
    let (control_plane, port) = (network::CONTROL_PLANE, network::API_PORT);
    let (services, pods) = (network::SERVICES, network::PODS);
    format!(
        "apiVersion: kubeadm.k8s.io/v1beta4
kind: InitConfiguration
bootstrapTokens:
- {{token: {TOKEN}, ttl: 24h0m0s}}
certificateKey: {CERTIFICATE_KEY}
localAPIEndpoint: {{advertiseAddress: {address}, bindPort: {port}}}
{registration}---
apiVersion: kubeadm.k8s.io/v1beta4
kind: ClusterConfiguration
kubernetesVersion: {version}
clusterName: e2e
controlPlaneEndpoint: {control_plane}:{port}
networking: {{serviceSubnet: {services}, podSubnet: {pods}, dnsDomain: cluster.local}}
---
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
cgroupDriver: cgroupfs
failSwapOn: false
failCgroupV1: false
evictionHard: {{memory.available: 100Mi, nodefs.available: 1Gi, imagefs.available: 1Gi}}
imageGCHighThresholdPercent: 100
"
    )
}

/// Where the policy of [`init_audited`] is on each node.
pub(crate) const AUDIT_POLICY: &str = "/etc/kubernetes/audit-policy.yaml";
/// That policy.
pub(crate) const METADATA_FOR_ALL: &str = "apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules: [{level: Metadata}]
";

/// The same with auditing, which the other nodes get from kubeadm-config when they join.
pub(crate) fn init_audited(version: &str) -> String {
    let audited = format!(
        "kubernetesVersion: {version}
apiServer:
  extraArgs:
  - {{name: audit-policy-file, value: {AUDIT_POLICY}}}
  - {{name: audit-log-path, value: /var/log/kubernetes/audit/audit.log}}
  extraVolumes:
  - {{name: audit-log, hostPath: /var/log/kubernetes/audit, mountPath: /var/log/kubernetes/audit, pathType: DirectoryOrCreate}}
  - {{name: audit-policy, hostPath: {AUDIT_POLICY}, mountPath: {AUDIT_POLICY}, pathType: File, readOnly: true}}
"
    );
    init(version).replace(&format!("kubernetesVersion: {version}\n"), &audited)
}

/// The configuration of `kubeadm join` of another control-plane node.
pub(crate) fn join(number: u8) -> String {
    let (registration, address) = (registration(number), network::address(number));
    let (control_plane, port) = (network::CONTROL_PLANE, network::API_PORT);
    format!(
        "apiVersion: kubeadm.k8s.io/v1beta4
kind: JoinConfiguration
discovery:
  bootstrapToken: {{apiServerEndpoint: \"{control_plane}:{port}\", token: {TOKEN}, unsafeSkipCAVerification: true}}
controlPlane:
  certificateKey: {CERTIFICATE_KEY}
  localAPIEndpoint: {{advertiseAddress: {address}, bindPort: {port}}}
{registration}"
    )
}

/// kube-proxy in iptables mode. The connection tracking limits are this machine's and stay as they are (0).
pub(crate) fn kube_proxy(number: u8) -> String {
    let (name, pods) = (network::name(number), network::PODS);
    format!(
        "apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: iptables
clusterCIDR: {pods}
hostnameOverride: {name}
clientConnection: {{kubeconfig: /etc/kubernetes/kube-proxy.conf}}
conntrack: {{maxPerCore: 0, min: 0}}
"
    )
}
