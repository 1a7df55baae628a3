#!/bin/bash
# against-stock.sh DIR: our scheduler, controllers and node agent against the stock kube-apiserver and etcd of the kit, everything below DIR.
# BIN names the binary; PORT, KUBELET_PORT, NET and NAME keep it apart from others, as for instance.sh. Ends what it started.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd); . "$here/kit/kit.env"; . "$here/pki.sh"; . "$here/stock.sh"
DIR=$1; BIN=${BIN:-$here/../target/debug/skiff}; PORT=${PORT:-17943}; KUBELET_PORT=${KUBELET_PORT:-17950}; NET=${NET:-68}; NAME=${NAME:-stock}
IP=$(ip -4 -o addr show scope global | awk '{sub("/.*","",$4);print $4;exit}')
P=$DIR/pki; HOST=https://$IP:$PORT; SVC=10.$((NET + 1)).0.0/16
mkdir -p "$DIR/log"
pids=()
cleanup() {
  for ((i = ${#pids[@]} - 1; i >= 0; i--)); do kill "${pids[i]}" 2>/dev/null || true; done
  for pid in "${pids[@]}"; do for _ in $(seq 100); do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done; kill -9 "$pid" 2>/dev/null || true; done
}
trap cleanup EXIT
go_() { n=$1; shift; setsid "$@" >> "$DIR/log/$n" 2>&1 < /dev/null & pids+=($!); }
stock_keys "DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,IP:10.$((NET + 1)).0.1,IP:127.0.0.1,IP:$IP" /O=system:masters/CN=admin
certificate kubelet-client ca /O=system:masters/CN=apiserver-kubelet-client clientAuth
certificate scheduler ca /CN=system:kube-scheduler clientAuth
certificate proxy ca /CN=system:kube-proxy clientAuth
certificate node ca "/O=system:nodes/CN=system:node:$NAME" clientAuth
certificate serving ca "/O=system:nodes/CN=system:node:$NAME" serverAuth "DNS:$NAME,IP:$IP,IP:127.0.0.1"
for user in admin scheduler proxy node; do kubeconfig $user ca >/dev/null; done
stock_etcd "$((PORT + 1))"
stock_apiserver "$IP" "$PORT" "$((PORT + 1))" "$SVC" --advertise-address="$IP" --enable-admission-plugins=NodeRestriction --allow-privileged=true \
  --kubelet-client-certificate="$P/kubelet-client.crt" --kubelet-client-key="$P/kubelet-client.key" --kubelet-certificate-authority="$P/ca.crt" \
  --kubelet-preferred-address-types=InternalIP
K="$KB/kubectl --kubeconfig $P/admin.kubeconfig"
for _ in $(seq 600); do $K get --raw /readyz >/dev/null 2>&1 && break; sleep 0.2; done
$K get --raw /readyz >/dev/null; echo "ok: stock kube-apiserver $($K version -o json | python3 -c 'import json,sys;print(json.load(sys.stdin)["serverVersion"]["gitVersion"])') is ready"
go_ scheduler "$BIN" component scheduler --kubeconfig "$P/scheduler.kubeconfig"
go_ controllers "$BIN" component controllers --kubeconfig "$P/admin.kubeconfig" --root-ca-file "$P/ca.crt" --cluster-cidr "10.$NET.0.0/16" --service-cidr "$SVC"
# Service routing with network policies looks at more than upstream's kube-proxy may.
$K create clusterrole skiff-network --verb=get,list,watch --resource=pods,namespaces,nodes,services,endpointslices.discovery.k8s.io,networkpolicies.networking.k8s.io,servicecidrs.networking.k8s.io >/dev/null
$K create clusterrolebinding skiff-network --clusterrole=skiff-network --user=system:kube-proxy >/dev/null
printf '# no upstream\n' > "$DIR/resolv.conf"
go_ agent "$BIN" component agent --kubeconfig "$P/node.kubeconfig" --proxy-kubeconfig "$P/proxy.kubeconfig" --tls-cert-file "$P/serving.crt" \
  --tls-private-key-file "$P/serving.key" --client-ca-file "$P/ca.crt" --data-dir "$DIR/data" --kubelet-port "$KUBELET_PORT" --node-name "$NAME" --node-ip "$IP" \
  --bridge "${NAME}0" --cluster-cidr "10.$NET.0.0/16" --service-cidr "$SVC" --disable dns --resolv-conf "$DIR/resolv.conf" --private-registry "$DIR/registries.yaml" \
  --eviction-hard 'nodefs.available<1%,imagefs.available<1%,nodefs.inodesFree<1%,memory.available<50Mi'
for _ in $(seq 600); do $K get node "$NAME" >/dev/null 2>&1 && break; sleep 0.2; done
$K wait --for=condition=Ready "node/$NAME" --timeout=120s >/dev/null; echo "ok: our node agent's node is Ready"
"$BIN" image import --data-dir "$DIR/data" "$KIT_WORK/images/all-images.oci.tar" > "$DIR/imported"
IMAGE=$(grep -m1 e2e-test-images/agnhost "$DIR/imported") "$here/workloads.sh" "$P/admin.kubeconfig"
$K get --raw "/api/v1/nodes/$NAME/proxy/healthz" >/dev/null; echo "ok: the API server reaches the node agent"
$K -n kube-system get lease kube-scheduler kube-controller-manager -o 'custom-columns=LEASE:.metadata.name,HOLDER:.spec.holderIdentity' --no-headers
