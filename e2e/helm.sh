#!/bin/bash
# helm.sh KUBECONFIG [HELM]: a chart with a CRD, a dependency, hooks, lookups and tests is installed, upgraded, rolled back, tested and
# uninstalled, against real containers. HELM is Helm 3 or 4; Helm 3 by default. Ends with 'N passed, N failed'.
set -u
here=$(cd "$(dirname "$0")" && pwd); . "$here/kit/kit.env"
export KUBECONFIG=$1; H=${2:-$TB/helm}; K=$KB/kubectl; NS=helm-$$
. "$here/check.sh"
export HELM_CACHE_HOME=$T/cache HELM_CONFIG_HOME=$T/config HELM_DATA_HOME=$T/data PATH=$KB:$PATH
C=$T/shop; mkdir -p $C/templates $C/crds $T/cache-chart/templates
cat > $C/Chart.yaml <<'Y'
apiVersion: v2
name: shop
version: 1.0.0
appVersion: "1"
dependencies: [{name: cache, version: 1.0.0, repository: "file://../cache-chart", condition: cache.enabled}]
Y
cat > $T/cache-chart/Chart.yaml <<'Y'
apiVersion: v2
name: cache
version: 1.0.0
Y
echo 'size: small' > $T/cache-chart/values.yaml
cat > $T/cache-chart/templates/cache.yaml <<'Y'
apiVersion: v1
kind: ConfigMap
metadata: {name: {{ .Release.Name }}-cache}
data: {size: {{ .Values.size | quote }}, color: {{ .Values.global.color | quote }}}
Y
cat > $C/crds/flavors.yaml <<'Y'
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: flavors.shop.example}
spec:
  group: shop.example
  scope: Namespaced
  names: {plural: flavors, singular: flavor, kind: Flavor}
  versions:
  - name: v1
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, properties: {spec: {type: object, required: [taste], properties: {taste: {type: string, enum: [sweet, sour]}, level: {type: integer, default: 3}}}}}}
Y
cat > $C/templates/flavor.yaml <<'Y'
apiVersion: shop.example/v1
kind: Flavor
metadata: {name: {{ .Release.Name }}}
spec: {taste: {{ .Values.taste }}}
Y
cat > $C/values.yaml <<'Y'
image: registry.k8s.io/e2e-test-images/agnhost:2.63.0
box: registry.k8s.io/e2e-test-images/busybox:1.37.0-1
replicas: 1
greeting: hello
failing: false
taste: sweet
global: {color: red}
cache: {enabled: true, size: large}
Y
cat > $C/templates/app.yaml <<'Y'
apiVersion: v1
kind: ServiceAccount
metadata: {name: {{ .Release.Name }}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: {{ .Release.Name }}}
rules: [{apiGroups: [""], resources: [configmaps], verbs: [get, list]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: {{ .Release.Name }}}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: {{ .Release.Name }}}
subjects: [{kind: ServiceAccount, name: {{ .Release.Name }}}]
---
apiVersion: v1
kind: ConfigMap
metadata: {name: {{ .Release.Name }}}
data:
  greeting: {{ .Values.greeting | quote }}
  namespace: {{ with lookup "v1" "Namespace" "" .Release.Namespace }}{{ .metadata.name | quote }}{{ else }}none{{ end }}
  has: {{ .Capabilities.APIVersions.Has "apps/v1/Deployment" | quote }}
---
apiVersion: v1
kind: Secret
metadata: {name: {{ .Release.Name }}}
stringData: {password: secret}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: {{ .Release.Name }}, labels: {app: {{ .Release.Name }}}}
spec:
  replicas: {{ .Values.replicas }}
  selector: {matchLabels: {app: {{ .Release.Name }}}}
  template:
    metadata:
      labels: {app: {{ .Release.Name }}}
      annotations: {greeting: {{ .Values.greeting | quote }}}
    spec:
      serviceAccountName: {{ .Release.Name }}
      terminationGracePeriodSeconds: 1
      containers:
      - name: app
        image: {{ .Values.image }}
        args: [netexec, --http-port=8080]
        ports: [{name: http, containerPort: 8080}]
        readinessProbe: {httpGet: {path: /healthz, port: http}, periodSeconds: 1}
        env: [{name: GREETING, valueFrom: {configMapKeyRef: {name: {{ .Release.Name }}, key: greeting}}}]
---
apiVersion: v1
kind: Service
metadata: {name: {{ .Release.Name }}}
spec:
  selector: {app: {{ .Release.Name }}}
  ports: [{port: 80, targetPort: http}]
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: {{ .Release.Name }}}
spec: {maxUnavailable: 1, selector: {matchLabels: {app: {{ .Release.Name }}}}}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: {{ .Release.Name }}}
spec: {rules: [{host: shop.example, http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: {{ .Release.Name }}, port: {number: 80}}}}]}}]}
Y
hook() { cat <<Y
apiVersion: batch/v1
kind: Job
metadata:
  name: {{ .Release.Name }}-$1
  annotations: {helm.sh/hook: $1, helm.sh/hook-delete-policy: before-hook-creation, helm.sh/hook-weight: "1"}
spec:
  backoffLimit: 0
  template:
    spec:
      restartPolicy: Never
      terminationGracePeriodSeconds: 1
      containers: [{name: hook, image: {{ .Values.box }}, command: [sh, -c, 'echo $1 {{ .Release.Revision }}; $2']}]
Y
}
hook pre-install true > $C/templates/pre-install.yaml
hook pre-upgrade '{{ if .Values.failing }}false{{ else }}true{{ end }}' > $C/templates/pre-upgrade.yaml
hook post-rollback true > $C/templates/post-rollback.yaml
hook pre-delete true > $C/templates/pre-delete.yaml
cat > $C/templates/test.yaml <<'Y'
apiVersion: v1
kind: Pod
metadata: {name: {{ .Release.Name }}-test, annotations: {helm.sh/hook: test, helm.sh/hook-delete-policy: before-hook-creation}}
spec:
  restartPolicy: Never
  containers: [{name: ask, image: {{ .Values.box }}, command: [wget, -qO-, -T5, 'http://{{ .Release.Name }}/hostname']}]
Y
HN="$H -n $NS"
value() { $K -n $NS get cm shop -o "jsonpath={.data.$1}"; }
same() { $HN get manifest shop | $K diff -n $NS -f - && echo "no difference"; }
export -f value same; export K NS HN

check 'fetch the dependency' 'Deleting outdated charts|Saving 1 charts' $H dependency update $C
check 'lint' '0 chart\(s\) failed' $H lint $C
check 'install' 'STATUS: deployed' $HN install shop $C --create-namespace --wait --timeout 80s
check 'the hook ran before it' 'pre-install 1' $K -n $NS logs job/shop-pre-install
check 'lookup saw the cluster, capabilities its API' '^true$' bash -c 'value has'
check 'the dependency is there with its values' '^large red$' $K -n $NS get cm shop-cache -o 'jsonpath={.data.size} {.data.color}'
check 'the CRD is there, and an object with its defaults' '^sweet 3$' $K -n $NS get flavor shop -o 'jsonpath={.spec.taste} {.spec.level}'
check 'a dry run by the server' 'namespace: "default"' $H install shop $C -n default --dry-run=server
check 'the pod runs' '1/1' $K -n $NS get deploy shop
check 'the live state is the manifest' 'no difference' bash -c same
check 'list' 'shop.*deployed' $HN list
check 'test' 'Phase: +Succeeded' $HN test shop --timeout 80s
check 'upgrade' 'REVISION: 2' $HN upgrade shop $C --set greeting=hi,replicas=2 --wait --timeout 80s
check 'it took effect' '^hi$' bash -c 'value greeting'
check 'two pods' '2/2' $K -n $NS get deploy shop
check 'its hook ran' 'pre-upgrade 2' $K -n $NS logs job/shop-pre-upgrade
check 'again no difference' 'no difference' bash -c same
refused 'an upgrade whose hook fails' 'pre-upgrade hooks failed' $HN upgrade shop $C --set failing=true,greeting=never --timeout 40s
check 'it changed nothing' '^hi$' bash -c 'value greeting'
refused 'an upgrade that the schema refuses' 'Unsupported value: "bitter"' $HN upgrade shop $C --set taste=bitter
refused 'an upgrade that the API refuses' 'Invalid value: -1' $HN upgrade shop $C --set replicas=-1
check 'rollback' 'Rollback was a success' $HN rollback shop 1 --wait --timeout 80s
check 'as it was' '^hello$' bash -c 'value greeting'
check 'one pod' '1/1' $K -n $NS get deploy shop
check 'history' '^6.*deployed.*Rollback to 1' $HN history shop
check 'uninstall' 'uninstalled' $HN uninstall shop --wait --timeout 80s
check 'nothing of it is left' '^0$' sh -c "$K -n $NS get deploy,svc,cm,secret,sa,role,rolebinding,ingress,pdb -l app.kubernetes.io/managed-by=Helm -o name | wc -l; true"
until_ 'no pod of it is left' 'No resources found' $K -n $NS get pods -l app=shop
check 'CRDs stay' 'flavors.shop.example' $K get crd
check 'until they are deleted' deleted $K delete crd flavors.shop.example
check 'delete the namespace' deleted $K delete ns $NS --timeout=60s
finish
