# Sourced, with DIR, NAME, NET, PORT, KUBELET_PORT and BIN set: a skiff without agent and service routing, and after it the kit's stock
# kube-apiserver on etcd, for what looks at both in one run. Whatever it started ends with the script.
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd); . "$here/kit/kit.env"; . "$here/pki.sh"; . "$here/stock.sh"
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
  P=$DIR/pki HOST=https://127.0.0.1:$((PORT + 1))
  stock_keys DNS:localhost,IP:127.0.0.1 /O=system:masters/CN=admin
  go_() { local n=$1; shift; setsid "$@" >> "$DIR/$n.log" 2>&1 < /dev/null & pids+=($!); }
  stock_etcd "$((PORT + 2))"
  stock_apiserver 127.0.0.1 "$((PORT + 1))" "$((PORT + 2))" "10.$((NET + 1)).0.0/16" --advertise-address=127.0.0.1 --endpoint-reconciler-type=none
  kubeconfig admin ca >/dev/null; ready "$P/admin.kubeconfig"
  "$@" stock "$P/admin.kubeconfig" "$(IFS=,; echo "${pids[*]}")"
}
