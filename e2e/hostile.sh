#!/bin/bash
# hostile.sh [DIR]: clients without manners (see beside/hostile) on skiff and on the kit's stock kube-apiserver with etcd, one after the other.
# Fails if skiff's memory grows beyond MEMORY_MIB_MAX, or if whoever asks for health meanwhile fails. BIN names the binary; SECS is the
# length of each kind; ALONE=1 leaves stock out.
set -euo pipefail
DIR=${1:-/var/tmp/skiff-hostile}; NAME=${NAME:-hostile} NET=${NET:-96} PORT=${PORT:-18760} KUBELET_PORT=${KUBELET_PORT:-18770}
BIN=${BIN:-$(dirname "$0")/../target-link/release/skiff}
SECS=${SECS:-10}; MEMORY_MIB_MAX=${MEMORY_MIB_MAX:-500}
. "$(dirname "$0")/beside.sh"
(cd "$here/beside" && go build -o "$DIR/hostile" ./hostile)
# suffer NAME KUBECONFIG PIDS: leaves NAME.json
suffer() {
  python3 -c 'import json; print(json.dumps({"apiVersion": "v1", "kind": "List", "items": [{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": f"c{n}", "namespace": "kube-system"}, "data": {"filling": str(n) * 1000}} for n in range(200)]}))' |
    "$K" --kubeconfig "$2" create -f - >/dev/null
  nice -n 10 "$DIR/hostile" -secs "$SECS" -pids "$3" "$2" > "$DIR/$1.json"
}
with_skiff suffer
with_stock suffer
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
