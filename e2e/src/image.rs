//! Container images without a builder and without a registry: archives of static binaries, to be imported into
//! containerd.
//!
//! An archive is in the `docker save` format: `manifest.json`, an image configuration, one layer. It lies in the
//! cache under a name that holds a digest of what it was made from, so that it is made again exactly when a
//! binary has changed.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::UNIX_EPOCH;

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use crate::programs::{Programs, k8s_folder};
use crate::run::output;
use crate::state;

/// The name, as a Pod says it, of the image that stands for nginx.
pub(crate) const NGINX: &str = "nginx:latest";

/// The image names of the built kubeadm's own Kubernetes version.
#[derive(Clone, Debug)]
pub(crate) struct Names {
    /// `v1.37.2`.
    pub(crate) version: String,
    list: Vec<String>,
}

impl Names {
    /// Asks kubeadm.
    pub(crate) fn ask(programs: &Programs) -> Result<Self> {
        let kubeadm = programs.path("kubeadm")?;
        let version =
            output(Command::new(&kubeadm).args(["version", "--output", "short"]))?.trim().to_owned();
        let list = ["config", "images", "list", "--kubernetes-version", &version];
        let list = output(Command::new(&kubeadm).args(list))?.lines().map(str::to_owned).collect();
        Ok(Self { version, list })
    }

    /// The name of the image of one program, such as `pause`.
    pub(crate) fn of(&self, program: &str) -> Result<String> {
        let is =
            |name: &&String| name.rsplit('/').next().and_then(|last| last.split(':').next()) == Some(program);
        let name = self.list.iter().find(is).cloned();
        name.with_context(|| format!("kubeadm lists no image of {program}"))
    }
}

/// One image: a binary, where it lies in the image, and whether it is the entry point.
#[derive(Debug)]
struct Image {
    reference: String,
    binary: PathBuf,
    path: String,
    entrypoint: bool,
}

/// Makes the archives, to be imported on every node, of everything kubeadm needs, of a workload, and of the operator when its binary is given.
/// The names are what this kubeadm asks for, so they always fit its version.
///
/// Clusters share the cache and may be brought up at the same time, but for the operator's image, of which each may
/// have a binary of its own: that archive is made in `own`.
pub(crate) fn make(
    programs: &Programs,
    names: &Names,
    operator: Option<&Path>,
    own: &Path,
) -> Result<Vec<PathBuf>> {
    let folder = state::cache()?.join("testbed").join("images");
    fs::create_dir_all(&folder)?;
    let _one_at_a_time = lock(&folder)?;
    let mut images = vec![
        Image {
            reference: names.of("pause")?,
            binary: compile(&folder, "pause")?,
            path: "pause".to_owned(),
            entrypoint: true,
        },
        Image {
            reference: NGINX.to_owned(),
            binary: compile(&folder, "workload")?,
            path: "workload".to_owned(),
            entrypoint: true,
        },
    ];
    for program in ["kube-apiserver", "kube-controller-manager", "kube-scheduler", "etcd"] {
        let (reference, binary) = (names.of(program)?, programs.path(program)?);
        images.push(Image { reference, binary, path: format!("usr/local/bin/{program}"), entrypoint: false });
    }
    let mut archives: Vec<PathBuf> =
        images.iter().map(|image| archive(&folder, image)).collect::<Result<_>>()?;
    if let Some(binary) = operator {
        let image = Image {
            reference: operator_reference(),
            binary: binary.to_owned(),
            path: "usr/local/bin/audit-operator".to_owned(),
            entrypoint: true,
        };
        fs::create_dir_all(own)?;
        archives.push(archive(own, &image)?);
    }
    Ok(archives)
}

/// Held while archives are made in the shared folder; a second run waits for the first.
fn lock(folder: &Path) -> Result<File> {
    let path = folder.join("lock");
    let file = File::create(&path).with_context(|| format!("opening {}", path.display()))?;
    file.lock().with_context(|| format!("locking {}", path.display()))?;
    Ok(file)
}

/// The name of the operator's own image.
pub(crate) fn operator_reference() -> String {
    concat!("audit-operator/audit-operator:", env!("CARGO_PKG_VERSION")).to_owned()
}

/// A static binary of one of the C files beside the build script.
fn compile(folder: &Path, name: &str) -> Result<PathBuf> {
    let source = k8s_folder().join(name).with_extension("c");
    let binary = folder.join(name);
    let modified = |path: &Path| fs::metadata(path).and_then(|m| m.modified());
    if modified(&binary).is_ok_and(|built| modified(&source).is_ok_and(|written| written <= built)) {
        return Ok(binary);
    }
    output(Command::new("gcc").args(["-static", "-Os", "-s", "-Wall", "-o"]).arg(&binary).arg(&source))?;
    Ok(binary)
}

/// The archive of an image, made when there is none of this very binary.
fn archive(folder: &Path, image: &Image) -> Result<PathBuf> {
    let name: String = image.reference.rsplit('/').next().unwrap_or_default().replace(':', "_");
    let path = folder.join(format!("{name}-{}.tar", key(image)?));
    if path.exists() {
        return Ok(path);
    }
    let stale = format!("{name}-");
    for entry in fs::read_dir(folder)?.flatten() {
        let old = entry.file_name().to_string_lossy().into_owned();
        if old.starts_with(&stale) && old.ends_with(".tar") {
            fs::remove_file(entry.path())?;
        }
    }
    let partial = path.with_extension("partial");
    write(image, &partial).with_context(|| format!("making the image {}", image.reference))?;
    fs::rename(&partial, &path)?;
    Ok(path)
}

/// What an archive depends on: the name and the binary's path, length and time.
fn key(image: &Image) -> Result<String> {
    let metadata =
        fs::metadata(&image.binary).with_context(|| format!("no binary {}", image.binary.display()))?;
    let modified = metadata.modified()?.duration_since(UNIX_EPOCH).context("a binary older than 1970")?;
    let facts =
        format!("{} {} {} {}", image.reference, image.binary.display(), metadata.len(), modified.as_nanos());
    Ok(hex(&Sha256::digest(facts))[..12].to_owned())
}

fn write(image: &Image, path: &Path) -> Result<()> {
    let layer_path = path.with_extension("layer");
    let mut layer = Hashing { to: BufWriter::new(File::create(&layer_path)?), digest: Sha256::new() };
    write_layer(image, &mut layer)?;
    layer.to.flush()?;
    let diff_id = format!("sha256:{}", hex(&layer.digest.finalize()));
    let entrypoint = image.entrypoint.then(|| [format!("/{}", image.path)]);
    let configuration = serde_json::json!({
        "architecture": architecture(),
        "os": "linux",
        "created": "1970-01-01T00:00:00Z",
        "config": {"Env": ["PATH=/usr/local/bin:/usr/bin:/bin"], "Entrypoint": entrypoint, "WorkingDir": "/"},
        "rootfs": {"type": "layers", "diff_ids": [diff_id]},
    })
    .to_string();
    let configuration_name = format!("{}.json", hex(&Sha256::digest(&configuration)));
    let manifest = serde_json::json!([{
        "Config": configuration_name, "RepoTags": [image.reference], "Layers": ["layer.tar"],
    }])
    .to_string();

    let mut archive = tar::Builder::new(BufWriter::new(File::create(path)?));
    add(&mut archive, "manifest.json", 0o644, manifest.len() as u64, manifest.as_bytes())?;
    add(&mut archive, &configuration_name, 0o644, configuration.len() as u64, configuration.as_bytes())?;
    let layer = File::open(&layer_path)?;
    add(&mut archive, "layer.tar", 0o644, layer.metadata()?.len(), layer)?;
    archive.into_inner()?.flush()?;
    fs::remove_file(&layer_path)?;
    Ok(())
}

/// The one layer: the binary, its folders, and what a program expects of any system.
fn write_layer(image: &Image, to: impl Write) -> Result<()> {
    let mut layer = tar::Builder::new(to);
    let mut folder = |path: &Path, mode| -> io::Result<()> {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Directory);
        header.set_size(0);
        header.set_mode(mode);
        layer.append_data(&mut header, path, io::empty())
    };
    folder(Path::new("tmp"), 0o1777)?;
    folder(Path::new("etc"), 0o755)?;
    let above: Vec<&Path> =
        Path::new(&image.path).ancestors().skip(1).filter(|p| *p != Path::new("")).collect();
    for path in above.into_iter().rev() {
        folder(path, 0o755)?;
    }
    let users = "root:x:0:0:root:/root:/sbin/nologin\nnobody:x:65534:65534:nobody:/:/sbin/nologin\n";
    add(&mut layer, "etc/passwd", 0o644, users.len() as u64, users.as_bytes())?;
    let binary = File::open(&image.binary)?;
    add(&mut layer, &image.path, 0o755, binary.metadata()?.len(), binary)?;
    layer.finish()?;
    Ok(())
}

fn add(
    to: &mut tar::Builder<impl Write>,
    path: &str,
    mode: u32,
    size: u64,
    data: impl io::Read,
) -> Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_size(size);
    header.set_mode(mode);
    to.append_data(&mut header, path, data).with_context(|| format!("adding {path}"))
}

/// The architecture in the words of container images.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Digests what passes through.
struct Hashing<W> {
    to: W,
    digest: Sha256,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.to.write(bytes)?;
        self.digest.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}
