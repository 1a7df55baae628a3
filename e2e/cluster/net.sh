# Sourced. Network namespaces "$P"N with the address "$NET".N, N one of PLACES, on one bridge; what runs in them by `run`.
declare -A pid
inside() { local n=$1; shift; ip netns exec "$P$n" "$@"; }
net_down() {
  local n
  for p in "${pid[@]}"; do kill -9 "$p" 2>/dev/null || true; done
  wait 2>/dev/null || true
  for n in $PLACES; do ip netns del "$P$n" 2>/dev/null || true; ip link del "${P}v$n" 2>/dev/null || true; done
  ip link del "${P}br" 2>/dev/null || true
}
net_up() {
  local n
  ip link add "${P}br" type bridge; ip addr add "$NET.1/24" dev "${P}br"; ip link set "${P}br" up
  for n in $PLACES; do
    ip netns add "$P$n"
    ip link add "${P}v$n" type veth peer name eth0 netns "$P$n"
    ip link set "${P}v$n" master "${P}br" up
    inside "$n" ip addr add "$NET.$n/24" dev eth0; inside "$n" ip link set eth0 up; inside "$n" ip link set lo up
    inside "$n" ip route add default via "$NET.1"
  done
}
# run FUNCTION N: in the background as itself, so that its number is that of the process.
run() { "$1" "$2" & pid[$2]=$!; }
end() { kill -9 "${pid[$1]}"; wait "${pid[$1]}" 2>/dev/null || true; }
up() { # waits until the server at N is ready; its data lies in $DIR/sN
  for _ in $(seq 1200); do
    kill -0 "${pid[$1]}" 2>/dev/null || { echo "server $1 ended:"; tail -3 "$DIR/s$1.log"; exit 1; }
    [ -e "$DIR/s$1/admin.kubeconfig" ] && on "$1" get --raw /readyz >/dev/null 2>&1 && return
    sleep 0.1
  done
  echo "server $1 did not become ready:"; tail -5 "$DIR/s$1.log"; exit 1
}
on() { local n=$1; shift; "$KB/kubectl" --kubeconfig "$DIR/s$n/admin.kubeconfig" --server "https://$NET.$n:6443" "$@"; }
