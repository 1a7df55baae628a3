#!/bin/bash
# argocd.sh KUBECONFIG: Argo CD (repository server, application controller, API server, ApplicationSet controller and the CLI; one binary, built
# below KIT_WORK from its Go module) as processes of this machine with the service accounts of its own manifests, Redis beside them. Applications
# from a git repository: client-side and server-side apply, Kustomize, Helm, hooks and waves with real containers, a definition and an object of
# it in one application, pruning, self-healing, differences, trees, health, roll-back, actions, logs, projects, sets. PORT..PORT+9 (17900 by
# default) are used. Ends with 'N passed, N failed'.
set -u
here=$(cd "$(dirname "$0")" && pwd); . "$here/kit/kit.env"
ADMIN=$(realpath "$1"); export KUBECONFIG=$ADMIN
K=$KB/kubectl; PORT=${PORT:-17900}; NS=market-$$; LOGS=$KIT_WORK/argocd-logs; mkdir -p "$LOGS"
. "$here/check.sh"
. "$here/programs.sh"
AGNHOST=registry.k8s.io/e2e-test-images/agnhost:2.63.0; BUSYBOX=registry.k8s.io/e2e-test-images/busybox:1.37.0-1
export GIT_AUTHOR_NAME=shop GIT_AUTHOR_EMAIL=shop@example.com GIT_COMMITTER_NAME=shop GIT_COMMITTER_EMAIL=shop@example.com
A=$(program argocd github.com/argoproj/argo-cd/v3 v3.2.11 ./cmd) || exit
program kustomize sigs.k8s.io/kustomize/kustomize/v5 v5.7.1 > "$T/out" || exit
mkdir "$T/bin"; ln -s "$P/kustomize" "$TB/helm" "$T/bin"; for n in argocd argocd-repo-server; do ln -s "$P/argocd" "$T/bin/$n"; done
export PATH=$T/bin:$PATH HOME=$T XDG_CONFIG_HOME=$T/.config
export ARGOCD_OPTS="--server 127.0.0.1:$((PORT + 3)) --plaintext" ARGOCD_GPG_ENABLED=false
KA="$K -n argocd"; KN="$K -n $NS"

# --- the repository
R=$T/work; mkdir -p "$R/plain" "$R/own/base" "$R/own/shop" "$R/chart/templates" "$R/set/north" "$R/set/south"
cat > "$R/plain/crd.yaml" <<'Y'
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: stalls.market.example}
spec:
  group: market.example
  scope: Namespaced
  names: {plural: stalls, singular: stall, kind: Stall}
  versions:
  - name: v1
    served: true
    storage: true
    subresources: {status: {}}
    additionalPrinterColumns: [{name: Goods, type: string, jsonPath: .spec.goods}]
    schema: {openAPIV3Schema: {type: object, properties: {
      status: {type: object, x-kubernetes-preserve-unknown-fields: true},
      spec: {type: object, required: [goods], properties: {
        goods: {type: string}, price: {type: integer, default: 5}, opens: {x-kubernetes-int-or-string: true},
        with: {type: array, x-kubernetes-list-type: map, x-kubernetes-list-map-keys: [name], items: {type: object, required: [name], properties: {name: {type: string}, part: {type: integer, default: 1}}}}}}}}}
Y
cat > "$R/plain/stall.yaml" <<'Y'
apiVersion: market.example/v1
kind: Stall
metadata: {name: fruit}
spec: {goods: fruit, opens: "8", with: [{name: apples, part: 3}, {name: pears}]}
Y
cat > "$R/plain/app.yaml" <<Y
apiVersion: apps/v1
kind: Deployment
metadata: {name: app}
spec:
  replicas: 1
  selector: {matchLabels: {app: app}}
  template:
    metadata: {labels: {app: app}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: app
        image: $AGNHOST
        args: [netexec, --http-port=8080]
        ports: [{containerPort: 8080}]
        env: [{name: COLOR, valueFrom: {configMapKeyRef: {name: settings, key: color}}}]
        resources: {requests: {cpu: 10m, memory: "16777216"}, limits: {memory: 1Gi}}
        readinessProbe: {httpGet: {path: /healthz, port: 8080}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: app}
spec: {selector: {app: app}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {color: red}
---
apiVersion: v1
kind: Secret
metadata: {name: app}
stringData: {password: old}
---
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: app}
spec: {minReplicas: 1, maxReplicas: 1, scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: app}, metrics: [{type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 90}}}]}
---
apiVersion: v1
kind: LimitRange
metadata: {name: later}
spec: {limits: [{type: PersistentVolumeClaim, max: {storage: "1073741824"}, min: {storage: 0.5Mi}}]}
Y
# hook NAME PHASE COMMAND
hook() { cat <<Y
apiVersion: batch/v1
kind: Job
metadata: {name: $1, annotations: {argocd.argoproj.io/hook: $2, argocd.argoproj.io/hook-delete-policy: BeforeHookCreation}}
spec:
  backoffLimit: 0
  template:
    spec:
      restartPolicy: Never
      terminationGracePeriodSeconds: 1
      containers: [{name: hook, image: "$BUSYBOX", command: [sh, -c, "$3"]}]
Y
}
hook before PreSync 'echo before' > "$R/plain/before.yaml"; hook after PostSync 'wget -qO- -T5 http://app/hostname' > "$R/plain/after.yaml"
cat > "$R/own/base/kustomization.yaml" <<'Y'
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources: [app.yaml]
configMapGenerator: [{name: settings, literals: [color=red]}]
Y
cat > "$R/own/base/app.yaml" <<Y
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: store}
spec:
  serviceName: store
  replicas: 1
  selector: {matchLabels: {app: store}}
  template:
    metadata: {labels: {app: store}}
    spec:
      terminationGracePeriodSeconds: 1
      containers: [{name: store, image: "$AGNHOST", args: [pause], envFrom: [{configMapRef: {name: settings}}]}]
---
apiVersion: v1
kind: Service
metadata: {name: store}
spec: {clusterIP: None, selector: {app: store}, ports: [{name: a, port: 80}, {name: b, port: 80, protocol: UDP}]}
---
apiVersion: batch/v1
kind: CronJob
metadata: {name: yearly, annotations: {argocd.argoproj.io/sync-wave: "1"}}
spec: {schedule: "0 0 1 1 *", jobTemplate: {spec: {template: {spec: {restartPolicy: Never, containers: [{name: a, image: "$BUSYBOX", command: [echo, yearly]}]}}}}}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: store}
spec: {podSelector: {}, policyTypes: [Ingress], ingress: [{from: [{namespaceSelector: {}}], ports: [{port: 80}]}]}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: store}
spec: {minAvailable: 0, selector: {matchLabels: {app: store}}}
Y
printf 'apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nnamePrefix: own-\nresources: [../base]\nlabels: [{pairs: {shop: own}}]\n' > "$R/own/shop/kustomization.yaml"
printf 'apiVersion: v2\nname: chart\nversion: 0.1.0\n' > "$R/chart/Chart.yaml"; printf 'color: red\n' > "$R/chart/values.yaml"
cat > "$R/chart/templates/all.yaml" <<'Y'
apiVersion: v1
kind: ConfigMap
metadata: {name: {{ .Release.Name }}-settings, namespace: {{ .Release.Namespace }}}
data: {color: {{ .Values.color }}, kube: {{ .Capabilities.KubeVersion.Version | quote }}, stalls: {{ .Capabilities.APIVersions.Has "market.example/v1/Stall" | quote }}}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: {{ .Release.Name }}-hook, annotations: {helm.sh/hook: pre-install}}
Y
for d in north south; do printf 'apiVersion: v1\nkind: ConfigMap\nmetadata: {name: %s}\ndata: {side: %s}\n' $d $d > "$R/set/$d/side.yaml"; done
commit() { git -C "$R" add -A && git -C "$R" commit -q -m "$1"; }
head_() { git -C "$R" rev-parse HEAD; }
git -C "$R" init -q -b main; commit first

# --- Argo CD
# as ACCOUNT: a kubeconfig with a token of the service account, in the namespace argocd
as() {
  cp "$ADMIN" "$T/$1.kubeconfig"
  $K --kubeconfig "$T/$1.kubeconfig" config set-credentials account --token "$($KA create token "$1" --duration 2h)" > /dev/null
  $K --kubeconfig "$T/$1.kubeconfig" config set-context --current --user account --namespace argocd > /dev/null; echo "$T/$1.kubeconfig"
}
# part NAME ACCOUNT FLAG...: one of its programs
part() {
  n=$1 a=$2; shift 2
  process "$n" env "KUBECONFIG=$(as "$a")" ARGOCD_BINARY_NAME="$n" ARGOCD_FAKE_IN_CLUSTER=true ARGOCD_TLS_DATA_PATH="$T/tls" ARGOCD_SSH_DATA_PATH="$T/ssh" HOSTNAME=process-0 "$P/argocd" "$@"
}
check 'namespace' created $K create ns argocd
check 'its manifests' 'applicationsets.argoproj.io serverside-applied' $KA apply --server-side -f "$A/manifests/install.yaml"
check 'its own pods are not needed' 'argocd-application-controller scaled' $KA scale deploy,sts --all --replicas 0
$KA patch cm argocd-cm --type merge -p '{"data":{"timeout.reconciliation":"10s","timeout.reconciliation.jitter":"0s"}}' > "$T/out"
mkdir "$T/tls" "$T/ssh"; touch "$T/ssh/ssh_known_hosts"
process redis redis-server --port "$PORT" --bind 127.0.0.1 --save '' --appendonly no --dir "$T"
part argocd-repo-server argocd-repo-server --redis "127.0.0.1:$PORT" --port "$((PORT + 1))" --address 127.0.0.1 --metrics-port "$((PORT + 2))" --metrics-address 127.0.0.1 --disable-tls --revision-cache-expiration 1s
part argocd-application-controller argocd-application-controller --redis "127.0.0.1:$PORT" --repo-server "127.0.0.1:$((PORT + 1))" --repo-server-plaintext --metrics-port "$((PORT + 5))" \
  --app-resync 10 --app-resync-jitter 0 --self-heal-timeout-seconds 1
part argocd-server argocd-server --redis "127.0.0.1:$PORT" --repo-server "127.0.0.1:$((PORT + 1))" --repo-server-plaintext --insecure --disable-auth --port "$((PORT + 3))" --address 127.0.0.1 \
  --metrics-port "$((PORT + 4))" --dex-server "http://127.0.0.1:1"
part argocd-applicationset-controller argocd-applicationset-controller --argocd-repo-server "127.0.0.1:$((PORT + 1))" --repo-server-plaintext --metrics-addr "127.0.0.1:$((PORT + 6))" \
  --probe-addr "127.0.0.1:$((PORT + 7))" --webhook-addr "127.0.0.1:$((PORT + 8))"
until_ 'it answers' '^argocd-server: ' argocd version
check 'what it works on' 'https://kubernetes.default.svc +in-cluster' argocd cluster list

# quiet NAME COMMAND...: it succeeds, whatever it prints
quiet() { n=$1; shift; check "$n" '^0$' sh -c '"$@" > /dev/null 2>&1; echo $?' quiet "$@"; }
# application NAME PATH OPTIONS...: creates it. state NAME: 'Synced Healthy COMMIT Succeeded'
printf '#!/bin/bash\nn=$1 p=$2; shift 2\nargocd app create "$n" --repo "file://%s" --path "$p" --revision main --dest-server https://kubernetes.default.svc --dest-namespace %s --sync-option CreateNamespace=true "$@"\n' "$R" "$NS" > "$T/bin/application"
printf "#!/bin/bash\n%s get application \"\$1\" -o 'jsonpath={.status.sync.status} {.status.health.status} {.status.sync.revision} {.status.operationState.phase}'\n" "$KA" > "$T/bin/state"
chmod +x "$T/bin/application" "$T/bin/state"

# --- client-side apply, hooks, the definition and its object at once
check 'an application' "application 'plain' created" application plain plain --sync-policy manual
until_ 'is out of sync' 'OutOfSync Missing' state plain
refused 'the difference is everything' '===== apps/Deployment' argocd app diff plain
check 'sync' 'Phase: +Succeeded' argocd app sync plain --timeout 90
check 'healthy' 'Health Status: +Healthy' argocd app wait plain --health --timeout 80
check 'no difference' '^0$' sh -c 'argocd app diff plain; echo $?'
until_ 'synchronized' 'Synced' state plain
check 'the object of the definition has its defaults' '^5 3 1$' $KN get stall fruit -o 'jsonpath={.spec.price} {.spec.with[0].part} {.spec.with[1].part}'
check 'the hook before ran' '^before$' $KN logs job/before
check 'the hook after reached the Service' '^app-' $KN logs job/after
check 'its resources' 'Stall +fruit|market.example +Stall' argocd app resources plain
check 'the tree goes down to the pod' 'Pod/app-.*Healthy' argocd app get plain -o tree
check 'an autoscaler is healthy once it has read the scale' 'HorizontalPodAutoscaler/app +Synced +Healthy' argocd app get plain -o tree
check 'logs' 'Serving on port|Started HTTP server' argocd app logs plain --kind Deployment --name app
check 'the last applied object is kept on it' '"kind":"Stall"' $KN get stall fruit -o 'jsonpath={.metadata.annotations.kubectl\.kubernetes\.io/last-applied-configuration}'
check 'the namespace was made' Active $K get ns "$NS"

# --- the next commits, drift
sed -i 's/color: red/color: green/; s/stringData: {password: old}/stringData: {password: new}/' "$R/plain/app.yaml"; sed -i 's/{name: pears}/{name: plums}/; s/"8"/9/' "$R/plain/stall.yaml"; commit second
check 'the next commit shows' 'OutOfSync' argocd app get plain --refresh
refused 'as a difference' 'green' argocd app diff plain
quiet 'automatic from now on' argocd app set plain --sync-policy automated --auto-prune --self-heal
until_ 'the commit is applied' "Synced .* $(head_) Succeeded" state plain
check 'lists too' '^apples plums 9$' $KN get stall fruit -o 'jsonpath={.spec.with[*].name} {.spec.opens}'
check 'drift' 'scaled' sh -c "$KN patch cm settings -p '{\"data\":{\"color\":\"blue\"}}' && $KN delete svc app && $KN patch stall fruit --type=merge -p '{\"spec\":{\"price\":9,\"with\":[]}}' && $KN scale deploy app --replicas 2"
until_ 'is healed' '^green$' $KN get cm settings -o 'jsonpath={.data.color}'
until_ 'the Service too' 'ClusterIP' $KN get svc app
until_ 'and the list' '^apples plums$' $KN get stall fruit -o 'jsonpath={.spec.with[*].name}'
until_ 'and the replicas' '^1$' $KN get deploy app -o 'jsonpath={.spec.replicas}'
python3 - "$R/plain/app.yaml" <<'Q'
import sys
path = sys.argv[1]
parts = open(path).read().split("---\n")
open(path, "w").write("---\n".join(part for part in parts if "kind: LimitRange" not in part and "kind: Horizontal" not in part))
Q
commit third
until_ 'what is gone is pruned' 'not found' $KN get limitrange later
until_ 'all of it' "Synced Healthy $(head_) Succeeded" state plain
sed -i 's/goods: fruit/goods: null/' "$R/plain/stall.yaml"; commit 'a value that the definition refuses'
until_ 'the refusal is told' 'spec.goods: (Required value|Invalid value)' $KA get application plain -o 'jsonpath={.status.operationState.message} {.status.operationState.syncResult.resources[*].message} {.status.conditions[*].message}'
git -C "$R" revert --no-edit HEAD > "$T/out"
quiet 'its retries are stopped' argocd app terminate-op plain
until_ 'mended' "Synced Healthy $(head_)" state plain
quiet 'an action' argocd app actions run plain restart --kind Deployment --resource-name app
until_ 'restarts the pods' 'restartedAt' $KN get deploy app -o 'jsonpath={.spec.template.metadata.annotations}'
check 'the history' '^2 .* main ' argocd app history plain
quiet 'manual again' argocd app set plain --sync-policy manual
ID=$(argocd app history plain -o id | head -1)
check 'roll back' 'Succeeded' argocd app rollback plain "$ID" --timeout 80
check 'the old colour' '^red$' $KN get cm settings -o 'jsonpath={.data.color}'
quiet 'patch one resource' argocd app patch-resource plain --kind ConfigMap --resource-name settings --patch-type application/merge-patch+json --patch '{"data":{"color":"black"}}'
check 'it is' '^black$' $KN get cm settings -o 'jsonpath={.data.color}'
check 'part of a sync' 'Succeeded' argocd app sync plain --resource :ConfigMap:settings --timeout 80
check 'replaced instead of applied' 'Succeeded' argocd app sync plain --replace --timeout 90 --resource :ConfigMap:settings --resource apps:Deployment:app
check 'a dry run' 'Succeeded' argocd app sync plain --dry-run --timeout 80

# --- server-side apply and its difference, Kustomize
check 'an application by server-side apply' created application own own/shop --sync-policy automated --auto-prune --self-heal --sync-option ServerSideApply=true --annotations argocd.argoproj.io/compare-options=ServerSideDiff=true,IncludeMutationWebhook=true
until_ 'healthy' "Synced Healthy $(head_) Succeeded" state own
check 'the name of the generated configuration' 'own-settings-' $KN get sts own-store -o 'jsonpath={.spec.template.spec.containers[0].envFrom[0].configMapRef.name}'
check 'fields belong to it' 'argocd-controller Apply' $KN get sts own-store --show-managed-fields -o 'jsonpath={range .metadata.managedFields[*]}{.manager} {.operation}{"\n"}{end}'
check 'no annotation of a last one' '^[.]$' $KN get sts own-store -o 'jsonpath={.metadata.annotations.kubectl\.kubernetes\.io/last-applied-configuration}.'
check 'no difference' '^0$' sh -c 'argocd app diff own --server-side-diff; echo $?'
check 'both ports of one number' '^TCP UDP$' $KN get svc own-store -o 'jsonpath={.spec.ports[*].protocol}'
check 'somebody else owns another field' 'serverside-applied' sh -c "printf 'apiVersion: v1\nkind: Service\nmetadata: {name: own-store, namespace: $NS, annotations: {mine: \"yes\"}}\n' | $K apply --server-side --field-manager=me -f -"
check 'and takes one' 'patched' $KN patch sts own-store --type=merge -p '{"spec":{"minReadySeconds":1,"replicas":0}}'
until_ 'which is taken back' '^1 1$' $KN get sts own-store -o 'jsonpath={.spec.replicas} {.spec.minReadySeconds}'
check 'what others own stays' '^yes$' $KN get svc own-store -o 'jsonpath={.metadata.annotations.mine}'
until_ 'and is no difference' "Synced Healthy $(head_)" state own
sed -i 's/color=red/color=yellow/' "$R/own/base/kustomization.yaml"; sed -i '/^kind: PodDisruptionBudget/,$d; /^apiVersion: policy/d' "$R/own/base/app.yaml"; commit fourth
until_ 'another commit' "Synced Healthy $(head_) Succeeded" state own
until_ 'one generated configuration is left' '^1$' sh -c "$KN get cm -l shop=own -o name | wc -l"
check 'the budget is pruned' 'not found|No resources' $KN get pdb

# --- Helm
check 'a chart' created application chart chart --sync-policy automated --helm-set color=brown
until_ 'synchronized' "Synced Healthy $(head_) Succeeded" state chart
check 'it knows the cluster' "^brown v?1[.]37.* true$" $KN get cm chart-settings -o 'jsonpath={.data.color} {.data.kube} {.data.stalls}'

# --- a set of applications
cat > "$T/set.yaml" <<Y
apiVersion: argoproj.io/v1alpha1
kind: ApplicationSet
metadata: {name: sides, namespace: argocd}
spec:
  goTemplate: true
  generators:
  - matrix:
      generators:
      - git: {repoURL: "file://$R", revision: main, directories: [{path: set/*}]}
      - list: {elements: [{kind: a}, {kind: b}]}
  template:
    metadata: {name: '{{.path.basename}}-{{.kind}}', finalizers: [resources-finalizer.argocd.argoproj.io]}
    spec:
      project: default
      source: {repoURL: "file://$R", targetRevision: main, path: '{{.path.path}}', kustomize: {nameSuffix: '-{{.kind}}'}}
      destination: {server: https://kubernetes.default.svc, namespace: $NS}
      syncPolicy: {automated: {}}
Y
sed -i "s/, kustomize: {nameSuffix: '-{{.kind}}'}/, directory: {recurse: false}/; s/namespace: $NS}\$/namespace: '$NS-{{.kind}}'}/; s/automated: {}}/automated: {}, syncOptions: [CreateNamespace=true]}/" "$T/set.yaml"
check 'a set' created $K apply -f "$T/set.yaml"
until_ 'makes four' 'north-a north-b .*south-a south-b' $KA get applications -o 'jsonpath={.items[*].metadata.name}'
for app in north-a south-b; do until_ "$app is there" "Synced Healthy" state $app; done
check 'where it should be' '^south$' $K -n "$NS-b" get cm south -o 'jsonpath={.data.side}'
until_ 'its status' 'ResourcesUpToDate=True' $KA get applicationset sides -o 'jsonpath={range .status.conditions[*]}{.type}={.status} {end}'
git -C "$R" rm -q -r set/south; commit fifth
until_ 'one folder less' '^north-a north-b$' sh -c "$KA annotate --overwrite applicationset sides argocd.argoproj.io/application-set-refresh=true >/dev/null; $KA get applications -o json | jq -r '[.items[].metadata.name | select(test(\"-[ab]\$\"))] | join(\" \")'"
until_ 'its objects go with it' 'not found' $K -n "$NS-b" get cm south

# --- a project with limits
quiet 'a project' argocd proj create narrow --src "file://$R" --dest "https://kubernetes.default.svc,$NS"
quiet 'without secrets' argocd proj deny-namespace-resource narrow '' Secret
refused 'not elsewhere' 'do not match any of the allowed destinations' application narrow plain --project narrow --dest-namespace kube-system
check 'an application of it' created application narrow plain --project narrow
refused 'may not have the definition or the secret' 'is not permitted in project narrow' argocd app sync narrow --timeout 60 --force
check 'deleted without its objects' 'deleted' $KA delete application narrow --timeout 60s
quiet 'and the project' argocd proj delete narrow

# --- the end
check 'events of the controller' 'ResourceUpdated|OperationCompleted' $KA get events --field-selector involvedObject.kind=Application
check 'delete the set' 'deleted' $KA delete applicationset sides --timeout 60s
for app in chart own; do check "delete $app" deleted argocd app delete $app -y --wait; done
check 'what they made is gone' '^0$' sh -c "$KN get sts,svc,cronjob,netpol -l shop=own -o name | wc -l"
check 'delete the first in the foreground' deleted argocd app delete plain -y --wait --propagation-policy foreground
check 'its definition stays, as it does not own definitions' deleted $K delete crd stalls.market.example --timeout 60s
until_ 'no application is left' '^0$' sh -c "$KA get applications -o name | wc -l"
ended "${!process_ids[@]}"
check 'remove the manifests' deleted $KA delete --timeout 80s -f "$A/manifests/install.yaml"
check 'remove the namespaces' "namespace \"argocd\" deleted" $K delete ns argocd "$NS" "$NS-a" "$NS-b" --timeout 80s
finish
