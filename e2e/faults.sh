#!/bin/bash
# faults.sh DIR: bad input, and machines that lack something: each gets Kubernetes' error or one plain sentence with the fix, and nothing
# is lost. Starts its own servers below DIR, with their data on a small disk. Ends with 'N passed, N failed'.
set -u
here=$(cd "$(dirname "$0")" && pwd); . "$here/kit/kit.env"
DIR=$1; export NAME=${NAME:-fault} NET=${NET:-90} PORT=${PORT:-18490} KUBELET_PORT=${KUBELET_PORT:-18590} BIN=${BIN:-$here/../target-link/debug/skiff}
. "$here/check.sh"
K="$KB/kubectl --kubeconfig $DIR/data/admin.kubeconfig"; U=https://127.0.0.1:$PORT
over() { "$here/instance.sh" clean "$DIR" >/dev/null 2>&1; umount -l "$DIR/data/db" 2>/dev/null; rm -rf "$DIR"; }
over; trap over EXIT

# A machine without containerd: one sentence, before anything is started.
# A view of the files in which no containerd is, wherever it is installed.
without() { unshare -m bash -c 'for f in $(type -ap containerd) /usr{/local,}/{s,}bin/containerd; do [ ! -e $f ] || mount --bind /dev/null $f; done; exec "$@"' _ "$@"; }
export -f without
refused 'no containerd' 'apt-get install containerd' bash -c 'without "$@"' _ "$BIN" server --config /dev/null --data-dir "$DIR/bare" --https-listen-port "$PORT" --kubelet-port "$KUBELET_PORT" --node-name "$NAME" --bridge "$NAME"0
cp "$T/out" "$T/said"
check 'one sentence, and nothing was made' '^1 no$' sh -c "echo \$(wc -l < '$T/said') \$([ -e '$DIR/bare' ] && echo yes || echo no)"
refused 'a containerd that does not answer' 'cannot use containerd at /nowhere/containerd.sock' timeout 60 "$BIN" server --config /dev/null --data-dir "$DIR/bare" --https-listen-port "$PORT" --kubelet-port "$KUBELET_PORT" --node-name "$NAME" --bridge "$NAME"0 --containerd /nowhere/containerd.sock
refused 'a wrong flag' "unexpected argument '--no-such-flag'" "$BIN" server --no-such-flag
refused 'a wrong range' 'cluster-cidr' "$BIN" server --config /dev/null --data-dir "$DIR/bare" --cluster-cidr nonsense
printf 'https-listen-prt: 1\n' > "$T/config.yaml"
refused 'a wrong name in the file of settings' 'https-listen-prt' "$BIN" server --config "$T/config.yaml" --data-dir "$DIR/bare"

mkdir -p "$DIR/data/db"; mount -t tmpfs -o size=48m tmpfs "$DIR/data/db" # the database's disk
"$here/instance.sh" start "$DIR" > "$T/out" || { cat "$T/out"; exit 1; }
refused 'the port is taken' "$PORT.*in use|in use.*$PORT" "$BIN" server --config /dev/null --data-dir "$DIR/second" --https-listen-port "$PORT" --disable-agent
refused 'the data folder is taken' 'another skiff|in use|locked' "$BIN" server --config /dev/null --data-dir "$DIR/data" --https-listen-port 0 --disable-agent

# Requests that no kubectl would send.
pem() { grep -oE "$1: *\"?[A-Za-z0-9+/=]+" "$DIR/data/admin.kubeconfig" | head -1 | sed -E 's/.*: *"?//' | base64 -d; }
pem client-certificate-data > "$T/admin.crt"; pem client-key-data > "$T/admin.key"; pem certificate-authority-data > "$T/ca.crt"
ask() { curl -s --max-time 20 --cacert "$T/ca.crt" -w '\nHTTP %{http_code}\n' "$@"; }
admin() { ask --cert "$T/admin.crt" --key "$T/admin.key" "$@"; }
export T; export -f ask admin
status() { tr -d '\n ' < "$T/out"; }
# answers NAME CODE PATTERN COMMAND...: the status code and the text of the answer
answers() { n=$1 c=$2 p=$3; shift 3; "$@" > "$T/out" 2>&1; if grep -q "HTTP $c" "$T/out" && grep -qE -- "$p" "$T/out" && grep -q '"kind": *"Status"' "$T/out"; then ok "$n"; else no "$n"; fi; }
CM=$U/api/v1/namespaces/default/configmaps
answers 'a body that is not JSON' 400 '"reason": *"BadRequest"' admin -X POST -H 'Content-Type: application/json' -d '{"kind' $CM
answers 'a body that is not YAML' 400 '"reason": *"BadRequest"' admin -X POST -H 'Content-Type: application/yaml' --data-binary $'a: [1\nb: }' $CM
answers 'a body that is not protobuf' 400 '"reason": *"BadRequest"' admin -X POST -H 'Content-Type: application/vnd.kubernetes.protobuf' -d 'k8s nothing' $CM
answers 'a content type that is not served' 415 'the body of the request was in an unknown format' admin -X POST -H 'Content-Type: text/plain' -d 'x' $CM
answers 'a wrong type' 400 'cannot unmarshal|expected|into Go struct' admin -X POST -H 'Content-Type: application/json' -d '{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x"},"data":{"a":5}}' $CM
answers 'a wrong kind' 400 'does not match the expected|cannot be handled as a|no kind' admin -X POST -H 'Content-Type: application/json' -d '{"apiVersion":"v1","kind":"Secret","metadata":{"name":"x"}}' $CM
answers 'unknown fields, when asked to be strict' 400 'strict decoding error: unknown field' admin -X POST -H 'Content-Type: application/json' -d '{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x"},"dta":{}}' "$CM?fieldValidation=Strict"
head -c 3200000 /dev/zero | tr '\0' x | sed 's/^/{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x"},"data":{"a":"/; s/$/"}}/' > "$T/large"
answers 'a body above the limit' 413 'limit is 3145728' admin -X POST -H 'Content-Type: application/json' --data-binary "@$T/large" $CM
head -c 1200000 /dev/zero | tr '\0' x | sed 's/^/{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x"},"data":{"a":"/; s/$/"}}/' > "$T/large"
answers 'a ConfigMap above its limit' 422 'must have at most 1048576 bytes|Too long' admin -X POST -H 'Content-Type: application/json' --data-binary "@$T/large" $CM
check 'a path that is not there' '404 page not found' bash -c "admin $U/apis/nothing.example/v1/things"
answers 'a method that is not served' 405 'MethodNotAllowed|not supported' admin -X PUT -H 'Content-Type: application/json' -d '{}' $CM
answers 'a malformed continue token' 400 'continue key is not valid' admin "$CM?continue=nonsense&limit=1"
answers 'a malformed selector' 400 'unable to parse|couldn.t parse|invalid' admin "$CM?labelSelector=a%3D%3D%3Db"

# Credentials.
TOKEN=$($K create token default)
answers 'nobody' 403 'system:anonymous' ask $CM
answers 'a token of a service account without rights' 403 'system:serviceaccount:default:default' ask -H "Authorization: Bearer $TOKEN" $CM
answers 'a forged token' 401 Unauthorized ask -H "Authorization: Bearer ${TOKEN%?????}AAAAA" $CM
answers 'a token that is none' 401 Unauthorized ask -H 'Authorization: Bearer nonsense' $CM
claims() { # the claims of TOKEN, an hour past its time, signed with the server's own key
  python3 - "$TOKEN" "$DIR/data/tls/service-account.key" <<'P'
import base64, json, subprocess, sys
token, key = sys.argv[1:]
un = lambda s: base64.urlsafe_b64decode(s + '=' * (-len(s) % 4)); en = lambda b: base64.urlsafe_b64encode(b).rstrip(b'=').decode()
head, body, _ = token.split('.'); c = json.loads(un(body)); c['exp'] -= 7200; c['iat'] -= 7200; c['nbf'] -= 7200
text = f'{head}.{en(json.dumps(c).encode())}'
der = subprocess.run(['openssl', 'dgst', '-sha256', '-sign', key], input=text.encode(), capture_output=True, check=True).stdout
alg = json.loads(un(head))['alg']
if alg == 'ES256':
    at = 4; r = der[at:at + der[3]]; at += der[3] + 1; s = der[at + 1:at + 1 + der[at]]
    der = b''.join(int.from_bytes(x, 'big').to_bytes(32, 'big') for x in (r, s))
print(f'{text}.{en(der)}')
P
}
OLD=$(claims)
answers 'an expired token' 401 Unauthorized ask -H "Authorization: Bearer $OLD" $CM
openssl ecparam -name prime256v1 -genkey -noout -out "$T/own.key" 2>/dev/null
openssl req -x509 -new -key "$T/own.key" -subj /O=system:masters/CN=intruder -days 1 -out "$T/own.crt" 2>/dev/null
answers 'a certificate of another authority' 401 Unauthorized ask --cert "$T/own.crt" --key "$T/own.key" $CM
openssl req -new -key "$T/own.key" -subj /O=system:masters/CN=late 2>/dev/null |
  openssl x509 -req -CA "$DIR/data/tls/ca.crt" -CAkey "$DIR/data/tls/ca.key" -CAcreateserial -days 0 -out "$T/late.crt" -extfile <(echo extendedKeyUsage=clientAuth) 2>/dev/null
until_ 'an expired certificate' 'HTTP 401' bash -c "ask --cert $T/late.crt --key $T/own.key $CM" # from the second after its last
check 'no secret is in the log' '^0$' sh -c "grep -c -e '$TOKEN' -e '$OLD' '$DIR/log'; true"

# A full disk, then space again.
check 'a write before' created $K create cm before --from-literal=a=1
head -c 400000 /dev/urandom | base64 -w0 > "$T/blob"
count=0; while [ $count -lt 200 ] && timeout 30 $K create cm "fill-$count" --from-file=blob="$T/blob" > "$T/out" 2>&1; do count=$((count + 1)); done
if grep -qiE 'disk|space' "$T/out"; then ok "a full disk is told after $count writes"; else no "a full disk is told after $count writes"; fi
check 'reads go on' 'before' $K get cm before
check 'every acknowledged object is there' "^$count$" sh -c "$K get cm -o name | grep -c fill-"
mount -o remount,size=200m "$DIR/data/db"
until_ 'writes go on when space returns, without a restart' 'created|exists' $K create cm after --from-literal=a=1
"$here/instance.sh" stop "$DIR"; "$here/instance.sh" start "$DIR" > /dev/null
check 'nothing is lost over a restart' "^$((count + 2))$" sh -c "$K get cm -o name | grep -cE 'fill-|before|after'"
until_ 'the node is ready' ' Ready ' $K get nodes
finish
