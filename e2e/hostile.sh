#!/bin/bash
# hostile.sh [DIR]: clients without manners (see hostile/main.go) on skiff and on the kit's stock kube-apiserver with etcd, one after the other.
# Fails if skiff's memory grows beyond MEMORY_MIB_MAX, or if whoever asks for health meanwhile fails. BIN names the binary; SECS is the
# length of each kind; ALONE=1 leaves stock out.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd); . "$here/kit/kit.env"; . "$here/pki.sh"
DIR=${1:-/var/tmp/skiff-hostile}; export NAME=${NAME:-hostile} NET=${NET:-96} PORT=${PORT:-18760} KUBELET_PORT=${KUBELET_PORT:-18770}
export BIN=${BIN:-$here/../target-link/release/skiff}
SECS=${SECS:-10}; MEMORY_MIB_MAX=${MEMORY_MIB_MAX:-500}
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
(cd "$here/hostile" && go build -o "$DIR/hostile" .)
K=$KB/kubectl
# suffer NAME KUBECONFIG PIDS: leaves NAME.json
suffer() {
  python3 -c 'import json; print(json.dumps({"apiVersion": "v1", "kind": "List", "items": [{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": f"c{n}", "namespace": "kube-system"}, "data": {"filling": str(n) * 1000}} for n in range(200)]}))' |
    "$K" --kubeconfig "$2" create -f - >/dev/null
  nice -n 10 "$DIR/hostile" -secs "$SECS" -pids "$3" "$2" > "$DIR/$1.json"
}
SKIFF_ARGS="--disable-agent --disable-kube-proxy" "$here/instance.sh" launch "$DIR/skiff"
S=$DIR/skiff/data/admin.kubeconfig
for _ in $(seq 300); do [ -e "$S" ] && "$K" --kubeconfig "$S" get --raw /readyz >/dev/null 2>&1 && break; sleep 0.1; done
suffer skiff "$S" "$(cat "$DIR/skiff/pid")"
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
  suffer stock "$O" "${pids[1]}"
fi
python3 - "$DIR" "$MEMORY_MIB_MAX" <<'P'
import json, os, sys
folder, memory, bad = sys.argv[1], int(sys.argv[2]), []
for name in ("skiff", "stock"):
    if not os.path.exists(f"{folder}/{name}.json"): continue
    print(f"{name}: kind, connections (cut off), worst health check and list in ms (failed), memory before -> most -> after")
    for r in json.load(open(f"{folder}/{name}.json")):
        print(f"  {r['kind']:30} {r['connections']:6} ({r['cut_off']})  {r['health_worst_ms']:6} ({r['health_failed']} of {r['health_asked']})  {r['list_worst_ms']:6} ({r['list_failed']} of {r['list_asked']})  {r['memory_before']} -> {r['memory_peak']} -> {r['memory_after']} MiB")
        if name != "skiff": continue
        if r["memory_peak"] > memory: bad.append(f"{r['kind']}: memory grew to {r['memory_peak']} MiB")
        if r["health_failed"] or not r["health_asked"]: bad.append(f"{r['kind']}: health checks failed")
print("FAILED: " + "; ".join(bad) if bad else "PASSED"); sys.exit(1 if bad else 0)
P
