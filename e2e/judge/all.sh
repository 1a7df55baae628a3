#!/bin/bash
# all.sh DIR [JUDGE...]: every judge of this directory on a fresh pair of servers each (servers.sh), one after the other, and every walk of walks/; of the
# judges named only those. A line of counts each; what they print stays in DIR/out. Ends with 1 if any found a difference without a reason.
# BIN names skiff, PORT the ports; CASES (60) cases of each object and mode, SEQUENCES (300) of apply, SEED (1) of both.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd); . "$here/../kit/kit.env"; DIR=$1; shift
CASES=${CASES:-60}; SEED=${SEED:-1}; SEQUENCES=${SEQUENCES:-300}
mkdir -p "$DIR/out"
judges=(discovery corpus compare forms wire verbs apply cel)
[ $# = 0 ] || judges=("$@")
failed=0; [ $# != 0 ] || walks=1
for judge in "${judges[@]}"; do
  out=$DIR/out/${judge//\//-}; more=()
  case $judge in
    compare) more=(-n "$CASES" -s "$SEED" -m create,deep,deepstatus,update,status,request,table,patch,decode -o "$out.jsonl");;
    apply) more=(--sequences "$SEQUENCES" --seed "$SEED");;
    corpus) more=("$KSRC/test" "$KSRC/cluster");;
    verbs|wire) more=(-v);;
    forms|cel) more=(-n "$CASES" -s "$SEED");;
  esac
  rm -rf "$DIR/servers"
  mapfile -t kubeconfigs < <("$here/servers.sh" start "$DIR/servers")
  python3 "$here/$judge.py" "${kubeconfigs[@]}" "${more[@]}" > "$out" 2>&1; code=$?
  "$here/servers.sh" stop "$DIR/servers"
  [ $code = 0 ] || failed=1
  counts=$(grep -aE '^[a-z0-9 ]+[:,] .*differ|^[0-9]+ expressions|^[0-9]+ (differences|steps|requests)' "$out" | grep -v ' steps, [0-9]* differ$' || tail -n 1 "$out")
  [ -n "$counts" ] || counts=$(tail -n 1 "$out")
  while IFS= read -r line; do echo "$judge: $line"; done <<< "$counts"
  [ $code -le 1 ] || echo "$judge: ended with $code, see $out"
done
rm -rf "$DIR/servers"
[ -z "${walks:-}" ] || WALK_DIR=$DIR/out "$here/walks/all.sh" || failed=1
exit $failed
