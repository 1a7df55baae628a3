#!/bin/bash
# members.sh: three skiff servers that run their own etcd members, each in a network namespace: joining, votes, a member that outlives its
# server, fail-over to members that joined later, tokens and encryption keys that are shared, removal, and one plain sentence for each
# wrong setting. Needs root, the kit's etcd, and BIN (the skiff binary). Everything lies below DIR. Ends with 'N passed, N failed'.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd); . "$here/kit/kit.env"; . "$here/check.sh"
DIR=${DIR:-/var/tmp/skiff-members}; BIN=${BIN:-$here/../target-link/debug/skiff}; ETCD=${ETCD:-$KIT_WORK/bin/etcd}
P=${P:-skm}; NET=10.213.78; PLACES='31 32 33 34'; . "$here/cluster/net.sh"
[ -x "$ETCD" ] || { echo "skipped: no etcd at $ETCD; build it with e2e/kit/build-tools.sh tools"; exit 0; }
members() { cat "$DIR"/s*/etcd.pid 2>/dev/null; }
cleanup() { for p in $(members); do grep -qs "data-dir=$DIR/" "/proc/$p/cmdline" && kill -9 "$p"; done; net_down; rm -rf "${DIR:?}" "${T:?}"; }
cleanup; trap cleanup EXIT
mkdir -p "$DIR" "$T"
net_up
TOKEN=members-test
declare -A more=([31]=--cluster-init [32]="--server https://$NET.31:6443" [33]="--server https://$NET.31:6443")
command_of() { echo "$BIN server --config /dev/null --data-dir $DIR/s$1 --node-name s$1 --node-ip $NET.$1 --bridge ${P}b$1 --etcd-binary $ETCD --token $TOKEN --disable-agent --disable-kube-proxy"; }
skiff() { exec ip netns exec "$P$1" $(command_of "$1") ${more[$1]} >> "$DIR/s$1.log" 2>&1 < /dev/null; }
status() { inside "$1" "$BIN" status --data-dir "$DIR/s$1" 2>&1; }
secrets() { inside "$1" "$BIN" secrets-encrypt "$2" --data-dir "$DIR/s$1" 2>&1; }
etcdctl() { inside 31 "$KIT_WORK/bin/etcdctl" --endpoints https://127.0.0.1:2379 --cacert "$DIR/s31/tls/etcd/ca.crt" --cert "$DIR/s31/tls/etcd/client.crt" --key "$DIR/s31/tls/etcd/client.key" "$@"; }
log() { sed 's/\x1b\[[0-9;]*m//g' "$DIR/s$1.log"; }
export -f inside on status secrets etcdctl log; export P NET DIR BIN KB KIT_WORK
f=(bash -c '"$@"' _) # for functions, where a command is expected

run skiff 31; up 31
check 'the first member leads' 's31: leader, version 3' "${f[@]}" status 31
check 'a write before others join' created "${f[@]}" on 31 create configmap before --from-literal=a=1
run skiff 32; run skiff 33; up 32; up 33 # at once, though etcd takes one at a time
until_ 'three members, all with a vote' '^3 3$' bash -c "echo \$(status 33 | grep -cE 's3[123]: (leader|follower)') \$(status 33 | grep -c '^etcd')"
check 'what was written is there' '"a":"1"' "${f[@]}" on 33 get configmap before -o 'jsonpath={.data}'
until_ 'the first server knows the members that joined later' "$NET.31:2379,https://$NET.32:2379,https://$NET.33:2379" cat "$DIR/s31/etcd.endpoints"

# A killed server.
old=$(cat "$DIR/s32/etcd.pid"); end 32
check 'the member of a killed server goes on voting' 's32: (leader|follower)' "${f[@]}" status 31
run skiff 32; up 32
check 'the next start takes it over' "took over the etcd member.*pid=$old|pid=$old.*took over" "${f[@]}" log 32
check 'and does not start another' "^$old$" cat "$DIR/s32/etcd.pid"
# Its member dies: the server goes on with those that joined later, and starts it again.
kill -9 "$(cat "$DIR/s31/etcd.pid")"
check 'a server without its member goes on' created "${f[@]}" on 31 create configmap failover --from-literal=a=1
until_ 'and starts it again' 's31: (leader|follower)' "${f[@]}" status 31

# What the servers share.
T1=$(on 31 create token default)
check 'a token of one server is good on another' 'system:serviceaccount:default:default' "$KB/kubectl" --kubeconfig /dev/null --server "https://$NET.32:6443" --certificate-authority "$DIR/s31/tls/ca.crt" --token "$T1" auth whoami
check 'a Secret, plain' created "${f[@]}" on 31 create secret generic s --from-literal=a=secret
check 'is plain in the datastore' '"a":"c2VjcmV0"' "${f[@]}" etcdctl get /registry/secrets/default/s --print-value-only
kill "${pid[32]}"; wait "${pid[32]}" 2>/dev/null; more[32]+=" --secrets-encryption"; run skiff 32; up 32
check 'a Secret by a server that was not asked to encrypt' created "${f[@]}" on 33 create secret generic t --from-literal=a=secret
check 'is encrypted in the datastore' '^k8s:enc:secretbox:v1:key' "${f[@]}" etcdctl get /registry/secrets/default/t --print-value-only
for n in 31 32 33; do check "server $n reads both" '^s .*|^t ' "${f[@]}" on $n get secret s t --no-headers; done
check 'a third server gives everybody a new key' 'a new key is in use; [1-9]' "${f[@]}" secrets 33 rotate
check 'the plain one is encrypted too' '^k8s:enc:secretbox:v1:key' "${f[@]}" etcdctl get /registry/secrets/default/s --print-value-only
check 'all are as they should be' '^2 values are encrypted as they should be, 0 are to be written anew, 0 cannot' "${f[@]}" secrets 31 status
for n in 31 32 33; do check "server $n reads with it" 'c2VjcmV0' "${f[@]}" on $n get secret s -o 'jsonpath={.data.a}'; done

# Wrong settings. wrong NAME PATTERN ARGUMENTS: a fourth server that does not start.
wrong() { n=$1 p=$2; shift 2; rm -rf "$DIR/s34"; refused "$n" "$p" timeout 60 ip netns exec "${P}34" "$@"; }
base() { sed "s/--token $TOKEN//" <<< "$(command_of 34)"; }
wrong 'joining with a wrong token' 'the token is not the one' $(base) --token guess --server "https://$NET.31:6443"
wrong 'joining without a token' 'needs the --token of the first server' $(base) --server "https://$NET.31:6443"
ALL=https://$NET.31:2379,https://$NET.32:2379,https://$NET.33:2379
wrong 'an authority that did not sign the members' 'certificate' $(base) --token $TOKEN --datastore-endpoint "$ALL" --datastore-cafile "$DIR/s31/tls/ca.crt"
wrong 'no certificate of its own' 'asks for a client certificate' $(base) --token $TOKEN --datastore-endpoint "$ALL" --datastore-cafile "$DIR/s31/tls/etcd/ca.crt"
C="--datastore-cafile $DIR/s31/tls/etcd/ca.crt --datastore-certfile $DIR/s31/tls/etcd/client.crt --datastore-keyfile $DIR/s31/tls/etcd/client.key"
wrong 'a wrong token for the datastore' 'the token is not the one' $(base) --token guess --datastore-endpoint "$ALL" $C
wrong 'no token' 'give every server the same --token' $(base) --datastore-endpoint "$ALL" $C
rm -rf "$DIR/s34"; timeout 25 ip netns exec "${P}34" $(base) --datastore-endpoint "https://$NET.99:2379" $C > "$T/waiting" 2>&1
check 'endpoints that nobody serves' "waiting for the datastore.*cannot reach https://$NET.99:2379" sed 's/\x1b\[[0-9;]*m//g' "$T/waiting"
"$BIN" server --config /dev/null --data-dir "$DIR/s31" --disable-agent > "$T/second" 2>&1 & second=$!
wait $second
check 'a second server on the same folder' '^1 .*another skiff uses' sh -c "echo \$(wc -l < '$T/second') \$(cat '$T/second')"

# Removal.
check 'a member is removed' 'removed the etcd member s33' "${f[@]}" inside 31 "$BIN" datastore remove-member s33 --data-dir "$DIR/s31"
until_ 'two members are left' '^2$' bash -c "status 31 | grep -c '^etcd'"
until_ 'the others know' "^https://$NET.31:2379,https://$NET.32:2379$" cat "$DIR/s32/etcd.endpoints"
until_ 'its server says what to do' 'was removed from the cluster.*start with --server' "${f[@]}" log 33
check 'its server goes on with the others' created "${f[@]}" on 33 create configmap removed --from-literal=a=1
check 'status of that server names the others' 's32: (leader|follower)' "${f[@]}" status 33

# An orderly stop takes the member along.
kill "${pid[33]}" "${pid[32]}"; wait "${pid[33]}" "${pid[32]}" 2>/dev/null
check 'an orderly stop stops the member' '^gone$' sh -c "kill -0 $old 2>/dev/null && echo there || echo gone"
finish
