#!/bin/bash
# metrics.sh [DIR]: the metrics of skiff's API server beside those of the kit's stock kube-apiserver with etcd after the same requests. A name
# that stock has and skiff lacks, or a label, must be listed in metrics-left-out.txt with its reason; what is listed and is there fails as well.
# BIN names the binary.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd); . "$here/kit/kit.env"; . "$here/pki.sh"
DIR=${1:-/var/tmp/skiff-metrics}; export NAME=${NAME:-metrics} NET=${NET:-94} PORT=${PORT:-18660} KUBELET_PORT=${KUBELET_PORT:-18670}
export BIN=${BIN:-$here/../target-link/debug/skiff}
pids=()
over() {
  trap - EXIT
  for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
  for pid in "${pids[@]}"; do for _ in $(seq 100); do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done; kill -9 "$pid" 2>/dev/null || true; done
  "$here/instance.sh" clean "$DIR/skiff" >/dev/null 2>&1 || true
  [ -n "${KEEP:-}" ] || rm -rf "$DIR"
}
over; trap over EXIT
mkdir -p "$DIR"; K=$KB/kubectl
# requests NAME KUBECONFIG: the same for both; leaves NAME.metrics
requests() {
  local k="$K --kubeconfig $2 --request-timeout=10s"
  export HOME=$DIR # kubectl's cache of discovery
  {
    set +e; $k get --raw /healthz; $k get --raw /livez?verbose; $k get --raw /version; $k api-resources; $k explain pods
    $k create namespace m; $k create configmap a -n m --from-literal=k=v; $k get configmap a -n m -o yaml; $k get configmaps -n m
    printf 'apiVersion: v1\nkind: ConfigMap\nmetadata: {name: b, namespace: m}\ndata: {k: v}\n' > "$DIR/b.yaml"
    $k apply -f "$DIR/b.yaml"; $k apply --server-side -f "$DIR/b.yaml" --force-conflicts; $k apply -f "$DIR/b.yaml" --dry-run=server
    $k label configmap a -n m x=y; $k patch configmap a -n m -p '{"data":{"k":"w"}}'; $k replace -f "$DIR/b.yaml"
    timeout 2 "$K" --kubeconfig "$2" get configmaps -n m --watch || true
    $k get configmaps -n m --chunk-size=1; $k get pods -A; $k get events -A; $k delete configmap b -n m; $k get configmap none -n m || true
    $k get pods --as nobody || true; $k get pods --token wrong --client-certificate= || true; $k auth can-i get pods --as nobody || true
    curl -sk "$(sed -n 's/.*server: *"*\([^"]*\)"*$/\1/p' "$2")/api" -H 'Authorization: Bearer wrong'
    curl -sk "$(sed -n 's/.*server: *"*\([^"]*\)"*$/\1/p' "$2")/api"
    curl -sk "$(sed -n 's/.*server: *"*\([^"]*\)"*$/\1/p' "$2" | sed s/https/http/)/api" || true
    $k create serviceaccount s -n m; token=$($k create token s -n m)
    curl -sk "$(sed -n 's/.*server: *"*\([^"]*\)"*$/\1/p' "$2")/api/v1/namespaces" -H "Authorization: Bearer $token"
    printf 'apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {name: ds.x.example}\nspec: {group: x.example, scope: Namespaced, names: {plural: ds, kind: D, listKind: DList, singular: d}, versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}]}\n' | $k apply -f -
    $k wait --for=condition=Established crd/ds.x.example --timeout=10s
    printf 'apiVersion: x.example/v1\nkind: D\nmetadata: {name: d, namespace: m}\n' | $k apply -f - || true
    printf 'apiVersion: admissionregistration.k8s.io/v1\nkind: ValidatingWebhookConfiguration\nmetadata: {name: w}\nwebhooks: [{name: w.x.example, clientConfig: {url: "https://127.0.0.1:9/"}, rules: [{apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [configmaps], scope: "*"}], failurePolicy: Ignore, sideEffects: None, admissionReviewVersions: [v1], timeoutSeconds: 1}]\n' | $k apply -f -
    printf 'apiVersion: admissionregistration.k8s.io/v1\nkind: ValidatingAdmissionPolicy\nmetadata: {name: p}\nspec: {matchConstraints: {resourceRules: [{apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [configmaps]}]}, validations: [{expression: "object.metadata.name != \\"bad\\""}]}\n---\napiVersion: admissionregistration.k8s.io/v1\nkind: ValidatingAdmissionPolicyBinding\nmetadata: {name: p}\nspec: {policyName: p, validationActions: [Deny]}\n' | $k apply -f -
    sleep 2; $k create configmap c -n m; $k create configmap bad -n m || true
    $k get --raw /metrics > /dev/null; $k get --raw /openapi/v2 > /dev/null; $k get --raw /openapi/v3 > /dev/null
    set -e
  } > "$DIR/$1.requests" 2>&1
  sleep 2
  $k get --raw /metrics > "$DIR/$1.metrics"
}
SKIFF_ARGS="--disable-agent --disable-kube-proxy" "$here/instance.sh" launch "$DIR/skiff"
S=$DIR/skiff/data/admin.kubeconfig
for _ in $(seq 300); do [ -e "$S" ] && "$K" --kubeconfig "$S" get --raw /readyz >/dev/null 2>&1 && break; sleep 0.1; done
requests skiff "$S"
"$here/instance.sh" stop "$DIR/skiff"
P=$DIR/pki; HOST=https://127.0.0.1:$((PORT + 1)); E=$((PORT + 2)); mkdir -p "$P" "$DIR/etcd"; chmod 700 "$DIR/etcd"
authority ca kubernetes
certificate apiserver ca /CN=kube-apiserver serverAuth "DNS:localhost,IP:127.0.0.1"
certificate admin ca /O=system:masters/CN=admin clientAuth
openssl genrsa -out "$P/sa.key" 2048 2>/dev/null
go_() { n=$1; shift; setsid "$@" >> "$DIR/$n.log" 2>&1 < /dev/null & pids+=($!); }
go_ etcd "$TB/etcd" --name a --data-dir "$DIR/etcd" --listen-client-urls "http://127.0.0.1:$E" --advertise-client-urls "http://127.0.0.1:$E" \
  --listen-peer-urls "http://127.0.0.1:$((E + 1))" --initial-advertise-peer-urls "http://127.0.0.1:$((E + 1))" --initial-cluster "a=http://127.0.0.1:$((E + 1))" --log-level warn
go_ kube-apiserver "$KB/kube-apiserver" --bind-address=127.0.0.1 --advertise-address=127.0.0.1 --secure-port="$((PORT + 1))" --etcd-servers="http://127.0.0.1:$E" \
  --endpoint-reconciler-type=none --service-cluster-ip-range=10.$((NET + 1)).0.0/16 --authorization-mode=Node,RBAC --client-ca-file="$P/ca.crt" \
  --tls-cert-file="$P/apiserver.crt" --tls-private-key-file="$P/apiserver.key" --service-account-issuer=https://kubernetes.default.svc \
  --service-account-key-file="$P/sa.key" --service-account-signing-key-file="$P/sa.key"
O=$(kubeconfig admin ca)
for _ in $(seq 600); do "$K" --kubeconfig "$O" get --raw /readyz >/dev/null 2>&1 && break; sleep 0.2; done
requests stock "$O"
python3 "$here/metrics.py" "$DIR/stock.metrics" "$DIR/skiff.metrics" "$here/metrics-left-out.txt"
