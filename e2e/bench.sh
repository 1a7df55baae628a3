#!/bin/bash
# bench.sh: figures of skiff (release build) beside a stock Kubernetes in the same run, taking turns, ROUNDS rounds. What each measured
# is kept as JSON below $KIT_WORK/bench-results; the table at the end has medians over the rounds and their ratio.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd); . "$here/kit/kit.env"
O=$KIT_WORK/bench-results; ROUNDS=${ROUNDS:-3} SECS=${SECS:-4} IDLE=${IDLE:-60}
rm -rf "$O"; mkdir -p "$O"
(cd "$here/kit/bench" && go build -o "$KIT_WORK/bench" .)
DIR=/var/tmp/skiff-bench; export NAME=bench NET=66 PORT=17743 KUBELET_PORT=17750 BIN=${BIN:-$here/../target-link/release/skiff}
ulimit -n "$(ulimit -Hn)"
"$here/kit/peer-down.sh" --wipe >/dev/null 2>&1 || true; "$here/instance.sh" clean $DIR
trap '"$here/instance.sh" clean $DIR; "$here/kit/peer-down.sh" --wipe > /dev/null' EXIT
PEER=$RUN/etc/admin.kubeconfig; SKIFF=$DIR/data/admin.kubeconfig

# Starts: each on an empty folder once, then on what it holds.
"$here/kit/peer-up.sh" > "$O/peer-start.txt"
"$here/kit/start-time.py" first "$here/instance.sh" $DIR > "$O/skiff-start.txt"
"$here/instance.sh" stop $DIR; "$here/instance.sh" start $DIR > /dev/null # imports the images
"$here/kit/start-time.py" again "$here/instance.sh" $DIR >> "$O/skiff-start.txt"
skiff=$(cat $DIR/pid)
peer=$(cat "$RUN"/pids/{etcd,kube-apiserver,kube-controller-manager,kube-scheduler,kubelet,kube-proxy} | paste -sd,)
server=$(cat "$RUN"/pids/{etcd,kube-apiserver} | paste -sd,)
sleep 20 # both have settled
"$here/kit/procstat.py" "$IDLE" skiff="$skiff" $(n=0; for p in ${peer//,/ }; do n=$((n + 1)); echo "peer$n=$p"; done) > "$O/idle.json"

load() { "$KIT_WORK/bench" -kubectl "$KB/kubectl" "$@"; }
for round in $(seq "$ROUNDS"); do
  load -kubeconfig "$PEER" -mode podlat -runs 20 > "$O/peer-pods-$round.json"
  load -kubeconfig "$SKIFF" -mode podlat -runs 20 > "$O/skiff-pods-$round.json"
  load -kubeconfig "$PEER" -mode create,get,update,list,watch -secs "$SECS" -runs 10 -lists 1000,10000 -fans 1,50,1000 -pids "$server" > "$O/peer-api-$round.json"
  load -kubeconfig "$SKIFF" -mode create,get,update,list,watch -secs "$SECS" -runs 10 -lists 1000,10000 -fans 1,50,1000 -pids "$skiff" > "$O/skiff-api-$round.json"
done
"$here/kit/procstat.py" 5 skiff="$skiff" > "$O/after.json"
"$here/kit/compare.py" "$O" | tee "$O/table.txt"
