#!/bin/bash
# stock-components.sh DIR: the stock kube-scheduler, kube-controller-manager, kubelet and kube-proxy of the kit against our API server. First the
# scheduler and the controllers beside our node agent; then our agent and service routing are off, too: a stock kubelet joins with a bootstrap
# token and runs the workloads, and a stock kube-proxy (PROXY_MODE=nftables|iptables) serves their Services. BIN, PORT, KUBELET_PORT, NET and
# NAME as for instance.sh; BOOTSTRAP=0 joins with a client certificate. Ends what it started.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd); . "$here/kit/kit.env"; . "$here/pki.sh"
DIR=$1; export BIN=${BIN:-$here/../target/debug/skiff} PORT=${PORT:-17943} KUBELET_PORT=${KUBELET_PORT:-17950} NET=${NET:-68} NAME=${NAME:-stock}
IP=$(ip -4 -o addr show scope global | awk '{sub("/.*","",$4);print $4;exit}'); SVC=10.$((NET + 1)).0.0/16; PODS=10.$NET.0.0/16
MODE=${PROXY_MODE:-nftables}; S=$DIR/stock; P=$DIR/pki; HOST=https://127.0.0.1:$PORT; SOCK=$S/containerd.sock
K="$KB/kubectl --kubeconfig $DIR/data/admin.kubeconfig"
pids=()
end() { # PID...: ends them, the last one first
  for ((i = $#; i > 0; i--)); do kill "${!i}" 2>/dev/null || true; done
  for pid in "$@"; do for _ in $(seq 100); do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done; kill -9 "$pid" 2>/dev/null || true; done
}
empty() { # what the stock kubelet's pods left
  C="$TB/ctr -a $SOCK -n k8s.io"; [ -S "$SOCK" ] || return 0
  for t in $($C tasks ls -q 2>/dev/null); do $C tasks kill -s KILL -a "$t" >/dev/null 2>&1 || true; done; sleep 1
  for t in $($C tasks ls -q 2>/dev/null); do $C tasks rm -f "$t" >/dev/null 2>&1 || true; done
  for c in $($C containers ls -q 2>/dev/null); do $C containers rm "$c" >/dev/null 2>&1 || true; done
}
cleanup() {
  [ -z "${kubelet:-}" ] || { end "$kubelet" "$proxy"; empty; "$KB/kube-proxy" --proxy-mode="$MODE" --cleanup >/dev/null 2>&1 || true; }
  end "${pids[@]}"
  for m in $(awk -v s="$S/" 'index($2, s) == 1 {print $2}' /proc/mounts | sort -r); do umount -l "$m" 2>/dev/null || true; done
  for n in $(cat "$S"/cni-ipam/stock/10.* 2>/dev/null | grep -oE '^cni-[0-9a-f-]+' || true); do ip netns del "$n" 2>/dev/null || true; done
  ip link del "${NAME}1" 2>/dev/null || true
  "$here/instance.sh" stop "$DIR"
}
trap cleanup EXIT
go_() { n=$1; shift; setsid "$@" >> "$DIR/$n.log" 2>&1 < /dev/null & started=$!; }
serves() { for _ in $(seq 300); do $K get --raw /readyz >/dev/null 2>&1 && return 0; sleep 0.2; done; tail -5 "$DIR/log"; return 1; }

# --- our agent, their scheduler and controllers
SKIFF_ARGS="--disable-scheduler --disable-controller-manager" "$here/instance.sh" launch "$DIR"
serves; mkdir -p "$P" "$S"; cp "$DIR"/data/tls/{ca,front-proxy-ca}.{crt,key} "$P"
certificate kcm ca /CN=system:kube-controller-manager clientAuth
certificate sched ca /CN=system:kube-scheduler clientAuth
certificate proxy ca /CN=system:kube-proxy clientAuth
certificate node ca "/O=system:nodes/CN=system:node:$NAME-two" clientAuth
certificate serving ca "/O=system:nodes/CN=system:node:$NAME-two" serverAuth "DNS:$NAME-two,IP:$IP"
SCHED=$(kubeconfig sched ca); KCM=$(kubeconfig kcm ca); PROXY=$(kubeconfig proxy ca); NODE=$(kubeconfig node ca)
echo "ok: our API server and agent, without scheduler and controllers"
openssl genrsa -out "$P/sa.key" 2048 2>/dev/null # for tokens in Secrets, which nothing here uses
go_ kube-scheduler "$KB/kube-scheduler" --secure-port=0 --kubeconfig="$SCHED" --authentication-kubeconfig="$SCHED" --authorization-kubeconfig="$SCHED"; pids+=("$started")
go_ kube-controller-manager "$KB/kube-controller-manager" --secure-port=0 --kubeconfig="$KCM" --authentication-kubeconfig="$KCM" --authorization-kubeconfig="$KCM" \
  --client-ca-file="$P/ca.crt" --root-ca-file="$P/ca.crt" --cluster-signing-cert-file="$P/ca.crt" --cluster-signing-key-file="$P/ca.key" \
  --service-account-private-key-file="$P/sa.key" --use-service-account-credentials=true --allocate-node-cidrs=true \
  --controllers='*,bootstrap-signer-controller,token-cleaner-controller' --cluster-cidr="$PODS" --service-cluster-ip-range="$SVC"; pids+=("$started")
for _ in $(seq 300); do $K get node "$NAME" >/dev/null 2>&1 && break; sleep 0.2; done
$K wait --for=condition=Ready "node/$NAME" --timeout=180s >/dev/null; echo "ok: the node is Ready with the range that the stock controllers gave it"
[ -e "$DIR/images.imported" ] || "$BIN" image import --data-dir "$DIR/data" "$KIT_WORK/images/all-images.oci.tar" > "$DIR/images.imported"
export IMAGE; IMAGE=$(grep -m1 e2e-test-images/agnhost "$DIR/images.imported"); "$here/workloads.sh" "$DIR/data/admin.kubeconfig"
$K -n kube-system get lease kube-scheduler kube-controller-manager -o 'custom-columns=LEASE:.metadata.name,HOLDER:.spec.holderIdentity' --no-headers

# --- and now nothing of ours but the API server
"$here/instance.sh" stop "$DIR"
SKIFF_ARGS="--disable-scheduler --disable-controller-manager --disable-agent --disable-kube-proxy --disable dns" "$here/instance.sh" launch "$DIR"; serves
$K delete node "$NAME" >/dev/null
mkdir -p "$S"/{cni,certs.d,manifests,plugins}
cat > "$S/containerd.toml" <<Y
version = 3
root = "$S/containerd"
state = "$S/state"
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs","io.containerd.snapshotter.v1.zfs","io.containerd.snapshotter.v1.devmapper","io.containerd.tracing.processor.v1.otlp","io.containerd.internal.v1.tracing","io.containerd.nri.v1.nri"]
[grpc]
  address = "$SOCK"
[ttrpc]
  address = "$SOCK.ttrpc"
[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = "registry.k8s.io/pause:3.10.2"
[plugins."io.containerd.cri.v1.runtime"]
  tolerate_missing_hugetlb_controller = true
  disable_apparmor = true
  restrict_oom_score_adj = true
  [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
      SystemdCgroup = false
  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dirs = ["/usr/lib/cni"]
    conf_dir = "$S/cni"
Y
cat > "$S/cni/10-stock.conflist" <<Y
{"cniVersion":"1.0.0","name":"stock","plugins":[
 {"type":"bridge","bridge":"${NAME}1","isGateway":true,"ipMasq":true,"hairpinMode":true,
  "ipam":{"type":"host-local","dataDir":"$S/cni-ipam","ranges":[[{"subnet":"10.$NET.200.0/24"}]],"routes":[{"dst":"0.0.0.0/0"}]}},
 {"type":"portmap","capabilities":{"portMappings":true},"snat":true}]}
Y
cat > "$S/kubelet.yaml" <<Y
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: $IP
port: $KUBELET_PORT
healthzPort: $((KUBELET_PORT + 1))
failCgroupV1: false
cgroupDriver: cgroupfs
containerRuntimeEndpoint: unix://$SOCK
clusterDNS: [10.$((NET + 1)).0.10]
clusterDomain: cluster.local
resolvConf: $DIR/resolv.conf
staticPodPath: $S/manifests
rotateCertificates: true
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: $P/ca.crt}}
authorization: {mode: Webhook}
tlsCertFile: $P/serving.crt
tlsPrivateKeyFile: $P/serving.key
evictionHard: {memory.available: 100Mi, nodefs.available: 1%, imagefs.available: 1%, nodefs.inodesFree: 1%}
imageGCHighThresholdPercent: 100
failSwapOn: false
volumePluginDir: $S/plugins
podLogsDir: $S/podlogs
Y
cat > "$S/proxy.yaml" <<Y
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
clientConnection: {kubeconfig: $PROXY}
mode: $MODE
bindAddress: $IP
healthzBindAddress: 127.0.0.1:$((KUBELET_PORT + 2))
metricsBindAddress: 127.0.0.1:$((KUBELET_PORT + 3))
clusterCIDR: $PODS
hostnameOverride: $NAME-two
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
Y
sysctl -qw net.ipv4.ip_forward=1
go_ containerd env "PATH=$TB:$PATH" "$TB/containerd" -c "$S/containerd.toml" -l warn; pids+=("$started")
for _ in $(seq 200); do "$TB/ctr" -a "$SOCK" version >/dev/null 2>&1 && break; sleep 0.1; done
"$TB/ctr" -a "$SOCK" -n k8s.io images import --local "$KIT_WORK/images/all-images.oci.tar" > "$S/import.log"
JOIN=(--kubeconfig="$NODE")
if [ "${BOOTSTRAP:-1}" = 1 ]; then
  $K apply -f - >/dev/null <<Y
apiVersion: v1
kind: Secret
metadata: {name: bootstrap-token-abcdef, namespace: kube-system}
type: bootstrap.kubernetes.io/token
stringData: {token-id: abcdef, token-secret: 0123456789abcdef, usage-bootstrap-authentication: "true", usage-bootstrap-signing: "true", auth-extra-groups: "system:bootstrappers:stock"}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: stock-bootstrap}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: system:node-bootstrapper}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: Group, name: "system:bootstrappers:stock"}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: stock-approve}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: "system:certificates.k8s.io:certificatesigningrequests:nodeclient"}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: Group, name: "system:bootstrappers:stock"}]
Y
  cat > "$S/bootstrap.kubeconfig" <<Y
apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "$HOST", certificate-authority-data: $(base64 -w0 "$P/ca.crt")}}]
users: [{name: u, user: {token: abcdef.0123456789abcdef}}]
contexts: [{name: c, context: {cluster: c, user: u}}]
current-context: c
Y
  JOIN=(--bootstrap-kubeconfig="$S/bootstrap.kubeconfig" --kubeconfig="$S/joined.kubeconfig" --cert-dir="$S/pki")
fi
go_ kube-proxy "$KB/kube-proxy" --config="$S/proxy.yaml"; proxy=$started
go_ kubelet env "PATH=$TB:$PATH" "$KB/kubelet" --config="$S/kubelet.yaml" "${JOIN[@]}" --hostname-override="$NAME-two" --node-ip="$IP" --root-dir="$S/kubelet"; kubelet=$started
for _ in $(seq 600); do $K get node "$NAME-two" >/dev/null 2>&1 && break; sleep 0.2; done
$K wait --for=condition=Ready "node/$NAME-two" --timeout=180s >/dev/null
[ "${BOOTSTRAP:-1}" = 0 ] || { $K get csr -o 'jsonpath={.items[*].status.conditions[*].type}' | grep -q Approved; echo "ok: a stock kubelet joined with a bootstrap token"; }
echo "ok: the stock kubelet's node is Ready"
"$here/workloads.sh" "$DIR/data/admin.kubeconfig"
N=stock-$$; $K create namespace "$N" >/dev/null
for _ in $(seq 100); do $K -n "$N" get serviceaccount default >/dev/null 2>&1 && break; sleep 0.3; done
$K -n "$N" create deployment web --image="$IMAGE" --replicas=2 -- /agnhost netexec --http-port=8080 >/dev/null
$K -n "$N" expose deployment web --port=80 --target-port=8080 --type=NodePort >/dev/null
$K -n "$N" rollout status deployment/web --timeout=180s >/dev/null
AT=$($K -n "$N" get service web -o 'jsonpath={.spec.clusterIP}'); PORTS=$($K -n "$N" get service web -o 'jsonpath={.spec.ports[0].nodePort}')
names=; for _ in $(seq 100); do
  names=$(for _ in 1 2 3 4 5 6 7 8; do curl -s -m 3 "http://$AT/hostname" || true; echo; done | sort -u | grep .) || true; [ "$(echo "$names" | wc -w)" = 2 ] && break; sleep 0.3
done
[ "$(echo "$names" | wc -w)" = 2 ]; echo "ok: kube-proxy ($MODE) spreads the Service over both pods"
curl -sf -m 5 "http://$IP:$PORTS/hostname" >/dev/null; echo "ok: and serves its NodePort"
POD=$($K -n "$N" get pods -l app=web -o 'jsonpath={.items[0].metadata.name}')
$K -n "$N" exec "$POD" -- /agnhost --version >/dev/null; $K -n "$N" logs "$POD" | grep -q . ; echo "ok: exec and logs through the API server"
$K delete namespace "$N" --timeout=120s >/dev/null; echo "ok: all of it"
