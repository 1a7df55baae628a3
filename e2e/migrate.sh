#!/bin/bash
# migrate.sh DIR: a server's state moves from its file into an etcd and back; a migration is killed in the middle and run again; nothing is
# lost, resource versions never go back, and a watch from before begins anew. Starts what it needs below DIR. Ends with 'N passed, N failed'.
set -u
here=$(cd "$(dirname "$0")" && pwd); . "$here/kit/kit.env"
DIR=$1; export NAME=${NAME:-migr} NET=${NET:-90} PORT=${PORT:-18490} KUBELET_PORT=${KUBELET_PORT:-18590} BIN=${BIN:-$here/../target-link/debug/skiff}
. "$here/check.sh"
K="$KB/kubectl --kubeconfig $DIR/data/admin.kubeconfig"; E=http://127.0.0.1:$((PORT + 1)); P=http://127.0.0.1:$((PORT + 2)); etcd=
over() { "$here/instance.sh" clean "$DIR" >/dev/null 2>&1; [ -z "$etcd" ] || kill "$etcd" 2>/dev/null; rm -rf "$DIR"; }
over; trap over EXIT
mkdir -p "$DIR"
# up ARGS...: a server without a node, until it is ready
up() {
  SKIFF_ARGS="--disable-agent --disable-scheduler --disable-controller-manager $*" "$here/instance.sh" launch "$DIR"
  for _ in $(seq 300); do $K get --raw /readyz >/dev/null 2>&1 && return; sleep 0.1; done; tail -5 "$DIR/log"; exit 1
}
down() { "$here/instance.sh" stop "$DIR"; }
migrate() { "$BIN" datastore migrate --config /dev/null --data-dir "$DIR/data" --datastore-endpoint "$E" --from "$1" --to "$2"; }
export DIR BIN E; export -f migrate
# What is stored, without what every start of a server writes anew.
contents() { $K get configmaps,secrets,serviceaccounts,namespaces -A -o json | python3 -c "
import json, sys
for o in json.load(sys.stdin)['items']:
    o['metadata'].pop('resourceVersion'); o['metadata'].pop('managedFields', 0); print(json.dumps(o, sort_keys=True))" | grep -v '"name": "skiff-' | sort; }
version() { $K get --raw '/api/v1/configmaps?limit=1' | python3 -c "import json, sys; print(json.load(sys.stdin)['metadata']['resourceVersion'])"; }

"$TB/etcd" --name default --data-dir "$DIR/etcd" --log-level error --listen-client-urls "$E" --advertise-client-urls "$E" --listen-peer-urls "$P" \
  --initial-advertise-peer-urls "$P" --initial-cluster "default=$P" >"$DIR/etcd.log" 2>&1 & etcd=$!
up
python3 - > "$DIR/many.yaml" <<'PY'
for n in range(1500):
    print(f"---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: many-{n}}}\ndata: {{text: '{'x' * 500}'}}")
PY
$K create -f "$DIR/many.yaml" >/dev/null
# What is in memory only has revisions in reserve, which a start after a crash leaves out.
$K create -f - >/dev/null <<<'{"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "x", "namespace": "default"}}'
kill -9 "$(cat "$DIR/pid")"; up
contents > "$DIR/before"; first=$(version)
check 'revisions are high, as after a crash' '^yes$' sh -c "[ $first -gt 1000000 ] && echo yes"
refused 'a migration beside a running server' 'stop the server first|another' bash -c 'migrate sqlite etcd'
down
(exec "$BIN" datastore migrate --config /dev/null --data-dir "$DIR/data" --datastore-endpoint "$E" --from sqlite --to etcd) > "$DIR/out" 2>&1 & half=$!
for _ in $(seq 400); do "$TB/etcdctl" --endpoints "$E" get skiff/restoring --print-value-only 2>/dev/null | grep -q . && break; sleep 0.02; done
kill -9 $half 2>/dev/null; wait $half 2>/dev/null
refused 'a server on half a migration' 'interrupted: run it again' timeout 60 "$BIN" server --config /dev/null --data-dir "$DIR/data" --https-listen-port "$PORT" \
  --disable-agent --datastore-endpoint "$E"
start=$(date +%s%N)
check 'run again, it ends' 'checked: all [0-9]+ keys are there' bash -c 'migrate sqlite etcd'
echo "the migration of a million revisions took $((($(date +%s%N) - start) / 1000000)) ms"
up --datastore-endpoint "$E"
contents > "$DIR/there"; second=$(version)
check 'everything is in etcd' '^same$' sh -c "cmp '$DIR/before' '$DIR/there' && echo same"
check 'resource versions went on' '^yes$' sh -c "[ $second -gt $first ] && echo yes"
check 'a watch from before begins anew' '410|Expired|too old resource version' $K get --raw "/api/v1/configmaps?watch=1&resourceVersion=$first&timeoutSeconds=5"
$K create configmap after --from-literal=a=b >/dev/null
contents > "$DIR/before"; second=$(version)
down
check 'and back' 'checked: all [0-9]+ keys are there' bash -c 'migrate etcd sqlite'
up
contents > "$DIR/there"; third=$(version)
check 'everything is in the file' '^same$' sh -c "cmp '$DIR/before' '$DIR/there' && echo same"
check 'resource versions went on again' '^yes$' sh -c "[ $third -ge $second ] && echo yes"
finish
