//! The facts that are read from a manifest.

use super::*;

#[test]
fn a_kubeadm_manifest() {
    let manifest = read(KUBEADM).unwrap();
    assert_eq!((&*manifest.name, &*manifest.namespace), ("kube-apiserver", "kube-system"));
    assert_eq!(manifest.server_version_tag(), Some("v1.37.2"));
    assert_eq!(manifest.flags.len(), 27);
    assert_eq!(manifest.flag("secure-port"), Some("6443"));
    assert_eq!(manifest.flag("audit-log-path"), None);
    assert_eq!(manifest.revision, None);
    let probe = |path: &str| {
        let host = Some("198.51.100.12".to_owned());
        Some(Probe { scheme: "HTTPS".to_owned(), host, port: 6443, path: path.to_owned() })
    };
    assert_eq!(manifest.readiness, probe("/readyz"));
    assert_eq!(manifest.liveness, probe("/livez"));
    assert_eq!(manifest.mounts.len(), 5);
    assert_eq!(manifest.volumes[2].host_path.as_deref(), Some("/etc/kubernetes/pki"));
    assert_eq!(manifest.volumes[2].path_type.as_deref(), Some("DirectoryOrCreate"));
}

#[test]
fn flags_of_every_spelling_with_their_lines() {
    let text = data!("wrapper.yaml")
        .replace("- --profiling\n", "- --profiling\n    - --audit_log_path='x'\n    - --v=1\n");
    let manifest = read(&text).unwrap();
    let flags: Vec<_> = manifest.flags.iter().map(|f| (&*f.name, &*f.value, f.line)).collect();
    assert_eq!(
        flags,
        [
            ("etcd-servers", "https://127.0.0.1:2379", 13),
            ("profiling", "true", 15),
            ("audit-log-path", "'x'", 16),
            ("v", "1", 17),
            ("v", "2", 18),
        ]
    );
    assert_eq!(manifest.flag("v"), Some("2"));
    assert_eq!(manifest.flag("log-file"), None, "a flag of the wrapper");
}

#[test]
fn flags_split_over_command_and_args() {
    let text = SMALL.replace("    name: kube", "    args: [--v, '2', --b]\n    name: kube");
    let manifest = read(&text).unwrap();
    let flags: Vec<_> = manifest.flags.iter().map(|f| (&*f.name, &*f.value)).collect();
    assert_eq!(flags, [("secure-port", "6443"), ("v", "2"), ("b", "true")]);
    let new = check_patch(&text, &article());
    assert!(new.contains("args: [--v, '2', --b, --audit-log-maxage=1, "), "{new}");
}

#[test]
fn image_tags() {
    let tag = |image: &str| {
        let text = format!("{SMALL}    image: {image}\n");
        read(&text).unwrap().server_version_tag().map(str::to_owned)
    };
    assert_eq!(tag("registry.k8s.io/kube-apiserver:v1.37.2").as_deref(), Some("v1.37.2"));
    assert_eq!(tag("localhost:5000/kube-apiserver:v1.37.2@sha256:00").as_deref(), Some("v1.37.2"));
    assert_eq!(tag("localhost:5000/kube-apiserver"), None);
    assert_eq!(tag("localhost:5000/kube-apiserver@sha256:00"), None);
    assert_eq!(tag("kube-apiserver:v1").as_deref(), Some("v1"));
    assert_eq!(read(SMALL).unwrap().server_version_tag(), None);
}

#[test]
fn probes_that_are_not_plain() {
    let probe = |probe: &str| read(&format!("{SMALL}    livenessProbe: {probe}\n")).unwrap().liveness;
    let plain = probe("{httpGet: {port: 8080}}").unwrap();
    assert_eq!((&*plain.scheme, plain.host, plain.port, &*plain.path), ("HTTP", None, 8080, "/"));
    assert_eq!(probe("{tcpSocket: {port: 6443}}"), None);
    assert_eq!(probe("{httpGet: {port: nowhere}}"), None);
    assert_eq!(probe("{httpGet: {port: 123456}}"), None);
}

#[test]
fn anchors_outside_of_what_is_edited_do_not_matter() {
    let text = SMALL.replace("spec:\n", "spec:\n  tolerations: &t [{operator: Exists}]\n  x: *t\n");
    assert_eq!(read(&text).unwrap().flag("secure-port"), Some("6443"));
}

#[test]
fn digests_name_the_bytes() {
    assert_eq!(digest(b""), "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
}
