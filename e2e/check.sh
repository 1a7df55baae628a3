# check.sh: sourced by the scripts that walk through what a person does. Counts what passed and failed; T is a folder for scraps.
passed=0; failed=0; T=$(mktemp -d)
ok() { passed=$((passed + 1)); echo "ok   $1"; }
no() { failed=$((failed + 1)); echo "FAIL $1"; sed 's/^/     /' "$T/out" | tail -8; }
# check NAME PATTERN COMMAND...: the command succeeds and its output matches
check() { n=$1 p=$2; shift 2; if timeout 90 "$@" > "$T/out" 2>&1 && grep -qE -- "$p" "$T/out"; then ok "$n"; else no "$n"; fi; }
# refused NAME PATTERN COMMAND...: the command fails and says why
refused() { n=$1 p=$2; shift 2; if timeout 90 "$@" > "$T/out" 2>&1; then no "$n (it worked)"; elif grep -qE -- "$p" "$T/out"; then ok "$n"; else no "$n"; fi; }
# until_ NAME PATTERN COMMAND...: the output matches within 60 s
until_() { n=$1 p=$2; shift 2; for _ in $(seq 300); do timeout 20 "$@" > "$T/out" 2>&1; grep -qE -- "$p" "$T/out" && { ok "$n"; return; }; sleep 0.2; done; no "$n"; }
# finish: the count as the last line; fails when anything failed
finish() { rm -rf "$T"; echo "$passed passed, $failed failed"; [ $failed = 0 ]; }
