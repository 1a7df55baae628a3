#!/bin/bash
# against-stock.sh DIR: our scheduler, controllers and node agent against the stock kube-apiserver and etcd of the kit, everything below DIR.
# BIN names the binary; PORT, KUBELET_PORT, NET and NAME keep it apart from others, as for instance.sh. Ends what it started.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd); . "$here/kit/kit.env"; . "$here/pki.sh"
DIR=$1; BIN=${BIN:-$here/../target/debug/skiff}; PORT=${PORT:-17943}; KUBELET_PORT=${KUBELET_PORT:-17950}; NET=${NET:-68}; NAME=${NAME:-stock}
IP=$(ip -4 -o addr show scope global | awk '{sub("/.*","",$4);print $4;exit}')
P=$DIR/pki; HOST=https://$IP:$PORT; SVC=10.$((NET + 1)).0.0/16
mkdir -p "$P" "$DIR/log" "$DIR/etcd"; chmod 700 "$DIR/etcd"
pids=()
cleanup() {
  for ((i = ${#pids[@]} - 1; i >= 0; i--)); do kill "${pids[i]}" 2>/dev/null || true; done
  for pid in "${pids[@]}"; do for _ in $(seq 100); do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done; kill -9 "$pid" 2>/dev/null || true; done
}
trap cleanup EXIT
go_() { n=$1; shift; setsid "$@" >> "$DIR/log/$n" 2>&1 < /dev/null & pids+=($!); }
authority ca kubernetes
certificate apiserver ca /CN=kube-apiserver serverAuth "DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,IP:10.$((NET + 1)).0.1,IP:127.0.0.1,IP:$IP"
certificate kubelet-client ca /O=system:masters/CN=apiserver-kubelet-client clientAuth
certificate admin ca /O=system:masters/CN=admin clientAuth
certificate scheduler ca /CN=system:kube-scheduler clientAuth
certificate proxy ca /CN=system:kube-proxy clientAuth
certificate node ca "/O=system:nodes/CN=system:node:$NAME" clientAuth
certificate serving ca "/O=system:nodes/CN=system:node:$NAME" serverAuth "DNS:$NAME,IP:$IP,IP:127.0.0.1"
openssl genrsa -out "$P/sa.key" 2048 2>/dev/null; openssl rsa -in "$P/sa.key" -pubout -out "$P/sa.pub" 2>/dev/null
for user in admin scheduler proxy node; do kubeconfig $user ca >/dev/null; done
E=$((PORT + 1))
go_ etcd "$TB/etcd" --name a --data-dir "$DIR/etcd" --listen-client-urls "http://127.0.0.1:$E" --advertise-client-urls "http://127.0.0.1:$E" \
  --listen-peer-urls "http://127.0.0.1:$((E + 1))" --initial-advertise-peer-urls "http://127.0.0.1:$((E + 1))" --initial-cluster "a=http://127.0.0.1:$((E + 1))" --log-level warn
go_ kube-apiserver "$KB/kube-apiserver" --bind-address="$IP" --advertise-address="$IP" --secure-port="$PORT" --etcd-servers="http://127.0.0.1:$E" \
  --service-cluster-ip-range="$SVC" --authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction --allow-privileged=true --client-ca-file="$P/ca.crt" \
  --tls-cert-file="$P/apiserver.crt" --tls-private-key-file="$P/apiserver.key" --kubelet-client-certificate="$P/kubelet-client.crt" \
  --kubelet-client-key="$P/kubelet-client.key" --kubelet-certificate-authority="$P/ca.crt" --kubelet-preferred-address-types=InternalIP \
  --service-account-issuer=https://kubernetes.default.svc.cluster.local --service-account-key-file="$P/sa.pub" --service-account-signing-key-file="$P/sa.key"
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
