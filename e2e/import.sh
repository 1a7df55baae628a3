#!/bin/bash
# import.sh DIR: a stock cluster moves in. A stock kube-apiserver on a real etcd is filled; `etcdctl snapshot save`; `skiff snapshot restore`; a
# server on it has every object, a custom one too. And back: an etcd snapshot of ours is restored with etcdutl, and the stock API server on that
# has them all. Starts what it needs below DIR. Ends with 'N passed, N failed'. Needs e2e/kit/build-tools.sh tools stock.
set -u
here=$(cd "$(dirname "$0")" && pwd); . "$here/kit/kit.env"
DIR=$1; export NAME=${NAME:-impo} NET=${NET:-92} PORT=${PORT:-18510} KUBELET_PORT=${KUBELET_PORT:-18610} BIN=${BIN:-$here/../target-link/debug/skiff}
. "$here/check.sh"
K="$KB/kubectl --kubeconfig $DIR/data/admin.kubeconfig"; E=127.0.0.1:$((PORT + 1)); P=127.0.0.1:$((PORT + 2)); S=$((PORT + 3)); O=127.0.0.1:$((PORT + 4))
pids=()
# The API server would wait for its etcd.
kill_all() { for pid in "${pids[@]}"; do kill -9 "$pid" 2>/dev/null && wait "$pid" 2>/dev/null; done; pids=(); }
over() { kill_all; "$here/instance.sh" clean "$DIR" >/dev/null 2>&1; rm -rf "$DIR"; }
over; trap over EXIT
mkdir -p "$DIR"; openssl genrsa -out "$DIR/sa.key" 2048 2>/dev/null; echo 'admin-token,admin,admin,system:masters' > "$DIR/tokens.csv"
stock() { # DATA: an etcd on it and a stock API server on that, until it is ready
  "$TB/etcd" --name default --data-dir "$1" --log-level error --listen-client-urls "http://$E" --advertise-client-urls "http://$E" --listen-peer-urls "http://$P" \
    --initial-advertise-peer-urls "http://$P" --initial-cluster "default=http://$P" >"$DIR/etcd.log" 2>&1 & pids+=($!)
  "$KB/kube-apiserver" --bind-address=127.0.0.1 --secure-port="$S" --cert-dir="$DIR/certs" --etcd-servers="http://$E" --service-cluster-ip-range=10.93.0.0/16 \
    --service-account-issuer=https://kubernetes.default.svc --service-account-key-file="$DIR/sa.key" --service-account-signing-key-file="$DIR/sa.key" \
    --token-auth-file="$DIR/tokens.csv" --authorization-mode=Node,RBAC --disable-admission-plugins=ServiceAccount --profiling=false >"$DIR/apiserver.log" 2>&1 & pids+=($!)
  for _ in $(seq 600); do A get --raw /readyz >/dev/null 2>&1 && return; sleep 0.2; done; tail -3 "$DIR/apiserver.log"; exit 1
}
A() { "$KB/kubectl" --server="https://127.0.0.1:$S" --insecure-skip-tls-verify --token=admin-token --cache-dir="$DIR/cache" "$@"; }
kinds=configmaps,secrets,services,deployments,cronjobs,horizontalpodautoscalers,ingresses,networkpolicies,poddisruptionbudgets,roles,widgets.example.org
# The objects of the test, without what every write and every server adds.
contents() { "$@" get "$kinds" -n shop -o json | python3 -c "
import json, sys
for o in sorted(json.load(sys.stdin)['items'], key=lambda o: (o['kind'], o['metadata']['name'])):
    for gone in ('resourceVersion', 'managedFields'): o['metadata'].pop(gone, 0)
    if o['metadata']['name'] != 'kube-root-ca.crt': print(json.dumps(o, sort_keys=True))"; }
cat > "$DIR/objects.yaml" <<'X'
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: c, namespace: shop, labels: {a: b}}
data: {text: "ä\n"}
binaryData: {raw: AAEC}
---
apiVersion: v1
kind: Secret
metadata: {name: s, namespace: shop}
stringData: {password: hush}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {clusterIP: 10.93.0.77, selector: {app: web}, ports: [{name: http, port: 80, targetPort: http}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers: [{name: c, image: example.org/web:1, ports: [{name: http, containerPort: 80}], resources: {limits: {memory: 64Mi}}, livenessProbe: {httpGet: {path: /, port: http}}}]
---
apiVersion: batch/v1
kind: CronJob
metadata: {name: nightly, namespace: shop}
spec: {schedule: "0 3 * * *", suspend: true, jobTemplate: {spec: {template: {spec: {restartPolicy: Never, containers: [{name: c, image: x}]}}}}}
---
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: web, namespace: shop}
spec: {maxReplicas: 3, scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: web}, metrics: [{type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 80}}}]}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: web, namespace: shop}
spec: {defaultBackend: {service: {name: web, port: {name: http}}}}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: none, namespace: shop}
spec: {podSelector: {}, policyTypes: [Ingress]}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: web, namespace: shop}
spec: {maxUnavailable: 1, selector: {matchLabels: {app: web}}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: reader, namespace: shop}
rules: [{apiGroups: [""], resources: [pods], verbs: [get]}]
---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.example.org}
spec:
  group: example.org
  names: {kind: Widget, plural: widgets}
  scope: Namespaced
  versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, properties: {spec: {type: object, properties: {size: {type: integer}}}}}}}]
X
stock "$DIR/etcd"
for _ in $(seq 50); do A get namespace default >/dev/null 2>&1 && break; sleep 0.2; done
A apply -f "$DIR/objects.yaml" >/dev/null; A wait --for=condition=Established crd/widgets.example.org --timeout=30s >/dev/null
for _ in $(seq 50); do echo '{"apiVersion": "example.org/v1", "kind": "Widget", "metadata": {"name": "w", "namespace": "shop"}, "spec": {"size": 3}}' | A create -f - >/dev/null 2>&1 && break; sleep 0.2; done
contents A > "$DIR/stock"
check 'the stock cluster has its objects' '^11$' sh -c "wc -l < '$DIR/stock'"
"$TB/etcdctl" --endpoints "$E" snapshot save "$DIR/snapshot" >/dev/null 2>&1; cp "$DIR/etcd/member/snap/db" "$DIR/copy" 2>/dev/null; kill_all
restore() { "$BIN" snapshot restore --config /dev/null --data-dir "$DIR/data" "$1"; }; export -f restore; export BIN DIR
refused 'a copy of a member is not taken' 'no hash at its end' bash -c 'restore "$DIR/copy"'
check 'its snapshot is' 'restored [0-9]+ keys' bash -c 'restore "$DIR/snapshot"'; sed 's/^/     /' "$T/out"
SKIFF_ARGS="--disable-agent --disable-scheduler --disable-controller-manager --etcd-listen http://$O" "$here/instance.sh" launch "$DIR"
for _ in $(seq 300); do $K get --raw /readyz >/dev/null 2>&1 && break; sleep 0.1; done
until_ 'the custom kind is served' 'w +' $K get widgets -n shop --no-headers
contents $K > "$DIR/ours"
check 'every object is there, as it was' '^same$' sh -c "diff '$DIR/stock' '$DIR/ours' && echo same"
check 'nothing is unreadable' '^0$' sh -c "grep -c 'cannot be read' '$DIR/log'; true"
check 'it can be changed' 'configured|serverside-applied|patched' $K patch configmap c -n shop -p '{"data":{"more":"1"}}'
contents $K > "$DIR/ours"
"$TB/etcdctl" --endpoints "$O" snapshot save "$DIR/back" >/dev/null 2>&1; "$here/instance.sh" stop "$DIR"
check 'etcdutl takes a snapshot of ours' 'restored snapshot' "$TB/etcdutl" snapshot restore "$DIR/back" --data-dir "$DIR/etcd2" --name default --initial-cluster "default=http://$P" --initial-advertise-peer-urls "http://$P"
stock "$DIR/etcd2"
for _ in $(seq 100); do A get widgets -n shop >/dev/null 2>&1 && break; sleep 0.2; done
contents A > "$DIR/stock"
check 'the stock API server has every object, as it was' '^same$' sh -c "diff '$DIR/ours' '$DIR/stock' && echo same"
finish
