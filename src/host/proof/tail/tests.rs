//! Real files, rotated as lumberjack and the kubelet do it.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use tempfile::TempDir;

use super::*;
use crate::audit::{Level, Stage};

const ID: &str = "audit-operator-x-1";
const LIVE: &str = "var/log/audit.log";
const ROTATED: &str = "var/log/audit-2026-01-02T03-04-05.678.log";
const POD: &str = "var/log/pods/kube-system_kube-apiserver-n1_0123/kube-apiserver";

struct Node {
    root: TempDir,
}

impl Node {
    fn new(folder: &str) -> Self {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join(folder)).unwrap();
        Self { root }
    }

    fn tail(&self, place: LogPlace) -> LogTail {
        LogTail::new(&Host::new(self.root.path(), "/m.yaml", Some("N1".to_owned())), &place)
    }

    fn file_tail(&self) -> LogTail {
        self.tail(LogPlace::File("/var/log/audit.log".to_owned()))
    }

    fn append(&self, path: &str, text: &str) {
        let path = self.root.path().join(path);
        let mut file = fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    fn rename(&self, from: &str, to: &str) {
        fs::rename(self.root.path().join(from), self.root.path().join(to)).unwrap();
    }

    fn compress(&self, path: &str) {
        let path = self.root.path().join(path);
        let file = File::create(packed(&path)).unwrap();
        let mut encoder = GzEncoder::new(file, Compression::fast());
        encoder.write_all(&fs::read(&path).unwrap()).unwrap();
        encoder.finish().unwrap();
        fs::remove_file(path).unwrap();
    }
}

fn event(stage: Stage) -> String {
    format!("{{\"level\":\"Metadata\",\"auditID\":\"{ID}\",\"stage\":\"{stage}\"}}\n")
}

fn received() -> String {
    event(Stage::RequestReceived)
}

fn complete() -> String {
    event(Stage::ResponseComplete)
}

#[track_caller]
fn check(tail: &mut LogTail, expected: &[Stage]) {
    let mut found = Vec::new();
    while tail.read(ID, &mut found) {}
    assert!(found.iter().all(|event| event.level == Some(Level::Metadata)), "{found:?}");
    let stages: Vec<_> = found.iter().map(|event| event.stage).collect();
    assert_eq!(stages, expected);
}

#[test]
fn what_was_there_before_does_not_count() {
    let node = Node::new("var/log");
    node.append(LIVE, &received());
    node.append(ROTATED, &received());
    let mut tail = node.file_tail();
    check(&mut tail, &[]);
    assert_eq!(tail.growth(), Growth::Silent);
    node.append(LIVE, &complete());
    check(&mut tail, &[Stage::ResponseComplete]);
    assert_eq!(tail.growth(), Growth::Bytes(complete().len() as u64));
    check(&mut tail, &[]);
}

#[test]
fn a_log_or_folder_that_appears_later_is_read_from_its_beginning() {
    let node = Node::new("var");
    let mut tail = node.file_tail();
    check(&mut tail, &[]);
    assert_eq!(tail.growth(), Growth::Absent);
    fs::create_dir(node.root.path().join("var/log")).unwrap();
    node.append(LIVE, &complete());
    check(&mut tail, &[Stage::ResponseComplete]);
}

#[test]
fn a_line_counts_when_it_is_whole() {
    let node = Node::new("var/log");
    node.append(LIVE, "");
    let mut tail = node.file_tail();
    let event = complete();
    let (begin, end) = event.split_at(30);
    node.append(LIVE, begin);
    check(&mut tail, &[]);
    node.append(LIVE, end);
    check(&mut tail, &[Stage::ResponseComplete]);
}

#[test]
fn both_sides_of_a_rotation_are_read() {
    let node = Node::new("var/log");
    node.append(LIVE, "old\n");
    let mut tail = node.file_tail();
    node.append(LIVE, &received());
    node.rename(LIVE, ROTATED);
    node.append(LIVE, &complete());
    check(&mut tail, &[Stage::RequestReceived, Stage::ResponseComplete]);
}

#[test]
fn a_file_that_is_compressed_before_it_was_read_is_read() {
    let node = Node::new("var/log");
    node.append(LIVE, "old\n");
    let mut tail = node.file_tail();
    node.append(LIVE, &received());
    node.rename(LIVE, ROTATED);
    node.compress(ROTATED);
    node.append(LIVE, "new\n");
    check(&mut tail, &[Stage::RequestReceived]);
}

#[test]
fn a_file_that_came_and_was_compressed_between_two_looks_is_read() {
    let node = Node::new("var/log");
    let mut tail = node.file_tail();
    node.append(LIVE, &received());
    node.rename(LIVE, ROTATED);
    node.compress(ROTATED);
    check(&mut tail, &[Stage::RequestReceived]);
    check(&mut tail, &[]);
}

#[test]
fn a_half_written_compressed_file_waits_for_the_plain_one_to_go() {
    let node = Node::new("var/log");
    let mut tail = node.file_tail();
    node.append(LIVE, &received());
    node.rename(LIVE, ROTATED);
    node.append(&format!("{ROTATED}.gz"), "half of it");
    check(&mut tail, &[Stage::RequestReceived]);
    node.compress(ROTATED);
    check(&mut tail, &[]);
    assert_eq!(tail.growth(), Growth::Bytes(received().len() as u64), "neither broken nor read twice");
}

#[test]
fn a_log_emptied_in_place_is_read_from_its_beginning() {
    let node = Node::new("var/log");
    node.append(LIVE, &"old\n".repeat(100));
    let mut tail = node.file_tail();
    File::create(node.root.path().join(LIVE)).unwrap();
    node.append(LIVE, &complete());
    check(&mut tail, &[Stage::ResponseComplete]);
}

#[test]
fn other_logs_in_the_folder_are_left_alone() {
    let node = Node::new("var/log");
    let mut tail = node.file_tail();
    for other in
        ["audit-standin.log", "audit.log.1", "other-2026-01-02T03-04-05.678.log", "audit-2026-01-02.log"]
    {
        node.append(&format!("var/log/{other}"), &complete());
    }
    check(&mut tail, &[]);
    assert_eq!(tail.growth(), Growth::Absent);
}

#[test]
fn a_long_line_takes_no_memory_and_what_follows_is_read() {
    let node = Node::new("var/log");
    node.append(LIVE, "");
    let mut tail = node.file_tail();
    node.append(LIVE, &"x".repeat(5 * LINE_LIMIT));
    let mut found = Vec::new();
    while tail.read(ID, &mut found) {
        assert!(tail.followed[0].line.len() <= LINE_LIMIT);
    }
    node.append(LIVE, &format!("\n{}", complete()));
    check(&mut tail, &[Stage::ResponseComplete]);
}

#[test]
fn a_file_that_cannot_be_read_is_told() {
    let node = Node::new(LIVE);
    let mut tail = node.file_tail();
    check(&mut tail, &[]);
    assert!(matches!(tail.growth(), Growth::Unreadable(problem) if problem.contains("directory")));
}

#[test]
fn a_containers_log_is_followed_across_rotation_restart_and_a_new_pod() {
    let node = Node::new(POD);
    let live = format!("{POD}/0.log");
    let line = |event: String| format!("2026-01-02T03:04:05.678901234Z stdout F {event}");
    node.append(&live, &line(received()));
    let mut tail = node.tail(LogPlace::Container {
        namespace: "kube-system".to_owned(),
        pod: "kube-apiserver".to_owned(),
        container: "kube-apiserver".to_owned(),
    });
    check(&mut tail, &[]);
    node.append(&live, &line(received()));
    node.rename(&live, &format!("{live}.20260102-030405"));
    node.append(&live, &line(complete()));
    check(&mut tail, &[Stage::RequestReceived, Stage::ResponseComplete]);
    node.append(&format!("{POD}/1.log"), &line(complete()));
    check(&mut tail, &[Stage::ResponseComplete]);
    let new_pod = POD.replace("0123", "4567");
    fs::create_dir_all(node.root.path().join(&new_pod)).unwrap();
    node.append(&format!("{new_pod}/0.log"), &line(received()));
    check(&mut tail, &[Stage::RequestReceived]);
    let other = POD.replace("apiserver-n1", "apiserver-rescue-n1");
    fs::create_dir_all(node.root.path().join(&other)).unwrap();
    node.append(&format!("{other}/0.log"), &line(received()));
    check(&mut tail, &[]);
}
