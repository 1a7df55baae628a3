#!/bin/bash
# load.sh [DIR]: storms of lists, watches and writes by 300 clients, beside 1,000 watchers that hardly read, on skiff and on the kit's stock
# kube-apiserver with etcd in the same run, one after the other. Fails if skiff's memory grows beyond MEMORY_MIB_MAX, a health check takes
# 100 ms or more, fails, or a client gets nothing done. BIN names the binary (a release build); SECS the length; ALONE=1 leaves stock out.
# The clients of the storm stand for other machines, so they yield to the servers; what asks for health stands for one that has nothing else to do.
set -euo pipefail
DIR=${1:-/var/tmp/skiff-load}; NAME=${NAME:-load} NET=${NET:-92} PORT=${PORT:-18460} KUBELET_PORT=${KUBELET_PORT:-18560}
BIN=${BIN:-$(dirname "$0")/../target-link/release/skiff}
SECS=${SECS:-30}; MEMORY_MIB_MAX=${MEMORY_MIB_MAX:-500}
. "$(dirname "$0")/beside.sh"
(cd "$here/beside" && go build -o "$DIR/load" ./load)
# apart NICENESS COMMAND...: in a session of its own, because the kernel may share the processors between sessions first (autogroup, sched(7))
apart() { local n=$1; shift; setsid -w bash -c '[ ! -e /proc/self/autogroup ] || echo "$0" > /proc/self/autogroup; exec nice -n "$0" "$@"' "$n" "$@"; }
# storm NAME KUBECONFIG PIDS: leaves NAME.json and NAME.health.json
storm() {
  mkfifo "$DIR/$1.stop"
  apart -10 "$DIR/load" -probe "$2" < "$DIR/$1.stop" > "$DIR/$1.health.json" & probe=$!
  exec 5> "$DIR/$1.stop"
  apart 10 "$DIR/load" -secs "$SECS" -pids "$3" "$2" > "$DIR/$1.json" || { exec 5>&-; return 1; }
  echo >&5; exec 5>&-; wait "$probe"
}

with_skiff storm
with_stock storm
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
