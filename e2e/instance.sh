#!/bin/bash
# instance.sh start|launch|stop|clean DIR: a skiff with everything below DIR, on ports and ranges of its own, beside whatever else runs here.
# BIN names the binary. `start` waits until the node is Ready and imports the kit's images; prints the kubeconfig's path;
# `launch` returns at once.
# REGISTRY=URL: a mirror of registry.k8s.io, for tests that always pull.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd); . "$here/kit/kit.env"
DIR=$2; BIN=${BIN:-$here/../target-link/debug/skiff}; PORT=${PORT:-17443}; KUBELET_PORT=${KUBELET_PORT:-17250}; NAME=${NAME:-e2e}
NET=${NET:-60}
K="$KB/kubectl --kubeconfig $DIR/data/admin.kubeconfig"
# runs PID: a process that has ended may stay listed until its parent asks for it; it holds its files until its last thread is gone
runs() { [ -e "/proc/$1" ] && ! { grep -q '^State:.Z' "/proc/$1/status" && [ "$(ls "/proc/$1/task" | wc -l)" -le 1 ]; } 2>/dev/null; }
launch() {
  # Another instance's pods, or its cluster DNS: its rules would refuse ours.
  if other=$(ip -4 -o addr | grep -v " $NAME"0' ' | grep -m1 -E " 10\.($NET|$((NET + 1)))\."); then
    [ -e "$DIR/pid" ] || { echo "10.$NET.0.0/16 or 10.$((NET + 1)).0.0/16 is in use, take another NET: $other" >&2; exit 1; }
  fi
  mkdir -p "$DIR"
  [ -z "${REGISTRY:-}" ] || printf 'mirrors:\n  registry.k8s.io:\n    endpoint: ["%s"]\n' "$REGISTRY" > "$DIR/registries.yaml"
  if [ -e "$DIR/pid" ]; then # a killed server may still be on its way out, holding the lock of its data
    old=$(cat "$DIR/pid")
    for _ in $(seq 400); do runs "$old" || break; sleep 0.05; done
  fi
  printf '# no upstream: tests must not depend on the network outside\n' > "$DIR/resolv.conf"
  setsid "$BIN" server --config /dev/null --data-dir "$DIR/data" --https-listen-port "$PORT" --kubelet-port "$KUBELET_PORT" --node-name "$NAME" \
    --bridge "$NAME"0 --cluster-cidr "10.$NET.0.0/16" --service-cidr "10.$((NET + 1)).0.0/16" --resolv-conf "$DIR/resolv.conf" \
    --eviction-hard 'nodefs.available<1%,imagefs.available<1%,nodefs.inodesFree<1%,memory.available<50Mi' \
    --kubelet-arg image-gc-high-threshold=100 \
    --private-registry "$DIR/registries.yaml" ${SKIFF_ARGS:-} >> "$DIR/log" 2>&1 < /dev/null &
  echo $! > "$DIR/pid"
}
start() {
  launch
  for _ in $(seq 300); do
    kill -0 "$(cat "$DIR/pid")" 2>/dev/null || { echo "skiff ended:"; tail -5 "$DIR/log"; exit 1; }
    $K get node "$NAME" -o 'jsonpath={.status.conditions[?(@.type=="Ready")].status}' 2>/dev/null | grep -q True && break
    sleep 0.1
  done
  $K get node "$NAME" >/dev/null
  if [ ! -e "$DIR/images.imported" ]; then
    "$BIN" image import --data-dir "$DIR/data" "$KIT_WORK/images/all-images.oci.tar" > "$DIR/images.imported.new"
    mv "$DIR/images.imported.new" "$DIR/images.imported"
  fi
  echo "$DIR/data/admin.kubeconfig"
}
stop() { # ends skiff by its pid, then what it started: containerd, by the pid file's place in its own folder
  if [ -e "$DIR/pid" ]; then
    pid=$(cat "$DIR/pid"); kill "$pid" 2>/dev/null || true
    for _ in $(seq 300); do runs "$pid" || break; sleep 0.1; done
    kill -9 "$pid" 2>/dev/null || true; rm -f "$DIR/pid"
  fi
}
clean() { # removes the pods of the instance, the containerd that it started, and its folders
  stop
  run=$(readlink "$DIR/data/run" || true) # where skiff keeps what must not survive a reboot
  [ -n "$run" ] || { rm -rf "$DIR"; return; }
  C="ctr -a $run/containerd/containerd.sock -n k8s.io"
  if [ -S "$run/containerd/containerd.sock" ]; then
    for t in $($C tasks ls -q 2>/dev/null); do $C tasks kill -s KILL -a "$t" >/dev/null 2>&1 || true; done; sleep 1
    for t in $($C tasks ls -q 2>/dev/null); do $C tasks rm -f "$t" >/dev/null 2>&1 || true; done
    for c in $($C containers ls -q 2>/dev/null); do $C containers rm "$c" >/dev/null 2>&1 || true; done
  fi
  for p in $(pgrep -f "containerd.* $run/"); do kill "$p" 2>/dev/null || true; done # it and its shims name the folder on their command line
  for m in $(awk -v r="$run/" -v d="$DIR/" 'index($2, r) == 1 || index($2, d) == 1 {print $2}' /proc/mounts | sort -r); do
    umount -l "$m" 2>/dev/null || true
  done
  # a server that was killed leaves pairs whose other end has no pod yet
  for l in $(ip -o link show master "${NAME}0" 2>/dev/null | awk -F'[ @:]+' '{print $2}'); do ip link del "$l" 2>/dev/null || true; done
  ip link del "${NAME}0" 2>/dev/null || true
  nft delete table ip "${NAME}0" 2>/dev/null || true
  rm -rf "$DIR" "$run"
}
case $1 in start|launch|stop|clean) "$1";; *) echo "usage: instance.sh start|launch|stop|clean DIR"; exit 2;; esac
