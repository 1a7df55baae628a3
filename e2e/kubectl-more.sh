#!/bin/bash
# kubectl-more.sh KUBECONFIG [KUBECTL]: kubectl's rarer commands and flags, against real containers. Ends with 'N passed, N failed'.
set -u
here=$(cd "$(dirname "$0")" && pwd); . "$here/kit/kit.env"
export KUBECONFIG=$1; K=${2:-$KB/kubectl}; E=registry.k8s.io/e2e-test-images; NS=more-$$
AGN=$E/agnhost:2.63.0; BOX=$E/busybox:1.37.0-1
. "$here/check.sh"
KN="$K -n $NS"; N=$($K get node -o 'jsonpath={.items[0].metadata.name}')
$K create ns $NS > /dev/null

# Pods that the rest works with.
cat > "$T/two.yaml" <<Y
apiVersion: v1
kind: Pod
metadata: {name: two, labels: {app: two}}
spec:
  terminationGracePeriodSeconds: 0
  initContainers: [{name: first, image: $BOX, command: [echo, began]}]
  containers:
  - {name: a, image: $BOX, command: [sh, -c, 'echo from a; while read -r l; do echo "a got \$l"; done; sleep 3600'], stdin: true}
  - {name: b, image: $BOX, command: [sh, -c, 'echo from b; sleep 1; echo later b; sleep 3600']}
Y
check 'create' 'pod/two created' $KN create -f "$T/two.yaml"
check 'run: labels, environment, port, expose' 'service/web created' $KN run web --image=$AGN --labels=app=web,tier=front --env=A=b --port=8080 --expose -- netexec --http-port=8080
check 'run --dry-run=client -o yaml' 'restartPolicy: Never' $KN run x --image=$BOX --restart=Never --dry-run=client -o yaml
check 'run --rm -i' 'deleted' bash -c "echo hello | timeout 60 $KN run once --image=$BOX --restart=Never --rm -i -q=false -- cat"
check 'run --overrides' 'pod/over created' $KN run over --image=$BOX --overrides='{"spec":{"terminationGracePeriodSeconds":0,"hostname":"h"}}' --command -- sleep 3600
check 'wait for several' 'pod/web condition met' $KN wait --for=condition=Ready pod/two pod/web pod/over --timeout=60s
check 'wait --for=jsonpath with a value' 'condition met' $KN wait --for=jsonpath='{.status.phase}'=Running pod/two --timeout=10s
check 'wait --for=jsonpath without' 'condition met' $KN wait --for=jsonpath='{.status.podIP}' pod/two --timeout=10s
check 'wait --for=create' 'condition met' bash -c "(sleep 1; $KN create cm late >/dev/null) & $KN wait --for=create cm/late --timeout=20s"
check 'wait --for=delete' 'condition met|deleted' bash -c "(sleep 1; $KN delete cm late >/dev/null) & $KN wait --for=delete cm/late --timeout=20s"
refused 'wait that times out' 'timed out waiting for the condition' $KN wait --for=condition=Nope pod/two --timeout=1s

# Logs.
check 'logs of a container' '^from b' $KN logs two -c b
check 'logs --all-containers --prefix' '\[pod/two/b\] from b' $KN logs two --all-containers --prefix
check 'logs of an init container' '^began' $KN logs two -c first
check 'logs --timestamps' '^20[0-9-]+T.*Z from b' $KN logs two -c b --timestamps
check 'logs --tail' '^later b$' $KN logs two -c b --tail=1
check 'logs --since-time in the future: nothing' '^$' bash -c "$KN logs two -c b --since-time=2100-01-01T00:00:00Z; echo"
check 'logs --since' 'from b' $KN logs two -c b --since=10m
check 'logs --limit-bytes' '^fro$' bash -c "$KN logs two -c b --limit-bytes=3; echo"
check 'logs -l over pods' 'from a|Serving|netexec' $KN logs -l 'app in (two,web)' --all-containers --tail=5
check 'logs -f over containers' '\[pod/two/a\] from a' bash -c "timeout 3 $KN logs -f two --all-containers --prefix; true"
refused 'logs --previous without one' 'previous terminated container "a" in pod "two" not found' $KN logs two -c a --previous
refused 'logs of an unknown container' 'container nope is not valid for pod two' $KN logs two -c nope

# Streams.
check 'exec in a container' '^b$' $KN exec two -c b -- sh -c 'hostname >/dev/null; echo b'
check 'exec by resource' 'web' $KN exec svc/web -- hostname
check 'attach -i' 'a got hi' bash -c "(echo hi; sleep 2) | timeout 10 $KN attach two -c a -i; true"
check 'cp a folder there' done bash -c "mkdir -p '$T/d/e' && echo inner > '$T/d/e/f' && $KN cp '$T/d' over:/tmp/d && echo done"
check 'cp a folder back' '^inner$' bash -c "$KN cp over:/tmp/d '$T/back' && cat '$T/back/e/f'"
until_ 'cp --retries from a missing file' 'No such file' $K -n $NS cp over:/nope "$T/x" --retries=0 # it may leave at the archive's end, before it reads what tar said
P=$((20000 + $$ % 10000))
$KN port-forward svc/web $P:8080 --address=127.0.0.1 > "$T/pf" 2>&1 & PF=$!
until_ 'port-forward to a Service' '^web' curl -s -m 2 http://127.0.0.1:$P/hostname
kill $PF 2>/dev/null; wait $PF 2>/dev/null
$K proxy --unix-socket="$T/proxy.sock" > /dev/null 2>&1 & PX=$!
until_ 'proxy on a unix socket' '"major"' curl -s --unix-socket "$T/proxy.sock" http://localhost/version
check 'the proxy reaches a pod' '^web' curl -s --unix-socket "$T/proxy.sock" http://localhost/api/v1/namespaces/$NS/pods/web:8080/proxy/hostname
kill $PX 2>/dev/null; wait $PX 2>/dev/null

# debug.
for profile in general baseline restricted netadmin sysadmin; do
  user=; [ $profile = restricted ] && user='"runAsUser":1000'
  echo "{\"securityContext\":{$user}}" > "$T/custom.json"
  $KN debug over --image=$BOX --profile=$profile --custom="$T/custom.json" -c dbg-$profile --attach=false -- sh -c 'echo debugged; sleep 3600' > /dev/null 2>&1
  until_ "debug --profile=$profile" '^debugged' $KN logs over -c dbg-$profile
done
check 'debug --target shares processes' 'sleep' bash -c "$KN debug over --image=$BOX --target=over -c dbg-target --attach=false -- sh -c 'ps; sleep 3600' >/dev/null 2>&1; sleep 3; $KN logs over -c dbg-target"
$KN debug over --image=$BOX --copy-to=copy --set-image=*=$BOX --share-processes --attach=false -- sleep 60 > /dev/null 2>&1
check 'debug --copy-to: the copy runs' 'condition met' $KN wait --for=condition=Ready pod/copy --timeout=60s
check 'debug a node' 'Creating debugging pod node-debugger' $KN debug node/$N --image=$BOX --profile=sysadmin --attach=false -- chroot /host true

# Workloads.
check 'create deployment' created $KN create deployment d --image=$BOX --replicas=1 -- sleep 3600
check 'set image' 'image updated' $KN set image deploy/d busybox=$E/busybox:1.36.1-1
check 'set env' 'env updated' $KN set env deploy/d A=b C=d
check 'set env --list' '^A=b' $KN set env deploy/d --list
check 'set env from a ConfigMap' 'env updated' bash -c "$KN create cm conf --from-literal=k=one >/dev/null; $KN set env deploy/d --from=cm/conf --prefix=P_"
check 'set resources' 'resource requirements updated' $KN set resources deploy/d --limits=cpu=200m,memory=64Mi --requests=cpu=10m
check 'set serviceaccount' 'serviceaccount updated' bash -c "$KN create sa s >/dev/null; $KN set serviceaccount deploy/d s"
check 'set selector' 'selector updated' $KN set selector svc/web app=web,tier=front
check 'set subject' 'subjects updated' bash -c "$KN create rolebinding rb --clusterrole=view --user=ann >/dev/null; $KN set subject rolebinding rb --serviceaccount=$NS:s"
check 'rollout status' 'successfully rolled out' $KN rollout status deploy/d --timeout=60s
check 'rollout history --revision' 'Environment:' $KN rollout history deploy/d --revision=2
check 'rollout pause' paused $KN rollout pause deploy/d
refused 'restart while paused' "can't restart paused deployment" $KN rollout restart deploy/d
check 'rollout resume' resumed $KN rollout resume deploy/d
check 'rollout restart' restarted $KN rollout restart deploy/d
check 'rollout undo --to-revision' 'rolled back' $KN rollout undo deploy/d --to-revision=1
check 'scale with a precondition' scaled $KN scale deploy/d --current-replicas=1 --replicas=2
refused 'scale: wrong precondition' 'Expected replicas to be 7, was 2' $KN scale deploy/d --current-replicas=7 --replicas=3
check 'autoscale' autoscaled $KN autoscale deploy/d --min=1 --max=3 --cpu=80%
check 'expose a deployment by another name' exposed $KN expose deploy/d --port=80 --name=other --type=LoadBalancer --session-affinity=ClientIP
for kind in 'job j --image=IMG -- true' 'cronjob cj --image=IMG --schedule=@hourly -- true' 'quota q --hard=configmaps=50' 'pdb p --selector=app=d --min-available=1' \
  'ingress i --rule=a.b/x*=web:8080,tls=s --annotation=k=v' 'role r --verb=get,list --resource=pods,deployments.apps --resource-name=x' 'secret tls t --cert=CRT --key=KEY' \
  'secret docker-registry dr --docker-server=s --docker-username=u --docker-password=p' 'service externalname en --external-name=a.b' 'service clusterip ci --tcp=1:2 --clusterip=None' \
  'priorityclass pc-NS --value=5 --description=x' 'clusterrole cr-NS --verb=get --non-resource-url=/x' 'clusterrolebinding crb-NS --clusterrole=view --group=g' 'token s --duration=1h --audience=x'; do
  [ -e "$T/crt" ] || openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout "$T/key" -out "$T/crt" -subj /CN=x -days 1 2>/dev/null
  # shellcheck disable=SC2086
  check "create ${kind%% *} ${kind#* }" 'created|^ey' $KN create $(echo "$kind" | sed "s#IMG#$BOX#; s#CRT#$T/crt#; s#KEY#$T/key#; s#NS#$NS#")
done
check 'create job --from' created $KN create job again --from=cronjob/cj
check 'create -f - with validation' 'unknown field "nope"' bash -c "echo '{\"apiVersion\":\"v1\",\"kind\":\"ConfigMap\",\"metadata\":{\"name\":\"w\"},\"nope\":1}' | $KN create -f - --validate=warn 2>&1"

# Objects.
check 'replace --force' 'replaced' bash -c "$KN get cm conf -o yaml > '$T/conf.yaml'; $KN replace --force -f '$T/conf.yaml'"
check 'replace' 'replaced' bash -c "$KN get cm conf -o yaml | sed 's/k: one/k: two/' | $KN replace -f -"
refused 'replace an old version' 'the object has been modified' bash -c "$KN get cm conf -o yaml | sed 's/resourceVersion: .*/resourceVersion: \"1\"/' | $KN replace -f -"
check 'edit: what is invalid comes back with the reason' 'a valid config key|Edit cancelled|is invalid' bash -c "EDITOR='sed -i \"s/k: two/k\\/x: two/\"' $KN edit cm conf 2>&1; true"
check 'edit --subresource' 'edited' env EDITOR="sed -i 's/  observedGeneration:.*/  observedGeneration: 1/'" $KN edit deploy d --subresource=status
check 'edit -o json' three env EDITOR="sed -i s/two/three/" $KN edit cm conf -o json
check 'edit --output-patch' 'Patch: \{"data"' env EDITOR="sed -i s/three/four/" $KN edit cm conf --output-patch
check 'edit-last-applied' 'edited' bash -c "echo '{\"apiVersion\":\"v1\",\"kind\":\"ConfigMap\",\"metadata\":{\"name\":\"la\"},\"data\":{\"a\":\"one\"}}' | $KN apply -f - >/dev/null; EDITOR='sed -i s/one/two/' $KN apply edit-last-applied cm/la"
check 'apply view-last-applied' 'a: two' $KN apply view-last-applied cm/la
check 'apply set-last-applied' 'configured' bash -c "$KN get cm la -o yaml | $KN apply set-last-applied -f - --create-annotation"
check 'patch --subresource=status' patched $KN patch deploy d --subresource=status --type=merge -p '{"status":{"observedGeneration":1}}'
check 'patch --subresource=scale' patched $KN patch deploy d --subresource=scale --type=merge -p '{"spec":{"replicas":1}}'
check 'get --subresource' 'DESIRED +AVAILABLE' $KN get deploy d --subresource=scale
check 'patch -f --local' 'b: c' $K patch -f "$T/conf.yaml" --local --type=merge -p '{"data":{"b":"c"}}' -o yaml
check 'label with a precondition' labeled $KN label cm conf x=y --resource-version="$($KN get cm conf -o 'jsonpath={.metadata.resourceVersion}')"
refused 'label without --overwrite' "already has a value" $KN label cm conf x=z
check 'label --list' '^x=y' $KN label cm conf --list
check 'annotate --all' annotated $KN annotate cm --all n=1
check 'diff: no difference' '^$' bash -c "$KN get cm conf -o yaml | $KN diff -f - ; echo"
printf 'apiVersion: v1\nkind: ConfigMap\nmetadata: {name: p1, labels: {set: s}}\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: p2, labels: {set: s}}\n' > "$T/set.yaml"
check 'apply --prune' 'created' $KN apply -f "$T/set.yaml" --prune -l set=s --prune-allowlist=core/v1/ConfigMap
check 'it prunes' 'configmap/p2 pruned' bash -c "head -3 '$T/set.yaml' | $KN apply -f - --prune -l set=s --prune-allowlist=core/v1/ConfigMap"
check 'apply --applyset' 'serverside-applied|created' env KUBECTL_APPLYSET=true $KN apply -f "$T/set.yaml" --prune --applyset=mine
check 'the set prunes' 'pruned' bash -c "head -3 '$T/set.yaml' | KUBECTL_APPLYSET=true $KN apply -f - --prune --applyset=mine"
check 'apply --server-side takes over client-side fields' 'serverside-applied' bash -c "echo '{\"apiVersion\":\"v1\",\"kind\":\"ConfigMap\",\"metadata\":{\"name\":\"la\"},\"data\":{\"b\":\"2\"}}' | $KN apply --server-side --force-conflicts -f -"
check 'kustomize' 'name: k-conf' bash -c "mkdir -p '$T/kus'; cp '$T/conf.yaml' '$T/kus/'; printf 'resources: [conf.yaml]\nnamePrefix: k-\n' > '$T/kus/kustomization.yaml'; $K kustomize '$T/kus'"
check 'delete --now' deleted $KN delete pod copy --now
check 'delete --grace-period=0 --force' 'Immediate deletion|force deleted' $KN delete pod web --grace-period=0 --force
check 'delete --dry-run=server' 'server dry run' $KN delete cm conf --dry-run=server
check 'delete -i' 'deleted' bash -c "echo y | $KN delete cm conf -i"
check 'delete --raw' '"status":"Success"' $K delete --raw /api/v1/namespaces/$NS/configmaps/la
check 'delete by field selector' deleted $KN delete cm --field-selector metadata.name=p1

# Looking.
check 'get --sort-by' 'two' $KN get pods --sort-by=.metadata.creationTimestamp
check 'get --chunk-size' 'two' $KN get pods --chunk-size=1
check 'get --show-labels -L' 'app=two' $KN get pods --show-labels -L app
check 'get --show-kind of several' 'pod/two' $KN get pods,cm --show-kind
check 'get all' 'deployment.apps/d' $KN get all
check 'get -o jsonpath-as-json' '"two"' $KN get pods -o 'jsonpath-as-json={.items[*].metadata.name}'
check 'get -o go-template' 'two' $KN get pods -o 'go-template={{range .items}}{{.metadata.name}} {{end}}'
check 'get --ignore-not-found' '^none$' bash -c "$KN get cm nope --ignore-not-found; echo none"
check 'get --raw with a query' 'ConfigMapList' $K get --raw "/api/v1/configmaps?limit=1"
check 'get --server-print=false' 'two +[0-9]+[smh]' $KN get pods --server-print=false
check 'get --watch-only --output-watch-events' 'EVENT' bash -c "(sleep 1; $KN annotate pod two w=1 >/dev/null) & timeout 4 $KN get pods --watch-only --output-watch-events; true"
check 'get -A with a field selector' 'two' $K get pods -A --field-selector=spec.nodeName=$N,status.phase=Running
check 'events --watch' 'Scheduled' bash -c "timeout 2 $KN events --for pod/two --watch; true"
check 'events --types' 'Normal' $KN events --types=Normal
check 'describe everything' 'Name: +d' bash -c "$KN describe deploy,rs,svc,sa,quota,pdb,ingress,cj,job,hpa,role,rolebinding,secret"
check 'describe node' 'Allocated resources' $K describe node $N
check 'explain --api-version' 'autoscaling' $K explain hpa --api-version=autoscaling/v1
check 'explain a field' 'enum|Possible enum|ClientIP' $K explain svc.spec.sessionAffinity
check 'explain --output=plaintext-openapiv2' 'replicas' $K explain deploy.spec --output=plaintext-openapiv2
check 'api-resources -o wide by verb and group' 'deployments' $K api-resources -o wide --verbs=list,patch --api-group=apps --sort-by=name
check 'api-resources -o name by category' '^pods$' $K api-resources -o name --categories=all
check 'api-versions' '^apps/v1$' $K api-versions
check 'cluster-info' 'control plane.* is running at' $K cluster-info
check 'cluster-info dump' 'from b' bash -c "$K cluster-info dump --namespaces $NS --output-directory='$T/dump' && cat '$T/dump/$NS/two/logs.txt'"
check 'options of version' 'gitVersion' $K version -o yaml
check 'auth can-i --list' 'selfsubjectreviews' $K auth can-i --list -n $NS --as system:serviceaccount:$NS:s
check 'auth whoami' 'Username +system:serviceaccount' $K auth whoami --as system:serviceaccount:$NS:s
check 'auth can-i of a subresource' '^yes' $K auth can-i get pods --subresource=log --as ann -n $NS
check 'auth can-i of a URL' '^no' bash -c "$K auth can-i get /logs --as ann; true"
printf 'apiVersion: rbac.authorization.k8s.io/v1\nkind: Role\nmetadata: {name: rec, namespace: %s}\nrules: [{apiGroups: [""], resources: [pods], verbs: [get]}]\n' $NS > "$T/role.yaml"
check 'auth reconcile' 'reconciled' $K auth reconcile -f "$T/role.yaml"
check 'auth reconcile again' 'reconciled|unchanged' $K auth reconcile -f "$T/role.yaml" --remove-extra-permissions

# Certificates, nodes, configuration.
openssl req -new -key "$T/key" -subj /O=x/CN=ann -out "$T/csr" 2>/dev/null
csr() { printf '{"apiVersion":"certificates.k8s.io/v1","kind":"CertificateSigningRequest","metadata":{"name":"%s"},"spec":{"request":"%s","signerName":"kubernetes.io/kube-apiserver-client","usages":["client auth"]}}' "$1" "$(base64 -w0 "$T/csr")" | $K create -f -; }
export -f csr; export K T
check 'a signing request' created bash -c "csr ann-$NS"
check 'certificate approve' approved $K certificate approve ann-$NS
until_ 'it is issued' 'Approved,Issued' $K get csr ann-$NS
check 'certificate deny' denied bash -c "csr bob-$NS >/dev/null; $K certificate deny bob-$NS"
check 'delete both' deleted $K delete csr ann-$NS bob-$NS
check 'taint with an effect, and its removal' untainted bash -c "$K taint node $N a=b:PreferNoSchedule c:PreferNoSchedule && $K taint node $N a=b:PreferNoSchedule- c-"
check 'label and cordon a node' 'uncordoned' bash -c "$K cordon $N && $K uncordon $N"
check 'config view --minify --raw' 'current-context' $K config view --minify --raw
check 'kuberc' '^getn|NAME' bash -c "printf 'apiVersion: kubectl.config.k8s.io/v1beta1\nkind: Preference\naliases: [{name: getn, command: get, prependArgs: [nodes]}]\n' > '$T/kuberc'; $K --kuberc='$T/kuberc' getn"
check 'clean up what has no namespace' deleted $K delete priorityclass/pc-$NS clusterrole/cr-$NS clusterrolebinding/crb-$NS
check 'delete the namespace' deleted $K delete ns $NS --timeout=90s
finish
