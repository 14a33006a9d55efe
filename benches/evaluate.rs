//! What the audit policy costs: a decision for one request, and the judgement of a policy file.
//!
//! kube-apiserver decides for every request, so the simulator is useful on real logs only if it is as quick.

use std::fmt::Write;
use std::hint::black_box;

use audit_operator::audit::{Attributes, Policy, Profile, ServerVersion, User, ValidPolicy, evaluate, load};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

/// A policy of `rules` rules, the last of which catches what the others, one a user, do not.
fn text(rules: usize) -> String {
    let mut text =
        String::from("apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\nrules:\n");
    for rule in 1..rules {
        writeln!(
            text,
            "- level: None\n  users: [\"system:serviceaccount:team-{rule}:default\"]\n  verbs: [get, list, watch]\n  \
             resources:\n  - group: \"\"\n    resources: [pods, pods/log]\n  - group: apps"
        )
        .expect("a String takes everything");
    }
    text + "- level: Metadata\n"
}

fn policy(rules: usize) -> Policy {
    load(text(rules).as_bytes(), ServerVersion::LATEST).policy.expect("the policy is valid")
}

/// Requests that only the last rule matches, so that each looks at all of them.
fn requests() -> Vec<Attributes> {
    let urls = [
        "/api/v1/namespaces/default/pods/web/log?follow=true",
        "/apis/apps/v1/deployments?watch=1",
        "/healthz",
    ];
    let user = || User { name: "alice".to_owned(), groups: vec!["system:authenticated".to_owned()] };
    let request = |url| Attributes::from_request(Some(user()), "GET", url).expect("the URL is one");
    urls.map(request).into()
}

fn decide(c: &mut Criterion) {
    let mut group = c.benchmark_group("evaluate");
    let requests = requests();
    group.throughput(Throughput::Elements(requests.len() as u64));
    for rules in [4, 17, 1000] {
        let policy = policy(rules);
        group.bench_with_input(BenchmarkId::new("rules", rules), &policy, |b, policy| {
            b.iter(|| requests.iter().map(|request| evaluate(black_box(policy), request).level).max());
        });
    }
    group.bench_function("attributes_from_request", |b| {
        let url =
            black_box("/api/v1/namespaces/default/configmaps?fieldSelector=metadata.name%3Dleader&watch=1");
        b.iter(|| Attributes::from_request(None, "GET", url));
    });
    group.finish();
}

fn judge(c: &mut Criterion) {
    let mut group = c.benchmark_group("validate");
    let recommended = ValidPolicy::new(Profile::Recommended.policy(), ServerVersion::LATEST)
        .expect("a profile is valid")
        .to_yaml();
    group.sample_size(10);
    for (name, text) in [("recommended", recommended), ("rules_17", text(17))] {
        group.throughput(Throughput::Elements(1000));
        group.bench_function(BenchmarkId::new("thousand_policies", name), |b| {
            let judge = || ValidPolicy::load(black_box(text.as_bytes()), ServerVersion::LATEST);
            b.iter(|| (0..1000).filter(|_| judge().0.is_some()).count());
        });
    }
    group.finish();
}

criterion_group!(benches, decide, judge);
criterion_main!(benches);
