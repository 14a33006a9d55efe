//! How long a patch of a manifest takes with all its guards, over manifests found in the wild.
//!
//! Besides criterion's measures it prints the 99th percentile over all files, which is what the promise is about:
//! at most 5 ms. Without the corpus it takes the test data.

#![expect(clippy::disallowed_methods, reason = "reads the manifests and the clock")]
#![expect(clippy::print_stdout, reason = "talks to the person who runs it")]

use std::fs;
use std::hint::black_box;
use std::path::Path;
use std::time::Instant;

use audit_operator::manifest::{Existing, Flag, Mount, PathType, Settings, diff, patch, unpatch};
use criterion::{Criterion, criterion_group, criterion_main};

const ROUNDS: usize = 50;

fn settings() -> Settings {
    let flag = |name: &str, value: &str| Flag { name: name.to_owned(), value: value.to_owned() };
    let mount = |name: &str, path: &str, path_type, read_only| {
        let path = path.to_owned();
        Mount { name: name.to_owned(), host_path: path.clone(), mount_path: path, path_type, read_only }
    };
    let policy = "/etc/kubernetes/audit/policy-5f3e2a.yaml";
    Settings {
        flags: vec![
            flag("audit-log-maxage", "30"),
            flag("audit-log-maxbackup", "10"),
            flag("audit-log-maxsize", "100"),
            flag("audit-log-path", "/var/log/kubernetes/audit/audit.log"),
            flag("audit-policy-file", policy),
        ],
        mounts: vec![
            mount("audit-policy", policy, PathType::File, true),
            mount("audit-log", "/var/log/kubernetes/audit", PathType::DirectoryOrCreate, false),
        ],
        revision: "5f3e2a".to_owned(),
    }
}

/// The manifests that can be patched.
fn manifests() -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folders = [root.join("../shared/corpus/manifests"), root.join("tests/data/manifests")];
    let files = folders
        .iter()
        .find_map(|folder| fs::read_dir(folder).ok())
        .expect("the test data are in the package");
    let texts = files.filter_map(|file| fs::read_to_string(file.ok()?.path()).ok());
    texts.filter(|text| patch(text, &settings(), Existing::TakeOver).is_ok()).collect()
}

/// On a busy machine the percentiles of all calls are mostly other people's work; the medians are ours.
fn print_percentiles(manifests: &[String]) {
    let settings = settings();
    let micros = |text: &String| {
        let start = Instant::now();
        let new = black_box(patch(black_box(text), &settings, Existing::TakeOver));
        let elapsed = start.elapsed().as_micros();
        drop(new);
        elapsed
    };
    let sorted = |mut values: Vec<u128>| {
        values.sort_unstable();
        values
    };
    let calls: Vec<Vec<u128>> =
        manifests.iter().map(|text| sorted((0..ROUNDS).map(|_| micros(text)).collect())).collect();
    let slowest = calls.iter().map(|calls| calls[ROUNDS / 2]).max().unwrap_or_default();
    let all = sorted(calls.concat());
    let percentile = |n: usize| all[(all.len() - 1) * n / 100];
    println!(
        "patch of {} manifests: p50 {} µs, p99 {} µs; median of the slowest {slowest} µs",
        manifests.len(),
        percentile(50),
        percentile(99),
    );
}

fn patching(criterion: &mut Criterion) {
    let manifests = manifests();
    print_percentiles(&manifests);
    let settings = settings();
    let text = manifests.iter().max_by_key(|text| text.len()).expect("there is one at least");
    let new = patch(text, &settings, Existing::TakeOver).expect("filtered");
    criterion.bench_function("patch the longest", |b| {
        b.iter(|| patch(black_box(text), &settings, Existing::TakeOver))
    });
    criterion.bench_function("patch it again", |b| {
        b.iter(|| patch(black_box(&new), &settings, Existing::TakeOver))
    });
    criterion.bench_function("unpatch it", |b| b.iter(|| unpatch(black_box(&new))));
    criterion.bench_function("diff of it", |b| {
        b.iter(|| diff(black_box(text), black_box(&new), "kube-apiserver.yaml"))
    });
}

criterion_group!(benches, patching);
criterion_main!(benches);
