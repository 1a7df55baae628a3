#!/bin/bash
# load.sh [DIR]: storms of lists, watches and writes by 300 clients, beside 1,000 watchers that hardly read, on skiff and on the kit's stock
# kube-apiserver with etcd in the same run, one after the other. Fails if skiff's memory grows beyond MEMORY_MIB_MAX, a health check takes
# 100 ms or more, fails, or a client gets nothing done. BIN names the binary (a release build); SECS the length; ALONE=1 leaves stock out.
# The clients of the storm stand for other machines, so they yield to the servers (nice); what asks for health does not.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd); . "$here/kit/kit.env"; . "$here/pki.sh"
DIR=${1:-/var/tmp/skiff-load}; export NAME=${NAME:-load} NET=${NET:-92} PORT=${PORT:-18460} KUBELET_PORT=${KUBELET_PORT:-18560}
export BIN=${BIN:-$here/../target-link/release/skiff}
SECS=${SECS:-30}; MEMORY_MIB_MAX=${MEMORY_MIB_MAX:-500}
pids=()
over() {
  trap - EXIT
  for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
  for pid in "${pids[@]}"; do for _ in $(seq 100); do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done; kill -9 "$pid" 2>/dev/null || true; done
  "$here/instance.sh" clean "$DIR/skiff" >/dev/null 2>&1 || true
  rm -rf "$DIR"
}
over; trap over EXIT
mkdir -p "$DIR"; ulimit -n "$(ulimit -Hn)"
(cd "$here/load" && go build -o "$DIR/load" .)
K=$KB/kubectl
# storm NAME KUBECONFIG PIDS: leaves NAME.json and NAME.health.json
storm() {
  mkfifo "$DIR/$1.stop"
  "$DIR/load" -probe "$2" < "$DIR/$1.stop" > "$DIR/$1.health.json" & probe=$!
  exec 5> "$DIR/$1.stop"
  nice -n 10 "$DIR/load" -secs "$SECS" -pids "$3" "$2" > "$DIR/$1.json" || { exec 5>&-; return 1; }
  echo >&5; exec 5>&-; wait "$probe"
}

SKIFF_ARGS="--disable-agent --disable-kube-proxy" "$here/instance.sh" launch "$DIR/skiff"
S=$DIR/skiff/data/admin.kubeconfig
for _ in $(seq 300); do [ -e "$S" ] && "$K" --kubeconfig "$S" get --raw /readyz >/dev/null 2>&1 && break; sleep 0.1; done
"$K" --kubeconfig "$S" get --raw /readyz >/dev/null
storm skiff "$S" "$(cat "$DIR/skiff/pid")"
"$here/instance.sh" stop "$DIR/skiff"

if [ -x "$KB/kube-apiserver" ] && [ -z "${ALONE:-}" ]; then
  P=$DIR/pki; HOST=https://127.0.0.1:$((PORT + 1)); E=$((PORT + 2)); mkdir -p "$P" "$DIR/etcd"; chmod 700 "$DIR/etcd"
  authority ca kubernetes
  certificate apiserver ca /CN=kube-apiserver serverAuth "DNS:localhost,IP:127.0.0.1"
  certificate admin ca /O=system:masters/CN=admin clientAuth
  openssl genrsa -out "$P/sa.key" 2048 2>/dev/null
  go_() { n=$1; shift; setsid "$@" >> "$DIR/$n.log" 2>&1 < /dev/null & pids+=($!); }
  go_ etcd "$TB/etcd" --name a --data-dir "$DIR/etcd" --listen-client-urls "http://127.0.0.1:$E" --advertise-client-urls "http://127.0.0.1:$E" \
    --listen-peer-urls "http://127.0.0.1:$((E + 1))" --initial-advertise-peer-urls "http://127.0.0.1:$((E + 1))" --initial-cluster "a=http://127.0.0.1:$((E + 1))" --log-level warn
  go_ kube-apiserver "$KB/kube-apiserver" --bind-address=127.0.0.1 --advertise-address=127.0.0.1 --secure-port="$((PORT + 1))" --etcd-servers="http://127.0.0.1:$E" \
    --endpoint-reconciler-type=none --service-cluster-ip-range=10.$((NET + 1)).0.0/16 --authorization-mode=Node,RBAC --client-ca-file="$P/ca.crt" \
    --tls-cert-file="$P/apiserver.crt" --tls-private-key-file="$P/apiserver.key" --service-account-issuer=https://kubernetes.default.svc \
    --service-account-key-file="$P/sa.key" --service-account-signing-key-file="$P/sa.key"
  O=$(kubeconfig admin ca)
  for _ in $(seq 600); do "$K" --kubeconfig "$O" get --raw /readyz >/dev/null 2>&1 && break; sleep 0.2; done
  storm stock "$O" "$(IFS=,; echo "${pids[*]}")"
fi
python3 - "$DIR" "$MEMORY_MIB_MAX" <<'P'
import json, os, sys
folder, memory = sys.argv[1], int(sys.argv[2])
read = lambda name: json.load(open(f"{folder}/{name}.json")) if os.path.exists(f"{folder}/{name}.json") else None
all = {name: read(name) for name in ("skiff", "stock")}
for name, r in all.items():
    if not r: continue
    r["health"] = read(f"{name}.health")
    h, m, lag = r["health"], r["memory_mib"], r["lag"]
    print(f"{name:6} health checks: p50 {h['p50_ms']:.1f} p99 {h['p99_ms']:.1f} max {h['max_ms']:.0f} ms, {h['over_100ms']} of {h['asked']} took 100 ms or more, {h['failed']} failed")
    print(f"       memory (PSS) {m['before']} -> {m['peak']} -> {m['after']} MiB; slow watchers: {r['slow']['open']} open, cut off {r['slow']['cut']}, refused {r['slow']['refused']}")
    print(f"       watchers hear of a write after p50 {lag['p50_ms']:.0f} p99 {lag['p99_ms']:.0f} max {lag['max_ms']:.0f} ms ({lag['events']} events)")
    for g in ("lists", "watches", "objects"):
        x = r[g]; print(f"       {g:8} {x['per_second']:7.1f}/s, p50 {x['p50_ms']:.0f} p99 {x['p99_ms']:.0f} ms; the least lucky of {x['clients']} clients {x['least']}, median {x['median']}, starved {x['starved']}; failed {x['failed']} {x['failures']}")
r, bad = all["skiff"], []
if r["memory_mib"]["peak"] > memory: bad.append(f"memory grew to {r['memory_mib']['peak']} MiB")
if r["health"]["over_100ms"]: bad.append("health checks were slow")
if r["health"]["failed"]: bad.append("health checks failed")
for g in ("lists", "watches", "objects"):
    if r[g]["starved"]: bad.append(f"{r[g]['starved']} clients of {g} got nothing done")
print("FAILED: " + "; ".join(bad) if bad else "PASSED"); sys.exit(1 if bad else 0)
P
