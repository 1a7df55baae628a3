#!/bin/bash
# servers.sh start|stop DIR: the kit's kube-apiserver on etcd and a skiff without scheduler, controllers, service routing and agent, for comparing
# their answers. BIN names skiff, PORT its port; the others follow it; STOCK_ARGS and SKIFF_ARGS are more flags of each. Prints the two kubeconfigs, the stock one first.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd); . "$here/../kit/kit.env"; . "$here/../pki.sh"; . "$here/../stock.sh"
DIR=$2; BIN=${BIN:-$here/../../target/debug/skiff}; PORT=${PORT:-17943}; S=$((PORT + 1)); E=$((PORT + 2)); P=$DIR/pki; HOST=https://127.0.0.1:$S
SVC=10.96.0.0/16
go_() { n=$1; shift; setsid "$@" >> "$DIR/$n.log" 2>&1 < /dev/null & echo $! > "$DIR/$n.pid"; }
start() {
  mkdir -p "$P"
  if [ ! -e "$P/sa.pub" ]; then
    stock_keys DNS:kubernetes,IP:127.0.0.1 /O=system:masters/CN=system:admin
    authority front ca-front
    certificate proxy front /CN=front-proxy clientAuth
    kubeconfig admin ca >/dev/null
  fi
  stock_etcd "$E" --unsafe-no-fsync
  # shellcheck disable=SC2086
  stock_apiserver 127.0.0.1 "$S" "$E" "$SVC" --advertise-address="$(ip -4 -o addr show scope global | awk '{sub("/.*","",$4);print $4;exit}')" \
    --enable-admission-plugins=NodeRestriction --allow-privileged=true --requestheader-client-ca-file="$P/front.crt" \
    --proxy-client-cert-file="$P/proxy.crt" --proxy-client-key-file="$P/proxy.key" ${STOCK_ARGS:-}
  go_ skiff "$BIN" server --config /dev/null --data-dir "$DIR/data" --https-listen-port "$PORT" --cluster-cidr 10.244.0.0/16 --service-cidr "$SVC" \
    --disable-agent --disable-scheduler --disable-controller-manager --disable-kube-proxy --disable dns ${SKIFF_ARGS:-}
  for k in "$P/admin.kubeconfig" "$DIR/data/admin.kubeconfig"; do
    for _ in $(seq 300); do "$KB/kubectl" --kubeconfig "$k" get --raw /readyz >/dev/null 2>&1 && break; sleep 0.2; done
    "$KB/kubectl" --kubeconfig "$k" get --raw /readyz >/dev/null; echo "$k"
  done
}
stop() {
  for n in skiff kube-apiserver etcd; do
    [ -e "$DIR/$n.pid" ] || continue
    pid=$(cat "$DIR/$n.pid"); kill "$pid" 2>/dev/null || true
    for _ in $(seq 100); do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
    kill -9 "$pid" 2>/dev/null || true; rm -f "$DIR/$n.pid"
  done
}
case $1 in start|stop) "$1";; *) echo "usage: servers.sh start|stop DIR"; exit 2;; esac
