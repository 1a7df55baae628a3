#!/bin/bash
# workloads.sh KUBECONFIG: shows on any cluster with a node that scheduler, controllers and node agent do their part: a Deployment with a
# rolling update, a Job, a StatefulSet, a DaemonSet, garbage collection, a Service, and a pod that fits nowhere. Prints one line a step.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd); . "$here/kit/kit.env"
K="$KB/kubectl --kubeconfig $1"; N=workloads-$$; W=${WAIT:-180s}
# An image with upstream's agnhost that the node holds.
IMAGE=${IMAGE:-registry.k8s.io/e2e-test-images/agnhost:2.66.1}
step() { echo "ok: $*"; }
trap '$K delete namespace $N --wait=false >/dev/null 2>&1 || true' EXIT
$K create namespace $N >/dev/null
for _ in $(seq 100); do $K -n $N get serviceaccount default >/dev/null 2>&1 && break; sleep 0.3; done
$K -n $N apply -f - >/dev/null <<X
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers: [{name: c, image: "$IMAGE", args: [netexec, --http-port=8080], ports: [{containerPort: 8080}]}]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: batch/v1
kind: Job
metadata: {name: once}
spec:
  template:
    spec: {restartPolicy: Never, containers: [{name: c, image: "$IMAGE", args: [help]}]}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db}
spec:
  serviceName: db
  replicas: 2
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec: {terminationGracePeriodSeconds: 1, containers: [{name: c, image: "$IMAGE", args: [pause]}]}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: every}
spec:
  selector: {matchLabels: {app: every}}
  template:
    metadata: {labels: {app: every}}
    spec: {terminationGracePeriodSeconds: 1, containers: [{name: c, image: "$IMAGE", args: [pause]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: huge}
spec: {containers: [{name: c, image: "$IMAGE", resources: {requests: {cpu: "1000"}}}]}
X
$K -n $N rollout status deployment/web --timeout=$W >/dev/null; step "Deployment available"
$K -n $N set env deployment/web X=1 >/dev/null
$K -n $N rollout status deployment/web --timeout=$W >/dev/null; step "Deployment rolled over"
$K -n $N rollout status statefulset/db --timeout=$W >/dev/null; step "StatefulSet ready, in order"
$K -n $N rollout status daemonset/every --timeout=$W >/dev/null; step "DaemonSet on every node"
$K -n $N wait --for=condition=complete job/once --timeout=$W >/dev/null; step "Job complete"
for _ in $(seq 100); do
  ends=$($K -n $N get endpointslices -l kubernetes.io/service-name=web -o 'jsonpath={.items[*].endpoints[*].addresses[0]}')
  [ "$(echo "$ends" | wc -w)" = 2 ] && break; sleep 0.3
done
[ "$(echo "$ends" | wc -w)" = 2 ]; step "Service has two endpoints"
for _ in $(seq 100); do
  why=$($K -n $N get pod huge -o 'jsonpath={.status.conditions[?(@.type=="PodScheduled")].message}'); [ -n "$why" ] && break; sleep 0.3
done
case $why in "0/"*" nodes are available: "*"Insufficient cpu."*"preemption: "*) step "a pod that fits nowhere is told: $why";; *) echo "FAILED: said: $why"; exit 1;; esac
$K -n $N delete deployment web --cascade=background >/dev/null
for _ in $(seq 200); do [ -z "$($K -n $N get replicasets,pods -l app=web -o name)" ] && break; sleep 0.3; done
[ -z "$($K -n $N get replicasets,pods -l app=web -o name)" ]; step "garbage collected"
$K delete namespace $N --timeout=$W >/dev/null; step "namespace gone"
