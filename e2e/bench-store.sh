#!/bin/bash
# bench-store.sh [WORKDIR]: the store's etcd interface beside a one-member etcd and kine on SQLite, in turns, with the same client over
# gRPC and the same durability (an fsync before the acknowledgement). Prints a table of medians and what skiff's are to the others'.
# SHIM: the program that serves a database, built with optimisations. SECS: seconds of each row. ROUNDS: turns of each.
# BULK: puts of the last rows, which tell the bytes on disk (0: leave them out). KEEP: rows are kept as WORKDIR/*.json.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
. "$here/kit/kit.env"
shim=$(realpath "${SHIM:-$here/../target/release/examples/etcd}")
work=${1:-$(mktemp -d)} secs=${SECS:-4} rounds=${ROUNDS:-3} bulk=${BULK:-100000} port=${PORT:-23780}
mkdir -p "$work"; work=$(realpath "$work")
client=$work/etcd-bench
for needed in "$shim" "$TB/etcd" "$TB/etcdctl" "$TB/kine"; do
  [ -x "$needed" ] || { echo "$needed is missing: cargo build --release -p storage --example etcd; e2e/kit/build-tools.sh tools" >&2; exit 1; }
done
(cd "$here/kit/etcd-bench" && go build -o "$client" .)
rm -f "$work"/*.json
pid=
trap '[ -z "$pid" ] || kill "$pid" 2>/dev/null || true' EXIT
# measure NAME RESULT ENDPOINT CLIENT-FLAGS -- COMMAND...
measure() {
  local name=$1 result=$2 endpoint=$3 flags=(); shift 3
  while [ "$1" != -- ]; do flags+=("$1"); shift; done; shift
  rm -rf "$work/$name"; mkdir -p "$work/$name"
  (cd "$work/$name" && exec "$@") >"$work/$name.log" 2>&1 & pid=$!
  for _ in $(seq 100); do "$TB/etcdctl" --endpoints "$endpoint" --command-timeout=1s get x >/dev/null 2>&1 && break; sleep 0.2; done
  timeout 1800 "$client" -endpoint "$endpoint" -pid "$pid" -dir "$work/$name" -secs "$secs" "${flags[@]}" >"$work/$result.json" \
    || { echo "$name: no result; the end of its log:" >&2; tail -3 "$work/$name.log" >&2; rm -f "$work/$result.json"; }
  kill "$pid" 2>/dev/null || true; wait "$pid" 2>/dev/null || true; pid=
  rm -rf "${work:?}/$name"
}
# turn RESULT FLAGS...: one turn of each.
turn() {
  local result=$1 http=http://127.0.0.1:$((port + 1)) peer=http://127.0.0.1:$((port + 3)); shift
  # As skiff itself, which asks glibc for two arenas at its start.
  measure skiff "skiff-$result" "127.0.0.1:$port" "$@" -- env MALLOC_ARENA_MAX=2 "$shim" db "127.0.0.1:$port"
  measure etcd "etcd-$result" "127.0.0.1:$((port + 1))" "$@" -- "$TB/etcd" --data-dir . --listen-client-urls "$http" --advertise-client-urls "$http" \
    --listen-peer-urls "$peer" --initial-advertise-peer-urls "$peer" --initial-cluster "default=$peer" --log-level error --quota-backend-bytes $((8 << 30))
  # kine's own setting is synchronous=NORMAL, which does not sync at the acknowledgement; FULL makes it durable as the others. It compacts
  # by itself and not when a client asks: for the rows about the disk as often as the client asks the others, about once in ten seconds.
  local often=(); case $result in bulk*) often=(--compact-interval 10s) ;; esac
  measure kine "kine-$result" "127.0.0.1:$((port + 2))" "$@" -- "$TB/kine" --listen-address "127.0.0.1:$((port + 2))" --metrics-bind-address 0 "${often[@]}" \
    --endpoint 'sqlite://state.db?_journal=WAL&cache=shared&_busy_timeout=30000&_synchronous=FULL&_txlock=immediate'
}
for round in $(seq "$rounds"); do
  echo "round $round of $rounds" >&2
  turn "$round"
  "$client" -floor "$work" -secs "$secs" >"$work/disk-$round.json"
  # What no server outdoes here with this client: one that keeps nothing and answers a put after a sync that all who wait share.
  measure null "null-$round" "127.0.0.1:$((port + 4))" -calls -- "$client" -serve "127.0.0.1:$((port + 4))" -dir .
done
if [ "$bulk" -gt 0 ]; then echo "bytes on disk after $bulk puts" >&2; turn bulk -bulk "$bulk"; fi
python3 - "$work" "$rounds" <<'PY'
import json, os, statistics, sys
work, rounds = sys.argv[1], int(sys.argv[2])
names = ["skiff", "etcd", "kine"]
def load(name, result):
    try:
        return json.load(open(f"{work}/{name}-{result}.json"))
    except (OSError, ValueError):
        return {}
runs = {name: [load(name, r) for r in range(1, rounds + 1)] + [load(name, "bulk")] for name in names}
def value(name, key, part):
    found = []
    for run in runs[name]:
        v = run.get(key)
        v = v.get(part) if isinstance(v, dict) else v
        if v is not None:
            found.append(v)
    return statistics.median(found) if found else None
def cell(v):
    return "-" if v is None else f"{v:,.0f}" if v >= 100 else f"{v:,.1f}"
# What is better: more or less. A ratio above 1 is in skiff's favour.
rows = []
for clients in [1, 8, 64, 256]:
    rows += [(f"puts/s, {clients} clients", f"put_{clients}", "per_second", True), (f"  p99 ms", f"put_{clients}", "p99_ms", False)]
rows += [("gets/s, 64 clients", "get_64", "per_second", True), ("  p99 ms", "get_64", "p99_ms", False),
         ("ranges/s of 100 keys, 8 clients", "list100_8", "per_second", True), ("  p99 ms", "list100_8", "p99_ms", False),
         ("events/s to 1,000 watchers", "fan_out", "events_per_second", True), ("  server's CPU us each", "fan_out", "server_cpu_us_each", False),
         ("memory after the rows above, MiB", "memory_mib", "", False), ("memory with the watchers, MiB", "memory_watching_mib", "", False),
         ("bulk puts/s, 64 clients", "bulk", "per_second", True), ("bytes on disk after them, MiB", "bulk", "disk_mib", False),
         ("  most at any time, MiB", "bulk", "disk_most_mib", False), ("  written to the disk, MiB", "bulk", "written_mib", False)]
print(f"{'':34}" + "".join(f"{n:>12}" for n in names) + "".join(f"{'to ' + n:>10}" for n in names[1:]))
behind = []
for title, key, part, more in rows:
    values = [value(n, key, part) for n in names]
    ratios = []
    for other, v in zip(names[1:], values[1:]):
        if values[0] is None or v is None or not (values[0] if not more else v):
            ratios.append("-")
            continue
        ratio = values[0] / v if more else v / values[0]
        ratios.append(f"{ratio:.2f}x")
        if ratio < 1:
            behind.append(f"{title.strip()} ({key}): {ratio:.2f}x of {other}'s")
    print(f"{title:34}" + "".join(f"{cell(v):>12}" for v in values) + "".join(f"{r:>10}" for r in ratios))
syncs = statistics.median(load("disk", r)["syncs"]["per_second"] for r in range(1, rounds + 1))
def only(key, part):
    found = [v[part] for v in (load("null", r).get(key, {}) for r in range(1, rounds + 1)) if part in v]
    return statistics.median(found) if found else None
print(f"\n{'a server that keeps nothing':34}{'null':>12}{'skiff is':>12}{'client us':>12}{'null us':>12}{'skiff us':>12}   CPU time of each call")
for title, key, part, more in rows:
    if part == "per_second" and only(key, part):
        mine, its = value("skiff", key, part), only(key, part)
        times = [value("skiff", key, "client_cpu_us_each"), only(key, "server_cpu_us_each"), value("skiff", key, "server_cpu_us_each")]
        print(f"{title:34}{cell(its):>12}{'-' if mine is None else f'{100 * mine / its:.0f} %':>12}" + "".join(f"{cell(t):>12}" for t in times))
print(f"syncs/s of the disk, 8 KiB each, one after the other: {cell(syncs)}; a client that waits for each put has no more of them on any server")
puts = value("skiff", "bulk", "puts")
if puts:
    print(f"bulk rows: {puts:,.0f} puts of 1 KiB over 20,000 keys, history kept: 10,000 revisions (kine: its own 1,000)")
print("behind: " + ("; ".join(behind) if behind else "nowhere"))
PY
