#!/bin/bash
# stock-apiserver-on-shim.sh [WORKDIR]: a stock kube-apiserver whose etcd is the store's etcd interface. It must become
# ready and serve: create, list, watch, patch and delete; consistent reads from its watch cache, which need progress
# requests; lists in pages; compaction; and it must find everything again after the store was killed.
# SHIM: the program that serves a database (cargo build -p storage --example etcd). KIT_WORK: see kit/README.md.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
. "$here/kit/kit.env"
shim=${SHIM:-$here/../target/debug/examples/etcd}
work=${1:-$(mktemp -d)} store=127.0.0.1:${SHIM_PORT:-23796} port=${API_PORT:-23797}
mkdir -p "$work"; cd "$work"
pids=() store_pid=
finish() { for pid in "${pids[@]}" $store_pid; do kill "$pid" 2>/dev/null && wait "$pid" 2>/dev/null; done; true; }
trap finish EXIT
fail() { echo "FAILED: $*"; tail -5 apiserver.log; exit 1; }

[ -e sa.key ] || openssl genrsa -out sa.key 2048 2>/dev/null
echo 'admin-token,admin,admin,system:masters' >tokens.csv
start_store() { "$shim" "$work/store.db" "$store" /registry/leases/ /registry/masterleases/ >>store.log 2>&1 & store_pid=$!; }
start_store
"$KB/kube-apiserver" --bind-address=127.0.0.1 --secure-port="$port" --cert-dir="$work/certs" --etcd-servers="http://$store" \
  --service-cluster-ip-range=10.99.0.0/16 --service-account-issuer=https://kubernetes.default.svc --service-account-key-file=sa.key \
  --service-account-signing-key-file=sa.key --token-auth-file=tokens.csv --authorization-mode=Node,RBAC --etcd-compaction-interval=20s \
  --disable-admission-plugins=ServiceAccount --profiling=false >apiserver.log 2>&1 &
pids+=($!)
k() { "$KB/kubectl" --server="https://127.0.0.1:$port" --insecure-skip-tls-verify --token=admin-token --cache-dir="$work/cache" "$@"; }
get() { curl -sk -H 'Authorization: Bearer admin-token' "https://127.0.0.1:$port$1"; }
begin=$(date +%s%N)
for _ in $(seq 600); do [ "$(get /readyz)" = ok ] && break; kill -0 "${pids[0]}" || fail "the API server ended"; sleep 0.1; done
[ "$(get /readyz)" = ok ] || fail "not ready: $(get '/readyz?verbose')"
echo "ready after $((($(date +%s%N) - begin) / 1000000)) ms"
for _ in $(seq 100); do k get namespace default >/dev/null 2>&1 && break; sleep 0.1; done

# Watch from before the writes; every change must arrive, in order.
timeout 60 curl -skN -H 'Authorization: Bearer admin-token' \
  "https://127.0.0.1:$port/api/v1/namespaces/default/configmaps?watch=1&resourceVersion=0" >watch.json & watcher=$!
for n in $(seq 30); do printf -- '---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: c%02d, namespace: default, labels: {app: test}}\ndata: {n: "%d"}\n' "$n" "$n"; done >maps.yaml
k create -f maps.yaml >/dev/null
k create deployment web --image=example.org/web:1 --replicas=3 >/dev/null
k patch configmap c05 -p '{"data":{"n":"patched"}}' >/dev/null
k delete configmap c30 >/dev/null
# A list without a resourceVersion is consistent: it must see what was just written.
[ "$(k get configmap -l app=test -o name | wc -l)" = 29 ] || fail "the list after the writes"
[ "$(k get configmap c05 -o jsonpath='{.data.n}')" = patched ] || fail "the patched object"
[ "$(k get --raw '/api/v1/namespaces/default/configmaps?limit=7' | jq '.items|length')" = 7 ] || fail "the first page"
[ "$(k get configmap -l app=test --chunk-size=7 -o name | wc -l)" = 29 ] || fail "the pages"
[ "$(k get deployment web -o jsonpath='{.spec.replicas}')" = 3 ] || fail "the deployment"
begin=$(date +%s%N)
for n in $(seq 20); do
  k patch configmap c01 -p "{\"data\":{\"n\":\"$n\"}}" >/dev/null
  [ "$(get '/api/v1/namespaces/default/configmaps?labelSelector=app%3Dtest' | jq -r '.items[]|select(.metadata.name=="c01").data.n')" = "$n" ] ||
    fail "a consistent list came too early ($n)"
done
echo "20 writes with a consistent list after each: $((($(date +%s%N) - begin) / 1000000)) ms"
cached=$(get /metrics | awk '/^apiserver_watch_cache_consistent_read_total.*configmaps.*success="true"/{n+=$NF} END{print n+0}')
[ "${cached%.*}" -gt 0 ] || fail "no consistent read came from the watch cache"
echo "$cached consistent lists of ConfigMaps came from the watch cache"
for _ in $(seq 100); do [ "$(grep -c '"MODIFIED"' watch.json)" -ge 21 ] && [ "$(grep -c '"DELETED"' watch.json)" -ge 1 ] && break; sleep 0.1; done
[ "$(grep -c '"MODIFIED"' watch.json)" = 21 ] && [ "$(grep -c '"DELETED"' watch.json)" = 1 ] || fail "the watch: $(jq -r .type watch.json | sort | uniq -c | xargs)"
jq -r .object.metadata.resourceVersion watch.json | sort -nc || fail "the watch is out of order"

# The store dies; what was acknowledged is there when it is back, and the API server goes on by itself.
before=$(k get configmap -A -o json | jq -c '[.items[]|.metadata.uid]|sort')
kill -9 "$store_pid"; wait "$store_pid" 2>/dev/null || true
start_store
for _ in $(seq 300); do k create configmap after >/dev/null 2>&1 && break; sleep 0.2; done
[ "$(k get configmap -A -o json | jq -c '[.items[]|select(.metadata.name!="after")|.metadata.uid]|sort')" = "$before" ] || fail "objects after the kill"
for _ in $(seq 150); do [ "$(get /readyz)" = ok ] && break; sleep 0.2; done
[ "$(get /readyz)" = ok ] || fail "not ready after the store came back: $(get '/readyz?verbose' | grep -v '^\[+')"
# Its compactor must get along with the store, which it does when the key it keeps for that moves.
for _ in $(seq 300); do "$TB/etcdctl" --endpoints "$store" get compact_rev_key -w json 2>/dev/null | jq -e '.kvs[0].version > 1' >/dev/null && break; sleep 0.2; done
"$TB/etcdctl" --endpoints "$store" get compact_rev_key -w json | jq -e '.kvs[0].version > 1' >/dev/null || fail "nothing was compacted"
kill "$watcher" 2>/dev/null || true
echo "a stock API server works on the store"
