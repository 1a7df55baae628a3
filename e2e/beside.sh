# Sourced, with DIR, NAME, NET, PORT, KUBELET_PORT and BIN set: a skiff without agent and service routing, and after it the kit's stock
# kube-apiserver on etcd, for what looks at both in one run. Whatever it started ends with the script.
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd); . "$here/kit/kit.env"; . "$here/pki.sh"
export NAME NET PORT KUBELET_PORT BIN
K=$KB/kubectl
pids=()
over() {
  trap - EXIT
  for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
  for pid in "${pids[@]}"; do for _ in $(seq 100); do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done; kill -9 "$pid" 2>/dev/null || true; done
  "$here/instance.sh" clean "$DIR/skiff" >/dev/null 2>&1 || true
  [ -n "${KEEP:-}" ] || rm -rf "$DIR"
}
over; trap over EXIT
mkdir -p "$DIR"; ulimit -n "$(ulimit -Hn)"
ready() { for _ in $(seq 600); do [ -e "$1" ] && "$K" --kubeconfig "$1" get --raw /readyz >/dev/null 2>&1 && return; sleep 0.2; done; echo "$1: not ready" >&2; return 1; }
# with_skiff COMMAND...: runs COMMAND... skiff KUBECONFIG PIDS
with_skiff() {
  SKIFF_ARGS="--disable-agent --disable-kube-proxy ${SKIFF_ARGS:-}" "$here/instance.sh" launch "$DIR/skiff"
  ready "$DIR/skiff/data/admin.kubeconfig"
  "$@" skiff "$DIR/skiff/data/admin.kubeconfig" "$(cat "$DIR/skiff/pid")"
  "$here/instance.sh" stop "$DIR/skiff"
}
# with_stock COMMAND...: runs COMMAND... stock KUBECONFIG PIDS; nothing with ALONE=1
with_stock() {
  if [ -n "${ALONE:-}" ] || ! [ -x "$KB/kube-apiserver" ]; then return; fi
  P=$DIR/pki HOST=https://127.0.0.1:$((PORT + 1)); local E=$((PORT + 2)); mkdir -p "$P" "$DIR/etcd"; chmod 700 "$DIR/etcd"
  authority ca kubernetes
  certificate apiserver ca /CN=kube-apiserver serverAuth "DNS:localhost,IP:127.0.0.1"
  certificate admin ca /O=system:masters/CN=admin clientAuth
  openssl genrsa -out "$P/sa.key" 2048 2>/dev/null
  go_() { local n=$1; shift; setsid "$@" >> "$DIR/$n.log" 2>&1 < /dev/null & pids+=($!); }
  go_ etcd "$TB/etcd" --name a --data-dir "$DIR/etcd" --listen-client-urls "http://127.0.0.1:$E" --advertise-client-urls "http://127.0.0.1:$E" \
    --listen-peer-urls "http://127.0.0.1:$((E + 1))" --initial-advertise-peer-urls "http://127.0.0.1:$((E + 1))" --initial-cluster "a=http://127.0.0.1:$((E + 1))" --log-level warn
  go_ kube-apiserver "$KB/kube-apiserver" --bind-address=127.0.0.1 --advertise-address=127.0.0.1 --secure-port="$((PORT + 1))" --etcd-servers="http://127.0.0.1:$E" \
    --endpoint-reconciler-type=none --service-cluster-ip-range=10.$((NET + 1)).0.0/16 --authorization-mode=Node,RBAC --client-ca-file="$P/ca.crt" \
    --tls-cert-file="$P/apiserver.crt" --tls-private-key-file="$P/apiserver.key" --service-account-issuer=https://kubernetes.default.svc \
    --service-account-key-file="$P/sa.key" --service-account-signing-key-file="$P/sa.key"
  kubeconfig admin ca >/dev/null; ready "$P/admin.kubeconfig"
  "$@" stock "$P/admin.kubeconfig" "$(IFS=,; echo "${pids[*]}")"
}
