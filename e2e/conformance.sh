#!/bin/bash
# conformance.sh sample|all|serial: upstream's conformance tests against an instance of its own; ends with 'N passed, N failed, N skipped'
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd); . "$here/kit/kit.env"
what=${1:-sample}; DIR=${DIR:-/var/tmp/skiff-conformance}; export NAME=conf NET=64 PORT=17643 KUBELET_PORT=17650
[ "$what" = sample ] || export BIN=${BIN:-$here/../target-link/release/skiff}
"$here/instance.sh" clean "$DIR"
# Some tests always pull: the kit's images from a registry on loopback.
python3 "$here/kit/registry.py" "$KIT_WORK/images/oci" "${REGISTRY_PORT:-17655}" & registry=$!
export REGISTRY=http://127.0.0.1:${REGISTRY_PORT:-17655}
trap 'kill "$registry" 2>/dev/null || true; "$here/instance.sh" clean "$DIR"' EXIT
KC=$("$here/instance.sh" start "$DIR"); export OUT=${OUT:-$KIT_WORK/results/$what}
rm -rf "$OUT"; mkdir -p "$(dirname "$OUT")"
case $what in
  sample) LISTFILE=$here/conformance-sample.txt PROCS=${PROCS:-4} TIMEOUT=${TIMEOUT:-25m} FLAKE=2 "$here/kit/run-e2e.sh" "$KC" '';;
  all) PROCS=${PROCS:-6} "$here/kit/run-e2e.sh" "$KC" '\[Conformance\]' '\[Serial\]';;
  serial) PROCS=1 "$here/kit/run-e2e.sh" "$KC" '\[Serial\].*\[Conformance\]|\[Conformance\].*\[Serial\]';;
  *) echo "usage: conformance.sh sample|all|serial"; exit 2;;
esac | tee "$OUT.summary"
grep -qE '^[0-9]+ passed, 0 failed' "$OUT.summary"
