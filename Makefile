# make run: set up this machine and run a server.   make test: set up and run everything that CI runs.
# Debian's packages are installed when missing; test tools and images are built once into KIT_WORK.
SHELL := /bin/bash
KIT_WORK ?= /var/tmp/k8s-kit
DATA_DIR ?= /var/lib/skiff
export KIT_WORK
PEER_PACKAGES := iptables containernetworking-plugins
PACKAGES := protobuf-compiler gcc containerd runc iproute2 ca-certificates
ECOSYSTEM_PACKAGES := redis-server
TEST_PACKAGES := jq curl git make python3 debootstrap bzip2 conntrack nftables openssl bc

.PHONY: run test check clients ecosystem fuzz judge walks bench load hostile metrics conformance setup setup-test unit e2e sample build release schema clean

run: setup release ## Builds the release binary and runs a server with its data in DATA_DIR.
	@echo "kubeconfig: $(DATA_DIR)/admin.kubeconfig"
	./target-link/release/skiff server --data-dir $(DATA_DIR)

setup:
	@packaging/setup-debian.sh $(PACKAGES)

setup-test: setup
	@packaging/setup-debian.sh $(TEST_PACKAGES)
	e2e/kit/build-tools.sh kubectl tests tools stock
	@[ -e $(KIT_WORK)/images/all-images.oci.tar ] || e2e/kit/make-images.sh

build: setup
	cargo build --bin skiff
	@packaging/link-target.sh

release: setup
	cargo build --release --bin skiff
	@packaging/link-target.sh

check: setup ## Format and lints, warnings are errors.
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings

test: setup-test unit e2e sample ## All that CI runs.

unit: setup
	cargo test --workspace --exclude e2e

e2e: setup-test build
	e2e/kit/build-tools.sh stock
	RUST_BACKTRACE=0 cargo test -p e2e -- --test-threads=1

sample: setup-test build ## Conformance tests of every area, listed in e2e/conformance-sample.txt.
	e2e/conformance.sh sample

conformance: setup-test release ## All conformance tests.
	e2e/conformance.sh all

clients: setup-test build ## Programs on the client libraries of Go, Python, Java and Rust; downloads these.
	@packaging/setup-debian.sh default-jdk-headless maven
	@export NAME=clients NET=66 PORT=17743 KUBELET_PORT=17750; d=/var/tmp/skiff-clients; e2e/instance.sh clean $$d; \
	e2e/clients.sh "$$(e2e/instance.sh start $$d)" go python java rust; result=$$?; e2e/instance.sh clean $$d; exit $$result

ecosystem: setup-test build ## GitOps tools and operators, built from published Go modules (half an hour the first time).
	@packaging/setup-debian.sh $(ECOSYSTEM_PACKAGES)
	@export NAME=ecosystem NET=70 PORT=17843 KUBELET_PORT=17850; d=/var/tmp/skiff-ecosystem; e2e/instance.sh clean $$d; \
	k="$$(e2e/instance.sh start $$d)"; PORT=17860 e2e/gitops.sh "$$k" && PORT=17880 e2e/operators.sh "$$k" && PORT=17900 e2e/argocd.sh "$$k"; result=$$?; e2e/instance.sh clean $$d; exit $$result

fuzz: setup ## Every property test with as many random cases as MINUTES (10) or HOURS allow, one after the other at low priority.
	e2e/fuzz.py

judge: setup-test build ## Generated requests of every kind to a stock API server and to ours, the answers compared; a line of counts each.
	e2e/kit/build-tools.sh stock
	@packaging/setup-debian.sh python3-yaml python3-cryptography
	e2e/judge/all.sh /var/tmp/skiff-judge

bench: setup-test release ## Figures beside a stock Kubernetes in the same run.
	@packaging/setup-debian.sh $(PEER_PACKAGES)
	e2e/kit/build-tools.sh stock
	e2e/bench.sh

load: setup-test release ## Storms of requests and slow watchers beside a stock API server in the same run.
	e2e/kit/build-tools.sh stock
	e2e/load.sh

hostile: setup-test release ## Clients without manners (floods, slow bytes, idle connections) beside a stock API server in the same run.
	e2e/kit/build-tools.sh stock
	e2e/hostile.sh

metrics: setup-test build ## Names and labels of the API server's metrics compared with a stock one's.
	e2e/kit/build-tools.sh stock
	e2e/metrics.sh

walks: setup-test build ## Whole features of the API server (definitions, webhooks, policies, access, aggregation …) walked through beside a stock one.
	@packaging/setup-debian.sh python3-yaml python3-cryptography
	e2e/kit/build-tools.sh stock
	e2e/judge/walks/all.sh

schema: ## Writes the tables of facts about built-in kinds anew from the upstream modules.
	cargo run -p xtask -- schema

clean:
	cargo clean
