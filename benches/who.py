#!/usr/bin/env python3
"""How quick `kubectl audit` is on a gigabyte of audit log, beside ripgrep with jq, jq, DuckDB and a plain read loop.

The log is generated, always the same, in four forms: one file; rotated; rotated and compressed; its lines shuffled.
Needles and what looks like them are in it, and no figure is taken before every answer has been compared: with what is
known of the needles, and with the peer's own answer to the same question.

    make bench-who            # SIZE=1e9 bytes, RUNS=5: the medians of so many runs each, peers in turn with ours

Each figure is a line `who NAME ratio=R limit=L`. Needs rg, jq, and the Python package duckdb.
"""

import argparse
import collections
import datetime
import gzip
import json
import os
import pathlib
import random
import shutil
import statistics
import subprocess
import sys
import time

VERSION = 3  # of what is generated
DAYS = 10
START = datetime.datetime(2026, 3, 1)
ROTATED = 10

# ---------------------------------------------------------------------------------------------------------------- log


def moment(seconds):
    return (START + datetime.timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def line(event):
    """As Go's encoder writes it."""
    text = json.dumps(event, separators=(",", ":"), ensure_ascii=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e") + "\n"


def event(rng, at, verb, user, groups, resource, namespace="", name="", group="", **more):
    """One event, its fields in the API server's order."""
    prefix = f"/apis/{group}/v1" if group else "/api/v1"
    place = f"/namespaces/{namespace}" if namespace else ""
    path = more.get("path", f"{prefix}{place}/{resource}" + (f"/{name}" if name and verb != "create" else ""))
    sub = more.get("sub", "")
    made = {
        "kind": "Event", "apiVersion": "audit.k8s.io/v1", "level": more.get("level", "Metadata"),
        "auditID": more.get("id") or "%08x-%04x-4%03x-9%03x-%012x" % tuple(
            rng.getrandbits(bits) for bits in (32, 16, 12, 12, 48)),
        "stage": more.get("stage", "ResponseComplete"),
        "requestURI": path + (f"/{sub}" if sub else "") + more.get("query", ""), "verb": verb,
        "user": {"username": user, "uid": more.get("uid", ""), "groups": groups, **more.get("user_more", {})},
    }
    if "as_user" in more:
        made["impersonatedUser"] = {"username": more["as_user"], "groups": ["system:authenticated"]}
    made["sourceIPs"] = [more.get("ip", f"10.0.{rng.randrange(4)}.{rng.randrange(250)}")]
    made["userAgent"] = more.get("agent", "kubelet/v1.37.2 (linux/amd64) kubernetes/8f2a1c3")
    if resource:
        ref = {"resource": resource, "namespace": namespace, "name": name, "uid": more.get("object_uid", ""),
               "apiGroup": group, "apiVersion": "v1", "subresource": sub}
        made["objectRef"] = {key: value for key, value in ref.items() if value}
    status = {"metadata": {}}
    if more.get("code", 200) >= 400:
        status |= {"status": "Failure", "message": more.get("message", "no"), "reason": "Forbidden"}
    made["responseStatus"] = status | {"code": more.get("code", 200)}
    if "body" in more:
        made["requestObject"] = more["body"]
    if "answer" in more:
        made["responseObject"] = more["answer"]
    made["requestReceivedTimestamp"] = moment(at)
    made["stageTimestamp"] = moment(at + more.get("took", rng.randrange(300, 90_000) / 1e6))
    reason = more.get("reason", f'RBAC: allowed by ClusterRoleBinding "{user}" of ClusterRole "{user}" to User "{user}"')
    made["annotations"] = {"authorization.k8s.io/decision": "forbid" if more.get("code") == 403 else "allow",
                           "authorization.k8s.io/reason": reason}
    return made


CONTROLLERS = ["replicaset-controller", "deployment-controller", "job-controller", "endpointslice-controller",
               "namespace-controller", "generic-garbage-collector", "daemon-set-controller", "node-controller"]
ACCOUNTS = ["system:serviceaccounts", "system:serviceaccounts:kube-system", "system:authenticated"]
PEOPLE = ["jane@example.org", "oidc:max", "kubernetes-admin", "ci-deployer", "ana", "li"]


def pod_body(rng, name):
    env = [{"name": f"SETTING_{n}", "value": "%032x" % rng.getrandbits(128)} for n in range(rng.randrange(3, 12))]
    return {"kind": "Pod", "apiVersion": "v1",
            "metadata": {"name": name, "namespace": "shop", "labels": {"app": name, "pod-template-hash": "5d4f8c7b9"},
                         "annotations": {"note": 'a "quoted" <text> & more {braces}'}},
            "spec": {"containers": [{"name": "main", "image": f"registry.example/{name}:1.2.3", "env": env,
                                     "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}}}],
                     "restartPolicy": "Always", "serviceAccountName": "default"}}


def noise(rng, at):
    """What a cluster says all day long."""
    kind = rng.random()
    node = f"node-{rng.randrange(200)}"
    if kind < 0.30:
        return event(rng, at, "update", f"system:node:{node}", ["system:nodes", "system:authenticated"], "leases",
                     "kube-node-lease", node, "coordination.k8s.io", query="?timeout=10s")
    if kind < 0.45:
        controller = rng.choice(CONTROLLERS)
        return event(rng, at, rng.choice(["get", "list", "watch"]), f"system:serviceaccount:kube-system:{controller}",
                     ACCOUNTS, rng.choice(["pods", "configmaps", "secrets", "services"]), f"team-{rng.randrange(80)}", "",
                     query="?limit=500&resourceVersion=0&allowWatchBookmarks=true",
                     agent=f"kube-controller-manager/v1.37.2 (linux/amd64) kubernetes/8f2a1c3/{controller}",
                     user_more={"extra": {"authentication.kubernetes.io/credential-id": [f"JTI={rng.getrandbits(64):x}"]}})
    if kind < 0.60:
        name = f"app-{rng.randrange(3000)}-{rng.getrandbits(36):09x}-{rng.getrandbits(20):05x}"
        return event(rng, at, "patch", f"system:node:{node}", ["system:nodes", "system:authenticated"], "pods",
                     f"team-{rng.randrange(80)}", name, sub="status")
    if kind < 0.70:
        return event(rng, at, "get", rng.choice(PEOPLE), ["system:authenticated"], "pods", f"team-{rng.randrange(80)}",
                     f"app-{rng.randrange(3000)}", agent="kubectl/v1.37.2 (linux/amd64) kubernetes/8f2a1c3")
    if kind < 0.78:
        return event(rng, at, "create", "system:serviceaccount:kube-system:replicaset-controller", ACCOUNTS, "pods",
                     f"team-{rng.randrange(80)}", "", code=201)
    if kind < 0.86:
        name = f"app-{rng.randrange(3000)}"
        return event(rng, at, "update", "ci-deployer", ["system:authenticated"], "deployments",
                     f"team-{rng.randrange(80)}", name, "apps", level="RequestResponse", body=pod_body(rng, name),
                     answer=pod_body(rng, name), agent="helm/v4.3.1")
    if kind < 0.90:
        return event(rng, at, "get", "", [], "", path=rng.choice(["/healthz", "/readyz", "/livez", "/metrics"]),
                     agent="kube-probe/1.37", ip="127.0.0.1")
    if kind < 0.93:
        user = f"system:serviceaccount:team-{rng.randrange(80)}:default"
        return event(rng, at, "list", user, ACCOUNTS[:1], "secrets", f"team-{rng.randrange(80)}", code=403, reason="",
                     message=f'secrets is forbidden: User "{user}" cannot list resource "secrets"', agent="python/3.12")
    return event(rng, at, "create", f"system:node:{node}", ["system:nodes", "system:authenticated"], "events",
                 f"team-{rng.randrange(80)}", f"app-{rng.randrange(3000)}.{rng.getrandbits(60):x}", code=201)


ADMIN = ["kubeadm:cluster-admins", "system:authenticated"]
KUBECTL = "kubectl/v1.37.2 (linux/amd64) kubernetes/8f2a1c3"
POD, OTHER, RUN = "checkout-6c5d7f9b8d-x7k2p", "checkout", "my-suspicious-pod"


def story(rng):
    """The needles, and what looks like them: (part of the log, event). The chain of checkout's Pod, and a bare Pod."""
    day = 86_400
    by = {"as_user": "foobar", "agent": KUBECTL, "ip": "192.168.56.1", "code": 201,
          "reason": 'RBAC: allowed by RoleBinding "foobar-admin/shop" of ClusterRole "admin" to User "foobar"'}
    admin = ("kubernetes-admin", ADMIN)
    manager = lambda name: (f"system:serviceaccount:kube-system:{name}", ACCOUNTS)
    scheduler = ("system:kube-scheduler", ["system:authenticated"])

    def of(at, verb, who, *what, **more):
        return event(rng, at, verb, *who, *what, **more)

    base = 5 * day
    made = [
        # The chain.
        of(base, "create", admin, "deployments", "shop", OTHER, "apps", id="needle-deployment", **by),
        of(base + 1, "create", manager("deployment-controller"), "replicasets", "shop", "checkout-6c5d7f9b8d", "apps",
           id="needle-replicaset", code=201),
        of(base + 2, "create", manager("replicaset-controller"), "pods", "shop", "", id="needle-pod", code=201),
        of(base + 3, "create", scheduler, "pods", "shop", POD, sub="binding", id="binding", code=201, object_uid="u-1"),
        of(base + 9, "patch", ("system:node:node-7", ["system:nodes"]), "pods", "shop", POD, sub="status", id="status"),
        # A bare Pod, run twice: the second time is what is asked about.
        of(base + day, "create", admin, "pods", "shop", RUN, id="earlier", **(by | {"as_user": "earlier"})),
        of(base + day + 60, "delete", ("jane@example.org", []), "pods", "shop", RUN, id="deletion", agent=KUBECTL),
        of(base + day + 120, "create", admin, "pods", "shop", RUN, id="needle-run", **by),
        # What looks like it.
        of(base + day + 130, "create", ("mallory", []), "pods", "team-1", RUN, id="other-namespace", code=201),
        of(base + day + 140, "create", ("mallory", []), "pods", "shop", RUN, id="dry-run", code=201,
           query="?dryRun=All&fieldManager=kubectl-run"),
        of(base + day + 150, "create", ("mallory", []), "pods", "shop", RUN, id="refused", code=403,
           message=f'pods "{RUN}" is forbidden'),
        of(base + day + 160, "create", ("mallory", []), "pods", "shop", RUN, id="conflict", code=409,
           message=f'pods "{RUN}" already exists'),
        of(base + day + 170, "create", ("mallory", []), "pods", "shop", RUN, sub="exec", id="exec", code=101),
        of(base + day + 180, "create", scheduler, "pods", "shop", RUN, sub="binding", id="run-binding", code=201),
        of(base + day + 190, "create", ("system:serviceaccount:kube-system:replicaset-controller", []), "services", "shop",
           RUN, id="another-kind", code=201),
    ]
    forged = {**made[7], "auditID": "forged", "user": {"username": "mallory"}}
    made.append(of(base + day + 200, "create", ("mallory", []), "configmaps", "shop", "notes", level="Request",
                   id="in-a-body", code=201, body={"data": {"log": line(forged)}, "event": forged}))
    return [(at_of(e), e) for e in made]


def at_of(made):
    received = made["requestReceivedTimestamp"].rstrip("Z")
    return (datetime.datetime.fromisoformat(received) - START).total_seconds()


def generate(folder, size):
    """Writes the four forms, unless they are there."""
    mark = folder / f"complete-{VERSION}-{size}"
    if mark.exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    for form in ("plain", "rotated", "packed", "shuffled"):
        (folder / form).mkdir(parents=True)
    print(f"generating {size / 1e9:.2f} GB into {folder}", file=sys.stderr)
    rng, needles = random.Random(20260301), sorted(story(random.Random(1)), key=lambda needle: needle[0])
    written, lines, next_needle = 0, [], 0
    with open(folder / "plain/audit.log", "w", encoding="utf-8") as plain:
        while written < size:
            at = DAYS * 86_400 * written / size
            while next_needle < len(needles) and needles[next_needle][0] <= at:
                written += plain.write(line(needles[next_needle][1]))
                next_needle += 1
            written += plain.write(line(noise(rng, at)))
    assert next_needle == len(needles), "a needle is missing"
    # Rotated as lumberjack does it, and packed.
    with open(folder / "plain/audit.log", "rb") as plain:
        for number in range(ROTATED + 1):
            piece = plain.read(size // (ROTATED + 1)) + plain.readline() if number < ROTATED else plain.read()
            last = json.loads(piece[piece.rindex(b"\n", 0, -1) + 1:])["stageTimestamp"]
            stamp = last[:23].replace(":", "-")
            name = f"audit-{stamp}.log" if number < ROTATED else "audit.log"
            (folder / "rotated" / name).write_bytes(piece)
            seconds = (datetime.datetime.fromisoformat(last.rstrip("Z")) - datetime.datetime(1970, 1, 1)).total_seconds()
            if number < ROTATED:
                with gzip.open(folder / "packed" / f"{name}.gz", "wb", 6) as packed:
                    packed.write(piece)
                os.utime(folder / "packed" / f"{name}.gz", (seconds, seconds))
            else:
                (folder / "packed" / name).write_bytes(piece)
            os.utime(folder / "rotated" / name, (seconds, seconds))
    with open(folder / "plain/audit.log", "rb") as plain:
        lines = plain.readlines()
    random.Random(2).shuffle(lines)
    with open(folder / "shuffled/audit.log", "wb") as shuffled:
        shuffled.writelines(lines)
    mark.touch()


# ------------------------------------------------------------------------------------------------------------ running


class Bench:
    def __init__(self, ours, folder, runs):
        self.ours, self.folder, self.runs = ours, folder, runs
        self.figures = []

    def run(self, command, shell=False):
        """Output and seconds of a command, of which it and its children are waited for."""
        begun = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, shell=shell)
        out = process.stdout.read()
        err = process.stderr.read()
        process.wait()
        seconds = time.perf_counter() - begun
        if process.returncode not in (0, 1):
            sys.exit(f"{command} failed: {err.decode()[-2000:]}")
        return out, seconds

    def audit(self, *words):
        """Output and seconds of ours."""
        return self.run([self.ours, *words])

    def memory(self, *words):
        """Peak memory of ours in MiB. A new process counts what its parent had when it was made, so that parent is a small one."""
        script = ("import resource, subprocess, sys; subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, check=True); "
                  "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)")
        return float(self.run([sys.executable, "-I", "-S", "-c", script, self.ours, *words])[0])

    def both(self, ours, theirs, runs=None):
        """The medians of what both take, in turn. A processor that has just rested is slower for a tenth of a second, and so is one
        that is handed to another program; so the quicker one has as many runs a turn as fit into one of the slower, up to five."""
        taken = ([], [])
        for _ in range(runs or self.runs):
            taken[0].append(ours())
            taken[1].append(theirs())
            for quick, slow, run in ((taken[0], taken[1], ours), (taken[1], taken[0], theirs)):
                quick.extend(run() for _ in range(min(int(slow[-1] / quick[-1]), 5) - 1))
        return statistics.median(taken[0]), statistics.median(taken[1])

    def figure(self, name, ratio, limit, at_least=False, note=""):
        met = ratio >= limit if at_least else ratio <= limit
        print(f"who {name} ratio={ratio:.3f} limit={limit:g}" + ("" if met else " MISSED") + (f"  # {note}" if note else ""))
        sys.stdout.flush()
        self.figures.append((name, met))

    def log(self, form):
        return str(self.folder / form)


def same(what, ours, theirs):
    if ours != theirs:
        sys.exit(f"{what}: ours and theirs differ:\n  {str(ours)[:1500]}\n  {str(theirs)[:1500]}")


# ------------------------------------------------------------------------------------------------------------ figures


def needles(bench):
    """Every needle in every form, and none of what looks like them."""
    chain = ["needle-pod", "needle-replicaset", "needle-deployment"]
    for form in ("plain", "rotated", "packed", "shuffled"):
        for name, wanted, users in ((POD, chain, ("kubernetes-admin", "foobar")), (RUN, ["needle-run"], ("kubernetes-admin", "foobar"))):
            out, _ = bench.audit("who", f"pod/{name}", "-n", "shop", "-o", "json", "--log", bench.log(form))
            answer = json.loads(out)
            same(f"{form}: who made {name}", [link["auditID"] for link in answer["chain"]], wanted)
            root = answer["chain"][-1]
            same(f"{form}: the root of {name}", (answer["known"], root["user"], root["impersonatedUser"]), (True, *users))
        out, _ = bench.audit("who", f"pod/{RUN}", "-n", "shop", "--did", "deleted", "-o", "jsonl", "--log", bench.log(form))
        same(f"{form}: who deleted {RUN}", [json.loads(one)["auditID"] for one in out.splitlines()], ["deletion"])
        out, _ = bench.audit("who", f"pod/{RUN}x", "-n", "shop", "-o", "json", "--log", bench.log(form))
        same(f"{form}: an object that never was", json.loads(out)["known"], False)
    print(f"every needle found, in every form, and none of what looks like it", file=sys.stderr)


def ids(out):
    return sorted(json.loads(one)["auditID"] for one in out.splitlines())


def by_name(bench):
    select = f"'select(.objectRef.name == \"{RUN}\" and .stage == \"ResponseComplete\")'"
    words = ("grep", "--name", RUN, "--stage", "ResponseComplete", "--limit", "0", "-o", "jsonl", "--log")
    for name, form, flags, limit in (("by-name", "plain", "", 1.10), ("by-name-rotated", "rotated", "", 1.10),
                                     ("gzip", "packed", "-z", 0.45)):
        theirs = f"rg --no-filename {flags} -F '\"{RUN}\"' {bench.log(form)} | jq -c {select}"
        same(name, ids(bench.audit(*words, bench.log(form))[0]), ids(bench.run(theirs, shell=True)[0]))
        ours, peer = bench.both(lambda: bench.audit(*words, bench.log(form))[1], lambda: bench.run(theirs, shell=True)[1])
        bench.figure(name, ours / peer, limit, note=f"{ours:.3f} s, rg {flags} -F | jq {peer:.3f} s")
    ours, peer = bench.both(lambda: bench.audit("who", f"pod/{RUN}", "-n", "shop", "--log", bench.log("plain"))[1],
                            lambda: bench.run(f"rg --no-filename -F '\"{RUN}\"' {bench.log('plain')} | jq -c {select}", shell=True)[1])
    bench.figure("who-by-name", ours / peer, 1.10, note=f"{ours:.3f} s, rg -F | jq {peer:.3f} s")

    plain = bench.folder / "plain/audit.log"
    size = plain.stat().st_size
    block = bytearray(256 << 10)

    def read_loop():
        begun = time.perf_counter()
        with open(plain, "rb", buffering=0) as log:
            while log.readinto(block):
                pass
        return time.perf_counter() - begun

    ours, peer = bench.both(lambda: bench.audit(*words, bench.log("plain"))[1], read_loop)
    bench.figure("read-loop", ours / peer, 1.6, note=f"{ours:.3f} s, read by blocks {peer:.3f} s")

    memory = b"\2" * (512 << 20)  # not zeros, which all lie in one page

    def bandwidth():
        begun = time.perf_counter()
        memory.find(b"\1")  # glibc's memchr
        return (time.perf_counter() - begun) * size / len(memory)

    ours, peer = bench.both(lambda: bench.audit(*words, bench.log("plain"))[1], bandwidth)
    bench.figure("bandwidth", peer / ours, 0.30, at_least=True,
                 note=f"{size / ours / 1e9:.2f} GB/s, one core's memory {size / peer / 1e9:.2f} GB/s")


SCHEMA = """{kind: 'VARCHAR', apiVersion: 'VARCHAR', level: 'VARCHAR', auditID: 'VARCHAR', stage: 'VARCHAR', requestURI: 'VARCHAR',
verb: 'VARCHAR', user: 'STRUCT(username VARCHAR)', sourceIPs: 'VARCHAR[]', userAgent: 'VARCHAR',
objectRef: 'STRUCT(resource VARCHAR, namespace VARCHAR, name VARCHAR)', responseStatus: 'STRUCT(code INTEGER)',
requestReceivedTimestamp: 'VARCHAR', stageTimestamp: 'VARCHAR'}"""


def without_a_literal(bench):
    import duckdb

    log = bench.log("plain")
    words = ("top", "users", "--limit", "0", "-o", "json", "--log", log)
    counted = {one["name"]: one["requests"] for one in json.loads(bench.audit(*words)[0])}
    program = ('reduce inputs as $e ({}; if $e.stage == "ResponseComplete" then .[$e.user.username // ""] += 1 else . end)')
    jq = ["jq", "-n", program, log + "/audit.log"]
    out, jq_seconds = bench.run(jq)
    same("top users, jq", counted, json.loads(out))

    database = duckdb.connect()
    database.execute("SET threads TO 2")
    table = f"read_json('{log}/audit.log', format='newline_delimited', columns={SCHEMA}, maximum_object_size=16777216)"

    def ask(question):
        begun = time.perf_counter()
        rows = database.execute(question).fetchall()
        return rows, time.perf_counter() - begun

    question = f"SELECT coalesce(user.username, ''), count(*) FROM {table} WHERE stage = 'ResponseComplete' GROUP BY 1"
    same("top users, duckdb", counted, dict(ask(question)[0]))
    ours, duck = bench.both(lambda: bench.audit(*words)[1], lambda: ask(question)[1])
    bench.figure("top-jq", ours / jq_seconds, 1 / 12, note=f"{ours:.3f} s, jq {jq_seconds:.1f} s")
    bench.figure("top-duckdb", ours / duck, 0.6, note=f"{ours:.3f} s, duckdb {duck:.3f} s")

    refused = ("grep", "--code", "4xx", "--limit", "0", "-o", "jsonl", "--log", log)
    question = f"SELECT auditID FROM {table} WHERE responseStatus.code BETWEEN 400 AND 499"
    same("refused, duckdb", ids(bench.audit(*refused)[0]), sorted(row[0] for row in ask(question)[0]))
    few = ("grep", "--code", "409", "--limit", "0", "-o", "jsonl", "--log", log)
    question = question.replace("BETWEEN 400 AND 499", "= 409")
    same("conflicts, duckdb", ids(bench.audit(*few)[0]), sorted(row[0] for row in ask(question)[0]))
    classes = ("grep", "--code", "405-499", "--limit", "0", "-o", "jsonl", "--log", log)
    ours, duck = bench.both(lambda: bench.audit(*classes)[1], lambda: ask(question)[1])
    bench.figure("filter-duckdb", ours / duck, 0.6, note=f"{ours:.3f} s, duckdb {duck:.3f} s")

    window = ("--since", moment(4.0 * 86_400), "--until", moment(5.0 * 86_400))
    for form in ("plain", "rotated", "packed"):
        full = ("top", "users", "--limit", "0", "-o", "json", "--log", bench.log(form))
        inside = {one["name"]: one["requests"] for one in json.loads(bench.audit(*full, *window)[0])}
        if form == "plain":
            question = (f"SELECT coalesce(user.username, ''), count(*) FROM {table} WHERE stage = 'ResponseComplete' AND "
                        f"stageTimestamp >= '{window[1]}' AND stageTimestamp < '{window[3]}' GROUP BY 1")
            wanted = dict(ask(question)[0])
        same(f"a window, {form}", inside, wanted)
        ours, peer = bench.both(lambda: bench.audit(*full, *window)[1], lambda: bench.audit(*full)[1])
        name = "window" if form == "plain" else f"window-{form}"
        bench.figure(name, ours / peer, 0.2, note=f"{ours:.3f} s, everything {peer:.3f} s")


def memory(bench):
    """The most of all kinds of questions, also of one that lists every refused request."""
    everything = ("--limit", "0", "-o", "jsonl", "--log")
    questions = [(*words, bench.log(form)) for form in ("plain", "rotated", "packed") for words in (
        ("who", f"pod/{POD}", "-n", "shop", "--log"), ("top", "users", *everything), ("grep", "--code", "4xx", *everything))]
    used = {words: bench.memory(*words) for words in questions}
    words, most = max(used.items(), key=lambda one: one[1])
    bench.figure("memory", most, 24, note=f"MiB, by {' '.join(words[:2])} of {words[-1].rpartition('/')[2]}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", required=True, help="kubectl-audit")
    parser.add_argument("--folder", required=True, type=pathlib.Path, help="where the generated log is kept")
    parser.add_argument("--size", type=float, default=1e9, help="bytes")
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    generate(arguments.folder, int(arguments.size))
    bench = Bench(arguments.program, arguments.folder, arguments.runs)
    # Into the page cache, and anew: what has been there for long a virtual machine's host may have put aside.
    for file in sorted(arguments.folder.glob("*/*")):
        with open(file, "rb") as log:
            os.posix_fadvise(log.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            while log.read(1 << 20):
                pass
    needles(bench)
    by_name(bench)
    without_a_literal(bench)
    memory(bench)
    missed = [name for name, met in bench.figures if not met]
    if missed:
        sys.exit(f"missed: {', '.join(missed)}")


if __name__ == "__main__":
    main()
