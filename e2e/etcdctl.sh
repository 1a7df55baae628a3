#!/bin/bash
# etcdctl.sh [WORKDIR]: runs the same etcdctl commands against a real etcd and against the store's etcd interface, side
# by side, and compares what they print and how they end. Ids, ports, sizes and times are made equal first. A difference
# must be listed here with its reason (`differs`); one that is listed and is none any more fails as well.
# SHIM: the program that serves a database (cargo build -p storage --example etcd). KIT_WORK/bin: etcd, etcdctl and etcdutl
# (e2e/kit/build-tools.sh tools).
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
kit=${KIT_WORK:-/var/tmp/k8s-kit}/bin
shim=${SHIM:-$here/../target/debug/examples/etcd}
work=${1:-$(mktemp -d)}
mkdir -p "$work"
real=127.0.0.1:${REAL_PORT:-23790} peer=127.0.0.1:$((${REAL_PORT:-23790} + 1)) ours=127.0.0.1:${SHIM_PORT:-23792}
mirror=127.0.0.1:$((${REAL_PORT:-23790} + 4)) mirror_peer=127.0.0.1:$((${REAL_PORT:-23790} + 5))
pids=() failed=0 compared=0 listed=0
declare -A lease

finish() { for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null && wait "$pid" 2>/dev/null; done; }
trap finish EXIT

start_etcd() { # NAME CLIENT PEER
  "$kit/etcd" --name "$1" --data-dir "$work/$1" --listen-client-urls "http://$2" --advertise-client-urls "http://$2" \
    --listen-peer-urls "http://$3" --initial-advertise-peer-urls "http://$3" --initial-cluster "$1=http://$3" \
    --log-level error >"$work/$1.log" 2>&1 &
  pids+=($!)
}
start_etcd real "$real" "$peer"
start_etcd mirror "$mirror" "$mirror_peer"
"$shim" "$work/ours.db" "$ours" >"$work/ours.log" 2>&1 &
pids+=($!)
ready() { for _ in $(seq 150); do "$kit/etcdctl" --endpoints "$1" --command-timeout=1s get x >/dev/null 2>&1 && return; sleep 0.2; done
  echo "nothing answers at $1"; exit 1; }
ready "$real"; ready "$ours"; ready "$mirror"

# What is different by nature: ids, sizes, hashes, times, addresses, patch versions.
normalise() {
  sed -E -e "s/$real|$ours/ENDPOINT/g" -e 's/\b[0-9a-f]{13,16}\b/ID/g' \
    -e 's/"(cluster_id|member_id|leader|ID|dbSize|dbSizeInUse|raftIndex|raftAppliedIndex|raft_term|raftTerm|lease|id)":[0-9]+/"\1":N/g' \
    -e 's/^"(ClusterID|MemberID|Leader|ID|DBSize|DBSizeInUse|RaftIndex|RaftAppliedIndex|RaftTerm|Lease|ClientURL|Name|PeerURL|MemberID)" : .*/"\1" : N/' \
    -e 's/took = [0-9.µmns]+/took = T/' -e 's/"took":"[^"]*"/"took":"T"/' -e 's/took [0-9.]+[µmn]?s/took T/g' \
    -e 's/\b3\.6\.[0-9]+\b/3.6.N/g' -e 's/remaining\([0-9]+s\)/remaining(T)/' -e 's/"ttl":[0-9]+/"ttl":N/' \
    -e 's/\b[0-9.]+ [kM]?B\b/SIZE/g' -e 's/larger than max \([0-9]+ /larger than max (N /' -e 's/^"TTL" : [0-9]+/"TTL" : N/' -e 's/"ts":"[^"]*"/"ts":"T"/' -e 's/"logger":"[^"]*",?//' -e 's/Finished.*/Finished/' \
    -e 's/0x[0-9a-f]+/ADDRESS/g' -e "s#$work/(real|ours).files#DIR#g" -e 's/^"Took" : .*/"Took" : T/' \
    -e 's/[0-9.]+[µmn]s \|/T |/' -e 's/, [0-9]+%, (.*, 2), [0-9]+, [0-9]+,/, P%, \1, I, I,/' \
    -e '/^\| (http:..)?ENDPOINT .*%/{s/ [0-9]+% / P% /;s/ +/ /g;s/ [0-9]+ \| [0-9]+ \| [0-9]+ \|/ I | I | I |/}' -e '/^[|+].*(TOOK|ENDPOINT|-----)/{s/ +/ /g;s/-+/-/g}'
}
# A command on one side: @L@ is that side's lease, @DIR@ a folder of its own. IN is its input.
run() { # SIDE ENDPOINT ARGS...
  local side=$1 endpoint=$2 args=(); shift 2
  mkdir -p "$work/$side.files"
  for arg in "$@"; do arg=${arg//@L@/${lease[$side]:-0}}; args+=("${arg//@DIR@/$work/$side.files}"); done
  printf '%b' "${IN:-}" | timeout "${LIMIT:-20}" "$kit/etcdctl" --endpoints "$endpoint" --command-timeout=10s "${args[@]}" \
    >"$work/$side.out" 2>"$work/$side.err"
  echo "exit $?" >>"$work/$side.out"
  # The client's own log lines name addresses and times; what it says in the end counts.
  { cat "$work/$side.out"; grep -v '^{"level"' "$work/$side.err"; } | normalise >"$work/$side.text"
}
pair() { run real "$real" "$@"; run ours "$ours" "$@"; compared=$((compared + 1)); }
same() {
  pair "$@"
  cmp -s "$work/real.text" "$work/ours.text" && return
  echo "DIFFERENT: etcdctl $*"; diff <(cat "$work/real.text") <(cat "$work/ours.text") | sed 's/^/    /'
  failed=$((failed + 1))
}
differs() { # REASON ARGS...
  local reason=$1; shift
  pair "$@"; listed=$((listed + 1))
  if cmp -s "$work/real.text" "$work/ours.text"; then
    echo "NO LONGER DIFFERENT: etcdctl $* ($reason)"; failed=$((failed + 1))
  else
    echo "differs: etcdctl $*: $reason"
  fi
}
grant() { # TTL: a lease on each side
  for side in real ours; do
    local endpoint=$real; [ $side = ours ] && endpoint=$ours
    lease[$side]=$("$kit/etcdctl" --endpoints "$endpoint" lease grant "$1" | awk '{print $2}')
  done
}
formats() { for f in simple fields json table protobuf; do [ "$f" = protobuf ] && continue; same "$@" -w "$f"; done; }

# --- put, get, del -----------------------------------------------------------------------------------------------------
same get a; same get a -w json; same get "" ; same get "" --prefix
same put a 1; same put a 2 --prev-kv; IN='from input' same put b; same put "" x
for f in simple fields json table; do same put "f-$f" v -w $f; same put "f-$f" w --prev-kv -w $f; done
same put c; same put a --ignore-value; same put none --ignore-value; same put a 3 --ignore-value
same put a 4 --ignore-lease; same put none 1 --ignore-lease; same put a 1 --lease=7b
for k in k1 k2 k3 k30 k4; do same put $k "v-$k"; done
same put k2 again; same put k2 more; same put k30 a-first
formats get a; formats get k --prefix; formats get k1 k3; formats get none
same get k2 --from-key; same get k --prefix --limit 2; same get k --prefix --limit 2 -w json; same get k --prefix --limit 5 -w json
for by in CREATE KEY MODIFY VALUE VERSION; do for o in ASCEND DESCEND; do
  same get k --prefix --sort-by $by --order $o; same get k --prefix --sort-by $by --order $o --limit 2 -w json; done
  same get k --prefix --sort-by $by; same get k --prefix --sort-by $by --limit 3 --keys-only; done
same get k --prefix --sort-by NONSENSE; same get k --prefix --order NONSENSE
formats get k --prefix --keys-only; same get k --prefix --count-only; same get k --prefix --count-only -w json
same get k --prefix --count-only -w fields; same get k --prefix --print-value-only; same get k --prefix --consistency s
same get k2 --rev 12; same get k2 --rev 17 -w json; same get k --prefix --rev 15; same get k2 --rev 9999; same get k --prefix --rev 15 --limit 1 -w json
for n in 0 10 18 20 21; do same get k --prefix --min-mod-rev $n; same get k --prefix --max-mod-rev $n; same get k --prefix --min-create-rev $n
  same get k --prefix --max-create-rev $n -w json; same get k --prefix --min-mod-rev $n --max-mod-rev 20 --limit 1 -w json; done
same get k --prefix --hex; same get k1 k3 --prefix; same get; same get a --rev -1
formats del f-simple; same del f-json --prev-kv -w json; same del f-fields --prev-kv -w fields; same del f-table --prev-kv
same del none; same del none -w json; same del k1 k3 --prev-kv; same del k --prefix; same put z 1; same put y 1; same del y --from-key
same put r1 1; same put r2 2; same put r3 3; same put r4 4; same get r2 --from-key --limit 2 --keys-only; same get r --prefix --consistency l --keys-only
same get r1 --hex -w json; same get r --prefix --consistency x; same get r --prefix --sort-by VERSION --order DESCEND --keys-only --limit 1 -w fields
same get r1 --max-recv-bytes 10; same put r1 12345678901234567890 --max-request-bytes 5; same get r2 r4 --from-key; same get r --prefix --rev 5 --keys-only
same del r1 r3 --range; same del r3 --range; same del r3 --from-key --prev-kv -w json
same del ""; same del "" --prefix -w json; same get "" --prefix; same del

# --- txn ---------------------------------------------------------------------------------------------------------------
IN='\nput a 1\n\n\n' same txn
IN='value("a") = "1"\n\nput a 2\nget a\n\nput a 3\n\n' same txn
IN='value("a") = "1"\n\nput a 2\nget a\n\nput b 3\nget b\ndel a\nget a\n\n' same txn -w json
for t in 'mod("a") > "1"' 'mod("b") = "0"' 'create("b") < "100"' 'create("a") = "0"' 'ver("b") = "1"' 'version("b") = "1"' 'ver("none") = "0"' \
  'value("none") = ""' 'value("none") != "x"' 'value("b") > "1"' 'value("b") < "1"' 'lease("b") = "0"' 'lease("none") = "0"' 'mod("b") != "1"' \
  'nonsense("a") = "1"' 'val("b") = "3"'; do IN="$t\n\nget b\n\nget none\n\n" same txn; IN="$t\n\nget b\n\nget none\n\n" same txn -w json; done
IN='\nput a 1\nput a 2\n\n\n' same txn; IN='\nput a 1\ndel a\n\n\n' same txn; IN='\ndel a\ndel a\n\n\n' same txn
IN='\nput d 1\nget d\ndel d1 d9 --prev-kv\nput d5x 2\n\n\n' same txn; IN='\nput p1 1\nput p2 1 --prev-kv\nget p --prefix\ndel b --prev-kv\nget b\n\n\n' same txn -w json
IN='\nput p1 1\nput p2 1 --prev-kv\nget p --prefix\ndel q --prev-kv\n\n\n' same txn -w fields
IN='\nget p --prefix --rev 999\n\n\n' same txn; IN='\nput none --ignore-value\n\n\n' same txn; IN='\nput p1 --ignore-value\n\n\n' same txn
IN='\nput p1 x --lease=123\n\n\n' same txn; IN='\nnonsense\n\n\n' same txn; IN='\n\n\n' same txn; IN='\nget p1\n\n\n' same txn -w json
many='\n'; for i in $(seq 128); do many+="put m$i x\n"; done; IN="$many\n\n" same txn; IN="${many}put m129 x\n\n\n" same txn
head -c 1600000 /dev/zero | tr '\0' x >"$work/large"
large() { local side endpoint; for side in real ours; do endpoint=$real; [ $side = ours ] && endpoint=$ours
  "$kit/etcdctl" --endpoints "$endpoint" --command-timeout=10s put large <"$work/$1" 2>&1 | grep -v '^{"level"' | normalise >"$work/$side.text"; done
  compared=$((compared + 1)); cmp -s "$work/real.text" "$work/ours.text" || { echo "DIFFERENT: put of $1"; diff "$work/real.text" "$work/ours.text"; failed=$((failed + 1)); }; }
large large; head -c 1572800 "$work/large" >"$work/fits"; large fits; head -c 2200000 /dev/zero | tr '\0' x >"$work/huge"; large huge

# Stores with the same history have the same hash; later there are leases in it, whose ids differ.
formats endpoint hashkv; same endpoint hashkv --rev 99999; same endpoint hashkv --rev 10; same endpoint hashkv --rev 35 -w json

# --- lease -------------------------------------------------------------------------------------------------------------
formats lease grant 100; same lease grant 9000000001; same lease grant x; same lease grant
grant 300
formats lease timetolive @L@; formats lease timetolive @L@ --keys; same put l1 v --lease=@L@
formats lease timetolive @L@ --keys # with one key: etcd lists several in an order of chance
same put l2 v --lease=@L@; same put l2 w --ignore-lease; formats get l --prefix; IN='lease("l1") != "0"\n\nget l1\n\n\n' same txn
same put l2 free; same lease timetolive @L@ --keys; formats lease keep-alive @L@ --once; same lease keep-alive 7b7b --once
formats lease timetolive 7b7b; same lease timetolive 7b7b --keys; same lease list; same lease list -w json; same lease list -w fields
same watch l1 --rev 5 -- true
formats lease revoke 7b7b; same lease revoke @L@; same lease revoke @L@; same get l --prefix -w json; same lease revoke zz
same lease grant 0; same lease grant -1 # after the lists: both end within seconds, each side in its own time
grant 1; same put gone 1 --lease=@L@; same put gone2 1 --lease=@L@; sleep 6; same get gone --prefix -w json; same lease timetolive @L@

# --- watch: history, then what comes ------------------------------------------------------------------------------------
LIMIT=3
same watch a --rev 2; same watch "" --prefix --rev 2; same watch p --prefix --rev 30 --prev-kv; same watch k1 k3 --rev 5; same watch k2 --rev 5 -w json
same watch k2 --rev 5 -w fields; same watch "" --prefix --rev 5 -w json; same watch gone --prefix --rev 5 --prev-kv -w json; same watch a --rev 2 --progress-notify
# Typed commands end with their input, so the input stays open for a while.
typed() { local side endpoint; for side in real ours; do endpoint=$real; [ $side = ours ] && endpoint=$ours
  { printf '%b' "$1"; sleep 2; } | timeout 5 "$kit/etcdctl" --endpoints "$endpoint" watch -i ${2:-} 2>&1 | grep -v '^{"level"' | normalise >"$work/$side.text"; done
  compared=$((compared + 1)); cmp -s "$work/real.text" "$work/ours.text" || { echo "DIFFERENT: watch -i"; diff "$work/real.text" "$work/ours.text"; failed=$((failed + 1)); }; }
typed 'watch a --rev 2\n'; typed 'watch b --rev 2 --prev-kv\n'; typed 'watch a\nprogress\n' '-w json'; typed 'watch a --rev 12\n'
typed 'watch a --rev 2 --progress-notify\n' '-w fields'; typed 'watch nonsense nonsense nonsense\n'; typed 'nonsense\n'
ETCDCTL_WATCH_KEY=k1 ETCDCTL_WATCH_RANGE_END=k3 same watch --rev 5; ETCDCTL_WATCH_KEY=k1 same watch k2 --rev 5; same watch k1 --rev 5 --hex -w json
same watch; same watch a b c; same watch z a; same watch a --rev 100000; same watch b --rev 2 -- sh -c 'echo $ETCD_WATCH_REVISION $ETCD_WATCH_EVENT_TYPE'
unset LIMIT

# --- compaction, maintenance ---------------------------------------------------------------------------------------------
same compaction 99999; same compaction -1; same compaction x; same compaction; same compaction 20; same compaction 20; same compaction 10
same compaction 30 --physical; formats get k2 --rev 25; same get a --rev 30 -w json; same get a --rev 29; IN='\nget a --rev 29\n\n\n' same txn
LIMIT=3 same watch a --rev 12; LIMIT=3 same watch a --rev 12 -w json; LIMIT=3 same watch "" --prefix --rev 30
typed 'watch a --rev 3\n'
same defrag; same defrag --cluster; formats alarm list; same alarm disarm; same alarm disarm -w fields; formats move-leader 123
formats endpoint health; same endpoint hashkv --cluster --rev 38; same endpoint health --cluster; formats endpoint status; same endpoint status --cluster -w table; same endpoint hashkv --rev 99999; same endpoint hashkv --rev 29
same endpoint hashkv --rev 38; same endpoint hashkv --rev 38 -w table
differs "etcd answers with a hash that it remembers from its last compactions, this store reads what is there" endpoint hashkv
same move-leader 123; same move-leader; same downgrade validate 3.5; same downgrade validate 3.6; same downgrade validate 3.4; same downgrade validate x; same downgrade cancel
same downgrade validate; same downgrade enable 3.3; formats downgrade validate 3.5; same downgrade enable x; same downgrade enable
differs "this store has no layout of an older etcd to go back to" downgrade enable 3.5; same downgrade cancel; same auth status; same auth status -w json
same snapshot save @DIR@/snap; same snapshot save

# --- snapshots: a real etcd goes on from ours, with all that the store has ------------------------------------------------
# carried ENDPOINT NAME: takes a snapshot there, restores it with etcdutl, starts an etcd on it and compares what both have to say.
carried() {
  local from=$1 name=$2 restored=127.0.0.1:$((${REAL_PORT:-23790} + 6)) restored_peer=127.0.0.1:$((${REAL_PORT:-23790} + 7)) pid newest oldest bad=0
  "$kit/etcdctl" --endpoints "$from" snapshot save "$work/$name.snapshot" >/dev/null 2>&1 || { echo "no snapshot of $name"; failed=$((failed + 1)); return; }
  "$kit/etcdutl" snapshot status "$work/$name.snapshot" -w json >"$work/$name.status" 2>&1 || { echo "etcdutl does not read the snapshot of $name:"; cat "$work/$name.status"; bad=1; }
  "$kit/etcdutl" snapshot restore "$work/$name.snapshot" --data-dir "$work/$name.restored" --name "$name" --initial-cluster "$name=http://$restored_peer" \
    --initial-advertise-peer-urls "http://$restored_peer" >"$work/$name.restore" 2>&1 || { echo "etcdutl does not restore the snapshot of $name:"; tail -3 "$work/$name.restore"; bad=1; }
  "$kit/etcd" --name "$name" --data-dir "$work/$name.restored" --listen-client-urls "http://$restored" --advertise-client-urls "http://$restored" \
    --listen-peer-urls "http://$restored_peer" --initial-advertise-peer-urls "http://$restored_peer" --initial-cluster "$name=http://$restored_peer" \
    --log-level error >"$work/$name.log" 2>&1 & pid=$!
  ready "$restored"
  at() { timeout 10 "$kit/etcdctl" --endpoints "$@" 2>&1 | grep -v '^{"level"' | sed -E -e "s/$from|$restored/ENDPOINT/g" -e 's/"(cluster_id|member_id|raft_term)":[0-9]+,?//g' \
    -e 's/remaining\([0-9]+s\)/remaining(T)/' -e 's#"/d/leased" "/e/leased"#LEASED#'; }
  newest=$("$kit/etcdctl" --endpoints "$from" get x -w json | grep -o '"revision":[0-9]*' | cut -d: -f2)
  oldest=$("$kit/etcdctl" --endpoints "$from" endpoint hashkv -w json | grep -o '"compact_revision":[0-9]*' | cut -d: -f2)
  grep -q "\"revision\":$newest," "$work/$name.status" || [ "$name" != history ] || { echo "the snapshot is at another revision than $newest: $(cat "$work/$name.status")"; bad=1; }
  local questions=('get "" --prefix -w json' "get '' --prefix -w json --rev $((newest - 3))" "get '' --prefix --rev 1" 'lease list')
  # What was in the memory of a store that was killed has no history any more; etcd knows that of all keys or of none.
  [ "$name" = killed ] || questions+=("get '' --prefix -w json --rev ${oldest:-1}" "endpoint hashkv --rev $newest" "endpoint hashkv --rev $((newest - 2))")
  for question in "${questions[@]}"; do
    diff <(eval "at $from $question") <(eval "at $restored $question") >"$work/$name.diff" || { echo "DIFFERENT after a restore: etcdctl $question"; head -5 "$work/$name.diff" | cut -c1-300; bad=1; }
    compared=$((compared + 1))
  done
  events() { timeout 5 "$kit/etcdctl" --endpoints "$1" watch "" --prefix --rev "$((oldest > newest - 40 ? oldest : newest - 40))" 2>/dev/null | cut -c1-100; }
  [ "$name" = killed ] || diff <(events "$from") <(events "$restored") >"$work/$name.diff" || { echo "DIFFERENT after a restore: events"; head -5 "$work/$name.diff"; bad=1; }
  # It can be written to, and emptied: the pages are as bbolt wants them.
  after() { local what=$1; shift; "$kit/etcdctl" --endpoints "$restored" "$@" >"$work/$name.after" 2>&1 || { echo "$what of the restored $name failed:"; tail -3 "$work/$name.after"; bad=1; }; }
  { echo; for n in $(seq 120); do echo "put more$n $n"; done; echo; echo; } >"$work/puts"
  after "a transaction of 120 puts" txn <"$work/puts"; after "a deletion of everything" del "" --prefix
  after "a compaction" compaction --physical "$((newest + 2))"; after "a defragmentation" defrag
  kill "$pid"; wait "$pid" 2>/dev/null
  if grep -m 3 -E '"level":"(fatal|panic)"|^panic' "$work/$name.log"; then echo "the etcd on the restored $name died of this"; bad=1; fi
  if [ $bad = 1 ]; then echo "DIFFERENT: etcd does not go on from the snapshot of $name as the store does"; failed=$((failed + 1)); return; fi
  echo "restored: a real etcd goes on from $name at revision $newest"
}
carried "$ours" history

# The same of a store with keys in memory that was killed: revisions were skipped, and nothing is left of the newest.
crashed=127.0.0.1:$((${SHIM_PORT:-23792} + 10)); "$shim" "$work/crashed.db" "$crashed" /e/ >"$work/crashed.log" 2>&1 & crash=$!
ready "$crashed"; on() { "$kit/etcdctl" --endpoints "$crashed" "$@" >/dev/null; }
for n in $(seq 20); do on put "/d/$((n % 6))" "$n"; on put "/e/$((n % 4))" "$n"; done; on del /d/3; on del /e/1; on compaction 25
id=$("$kit/etcdctl" --endpoints "$crashed" lease grant 600 | awk '{print $2}'); on put /d/leased 1 --lease="$id"; on put /e/leased 1 --lease="$id"
carried "$crashed" memory
kill -9 $crash; wait $crash 2>/dev/null; "$shim" "$work/crashed.db" "$crashed" /e/ >"$work/crashed.log" 2>&1 & pids+=($!)
ready "$crashed"; carried "$crashed" killed

# --- lock, elect, mirror -------------------------------------------------------------------------------------------------
same lock mine true; same lock mine sh -c 'exit 3'; same lock mine -- sh -c 'echo "$ETCD_LOCK_KEY $ETCD_LOCK_REV"'; same lock mine --ttl 5 true; LIMIT=3 same lock other
same lock; LIMIT=3 same elect e me; LIMIT=3 same elect e; LIMIT=3 same elect -l e; same elect; same get e/ --prefix --count-only
same lock; same lock mine --ttl x; LIMIT=3 same elect e me --listen
LIMIT=4 same make-mirror "$mirror"; LIMIT=4 same make-mirror "$mirror" --max-txn-ops 2 --rev 35 --prefix p --no-dest-prefix; LIMIT=4 same make-mirror "$mirror" --prefix p --dest-prefix q; same make-mirror
for side in real ours; do "$kit/etcdctl" --endpoints "$mirror" get q --prefix --print-value-only 2>/dev/null | sort | md5sum; done | uniq | wc -l | grep -qx 1 ||
  { echo "the mirrors differ"; failed=$((failed + 1)); }
# And from a real etcd: into another one, and into ours.
for n in $(seq 40); do "$kit/etcdctl" --endpoints "$mirror" put "back/$n" "$n" >/dev/null; done
for side in real ours; do endpoint=$real; [ $side = ours ] && endpoint=$ours
  timeout 4 "$kit/etcdctl" --endpoints "$mirror" make-mirror "$endpoint" --prefix back/ --dest-prefix here/ >/dev/null 2>&1 & sleep 2
  "$kit/etcdctl" --endpoints "$mirror" del back/7 >/dev/null; "$kit/etcdctl" --endpoints "$mirror" put back/8 new >/dev/null; wait $!; "$kit/etcdctl" --endpoints "$mirror" put back/7 7 >/dev/null; done
same get here/ --prefix; same version; same help; same completion bash; same nonsense; one="one member that has no peers and its own name"
differs "$one" member list; differs "$one" member list -w json

# --- etcd's client library, straight and through etcd's gRPC proxy ---------------------------------------------------------
proxy=127.0.0.1:$((${SHIM_PORT:-23792} + 11)); "$kit/etcd" grpc-proxy start --endpoints "$ours" --listen-addr "$proxy" --data-dir "$work/proxy" >"$work/proxy.log" 2>&1 & pids+=($!)
if (cd "$here/etcd-clients" && go build -o "$work/clients" .); then
  ready "$proxy"
  for endpoint in "$real" "$ours" "$proxy"; do
    compared=$((compared + 1)); timeout 150 "$work/clients" "$endpoint" >"$work/clients.out" 2>&1 && echo "clients on $endpoint: $(grep -c '^ok' "$work/clients.out") of them" && continue
    echo "DIFFERENT: clients on $endpoint"; grep -v '^ok\|^{' "$work/clients.out"; failed=$((failed + 1))
  done
  run real "$real" get x; run ours "$proxy" put through proxy; run ours "$proxy" get through; grep -q '^proxy$' "$work/ours.out" || { echo "nothing comes through the proxy"; failed=$((failed + 1)); }
else
  echo "the clients do not build"; failed=$((failed + 1))
fi

# --- metrics: the names that a member's dashboards use ----------------------------------------------------------------------
# Not told: what Go, raft, peers, the v2 store and bbolt's inside have; and what would be counted for its own sake.
none='^(go_|promhttp_|os_fd|process_network|process_virtual_memory_max|etcd_network_known_peers|etcd_snap|etcd_debugging_(snap|store|auth|disk|server)|etcd_grpc_proxy|etcd_disk_(wal_write|defrag|backend_(defrag|snapshot))'
none+='|etcd_server_(apply_dur|client_req|feature|go_version|health|heartbeat|learner_promote|read_indexes|slow_|snapshot_apply|range_dur)|etcd_mvcc_(hash|db_open)'
none+='|etcd_debugging_mvcc_index_comp)'
for side in real ours; do endpoint=$real; [ $side = ours ] && endpoint=$ours; curl -s "http://$endpoint/metrics" | awk '/^# TYPE/ {print $3}' | grep -vE "$none" | sort >"$work/$side.names"; done
compared=$((compared + 1)); missing=$(comm -23 "$work/real.names" "$work/ours.names"); [ -z "$missing" ] || { echo "DIFFERENT: /metrics has no" $missing; failed=$((failed + 1)); }
# Three minutes; what is said in the end counts, not the figures (less than nothing, if a process gave memory back) nor the bar of progress.
verdict() { local side endpoint; for side in real ours; do endpoint=$real; [ $side = ours ] && endpoint=$ours
  timeout 200 "$kit/etcdctl" --endpoints "$endpoint" "$@" 2>&1 | tr '\r' '\n' | grep -oE '(PASS|FAIL|ERROR|Error).*' | sed -E 's/-?[0-9.]+/N/g' >"$work/$side.text"; done
  compared=$((compared + 1)); cmp -s "$work/real.text" "$work/ours.text" || { echo "DIFFERENT: etcdctl $*"; diff "$work/real.text" "$work/ours.text"; failed=$((failed + 1)); }; }
if [ -n "${LONG:-}" ]; then
  verdict check perf --load s; verdict check perf --load s --auto-compact --auto-defrag --prefix /mine/
  verdict check datascale --load s; verdict check datascale --load s --auto-compact --auto-defrag --prefix /mine/
fi

echo "$compared commands compared, $listed differ with a reason, $failed differ without"
[ $failed = 0 ]
