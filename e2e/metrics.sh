#!/bin/bash
# metrics.sh [DIR]: the metrics of skiff's API server beside those of the kit's stock kube-apiserver with etcd after the same requests. A name
# that stock has and skiff lacks, or a label, must be listed in metrics-left-out.txt with its reason; what is listed and is there fails as well.
# BIN names the binary.
set -euo pipefail
DIR=${1:-/var/tmp/skiff-metrics}; NAME=${NAME:-metrics} NET=${NET:-94} PORT=${PORT:-18660} KUBELET_PORT=${KUBELET_PORT:-18670}
BIN=${BIN:-$(dirname "$0")/../target-link/debug/skiff}
. "$(dirname "$0")/beside.sh"
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
with_skiff requests
with_stock requests
python3 "$here/metrics.py" "$DIR/stock.metrics" "$DIR/skiff.metrics" "$here/metrics-left-out.txt"
