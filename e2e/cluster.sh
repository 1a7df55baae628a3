#!/bin/bash
# cluster.sh [short|long]: three etcd members and two skiff servers, each in a network namespace; one after the other is
# killed or cut off while clients write to and watch both servers. Fails if an acknowledged write is lost or a watch misses
# or repeats an event. Needs root, the kit's etcd, and BIN (the skiff binary). Everything lies below DIR.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd); . "$here/kit/kit.env"
MODE=${1:-short}; DIR=${DIR:-/tmp/skiff-cluster}; BIN=${BIN:-$here/../target-link/debug/skiff}; ETCD=${ETCD:-$KIT_WORK/bin/etcd}
ETCDCTL=${ETCDCTL:-$KIT_WORK/bin/etcdctl}; P=${P:-skc}; NET=10.213.77
case $MODE in short) outage=4 rest=3;; long) outage=30 rest=10;; *) echo "usage: cluster.sh [short|long]"; exit 2;; esac
[ -x "$ETCD" ] || { echo "skipped: no etcd at $ETCD; build it with e2e/kit/build-tools.sh tools"; exit 0; }
PLACES='11 12 13 21 22'; . "$here/cluster/net.sh"
cleanup() { trap - EXIT; net_down; }
trap cleanup EXIT; cleanup; trap cleanup EXIT
mkdir -p "$DIR"; rm -rf "${DIR:?}"/*
net_up

initial="e11=http://$NET.11:2380,e12=http://$NET.12:2380,e13=http://$NET.13:2380"
etcd() {
  exec ip netns exec "$P$1" "$ETCD" --name "e$1" --data-dir "$DIR/e$1" --log-level error --heartbeat-interval 200 --election-timeout 2000 \
    --initial-cluster "$initial" \
    --listen-peer-urls "http://$NET.$1:2380" --initial-advertise-peer-urls "http://$NET.$1:2380" \
    --listen-client-urls "http://$NET.$1:2379" --advertise-client-urls "http://$NET.$1:2379" >> "$DIR/e$1.log" 2>&1 < /dev/null
}
endpoints="http://$NET.11:2379,http://$NET.12:2379,http://$NET.13:2379"
skiff() {
  exec ip netns exec "$P$1" "$BIN" server --config /dev/null --data-dir "$DIR/s$1" --node-name "s$1" --node-ip "$NET.$1" --bridge "${P}b$1" \
    --datastore-endpoint "$endpoints" --token cluster-test --disable-agent --disable-kube-proxy >> "$DIR/s$1.log" 2>&1 < /dev/null
}
leader() { # the last number of the leader's address
  "$ETCDCTL" --endpoints "$endpoints" -w json endpoint status 2>/dev/null | python3 -c '
import json, sys
for e in json.load(sys.stdin):
    if e["Status"]["leader"] == e["Status"]["header"]["member_id"]: print(e["Endpoint"].split(".")[-1].split(":")[0])' | head -1 || true
}

for n in 11 12 13; do run etcd $n; done
run skiff 21; up 21; run skiff 22; up 22
kubectl() { on 21 "$@"; }
cmp "$DIR/s21/tls/ca.crt" "$DIR/s22/tls/ca.crt"
[ "$(kubectl get endpoints kubernetes -o 'jsonpath={.subsets[0].addresses[*].ip}')" = "$NET.21 $NET.22" ] \
  || { echo "both servers must be endpoints of the Service kubernetes"; kubectl get endpoints kubernetes -o yaml; exit 1; }

total=$((6 * (outage + rest) + rest))
python3 "$here/cluster/load.py" "$DIR/s21/admin.kubeconfig" "$DIR/result.json" $total "https://$NET.21:6443" "https://$NET.22:6443" > "$DIR/load.log" 2>&1 &
load=$!
sleep $rest
l=$(leader); other=$([ "$l" = 11 ] && echo 12 || echo 11)
echo "kill the leader e$l";             end "$l"; sleep $outage; run etcd "$l"; sleep $rest
l=$(leader); echo "cut off the leader e$l"; ip link set "${P}v$l" down; sleep $outage; ip link set "${P}v$l" up; sleep $rest
echo "kill a follower e$other";         end "$other"; sleep $outage; run etcd "$other"; sleep $rest
echo "kill server s21";                 end 21; sleep $outage; run skiff 21; sleep $rest
echo "cut off server s22";              ip link set "${P}v22" down; sleep $outage; ip link set "${P}v22" up; sleep $rest
echo "kill server s22";                 end 22; sleep $outage; run skiff 22; sleep $rest
up 21; up 22
good=0; wait $load || good=1
cat "$DIR/load.log"
holders=$(kubectl -n kube-system get lease kube-scheduler kube-controller-manager -o 'jsonpath={.items[*].spec.holderIdentity}')
echo "leaders: $holders"
kubectl create deployment after --image=example.invalid/none --replicas=2 >/dev/null
for _ in $(seq 300); do [ "$(kubectl get pods -l app=after --no-headers 2>/dev/null | wc -l)" = 2 ] && break; sleep 0.1; done
[ "$(kubectl get pods -l app=after --no-headers | wc -l)" = 2 ] || { echo "no controller works any more"; good=1; }
[ $good = 0 ] && echo "PASSED" || { echo "FAILED"; exit 1; }
