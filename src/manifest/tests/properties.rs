//! What holds for every manifest: generated in every style there is, mutated, and arbitrary text.

use proptest::prelude::*;

use super::*;

/// How a generated manifest is written.
#[derive(Clone, Debug)]
struct Style {
    indent_lists: bool,
    step: usize,
    crlf: bool,
    last_line_break: bool,
    flow_command: bool,
    quote: &'static str,
    in_args: bool,
    wrapper: bool,
    sidecar: bool,
    shuffle_keys: bool,
    document_marks: bool,
    json: Option<bool>,
}

/// What is in it. None: the key is absent.
#[derive(Clone, Debug)]
struct Content {
    flags: Vec<&'static str>,
    annotations: Option<Vec<&'static str>>,
    volumes: Option<Vec<&'static str>>,
    flow_when_empty: bool,
    /// Comment lines: after which line, with which indentation.
    comments: Vec<(prop::sample::Index, usize)>,
}

fn style() -> impl Strategy<Value = Style> {
    let quote = prop::sample::select(vec!["", "", "'", "\""]);
    let json = prop_oneof![6 => Just(None), 1 => any::<bool>().prop_map(Some)];
    let list = (any::<bool>(), 2usize..5, any::<bool>(), any::<bool>(), any::<bool>(), quote);
    (list, any::<[bool; 5]>(), json).prop_map(|((indent_lists, step, crlf, last, flow, quote), b, json)| {
        Style {
            indent_lists,
            step,
            crlf,
            last_line_break: last,
            flow_command: flow,
            quote,
            in_args: b[0],
            wrapper: b[1],
            sidecar: b[2],
            shuffle_keys: b[3],
            document_marks: b[4],
            json,
        }
    })
}

fn content() -> impl Strategy<Value = Content> {
    let flags = vec![
        "--v=2",
        "--secure-port=6443",
        "--etcd-servers=https://127.0.0.1:2379",
        "--profiling",
        "--a_b=c",
    ];
    let annotations = vec!["a/b", "kubeadm.kubernetes.io/x", "z"];
    let volumes = vec!["a-certs", "ca-certs", "k8s-certs", "z"];
    let some = |all: Vec<&'static str>| {
        let count = 0..=all.len();
        prop::option::weighted(0.8, prop::sample::subsequence(all, count).prop_shuffle())
    };
    (
        prop::sample::subsequence(flags, 0..=5).prop_shuffle(),
        some(annotations),
        some(volumes),
        any::<bool>(),
        prop::collection::vec((any::<prop::sample::Index>(), 0usize..9), 0..6),
    )
        .prop_map(|(flags, annotations, volumes, flow_when_empty, comments)| Content {
            flags,
            annotations,
            volumes,
            flow_when_empty,
            comments,
        })
}

/// Writes the lines of a manifest.
struct Writer<'s> {
    style: &'s Style,
    lines: Vec<String>,
}

impl Writer<'_> {
    fn line(&mut self, column: usize, text: &str) {
        self.lines.push(format!("{}{text}", " ".repeat(column)));
    }

    /// A list of one-line elements or of maps, block style.
    fn list(&mut self, column: usize, key: &str, items: &[Vec<String>]) {
        self.line(column, &format!("{key}:"));
        let dash = column + if self.style.indent_lists { self.style.step } else { 0 };
        for item in items {
            for (i, text) in item.iter().enumerate() {
                if i == 0 {
                    self.line(dash, &format!("- {text}"));
                } else {
                    self.line(dash + 2, text);
                }
            }
        }
    }
}

fn write(style: &Style, content: &Content) -> String {
    if let Some(pretty) = style.json {
        return json(content, pretty);
    }
    let mut out = Writer { style, lines: Vec::new() };
    if style.document_marks {
        out.line(0, "---");
    }
    out.line(0, "apiVersion: v1");
    out.line(0, "kind: Pod");
    out.line(0, "metadata:");
    let name = |out: &mut Writer<'_>| out.line(style.step, "name: kube-apiserver");
    if style.shuffle_keys {
        name(&mut out);
    }
    match &content.annotations {
        Some(keys) if !keys.is_empty() => {
            out.line(style.step, "annotations:");
            keys.iter().for_each(|key| out.line(2 * style.step, &format!("{key}: \"1\" # why")));
        }
        Some(_) if content.flow_when_empty => out.line(style.step, "annotations: {}"),
        _ => {}
    }
    if !style.shuffle_keys {
        name(&mut out);
    }
    out.line(0, "spec:");
    write_containers(&mut out, content);
    match &content.volumes {
        Some(names) if !names.is_empty() => {
            let volume = |name: &&str| {
                vec![
                    "hostPath:".to_owned(),
                    format!("{}path: /etc/{name}", " ".repeat(style.step)),
                    format!("name: {name}  # {name}"),
                ]
            };
            out.list(style.step, "volumes", &names.iter().map(volume).collect::<Vec<_>>());
        }
        Some(_) if content.flow_when_empty => out.line(style.step, "volumes: []"),
        _ => {}
    }
    if style.document_marks {
        out.line(0, "...");
    }
    for (place, column) in &content.comments {
        // Not in front of the first line, where a comment may belong to nothing.
        let at = 1 + place.index(out.lines.len());
        out.lines.insert(at, format!("{}# a comment: [", " ".repeat(*column)));
    }
    let eol = if style.crlf { "\r\n" } else { "\n" };
    out.lines.join(eol) + if style.last_line_break { eol } else { "" }
}

fn write_containers(out: &mut Writer<'_>, content: &Content) {
    let style = out.style;
    let dash = style.step + if style.indent_lists { style.step } else { 0 };
    let column = dash + 2;
    out.line(style.step, "containers:");
    if style.sidecar {
        out.line(dash, "- name: shipper");
        out.line(column, "volumeMounts: [{name: shared, mountPath: /logs}]");
    }
    out.line(dash, "- name: kube-apiserver");
    let quote = |text: &str| format!("{0}{text}{0}", style.quote);
    let mut argv = Vec::new();
    if style.wrapper {
        argv.extend(["/go-runner", "--log-file=/var/log/x.log"].map(quote));
    }
    argv.push(quote("/usr/local/bin/kube-apiserver"));
    argv.extend(content.flags.iter().map(|flag| quote(flag)));
    let (command, args) = if style.in_args { argv.split_at(1) } else { argv.split_at(argv.len()) };
    for (key, list) in [("command", command), ("args", args)] {
        if list.is_empty() && !(content.flow_when_empty && key == "args") {
            continue;
        } else if style.flow_command || list.is_empty() {
            out.line(column, &format!("{key}: [{}]", list.join(", ")));
        } else {
            out.list(column, key, &list.iter().map(|arg| vec![format!("{arg} # ok")]).collect::<Vec<_>>());
        }
    }
    out.line(column, "image: registry.k8s.io/kube-apiserver:v1.37.2");
    match &content.volumes {
        Some(names) if !names.is_empty() => {
            let mount = |name: &&str| vec![format!("mountPath: /etc/{name}"), format!("name: {name}")];
            out.list(column, "volumeMounts", &names.iter().map(mount).collect::<Vec<_>>());
        }
        Some(_) if content.flow_when_empty => out.line(column, "volumeMounts: []"),
        _ => {}
    }
}

fn json(content: &Content, pretty: bool) -> String {
    let mut argv = vec!["kube-apiserver"];
    argv.extend(&content.flags);
    let mut pod = serde_json::json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "kube-apiserver"},
        "spec": {"containers": [{"name": "kube-apiserver", "command": argv}]},
    });
    if let Some(keys) = &content.annotations {
        pod["metadata"]["annotations"] =
            keys.iter().map(|key| (key.to_string(), serde_json::json!("1"))).collect();
    }
    if let Some(names) = &content.volumes {
        let volume =
            |name: &&str| serde_json::json!({"name": name, "hostPath": {"path": format!("/etc/{name}")}});
        let mount = |name: &&str| serde_json::json!({"name": name, "mountPath": format!("/etc/{name}")});
        pod["spec"]["volumes"] = names.iter().map(volume).collect();
        pod["spec"]["containers"][0]["volumeMounts"] = names.iter().map(mount).collect();
    }
    if pretty { serde_json::to_string_pretty(&pod) } else { serde_json::to_string(&pod) }.unwrap()
}

fn settings() -> impl Strategy<Value = Settings> {
    let log = prop::sample::select(vec!["/var/log/kubernetes/audit", "/var/log/audit", "/srv/a,b c: #"]);
    let values = vec!["audit-log-compress", "audit-log-maxage", "audit-log-maxsize", "audit-webhook-mode"];
    let values = prop::sample::subsequence(values, 0..=4);
    (any::<[bool; 3]>(), log, values, 1u32..4).prop_map(|(with, log, values, revision)| {
        let mut settings =
            Settings { flags: Vec::new(), mounts: Vec::new(), revision: format!("{revision}e1") };
        settings.flags.extend(values.into_iter().map(|name| flag(name, &revision.to_string())));
        let mut add = |wanted: bool, name: &str, path: String, folder: Option<&str>| {
            if wanted {
                let volume =
                    name.trim_end_matches("-file").trim_end_matches("-path").trim_end_matches("-config");
                settings.flags.push(flag(name, &path));
                settings.mounts.push(match folder {
                    Some(folder) => mount(volume, folder, PathType::DirectoryOrCreate, false),
                    None => mount(volume, &path, PathType::File, true),
                });
            }
        };
        add(with[0], "audit-policy-file", format!("/etc/kubernetes/audit/policy-{revision}.yaml"), None);
        add(with[1], "audit-log-path", format!("{log}/audit.log"), Some(log));
        add(with[2], "audit-webhook-config-file", format!("/etc/kubernetes/audit/hook-{revision}"), None);
        settings
    })
}

/// All but what the audit settings are, as plain values.
fn without_audit(text: &str) -> Yaml {
    let mut root = parse(text);
    take_out(&mut root, &["audit-policy", "audit-log", "audit-webhook"]);
    root
}

fn effective(text: &str) -> Vec<(String, String)> {
    let mut root = parse(text);
    let flags = take_out(&mut root, &[]).flags;
    let mut last: Vec<(String, String)> = Vec::new();
    for (name, value) in flags {
        last.retain(|(other, _)| *other != name);
        last.push((name, value));
    }
    last.sort();
    last
}

fn is_subsequence(old: &str, new: &str) -> bool {
    let mut new = new.lines();
    old.lines().all(|line| new.any(|other| other == line))
}

proptest! {
    #![proptest_config(ProptestConfig { ..ProptestConfig::default() })]

    #[test]
    fn every_style_is_patched_and_put_back(style in style(), content in content(), wanted in settings()) {
        let text = write(&style, &content);
        let new = check_patch(&text, &wanted);
        let has_flow = style.json.is_some() || style.flow_command || content.flow_when_empty;
        prop_assert!(has_flow || is_subsequence(&text, &new), "a line of the old text is gone:\n{}", new);
        prop_assert_eq!(style.crlf && style.json.is_none(), new.contains("\r\n"));
    }

    #[test]
    fn changing_settings_leaves_nothing_of_the_former(
        style in style(), content in content(), first in settings(), second in settings(),
    ) {
        let text = write(&style, &content);
        let patched = patch(&text, &first, Existing::Refuse).unwrap();
        let changed = patch(&patched, &second, Existing::Refuse).unwrap();
        let names: Vec<_> = second.mounts.iter().map(|mount| mount.name.as_str()).collect();
        let mut root = parse(&changed);
        prop_assert_eq!(take_out(&mut root, &names).sorted(), expected(&second).sorted());
        prop_assert_eq!(root, without_audit(&text));
        prop_assert_eq!(patch(&changed, &second, Existing::Refuse).unwrap(), changed.clone());
        prop_assert_eq!(unpatch(&changed).unwrap(), text);
    }

    #[test]
    fn foreign_settings_are_taken_over_whatever_their_spelling(
        style in style(), content in content(), wanted in settings(),
        foreign in prop::sample::subsequence(vec![
            "--audit-log-maxage=7", "--audit_log_path=/var/log/foreign.log", "--audit-log-compress",
            "--audit-log-maxage=8", "--audit-policy-file=/etc/a-certs/policy.yaml",
        ], 1..=5).prop_shuffle(),
    ) {
        let mut with_foreign = content.clone();
        with_foreign.flags.extend(&foreign);
        let text = write(&style, &with_foreign);
        let refused = patch(&text, &wanted, Existing::Refuse);
        let adoptable = effective(&text).iter().all(|(name, value)| {
            wanted.flags.iter().any(|flag| flag.name == *name && flag.value == *value)
        });
        prop_assert_eq!(refused.is_ok(), adoptable);
        let new = patch(&text, &wanted, Existing::TakeOver).unwrap();
        let mut flags: Vec<_> = wanted.flags.iter().map(|f| (f.name.clone(), f.value.clone())).collect();
        flags.sort();
        prop_assert_eq!(effective(&new), flags);
        prop_assert_eq!(patch(&new, &wanted, Existing::TakeOver).unwrap(), new.clone());
        prop_assert_eq!(effective(&unpatch(&new).unwrap()), []);
    }

    /// Damage of any kind: never a panic, and what is patched all the same keeps every promise.
    #[test]
    fn damaged_manifests_are_patched_right_or_refused(
        style in style(), content in content(), wanted in settings(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), 0usize..4, prop::sample::select(vec![
            "", " ", "\n", "-", "- ", ":", "#", "'", "\"", "{", "]", ",", "&a ", "*a", "|", "\t", "\r", "? ", "\n  ", "--audit-log-path=/x",
        ])), 1..4),
    ) {
        let mut text = write(&style, &content);
        for (place, length, insert) in damage {
            let mut from = place.index(text.len());
            let mut to = (from + length).min(text.len());
            while !text.is_char_boundary(from) { from -= 1; }
            while !text.is_char_boundary(to) { to += 1; }
            text.replace_range(from..to, insert);
        }
        for existing in [Existing::Refuse, Existing::TakeOver] {
            if let Ok(new) = patch(&text, &wanted, existing) {
                let again = patch(&new, &wanted, Existing::Refuse);
                prop_assert_eq!(again.as_ref(), Ok(&new));
                let mut flags: Vec<_> = wanted.flags.iter().map(|f| (f.name.clone(), f.value.clone())).collect();
                flags.sort();
                prop_assert_eq!(effective(&new), flags);
                if effective(&text).is_empty() && parse(&text)["metadata"]["annotations"][REVISION_ANNOTATION].is_null() {
                    prop_assert_eq!(unpatch(&new).unwrap(), text.clone());
                    prop_assert_eq!(without_audit(&new), without_audit(&text));
                }
            }
        }
    }

    #[test]
    fn arbitrary_text_is_no_problem(text in "\\PC{0,60}|[-:#{}\\[\\]\"'|>&*!? a\\n\\r\\t]{0,80}") {
        let settings = versioned("aa11");
        prop_assert!(patch(&text, &settings, Existing::TakeOver).is_err());
        prop_assert!(read(&text).is_err());
        prop_assert_eq!(unpatch(&text).unwrap(), text.clone());
        prop_assert_eq!(diff(&text, &text, "x").text, "");
        diff(&text, KUBEADM, "x");
        diff(KUBEADM, &text, "x");
    }

    #[test]
    fn a_diff_shows_each_line_once(style in style(), content in content(), wanted in settings()) {
        let text = write(&style, &content);
        let new = patch(&text, &wanted, Existing::Refuse).unwrap();
        let lines = changed_lines(&text, &new);
        let count = |sign| lines.lines().filter(|line| line.starts_with(sign)).count();
        prop_assert_eq!(new.lines().count() + count('-'), text.lines().count() + count('+'));
    }
}
