#!/bin/bash
# gitops.sh KUBECONFIG [flux|argo]...: GitOps tools as processes of this machine with the administrator's kubeconfig follow the commits of a git
# repository, against real containers. flux: kustomize-controller and the CLI; commits reach them as ExternalArtifacts, the kind that Flux has
# for sources of others, because its source-controller cannot be built from published modules. argo: Argo CD's engine by its agent (which does
# not see a hook's end). Both by default. Programs are built below KIT_WORK from Go modules. PORT..PORT+3 (17860 by default) are used. Ends with
# 'N passed, N failed'.
set -u
here=$(cd "$(dirname "$0")" && pwd); . "$here/kit/kit.env"
KUBECONFIG=$(realpath "$1"); export KUBECONFIG; shift; [ $# -gt 0 ] || set -- flux argo
K=$KB/kubectl; PORT=${PORT:-17860}; NS=shop-$$; LOGS=$KIT_WORK/gitops-logs; mkdir -p "$LOGS"
. "$here/check.sh"
. "$here/programs.sh"
IMAGE=registry.k8s.io/e2e-test-images/agnhost:2.63.0
export GIT_AUTHOR_NAME=shop GIT_AUTHOR_EMAIL=shop@example.com GIT_COMMITTER_NAME=shop GIT_COMMITTER_EMAIL=shop@example.com

# --- the repository: an application with a definition and an object of it, generated configuration
R=$T/work; mkdir -p "$R/app" "$R/after" "$T/artifacts"
cat > "$R/app/kustomization.yaml" <<'Y'
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources: [namespace.yaml, crd.yaml, taste.yaml, app.yaml]
configMapGenerator:
- name: settings
  namespace: ${ns}
  literals: [color=red]
Y
cat > "$R/app/namespace.yaml" <<'Y'
apiVersion: v1
kind: Namespace
metadata: {name: "${ns}"}
Y
cat > "$R/app/crd.yaml" <<'Y'
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: tastes.gitops.example}
spec:
  group: gitops.example
  scope: Namespaced
  names: {plural: tastes, singular: taste, kind: Taste}
  versions:
  - name: v1
    served: true
    storage: true
    subresources: {status: {}}
    schema: {openAPIV3Schema: {type: object, properties: {
      status: {type: object, x-kubernetes-preserve-unknown-fields: true},
      spec: {type: object, properties: {
        name: {type: string, x-kubernetes-validations: [{rule: self != 'bitter', message: nobody likes bitter}]}, level: {type: integer, default: 3},
        with: {type: array, x-kubernetes-list-type: map, x-kubernetes-list-map-keys: [name], items: {type: object, required: [name], properties: {name: {type: string}, part: {type: integer}}}}}}}}}
Y
cat > "$R/app/taste.yaml" <<'Y'
apiVersion: gitops.example/v1
kind: Taste
metadata: {name: sweet, namespace: "${ns}"}
spec: {name: sweet, with: [{name: sugar, part: 3}, {name: honey, part: 1}]}
Y
cat > "$R/app/app.yaml" <<Y
apiVersion: apps/v1
kind: Deployment
metadata: {name: app, namespace: "\${ns}"}
spec:
  replicas: 1
  selector: {matchLabels: {app: app}}
  template:
    metadata: {labels: {app: app}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: app
        image: $IMAGE
        args: [netexec, --http-port=8080]
        ports: [{containerPort: 8080}]
        envFrom: [{configMapRef: {name: settings}}]
        readinessProbe: {httpGet: {path: /healthz, port: 8080}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: app, namespace: "\${ns}"}
spec: {selector: {app: app}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Secret
metadata: {name: app, namespace: "\${ns}"}
stringData: {password: old}
Y
cat > "$R/after/after.yaml" <<'Y'
apiVersion: batch/v1
kind: Job
metadata: {name: after, namespace: "${ns}", annotations: {kustomize.toolkit.fluxcd.io/force: Enabled}}
spec:
  template:
    spec:
      restartPolicy: Never
      terminationGracePeriodSeconds: 1
      containers: [{name: ask, image: "registry.k8s.io/e2e-test-images/busybox:1.37.0-1", command: [wget, -qO-, -T5, "http://app/hostname"]}]
Y
git -C "$R" init -q -b main
# commit MESSAGE: commits the work tree, and tells its archive in the source's status
commit() { git -C "$R" add -A && git -C "$R" commit -q -m "$1" && publish; }
head_() { git -C "$R" rev-parse HEAD; }
publish() {
  archive=$(head_).tar.gz; git -C "$R" archive --format=tar.gz -o "$T/artifacts/$archive" HEAD
  jq -n --arg url "http://127.0.0.1:$PORT/$archive" --arg revision "main@sha1:$(head_)" --arg digest "sha256:$(sha256sum < "$T/artifacts/$archive" | cut -d' ' -f1)" \
    --argjson size "$(stat -c %s "$T/artifacts/$archive")" --arg now "$(date -u +%FT%TZ)" '{status: {
      artifact: {url: $url, path: $url, revision: $revision, digest: $digest, size: $size, lastUpdateTime: $now},
      conditions: [{type: "Ready", status: "True", reason: "Succeeded", message: ("stored artifact for " + $revision), lastTransitionTime: $now}]}}' > "$T/status.json"
  $K -n flux-system patch externalartifact shop --subresource=status --type=merge --patch-file "$T/status.json" > "$T/out" 2>&1 || no 'publish a commit'
}

flux() {
  KC=$(program kustomize-controller github.com/fluxcd/kustomize-controller v1.9.5) || exit
  SC=$(cd / && go mod download -json github.com/fluxcd/source-controller@v1.9.5 | jq -r .Dir) # its definitions
  # its `install` wants manifests that its own build makes from the controllers' releases; nothing else does
  NEEDS=cmd/flux/manifests/none.yaml program flux github.com/fluxcd/flux2/v2 v2.9.5 ./cmd/flux > "$T/out" || exit
  F="$P/flux -n flux-system"; KF="$K -n flux-system"
  process artifacts python3 -m http.server --bind 127.0.0.1 --directory "$T/artifacts" "$PORT"
  check 'definitions' 'externalartifacts.*serverside-applied' $K apply --server-side -f "$SC/config/crd/bases" -f "$KC/config/crd/bases"
  check 'namespace' created $K create ns flux-system
  printf 'apiVersion: source.toolkit.fluxcd.io/v1\nkind: ExternalArtifact\nmetadata: {name: shop, namespace: flux-system}\nspec: {sourceRef: {apiVersion: example.com/v1, kind: Work, name: shop}}\n' > "$T/source.yaml"
  check 'a source' created $K apply -f "$T/source.yaml"
  commit first
  export RUNTIME_NAMESPACE=flux-system
  process kustomize-controller "$P/kustomize-controller" --events-addr= --watch-all-namespaces --feature-gates=ExternalArtifact=true \
    --metrics-addr "127.0.0.1:$((PORT + 1))" --health-addr "127.0.0.1:$((PORT + 2))" --requeue-dependency 2s
  until_ 'it is ready' 'ready' sh -c "curl -sf http://127.0.0.1:$((PORT + 2))/readyz && echo ready"

  cat > "$T/ks.yaml" <<Y
apiVersion: kustomize.toolkit.fluxcd.io/v1
kind: Kustomization
metadata: {name: app, namespace: flux-system}
spec:
  interval: 1h
  retryInterval: 2s
  timeout: 60s
  path: ./app
  prune: true
  wait: true
  sourceRef: {kind: ExternalArtifact, name: shop}
  commonMetadata: {labels: {team: shop}}
  postBuild: {substitute: {ns: $NS}}
---
apiVersion: kustomize.toolkit.fluxcd.io/v1
kind: Kustomization
metadata: {name: after, namespace: flux-system}
spec:
  interval: 1h
  retryInterval: 2s
  timeout: 60s
  path: ./after
  prune: true
  dependsOn: [{name: app}]
  healthChecks: [{apiVersion: batch/v1, kind: Job, name: after, namespace: $NS}]
  sourceRef: {kind: ExternalArtifact, name: shop}
  postBuild: {substitute: {ns: $NS}}
Y
  check 'two Kustomizations, the second after the first' 'after created' $K apply -f "$T/ks.yaml"
  check 'applied, and healthy' 'condition met' $KF wait --for=condition=Ready kustomization/app --timeout 80s
  check 'its revision is the commit' "main@sha1:$(head_)" $KF get kustomization app -o 'jsonpath={.status.lastAppliedRevision}'
  check 'its inventory has all' '^7$' sh -c "$KF get kustomization app -o json | jq '.status.inventory.entries | length'"
  check 'the deployment is available' '1/1' $K -n "$NS" get deploy app
  check 'the object of the definition has its default' '^3 honey$' $K -n "$NS" get taste sweet -o 'jsonpath={.spec.level} {.spec.with[1].name}'
  check 'everything has the label' '^5$' sh -c "$K -n $NS get deploy,svc,secret,taste,cm -l team=shop -o name | wc -l"
  check 'fields belong to the controller' 'kustomize-controller Apply' $K -n "$NS" get deploy app --show-managed-fields -o 'jsonpath={range .metadata.managedFields[*]}{.manager} {.operation}{"\n"}{end}'
  check 'the second ran its job' 'condition met' $KF wait --for=condition=Ready kustomization/after --timeout 80s
  check 'its pod reached the Service' 'app-' $K -n "$NS" logs job/after
  check 'events' 'ReconciliationSucceeded' $KF get events
  check 'the tree' "Deployment/$NS/app" $F tree kustomization app
  check 'the trace' 'Managed by Flux' $P/flux -n "$NS" trace deployment app
  check 'no difference' '^0$' sh -c "$F diff kustomization app --path $R/app --progress-bar=false; echo \$?"
  check 'everything at once' 'kustomization/after.*True' $F get all

  # drift: kubectl's changes are taken back, what others own stays
  check 'somebody changes things' patched $K -n "$NS" patch deploy app --type=json -p '[{"op":"replace","path":"/spec/replicas","value":3},{"op":"add","path":"/metadata/annotations/mine","value":"yes"}]'
  check 'and deletes one' deleted $K -n "$NS" delete svc app
  check 'and applies another by server' serverside-applied sh -c "$K -n $NS create cm settings --from-literal=color=blue --dry-run=client -o yaml | $K -n $NS apply --server-side --force-conflicts --field-manager=kubectl -f - && \
    printf 'apiVersion: gitops.example/v1\nkind: Taste\nmetadata: {name: sweet, namespace: $NS}\nspec: {with: [{name: sugar, part: 9}, {name: milk}]}\n' | $K apply --server-side --force-conflicts --field-manager=chef -f -"
  refused 'the CLI shows the drift' 'drifted' $F diff kustomization app --path "$R/app" --progress-bar=false
  check 'reconcile' 'applied revision' $F reconcile kustomization app
  check 'replicas are back, the annotation too' '^1 $' $K -n "$NS" get deploy app -o 'jsonpath={.spec.replicas} {.metadata.annotations.mine}'
  check 'the Service is back' 'ClusterIP' $K -n "$NS" get svc app
  check 'an item of somebody else stays in the list' '^sugar=3 honey=1 milk= $' $K -n "$NS" get taste sweet -o 'jsonpath={range .spec.with[*]}{.name}={.part} {end}'

  # the next commits
  sed -i 's/color=red/color=green/; s/resources: .*/resources: [namespace.yaml, crd.yaml, taste.yaml, app.yaml, role.yaml]/' "$R/app/kustomization.yaml"
  sed -i '/^---$/,$d' "$R/app/app.yaml"; sed -i 's/replicas: 1/replicas: 2/' "$R/app/app.yaml"
  printf 'apiVersion: rbac.authorization.k8s.io/v1\nkind: Role\nmetadata: {name: reader, namespace: "${ns}"}\nrules: [{apiGroups: [""], resources: [configmaps], verbs: [get]}]\n' > "$R/app/role.yaml"
  sed -i 's/command: \[[^]]*\]/command: [echo, again]/' "$R/after/after.yaml"; commit second
  until_ 'applied' "main@sha1:$(head_)" $KF get kustomization app -o 'jsonpath={.status.lastAppliedRevision}'
  check 'changed' '2/2' $K -n "$NS" get deploy app
  check 'what is gone from it is pruned' '^0$' sh -c "$K -n $NS get svc/app secret/app --ignore-not-found -o name | wc -l"
  until_ 'a job that must not change was made again' 'again' $K -n "$NS" get job after -o 'jsonpath={.spec.template.spec.containers[0].command}'
  sed -i 's/name: sweet, with/name: bitter, with/' "$R/app/taste.yaml"; commit 'a value that the definition refuses'
  until_ 'the refusal is told' 'nobody likes bitter' $KF get kustomization app -o 'jsonpath={.status.conditions[?(@.type=="Ready")].message}'
  until_ 'what depends on it waits' "dependency 'flux-system/app' is not ready" $KF get kustomization after -o 'jsonpath={.status.conditions[?(@.type=="Ready")].message}'
  git -C "$R" revert --no-edit HEAD > "$T/out"; publish
  until_ 'ready again' "main@sha1:$(head_)" $KF get kustomization app -o 'jsonpath={.status.lastAppliedRevision}'

  # somebody with fewer rights
  $K -n "$NS" create sa limited >/dev/null; $K -n "$NS" create role limited --verb='*' --resource=configmaps > /dev/null; $K -n "$NS" create rolebinding limited --role=limited --serviceaccount="$NS:limited" >/dev/null
  mkdir "$R/own"; printf 'apiVersion: v1\nkind: ConfigMap\nmetadata: {name: own}\n---\napiVersion: v1\nkind: Secret\nmetadata: {name: own}\n' > "$R/own/own.yaml"; commit own
  printf 'apiVersion: kustomize.toolkit.fluxcd.io/v1\nkind: Kustomization\nmetadata: {name: own, namespace: %s}\nspec: {interval: 1h, retryInterval: 2s, path: ./own, prune: true, serviceAccountName: limited, targetNamespace: %s, sourceRef: {kind: ExternalArtifact, name: shop, namespace: flux-system}}\n' "$NS" "$NS" | $K apply -f - > "$T/out"
  until_ 'a service account without the right is refused' 'secrets "own" is forbidden: User "system:serviceaccount:shop-[0-9]+:limited" cannot patch resource "secrets"' $K -n "$NS" get kustomization own -o 'jsonpath={.status.conditions[?(@.type=="Ready")].message}'
  $K -n "$NS" patch role limited --type=json -p '[{"op":"add","path":"/rules/0/resources/-","value":"secrets"}]' >/dev/null
  until_ 'with the right it works' 'Applied revision' $K -n "$NS" get kustomization own -o 'jsonpath={.status.conditions[?(@.type=="Ready")].message}'

  # the end
  check 'suspend' 'suspended' $F suspend kustomization after
  check 'resume' 'resumed|applied revision' $F resume kustomization after
  check 'deletion prunes' 'deleted' $K -n "$NS" delete kustomization own --timeout 60s
  check 'it did' '^0$' sh -c "$K -n $NS get cm/own secret/own --ignore-not-found -o name | wc -l"
  check 'delete the others' 'deleted' $F delete kustomization after --silent
  until_ 'they are gone' 'not found' $KF get kustomization after
  check 'and the first, whose namespace goes too' 'deleted' $F delete kustomization app --silent
  until_ 'it is gone' 'not found' $KF get kustomization app
  until_ 'the namespace is gone' 'not found' $K get ns "$NS"
  until_ 'so is the definition' 'not found' $K get crd tastes.gitops.example
  check 'delete the source' deleted $KF delete externalartifact shop --timeout 60s
  ended kustomize-controller artifacts
  check 'remove the definitions' deleted $K delete --timeout 60s -f "$SC/config/crd/bases" -f "$KC/config/crd/bases"
  check 'remove the namespace' deleted $K delete ns flux-system --timeout 60s
}

argo() {
  A=$T/argo; mkdir -p "$A"; NA=argo-$$; S="http://127.0.0.1:$((PORT + 3))/api/v1/sync"
  program gitops-agent github.com/argoproj/gitops-engine v0.7.3 ./agent > "$T/out" || exit
  cat > "$A/all.yaml" <<Y
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: waves.gitops.example}
spec:
  group: gitops.example
  scope: Cluster
  names: {plural: waves, singular: wave, kind: Wave}
  versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, properties: {spec: {type: object, properties: {height: {type: integer}}}}}}}]
---
apiVersion: gitops.example/v1
kind: Wave
metadata: {name: first}
spec: {height: 3}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: settings, namespace: $NA}
data: {color: red}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: app, namespace: $NA}
spec:
  replicas: 1
  selector: {matchLabels: {app: app}}
  template:
    metadata: {labels: {app: app}}
    spec:
      terminationGracePeriodSeconds: 1
      containers: [{name: app, image: "$IMAGE", args: [pause]}]
---
apiVersion: v1
kind: ConfigMap
metadata: {name: extra, namespace: $NA}
Y
  git -C "$A" init -q -b main; git -C "$A" add -A; git -C "$A" commit -q -m first
  check 'namespace' created $K create ns "$NA"
  process gitops-agent "$P/gitops-agent" "$A" --port "$((PORT + 3))" --default-namespace "$NA"
  until_ 'synchronized' "app.*1/1" $K -n "$NA" get deploy app
  check 'the object of the definition' '^3$' $K get wave first -o 'jsonpath={.spec.height}'
  until_ 'one pass is over' 'Deployment/.*configured|Deployment/.*created' cat "$LOGS/gitops-agent.log"
  check 'drift' 'deployment.apps/app scaled' sh -c "$K -n $NA patch cm settings -p '{\"data\":{\"color\":\"blue\",\"more\":\"x\"}}' && $K -n $NA scale deploy app --replicas 3"
  check 'sync' 'asked' sh -c "curl -sf $S && echo asked"
  until_ 'replicas corrected' '^1$' $K -n "$NA" get deploy app -o 'jsonpath={.spec.replicas}'
  until_ 'values corrected' '^red$' $K -n "$NA" get cm settings -o 'jsonpath={.data.color}'
  python3 - "$A/all.yaml" <<'P'
import sys
path = sys.argv[1]
parts = open(path).read().split("---\n")
open(path, "w").write("---\n".join(part for part in parts if "name: extra" not in part))
P
  git -C "$A" commit -q -a -m second
  check 'sync the next commit' 'asked' sh -c "curl -sf $S && echo asked"
  until_ 'what is gone from it is pruned' 'not found' $K -n "$NA" get cm extra
  ended gitops-agent
  check 'clean' deleted $K delete ns/"$NA" crd/waves.gitops.example --timeout 80s
}
for tool; do "$tool"; done
finish
