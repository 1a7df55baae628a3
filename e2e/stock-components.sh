#!/bin/bash
# stock-components.sh DIR: the stock kube-scheduler and kube-controller-manager of the kit against our API server, whose own are switched off.
# BIN, PORT, KUBELET_PORT, NET and NAME as for instance.sh. Ends what it started.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd); . "$here/kit/kit.env"; . "$here/pki.sh"
DIR=$1; export BIN=${BIN:-$here/../target/debug/skiff} PORT=${PORT:-17943} KUBELET_PORT=${KUBELET_PORT:-17950} NET=${NET:-68} NAME=${NAME:-stock}
pids=()
cleanup() {
  for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
  for pid in "${pids[@]}"; do for _ in $(seq 100); do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done; kill -9 "$pid" 2>/dev/null || true; done
  "$here/instance.sh" stop "$DIR"
}
trap cleanup EXIT
go_() { n=$1; shift; setsid "$@" >> "$DIR/$n.log" 2>&1 < /dev/null & pids+=($!); }
SKIFF_ARGS="--disable-scheduler --disable-controller-manager" "$here/instance.sh" start "$DIR" >/dev/null
P=$DIR/pki; HOST=https://127.0.0.1:$PORT; mkdir -p "$P"; cp "$DIR"/data/tls/{ca,front-proxy-ca}.{crt,key} "$P"
certificate kcm ca /CN=system:kube-controller-manager clientAuth
certificate sched ca /CN=system:kube-scheduler clientAuth
S=$(kubeconfig sched ca); C=$(kubeconfig kcm ca); K="$KB/kubectl --kubeconfig $DIR/data/admin.kubeconfig"
echo "ok: our API server, without scheduler and controllers"
openssl genrsa -out "$P/sa.key" 2048 2>/dev/null # for tokens in Secrets, which nothing here uses
go_ kube-scheduler "$KB/kube-scheduler" --secure-port=0 --kubeconfig="$S" --authentication-kubeconfig="$S" --authorization-kubeconfig="$S"
go_ kube-controller-manager "$KB/kube-controller-manager" --secure-port=0 --kubeconfig="$C" --authentication-kubeconfig="$C" --authorization-kubeconfig="$C" \
  --client-ca-file="$P/ca.crt" --root-ca-file="$P/ca.crt" --cluster-signing-cert-file="$P/ca.crt" --cluster-signing-key-file="$P/ca.key" \
  --service-account-private-key-file="$P/sa.key" --use-service-account-credentials=true --allocate-node-cidrs=true \
  --cluster-cidr="10.$NET.0.0/16" --service-cluster-ip-range="10.$((NET + 1)).0.0/16"
$K wait --for=condition=Ready "node/$NAME" --timeout=180s >/dev/null; echo "ok: the node is Ready with the range that the stock controllers gave it"
IMAGE=$(grep -m1 e2e-test-images/agnhost "$DIR/images.imported") "$here/workloads.sh" "$DIR/data/admin.kubeconfig"
$K -n kube-system get lease kube-scheduler kube-controller-manager -o 'custom-columns=LEASE:.metadata.name,HOLDER:.spec.holderIdentity' --no-headers
