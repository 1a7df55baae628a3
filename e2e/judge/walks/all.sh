#!/bin/bash
# all.sh [WALK …]: every walk (or those named), each beside a stock kube-apiserver of its own; one line of figures each. Ends with 1 if one of them finds a difference
# that it does not list. WALK_DIR keeps what they print.
cd "$(dirname "$0")"; export WALK_DIR=${WALK_DIR:-$(mktemp -d)} PYTHONDONTWRITEBYTECODE=1; bad=0
# Those that start servers of their own; the others are parts of them.
[ $# != 0 ] || set -- $(grep -l '^w = start(__file__' -- *.py)
for n in "$@"; do
  n=${n%.py}
  timeout 900 python3 "$n.py" > "$WALK_DIR/$n.out" 2>&1 || bad=1
  printf '%-12s %s\n' "$n" "$(tail -n 1 "$WALK_DIR/$n.out")"
done
[ $bad = 0 ] || echo "see $WALK_DIR"
exit $bad
