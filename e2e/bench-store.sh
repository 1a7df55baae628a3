#!/bin/bash
# bench-store.sh [WORKDIR]: the store's etcd interface beside a one-member etcd and kine on SQLite, one after the other,
# with the same client over gRPC and the same durability (an fsync before the acknowledgement). Prints a table.
# SHIM: the program that serves a database, built with optimisations. SECS: seconds of each row. BULK: puts of the last.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
. "$here/kit/kit.env"
shim=${SHIM:-$here/../target/release/examples/etcd}
work=${1:-$(mktemp -d)} secs=${SECS:-4} bulk=${BULK:-0} port=${PORT:-23780}
client=$work/etcd-bench
mkdir -p "$work"
[ -x "$client" ] || (cd "$here/kit/etcd-bench" && go build -o "$client" .)
measure() { # NAME PORT COMMAND...
  local name=$1 endpoint=127.0.0.1:$2; shift 2
  rm -rf "$work/$name"; mkdir -p "$work/$name"
  (cd "$work/$name" && exec "$@") >"$work/$name.log" 2>&1 & local pid=$!
  for _ in $(seq 100); do "$TB/etcdctl" --endpoints "$endpoint" --command-timeout=1s get x >/dev/null 2>&1 && break; sleep 0.2; done
  "$client" -endpoint "$endpoint" -pid "$pid" -dir "$work/$name" -secs "$secs" -bulk "$bulk" >"$work/$name.json" || tail -3 "$work/$name.log"
  kill "$pid"; wait "$pid" 2>/dev/null || true
  rm -rf "${work:?}/$name"
}
measure skiff "$port" "$shim" db "127.0.0.1:$port"
measure etcd "$((port + 1))" "$TB/etcd" --data-dir . --listen-client-urls "http://127.0.0.1:$((port + 1))" \
  --advertise-client-urls "http://127.0.0.1:$((port + 1))" --listen-peer-urls "http://127.0.0.1:$((port + 3))" --log-level error \
  --quota-backend-bytes $((8 << 30))
# kine's own setting is synchronous=NORMAL, which does not sync at the acknowledgement; FULL makes it durable as the others.
measure kine "$((port + 2))" "$TB/kine" --listen-address "127.0.0.1:$((port + 2))" --metrics-bind-address 0 \
  --endpoint 'sqlite://state.db?_journal=WAL&cache=shared&_busy_timeout=30000&_synchronous=FULL&_txlock=immediate'
python3 - "$work" <<'PY'
import json, sys
names = ["skiff", "etcd", "kine"]
rows = {}
for name in names:
    try:
        rows[name] = json.load(open(f"{sys.argv[1]}/{name}.json"))
    except ValueError:
        rows[name] = {}
def cell(name, key, part):
    value = rows[name].get(key)
    value = value.get(part) if isinstance(value, dict) else value
    return "-" if value is None else f"{value:,.1f}" if isinstance(value, float) else f"{value:,}"
print(f"{'':34}" + "".join(f"{n:>14}" for n in names))
for key in ["put_1", "put_8", "put_64", "put_256", "get_64", "list100_8"]:
    for part in ["per_second", "p99_ms", "server_cpu_us_each"]:
        print(f"{key + ' ' + part:34}" + "".join(f"{cell(n, key, part):>14}" for n in names))
for key, part in [("fan_out", "events_per_second"), ("fan_out", "server_cpu_us_each"), ("memory_mib", ""), ("memory_watching_mib", ""), ("bulk_puts", ""), ("bulk_disk_mib", "")]:
    print(f"{key + ' ' + part:34}" + "".join(f"{cell(n, key, part):>14}" for n in names))
PY
