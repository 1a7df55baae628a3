#!/bin/bash
# all.sh [WALK …]: every walk (or those named), each beside a stock kube-apiserver of its own; one line of figures each. Ends with 1 if one of them finds a difference
# that it does not list. WALK_DIR keeps what they print. audit.py is no walk: it compares the logs of one.
cd "$(dirname "$0")"; export WALK_DIR=${WALK_DIR:-$(mktemp -d)} PYTHONDONTWRITEBYTECODE=1; bad=0
for w in "${@:-admit authn authz certs policy crds customs webhooks flow aggregation}"; do for n in $w; do
  timeout 900 python3 "$n.py" > "$WALK_DIR/$n.out" 2>&1 || bad=1
  printf '%-12s %s\n' "$n" "$(tail -n 1 "$WALK_DIR/$n.out")"
done; done
[ $bad = 0 ] || echo "see $WALK_DIR"
exit $bad
