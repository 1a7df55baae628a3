#!/bin/bash
# kubectl.sh KUBECONFIG [KUBECTL]: what a person does with kubectl, against real containers. Ends with 'N passed, N failed'.
set -u
here=$(cd "$(dirname "$0")" && pwd); . "$here/kit/kit.env"
export KUBECONFIG=$1; K=${2:-$KB/kubectl}; E=registry.k8s.io/e2e-test-images; NS=walk-$$
AGN=$E/agnhost:2.63.0; BOX=$E/busybox:1.37.0-1
. "$here/check.sh"
KN="$K -n $NS"

check 'create namespace' created $K create ns $NS
check 'get nodes: Ready' ' Ready ' $K get nodes
check 'version' 'Server Version: v1.37' $K version
check 'api-resources' 'deployments +deploy +apps/v1 +true +Deployment' $K api-resources
check 'componentstatuses' '^3$' sh -c "$K get cs | grep -cE '^(controller-manager|scheduler|etcd-0) +Healthy +ok'"
check 'health by name' 'poststarthook/bootstrap-controller ok' $K get --raw '/readyz?verbose'
check 'explain' 'strategy' $K explain deployment.spec
check 'explain --recursive' 'terminationMessagePath' $K explain pod --recursive
check 'auth can-i' yes $K auth can-i create pods
refused 'auth can-i as a nobody' no $K auth can-i create pods --as nobody

check 'create deployment' created $KN create deployment web --image=$AGN --replicas=2 -- /agnhost netexec --http-port=8080
check 'rollout status' 'successfully rolled out' $KN rollout status deploy/web --timeout=60s
check 'scale' scaled $KN scale deploy/web --replicas=3
until_ 'scaled to 3' '3/3' $KN get deploy web
check 'expose' exposed $KN expose deploy/web --port=80 --target-port=8080 --type=NodePort
check 'run' created $KN run box --image=$BOX --labels=app=box --command -- sh -c 'while read -r l; do echo "got $l"; done; sleep 3600'
check 'wait' 'condition met' $KN wait --for=condition=Ready pod/box --timeout=60s
POD=$($KN get pod -l app=web -o 'jsonpath={.items[0].metadata.name}')
check 'logs' 'Started HTTP server|Serving on port|netexec' $KN logs $POD
check 'logs -f' 'one' sh -c "$KN run talk --image=$BOX --restart=Never --command -- sh -c 'echo one; sleep 1; echo two' >/dev/null; $KN wait --for=jsonpath='{.status.phase}'=Succeeded pod/talk --timeout=30s >/dev/null; timeout 10 $KN logs -f talk"
check 'exec' 'uid=0' $KN exec box -- id
check 'exec with input' 'hello' sh -c "echo hello | $KN exec -i box -- cat"
refused 'exec: exit code' 'exit code 7' $KN exec box -- sh -c 'exit 7'
check 'exec with a terminal' '/' sh -c "script -qec '$KN exec -it box -- pwd' /dev/null"
check 'cp there and back: the same bytes' same bash -c "$KN cp '$0' box:/tmp/script && $KN cp box:/tmp/script '$T/back' && cmp '$0' '$T/back' && echo same"
PORT=$((20000 + $$ % 10000))
$KN port-forward deploy/web $PORT:8080 > "$T/pf" 2>&1 & PF=$!
until_ 'port-forward' "$($KN get pod -l app=web -o 'jsonpath={.items[*].metadata.name}' | tr ' ' '|')" curl -s -m 2 http://127.0.0.1:$PORT/hostname
kill $PF 2>/dev/null; wait $PF 2>/dev/null
$KN run echoer --image=$BOX --restart=Never -i --command --attach=false -- sh -c 'read -r l; echo "got $l"' > /dev/null 2>&1
check 'attach: its pod starts' 'condition met' $KN wait --for=condition=Ready pod/echoer --timeout=60s
check 'attach' 'got hi' bash -c "(echo hi; sleep 2) | timeout 20 $KN attach -i echoer; $KN logs echoer"

IP=$($KN get svc web -o 'jsonpath={.spec.clusterIP}'); NP=$($KN get svc web -o 'jsonpath={.spec.ports[0].nodePort}')
NODE=$($K get node -o 'jsonpath={.items[0].status.addresses[0].address}')
check 'ClusterIP from a pod' 'web-' $KN exec box -- wget -qO- -T5 http://$IP/hostname
check 'ClusterIP from the host' 'web-' curl -s -m 5 http://$IP/hostname
check 'NodePort from the host' 'web-' curl -s -m 5 http://$NODE:$NP/hostname
check 'Service by DNS name' 'web-' $KN exec box -- wget -qO- -T5 http://web.$NS.svc.cluster.local/hostname
check 'Service by short name' 'web-' $KN exec box -- wget -qO- -T5 http://web/hostname

cat > "$T/app.yaml" <<Y
apiVersion: apps/v1
kind: Deployment
metadata: {name: app, namespace: $NS}
spec:
  replicas: 1
  selector: {matchLabels: {app: app}}
  template:
    metadata: {labels: {app: app}}
    spec:
      terminationGracePeriodSeconds: 1
      containers: [{name: app, image: $AGN, args: [pause], env: [{name: A, value: "1"}]}]
Y
check 'apply' created $K apply -f "$T/app.yaml"
check 'apply again changes nothing' unchanged $K apply -f "$T/app.yaml"
sed -i 's/value: "1"/value: "2"/' "$T/app.yaml"
refused 'diff shows the change' '\+ +value: "2"' $K diff -f "$T/app.yaml"
check 'apply the change' configured $K apply -f "$T/app.yaml"
check 'rollout of the change' 'successfully rolled out' $KN rollout status deploy/app --timeout=60s
check 'rollout history' '2 ' $KN rollout history deploy/app
check 'rollout undo' 'rolled back' $KN rollout undo deploy/app
check 'undone' '1' $KN get deploy app -o 'jsonpath={.spec.template.spec.containers[0].env[0].value}'
check 'apply --server-side' serverside-applied sh -c "printf 'apiVersion: v1\nkind: ConfigMap\nmetadata: {name: ssa, namespace: $NS}\ndata: {a: \"1\"}\n' | $K apply --server-side --field-manager=one -f -"
refused 'server-side conflict' 'conflict with "one"' sh -c "printf 'apiVersion: v1\nkind: ConfigMap\nmetadata: {name: ssa, namespace: $NS}\ndata: {a: \"2\"}\n' | $K apply --server-side --field-manager=two -f -"
check 'server-side by force' serverside-applied sh -c "printf 'apiVersion: v1\nkind: ConfigMap\nmetadata: {name: ssa, namespace: $NS}\ndata: {a: \"2\"}\n' | $K apply --server-side --field-manager=two --force-conflicts -f -"
check 'patch merge' patched $KN patch cm ssa --type=merge -p '{"data":{"b":"2"}}'
check 'patch json' patched $KN patch cm ssa --type=json -p '[{"op":"add","path":"/data/c","value":"3"}]'
check 'patch strategic' patched $KN patch deploy app -p '{"spec":{"template":{"spec":{"containers":[{"name":"app","env":[{"name":"B","value":"x"}]}]}}}}'
check 'patch kept the other entry' '^A B $' sh -c "$KN get deploy app -o 'jsonpath={range .spec.template.spec.containers[0].env[*]}{.name} {end}' | tr ' ' '\n' | sort | tr '\n' ' ' | sed 's/^ //'"
check 'edit' edited env EDITOR="sed -i 's/b: .2./b: \"4\"/'" $KN edit cm ssa
check 'label' labeled $KN label pod box tier=x
check 'annotate' annotated $KN annotate pod box note=y
check 'get -l' 'box' $KN get pods -l tier=x
check 'get -o wide' 'NODE' $KN get pods -o wide
check 'get -o yaml' 'kind: Pod' $KN get pod box -o yaml
check 'get -o custom-columns' '^box' $KN get pod box -o custom-columns=N:.metadata.name --no-headers
check 'get -w' 'box' sh -c "timeout 3 $KN get pods -w; true"
check 'events' 'Scheduled|Started' $KN events --for pod/box
check 'describe' 'Successfully assigned' $KN describe pod box
N=$($K get node -o 'jsonpath={.items[0].metadata.name}')
check 'taint' tainted $K taint node $N e2e=x:PreferNoSchedule
check 'untaint' untainted $K taint node $N e2e-
check 'cordon' cordoned $K cordon $N
$KN run late --image=$BOX --command -- sleep 3600 > /dev/null
until_ 'a cordoned node takes no pods' 'node\(s\) were unschedulable' $KN get pod late -o 'jsonpath={.status.conditions[0].message}'
check 'uncordon' uncordoned $K uncordon $N
check 'the pod starts then' 'condition met' $KN wait --for=condition=Ready pod/late --timeout=60s
check 'drain (dry run)' 'drained' $K drain $N --dry-run=client --ignore-daemonsets --force --delete-emptydir-data
check 'drain' "node/$N drained" $K drain $N --ignore-daemonsets --force --delete-emptydir-data --pod-selector=app=web --timeout=60s
check 'uncordon after the drain' uncordoned $K uncordon $N
check 'what was drained comes back' 'condition met' $KN wait --for=condition=Available deploy/web --timeout=60s
refused 'top says why not' 'Metrics API not available' $K top nodes
refused 'unknown field' 'unknown field "spec.replica"' bash -c "$K create -f - <<< '{\"apiVersion\":\"apps/v1\",\"kind\":\"Deployment\",\"metadata\":{\"name\":\"x\",\"namespace\":\"$NS\"},\"spec\":{\"replica\":1}}'"
refused 'bad name' 'a lowercase RFC 1123' $KN create cm Bad_Name
refused 'missing permission' 'cannot list resource "secrets"' $KN get secrets --as nobody
refused 'not found' 'pods "nope" not found' $KN get pod nope
$K create -f - > /dev/null <<< "{\"apiVersion\":\"v1\",\"kind\":\"Pod\",\"metadata\":{\"name\":\"bad\",\"namespace\":\"$NS\"},\"spec\":{\"containers\":[{\"name\":\"c\",\"image\":\"UPPER/x:::\"}]}}"
until_ 'a wrong image name is told' 'InvalidImageName' $KN get pod bad -o 'jsonpath={.status.containerStatuses[0].state.waiting.reason}'
check 'delete --cascade=orphan' deleted $KN delete deploy app --cascade=orphan
check 'the orphan stays' 'app-' $KN get rs
check 'delete --cascade=foreground' deleted $KN delete deploy web --cascade=foreground --timeout=60s
until_ 'nothing of it is left' '^0$' sh -c "$KN get pods -l app=web --no-headers 2>/dev/null | wc -l"
check 'delete --cascade=background' deleted $KN delete rs --all --cascade=background
check 'delete the namespace' deleted $K delete ns $NS --timeout=90s
finish
