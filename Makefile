# Everything a developer or CI runs, by one name each; `make` lists them. Only `e2e`, `demo` and `down` need root.
.DEFAULT_GOAL := help
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS += --no-print-directory

# What the build needs beside the repository: tools, the test bed's programs. Each folder's name holds its version, so
# that a second run, and a second checkout, find it.
CACHE := $(or $(AUDIT_OPERATOR_CACHE),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/audit-operator)
# CI starts with a fresh checkout; its build goes where the last one's is.
ifeq ($(CI),true)
export CARGO_TARGET_DIR ?= $(CACHE)/target
endif

CARGO_DENY_VERSION := 0.20.2
CARGO_DENY := $(CACHE)/tools/cargo-deny-$(CARGO_DENY_VERSION)/bin/cargo-deny
export HELM := $(shell e2e/k8s/build --where | sed -n 's/^helm=//p')/helm
D2 = $(shell e2e/k8s/build --where | sed -n 's/^d2=//p')/d2
export KUBECONFORM := $(shell e2e/k8s/build --where | sed -n 's/^kubeconform=//p')/kubeconform
# The target folder of .ci/static.
STATIC := $(abspath $(or $(CARGO_TARGET_DIR),target))/x86_64-unknown-linux-musl/release
IMAGE ?= audit-operator:$(shell sed -n '0,/^version = "\(.*\)"/s//\1/p' Cargo.toml)

say = @printf '\033[2m[make]\033[0m %s\n' '$(1)'

.PHONY: help build static image test lint fmt clippy unit sim deny chart generate check-generated krew bench bench-who fuzz k8s e2e outage faults demo down

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "%-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## Build both programs
	$(call say,building)
	@cargo build --locked

static: ## Build both programs as static release binaries
	@.ci/static

image: static ## Make the container image $IMAGE with docker, podman or buildah
	@.ci/image '$(IMAGE)' '$(STATIC)/audit-operator'

test: lint unit sim check-generated fuzz ## Everything that needs no root

lint: fmt clippy deny chart ## Formatting, clippy, licences and sources, the chart

fmt:
	$(call say,formatting)
	@cargo fmt --all --check

clippy:
	$(call say,clippy: every target; warnings are errors)
	@cargo clippy --locked --workspace --all-targets -- -D warnings

unit:
	$(call say,tests of the library and of the repository and of the test bed)
	@cargo test --locked
	@cargo test --locked -p e2e

SEEDS ?= 10000
SEED0 ?= 0
sim: ## The installer on a simulated node, $SEEDS (10000) histories from number $SEED0 on; ends with `histories=N violations=0`
	$(call say,$(SEEDS) histories of a simulated node)
	@cargo test --quiet --locked --profile sim --test sim -- --seeds=$(SEEDS) --seed0=$(SEED0)

deny: $(CARGO_DENY)
	$(call say,licences and banned crates and sources of the dependencies)
	@$(CARGO_DENY) --log-level error --locked check licenses bans sources

chart: $(HELM) $(KUBECONFORM)
	$(call say,linting the chart and holding what it renders against the schemas of Kubernetes)
	@.ci/chart

generate: $(HELM) ## Write what is generated: CRDs and the rendered chart
	$(call say,writing the CRDs and the rendered chart)
	@.ci/generate

check-generated: $(HELM) ## Fail when something generated is not committed as it is generated
	$(call say,comparing the CRDs and the rendered chart with what is committed)
	@.ci/generate --check

.PHONY: pictures
pictures: ## Draw docs/pictures/*.svg from the sources beside them
	@e2e/k8s/build d2
	@.ci/pictures '$(D2)'

krew: static ## Pack the kubectl plugin for krew into target/krew; URI is where the archive will be published
	@.ci/krew '$(STATIC)/kubectl-audit' target/krew $(URI)

bench: ## Run the benchmarks
	$(call say,benchmarks)
	@cargo bench --locked --bench '*'

# What is generated, found and installed for these two lies in the cache.
BENCH := $(CACHE)/bench-who
SIZE ?= 1e9
RUNS ?= 5
DUCKDB_VERSION := 2.0.1
bench-who: static ## How quick `kubectl audit` is on 1 GB of log, beside ripgrep, jq and DuckDB: lines `who NAME ratio=R limit=L`
	@for tool in rg jq; do command -v $$tool >/dev/null || { apt-get install --yes --quiet ripgrep jq && break; }; done
	@[ -x $(BENCH)/python-$(DUCKDB_VERSION)/bin/python ] || { python3 -m venv $(BENCH)/python-$(DUCKDB_VERSION) \
	  && $(BENCH)/python-$(DUCKDB_VERSION)/bin/pip install --quiet duckdb==$(DUCKDB_VERSION); }
	@$(BENCH)/python-$(DUCKDB_VERSION)/bin/python benches/who.py --program '$(STATIC)/kubectl-audit' --folder $(BENCH)/log --size $(SIZE) --runs $(RUNS)

SECONDS ?= 20
# Named, so that the flags are not for build scripts and macros too.
HOST = $(shell rustc -vV | sed -n 's/^host: //p')
FUZZ_FLAGS := -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
  -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-simplifycfg-branch-fold-threshold=0 -Ccodegen-units=1 --cfg fuzzing
fuzz: ## Fuzz the log reader for $SECONDS (20) seconds; SECONDS=600 is the long form
	$(call say,fuzzing the log reader for $(SECONDS) s)
	@mkdir -p $(CACHE)/fuzz/reader fuzz/artifacts
	@RUSTFLAGS='$(FUZZ_FLAGS)' cargo build --quiet --locked --release --manifest-path fuzz/Cargo.toml --target-dir '$(CACHE)/fuzz/target' --target $(HOST)
	@'$(CACHE)/fuzz/target/$(HOST)/release/reader' -max_total_time=$(SECONDS) -dict=fuzz/reader.dict -artifact_prefix=fuzz/artifacts/ -max_len=16384 \
	  -timeout=20 -print_final_stats=1 '$(CACHE)/fuzz/reader' fuzz/seeds 2>&1 | tail -n 14

k8s: ## Build the programs of the test bed (kubeadm and its control plane)
	@e2e/k8s/build

e2e: k8s static ## Tests on real control planes; needs root
	@e2e/k8s/prerequisites
	$(call say,tests on real control planes)
	@E2E_OPERATOR_BINARY='$(STATIC)/audit-operator' cargo run --quiet --locked -p e2e -- test

outage: k8s static ## How long a change leaves a single control plane without API server, beside a bare mv; needs root
	@e2e/k8s/prerequisites
	$(call say,what a change costs)
	@E2E_OPERATOR_BINARY='$(STATIC)/audit-operator' cargo run --quiet --locked -p e2e -- outage

faults: k8s static ## Every fault of docs/reliability.md on real control planes, JOBS=3 clusters at once; needs root
	@e2e/k8s/prerequisites
	$(call say,faults)
	@E2E_OPERATOR_BINARY='$(STATIC)/audit-operator' cargo run --quiet --locked -p e2e -- faults --jobs $(or $(JOBS),3)

.PHONY: ways-in
ways-in: k8s static ## The three ways in of docs/install-*.md, command by command, and back out; needs root
	@e2e/k8s/prerequisites
	@e2e/k8s/build argocd
	$(call say,the ways in)
	@E2E_OPERATOR_BINARY='$(STATIC)/audit-operator' cargo run --quiet --locked -p e2e -- ways

demo: k8s static ## The whole story on a real control plane; needs root
	@e2e/k8s/prerequisites
	$(call say,the demonstration)
	@E2E_OPERATOR_BINARY='$(STATIC)/audit-operator' cargo run --quiet --locked -p e2e -- demo

.PHONY: session
session: k8s static ## Record the demonstration to docs/demo.md and docs/pictures/demo.svg; needs root
	@e2e/k8s/prerequisites
	$(call say,recording the demonstration)
	@cargo build --quiet --locked -p e2e
	@E2E_OPERATOR_BINARY='$(STATIC)/audit-operator' .ci/session '$(abspath $(or $(CARGO_TARGET_DIR),target))/debug/e2e'

down: ## Take away what `demo` left
	@cargo run --quiet --locked -p e2e -- down

$(CARGO_DENY):
	$(call say,installing cargo-deny $(CARGO_DENY_VERSION) into the cache (about 6 minutes, once))
	@CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_OPT_LEVEL=1 cargo install --quiet --locked cargo-deny --version $(CARGO_DENY_VERSION) --root $(CACHE)/tools/cargo-deny-$(CARGO_DENY_VERSION)

$(HELM):
	@e2e/k8s/build helm

$(KUBECONFORM):
	@e2e/k8s/build kubeconform
