#!/bin/bash
# load.sh [DIR]: storms of lists, watches and writes by 300 clients, beside 1,000 watchers that hardly read, on skiff and on the kit's stock
# kube-apiserver with etcd in the same run, one after the other. Fails if skiff's memory grows beyond MEMORY_MIB_MAX, a /healthz takes
# 100 ms or more for more than one in LATE_PART, or a client gets nothing done. BIN names the binary (a release build); SECS the length.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd); . "$here/kit/kit.env"; . "$here/pki.sh"
DIR=${1:-/var/tmp/skiff-load}; export NAME=${NAME:-load} NET=${NET:-92} PORT=${PORT:-18460} KUBELET_PORT=${KUBELET_PORT:-18560}
export BIN=${BIN:-$here/../target-link/release/skiff}
SECS=${SECS:-30}; MEMORY_MIB_MAX=${MEMORY_MIB_MAX:-700}; LATE_PART=${LATE_PART:-100}
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

SKIFF_ARGS="--disable-agent --disable-kube-proxy" "$here/instance.sh" launch "$DIR/skiff"
S=$DIR/skiff/data/admin.kubeconfig
for _ in $(seq 300); do [ -e "$S" ] && "$K" --kubeconfig "$S" get --raw /readyz >/dev/null 2>&1 && break; sleep 0.1; done
"$K" --kubeconfig "$S" get --raw /readyz >/dev/null
"$DIR/load" -secs "$SECS" -pids "$(cat "$DIR/skiff/pid")" "$S" > "$DIR/skiff.json"
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
  "$DIR/load" -secs "$SECS" -pids "$(IFS=,; echo "${pids[*]}")" "$O" > "$DIR/stock.json"
fi
python3 - "$DIR" "$MEMORY_MIB_MAX" "$LATE_PART" <<'P'
import json, os, sys
folder, memory, part = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
read = lambda name: json.load(open(f"{folder}/{name}.json")) if os.path.exists(f"{folder}/{name}.json") else None
all = {name: read(name) for name in ("skiff", "stock")}
for name, r in all.items():
    if not r: continue
    h, m = r["healthz"], r["memory_mib"]
    print(f"{name:6} /healthz p50 {h['p50_ms']:.1f} p99 {h['p99_ms']:.1f} max {h['max_ms']:.0f} ms, {h['over_100ms']} of {h['asked']} took 100 ms or more; "
          f"memory {m['before']} -> {m['peak']} -> {m['after']} MiB; slow watchers {r['slow']['open']}, cut off {r['slow']['cut']} times")
    for g in ("lists", "watches", "objects"):
        x = r[g]; print(f"       {g:8} {x['done']:6} done, the least lucky of {x['clients']} clients {x['least']}, median {x['median']}; failed {x['failed']} {x['failures']}")
r, bad = all["skiff"], []
if r["memory_mib"]["peak"] > memory: bad.append(f"memory grew to {r['memory_mib']['peak']} MiB")
if r["healthz"]["over_100ms"] * part > r["healthz"]["asked"]: bad.append("/healthz was slow")
if r["healthz"]["failed"]: bad.append("/healthz failed")
for g in ("lists", "watches", "objects"):
    if r[g]["least"] == 0: bad.append(f"a client of {g} got nothing done")
print("FAILED: " + "; ".join(bad) if bad else "PASSED"); sys.exit(1 if bad else 0)
P
