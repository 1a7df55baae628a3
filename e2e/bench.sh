#!/bin/bash
# bench.sh: figures of skiff (release build) beside a stock Kubernetes, one after the other in one run, as JSON below $KIT_WORK/bench-results
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd); . "$here/kit/kit.env"
O=$KIT_WORK/bench-results; rm -rf "$O"; mkdir -p "$O/peer" "$O/skiff"
[ -x "$KIT_WORK/bench" ] || (cd "$here/kit/bench" && go build -o "$KIT_WORK/bench" .)
DIR=/var/tmp/skiff-bench; export NAME=bench NET=66 PORT=17743 KUBELET_PORT=17750 BIN=${BIN:-$here/../target-link/release/skiff}
trap '"$here/instance.sh" clean $DIR; "$here/kit/peer-down.sh"' EXIT
"$here/kit/peer-up.sh" | tee "$O/peer/start.txt"
"$here/kit/measure-peer.sh" "$O/peer" | tee "$O/peer/table.txt"
"$here/kit/peer-down.sh"
"$here/instance.sh" clean $DIR
export KUBECONFIG=$("$here/instance.sh" start $DIR | tail -1)
pid=$(cat $DIR/pid)
python3 "$here/kit/procstat.py" 60 skiff="$pid" > "$O/skiff/idle.json"
"$KIT_WORK/bench" -kubeconfig "$KUBECONFIG" -mode podlat,pods -runs 20 -pids "$pid" > "$O/skiff/pods.json"
"$KIT_WORK/bench" -kubeconfig "$KUBECONFIG" -mode create,get,update,list,watch -secs "${SECS:-6}" -pids "$pid" > "$O/skiff/api.json"
python3 "$here/kit/table.py" "$O/skiff" | tee "$O/skiff/table.txt"
