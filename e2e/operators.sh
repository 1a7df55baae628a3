#!/bin/bash
# operators.sh KUBECONFIG [cert-manager|prometheus|gatekeeper|kyverno]...: operators as processes of this machine with the rights of their own manifests.
# cert-manager (its chart by Helm, admission webhooks behind a Service, injection of authorities, metadata informers, leader election, owner
# references) as a service account with a token; prometheus-operator (definitions of megabytes, a conversion webhook, StatefulSets) as an
# impersonated one: its webhooks' certificate is cert-manager's. Gatekeeper (definitions, webhooks and admission policies that it makes of
# templates, dynamic informers, mutation, audit) and Kyverno (webhooks that it makes, and makes anew for every policy) as service accounts.
# Programs are built below KIT_WORK from Go modules. PORT..PORT+9 (17880 by default) are used. Ends with 'N passed, N failed'.
set -u
here=$(cd "$(dirname "$0")" && pwd); . "$here/kit/kit.env"
ADMIN=$(realpath "$1"); export KUBECONFIG=$ADMIN; shift; [ $# -gt 0 ] || set -- cert-manager prometheus gatekeeper kyverno
K=$KB/kubectl; H=$TB/helm; PORT=${PORT:-17880}; NS=shop-$$; LOGS=$KIT_WORK/operators-logs; mkdir -p "$LOGS"
. "$here/check.sh"
. "$here/programs.sh"
export HELM_CACHE_HOME=$T/cache HELM_CONFIG_HOME=$T/config HELM_DATA_HOME=$T/data
NODE=$($K get node -o 'jsonpath={.items[0].status.addresses[?(@.type=="InternalIP")].address}')
# as NAMESPACE ACCOUNT: a kubeconfig with a token of the service account
as() {
  cp "$ADMIN" "$T/$2.kubeconfig"
  $K --kubeconfig "$T/$2.kubeconfig" config set-credentials account --token "$($K -n "$1" create token "$2" --duration 2h)" > /dev/null
  $K --kubeconfig "$T/$2.kubeconfig" config set-context --current --user account > /dev/null; echo "$T/$2.kubeconfig"
}
# behind NAMESPACE SERVICE PORT-NAME PORT: a process of this machine becomes the Service's endpoint
behind() { cat <<Y
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: $2-process, namespace: $1, labels: {kubernetes.io/service-name: $2, endpointslice.kubernetes.io/managed-by: process}}
addressType: IPv4
ports: [{name: $3, port: $4, protocol: TCP}]
endpoints: [{addresses: ["$NODE"], conditions: {ready: true}}]
Y
}

cert-manager() {
  C=$(ADD=$here/operators/cert-manager program cert-manager github.com/cert-manager/cert-manager v1.21.2 ./cmd/all) || exit
  KC="$K -n cert-manager"; KN="$K -n $NS"
  check 'its chart without its pods' 'STATUS: deployed' $H install cert-manager "$C/deploy/charts/cert-manager" -n cert-manager --create-namespace \
    --set crds.enabled=true,startupapicheck.enabled=false,prometheus.enabled=false,replicaCount=0,webhook.replicaCount=0,cainjector.replicaCount=0
  process webhook env "KUBECONFIG=$(as cert-manager cert-manager-webhook)" "$P/cert-manager" webhook --secure-port "$PORT" --healthz-port "$((PORT + 1))" --metrics-listen-address 0 \
    --dynamic-serving-ca-secret-namespace cert-manager --dynamic-serving-ca-secret-name cert-manager-webhook-ca \
    --dynamic-serving-dns-names cert-manager-webhook,cert-manager-webhook.cert-manager,cert-manager-webhook.cert-manager.svc
  process cainjector env "KUBECONFIG=$(as cert-manager cert-manager-cainjector)" "$P/cert-manager" cainjector
  process controller env "KUBECONFIG=$(as cert-manager cert-manager)" "$P/cert-manager" controller
  check 'the webhook is an endpoint of its Service' 'created|unchanged' sh -c "$(declare -f behind); NODE=$NODE; behind cert-manager cert-manager-webhook https $PORT | $K apply -f -"
  until_ 'its authority is made' 'kubernetes.io/tls|Opaque' $KC get secret cert-manager-webhook-ca
  until_ 'and injected where it is wanted' '^LS0' $K get validatingwebhookconfiguration cert-manager-webhook -o 'jsonpath={.webhooks[0].clientConfig.caBundle}'
  until_ 'in both' '^LS0' $K get mutatingwebhookconfiguration cert-manager-webhook -o 'jsonpath={.webhooks[0].clientConfig.caBundle}'
  until_ 'both are leaders' '^2$' sh -c "$K -n kube-system get lease -o name | grep -c cert-manager"
  check 'namespace' created $K create ns "$NS"
  cat > "$T/issuers.yaml" <<Y
apiVersion: cert-manager.io/v1
kind: ClusterIssuer
metadata: {name: own-$NS}
spec: {selfSigned: {}}
---
apiVersion: cert-manager.io/v1
kind: Certificate
metadata: {name: ca, namespace: $NS}
spec: {isCA: true, commonName: ca, secretName: ca, privateKey: {algorithm: ECDSA, size: 256}, issuerRef: {name: own-$NS, kind: ClusterIssuer, group: cert-manager.io}}
---
apiVersion: cert-manager.io/v1
kind: Issuer
metadata: {name: ca, namespace: $NS}
spec: {ca: {secretName: ca}}
---
apiVersion: cert-manager.io/v1
kind: Certificate
metadata: {name: web, namespace: $NS}
spec: {secretName: web, dnsNames: [web.example, www.example], issuerRef: {name: ca}, duration: 24h, secretTemplate: {labels: {made: for-web}}}
Y
  until_ 'an issuer, an authority, a certificate' 'certificate.*/web (created|unchanged)' $K apply -f "$T/issuers.yaml"
  check 'issued' 'web condition met' $KN wait --for=condition=Ready certificate/ca certificate/web --timeout 80s
  $KN get secret web -o json | jq -r '.data["tls.crt"] | @base64d' > "$T/web.pem"; $KN get secret ca -o json | jq -r '.data["ca.crt"] | @base64d' > "$T/ca.pem"
  check 'the certificate is good' 'OK' openssl verify -CAfile "$T/ca.pem" "$T/web.pem"
  check 'its Secret belongs to it' 'Certificate web for-web' $KN get secret web -o 'jsonpath={.metadata.ownerReferences[0].kind} {.metadata.ownerReferences[0].name} {.metadata.labels.made}'
  check 'its columns' 'web +True +web +ca +Certificate is up to date' $KN get certificate web -o wide
  check 'short names and categories' 'certificate.cert-manager.io/web' $KN get cert,cert-manager -o name
  check 'events' 'The certificate has been successfully issued' $KN events --for certificate/web
  refused 'the webhook refuses what the schema lets pass' 'admission webhook "webhook.cert-manager.io" denied the request: spec.duration: Invalid value' \
    sh -c "printf 'apiVersion: cert-manager.io/v1\nkind: Certificate\nmetadata: {name: bad, namespace: $NS}\nspec: {secretName: bad, dnsNames: [a.b], issuerRef: {name: ca}, duration: 1m}\n' | $K apply -f -"
  refused 'the definition refuses the rest' 'spec.privateKey.algorithm: Unsupported value: "DSA"' \
    sh -c "printf 'apiVersion: cert-manager.io/v1\nkind: Certificate\nmetadata: {name: bad, namespace: $NS}\nspec: {secretName: bad, dnsNames: [a.b], issuerRef: {name: ca}, privateKey: {algorithm: DSA}}\n' | $K apply -f -"
  R=$($KN get certificaterequest -o 'jsonpath={.items[0].metadata.name}')
  check 'the mutating webhook has written who asked' 'system:serviceaccount:cert-manager:cert-manager' $KN get certificaterequest "$R" -o 'jsonpath={.spec.username}'
  refused 'a request is not changed' 'cannot change spec after creation|spec: Forbidden' $KN patch certificaterequest "$R" --type=merge -p '{"spec":{"duration":"2h"}}'
  $K create clusterrole "requests-$NS" --verb='*' --resource=certificaterequests.cert-manager.io --resource=certificaterequests.cert-manager.io/status > "$T/out"
  $KN create rolebinding requests --clusterrole="requests-$NS" --user=mallory > "$T/out"
  cat > "$T/request.yaml" <<Y
apiVersion: cert-manager.io/v1
kind: CertificateRequest
metadata: {name: own, namespace: $NS}
spec: {issuerRef: {name: nobody, kind: Deployment, group: apps}, request: "$(openssl req -new -newkey rsa:2048 -nodes -keyout /dev/null -subj /CN=a 2> /dev/null | base64 -w0)"}
Y
  check 'somebody asks' created $K apply -f "$T/request.yaml" --as mallory
  refused 'and may not approve it: the webhook asks for the right' 'user "mallory" does not have permissions to set approved/denied conditions' \
    $KN patch certificaterequest own --as mallory --subresource status --type merge -p "{\"status\":{\"conditions\":[{\"type\":\"Approved\",\"status\":\"True\",\"reason\":\"Me\",\"message\":\"\",\"lastTransitionTime\":\"$(date -u +%FT%TZ)\"}]}}"
  S=$(sha256sum < "$T/web.pem")
  check 'renewal' patched $KN patch certificate web --subresource status --type merge -p "{\"status\":{\"conditions\":[{\"type\":\"Issuing\",\"status\":\"True\",\"reason\":\"Manual\",\"message\":\"\",\"lastTransitionTime\":\"$(date -u +%FT%TZ)\"},{\"type\":\"Ready\",\"status\":\"True\",\"reason\":\"Ready\",\"message\":\"\",\"lastTransitionTime\":\"$(date -u +%FT%TZ)\"}]}}"
  until_ 'the second revision' '^2$' $KN get certificate web -o 'jsonpath={.status.revision}'
  until_ 'another certificate' 'new' sh -c "[ \"\$($KN get secret web -o json | jq -r '.data[\"tls.crt\"] | @base64d' | sha256sum)\" = '$S' ] || echo new"
  check 'delete its Secret' deleted $KN delete secret web
  until_ 'it is made again' 'kubernetes.io/tls' $KN get secret web
  check 'an Ingress with an annotation' created $KN create ingress shop --rule=shop.example/=web:80,tls=shop-tls --annotation cert-manager.io/issuer=ca
  check 'gets a certificate' 'condition met' sh -c "for i in 1 2 3 4 5 6 7 8 9; do $KN get certificate shop-tls && break; sleep 1; done; $KN wait --for=condition=Ready certificate/shop-tls --timeout 60s"
  check 'delete the Ingress' deleted $KN delete ingress shop
  until_ 'its certificate goes with it' '^0$' sh -c "$KN get certificate shop-tls --ignore-not-found -o name | wc -l"
}

prometheus() {
  O=$(program prometheus-operator github.com/prometheus-operator/prometheus-operator v0.85.0 ./cmd/operator) || exit
  program prometheus-webhook github.com/prometheus-operator/prometheus-operator v0.85.0 ./cmd/admission-webhook > "$T/out" || exit
  KN="$K -n $NS"; $K get ns "$NS" > "$T/out" 2>&1 || $K create ns "$NS" > "$T/out"
  check 'its bundle, four megabytes of definitions' 'prometheuses.monitoring.coreos.com serverside-applied' $K apply --server-side -f "$O/bundle.yaml"
  check 'again, and nothing changes' 'same' sh -c "$K get crd prometheuses.monitoring.coreos.com -o 'jsonpath={.metadata.resourceVersion}' > $T/a; $K apply --server-side -f $O/bundle.yaml > /dev/null && $K get crd prometheuses.monitoring.coreos.com -o 'jsonpath={.metadata.resourceVersion}' | diff - $T/a && echo same"
  check 'its own pods are not needed' scaled $K -n default scale deploy prometheus-operator --replicas 0
  check 'established' 'condition met' $K wait --for=condition=Established crd/prometheuses.monitoring.coreos.com crd/alertmanagerconfigs.monitoring.coreos.com --timeout 30s
  check 'explained' 'minimum amount of compute' $K explain prometheus.spec.resources
  process prometheus-operator "$P/prometheus-operator" --as system:serviceaccount:default:prometheus-operator --kubelet-service kube-system/kubelet \
    --web.listen-address "127.0.0.1:$((PORT + 2))"
  cat > "$T/prometheus.yaml" <<Y
apiVersion: monitoring.coreos.com/v1
kind: Prometheus
metadata: {name: main, namespace: $NS}
spec:
  image: registry.k8s.io/e2e-test-images/agnhost:2.63.0
  replicas: 0
  serviceMonitorSelector: {}
  ruleSelector: {}
  resources: {requests: {memory: 400Mi}}
---
apiVersion: monitoring.coreos.com/v1
kind: ServiceMonitor
metadata: {name: web, namespace: $NS}
spec: {selector: {matchLabels: {app: web}}, endpoints: [{port: http, interval: 15s}]}
---
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata: {name: web, namespace: $NS}
spec: {groups: [{name: web, rules: [{alert: Down, expr: up == 0, for: 5m}, {record: a:b, expr: 'sum(up)'}]}]}
---
apiVersion: monitoring.coreos.com/v1
kind: Alertmanager
metadata: {name: main, namespace: $NS}
spec: {image: registry.k8s.io/e2e-test-images/agnhost:2.63.0, replicas: 0, alertmanagerConfigSelector: {}}
Y
  check 'a Prometheus, what it watches, an Alertmanager' 'alertmanager.*created' $K apply -f "$T/prometheus.yaml"
  until_ 'a StatefulSet that belongs to it' 'Prometheus main' $KN get sts prometheus-main -o 'jsonpath={.metadata.ownerReferences[0].kind} {.metadata.ownerReferences[0].name}'
  until_ 'the rules as a ConfigMap' 'alert: Down' $KN get cm prometheus-main-rulefiles-0 -o yaml
  until_ 'the configuration as a Secret' "serviceMonitor/$NS/web/0" sh -c "$KN get secret prometheus-main -o json | jq -r '.data[\"prometheus.yaml.gz\"]' | base64 -d | gunzip"
  until_ 'its status' 'Available' $KN get prometheus main -o 'jsonpath={.status.conditions[*].type}'
  check 'its columns' 'main +.* 0 +0 +(True|Degraded|False|True)' $KN get prometheus main
  check 'the scale subresource' scaled $KN scale prometheus main --replicas 2
  until_ 'is the number of its shards: another StatefulSet' '0/0' $KN get sts prometheus-main-shard-1
  check 'and back' scaled $KN scale prometheus main --replicas 1
  until_ 'one less' 'not found' $KN get sts prometheus-main-shard-1
  refused 'its definition refuses' 'spec.scrapeInterval.*should match' $KN patch prometheus main --type merge -p '{"spec":{"scrapeInterval":"soon"}}'
  until_ "the kubelet's endpoints" "$NODE" $K -n kube-system get endpointslice -l kubernetes.io/service-name=kubelet -o 'jsonpath={.items[*].endpoints[*].addresses}'
  check 'delete the Prometheus' deleted $KN delete prometheus main --timeout 60s
  until_ 'its StatefulSet goes with it' '^0$' sh -c "$KN get sts prometheus-main --ignore-not-found -o name | wc -l"

  # webhooks, with a certificate of cert-manager's, whose authority is injected into the definition
  $K -n default get issuer webhooks > "$T/out" 2>&1 || { $K get crd issuers.cert-manager.io > "$T/out" 2>&1 || return; }
  cat > "$T/webhooks.yaml" <<Y
apiVersion: v1
kind: Service
metadata: {name: prometheus-operator-admission-webhook, namespace: default}
spec: {ports: [{name: https, port: 8443, targetPort: $((PORT + 3))}]}
---
apiVersion: cert-manager.io/v1
kind: Issuer
metadata: {name: webhooks, namespace: default}
spec: {selfSigned: {}}
---
apiVersion: cert-manager.io/v1
kind: Certificate
metadata: {name: webhooks, namespace: default}
spec: {secretName: webhooks, issuerRef: {name: webhooks}, dnsNames: [prometheus-operator-admission-webhook.default.svc]}
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingWebhookConfiguration
metadata: {name: prometheus-$NS, annotations: {cert-manager.io/inject-ca-from: default/webhooks}}
webhooks:
- name: prometheusrulevalidate.monitoring.coreos.com
  clientConfig: {service: {name: prometheus-operator-admission-webhook, namespace: default, port: 8443, path: /admission-prometheusrules/validate}}
  rules: [{apiGroups: [monitoring.coreos.com], apiVersions: ['*'], operations: [CREATE, UPDATE], resources: [prometheusrules]}]
  failurePolicy: Fail
  sideEffects: None
  admissionReviewVersions: [v1]
Y
  check 'a certificate for its webhooks' 'webhooks created' $K apply -f "$T/webhooks.yaml"
  check 'issued' 'condition met' $K -n default wait --for=condition=Ready certificate/webhooks --timeout 60s
  for f in tls.crt tls.key; do $K -n default get secret webhooks -o json | jq -r ".data[\"$f\"] | @base64d" > "$T/$f"; done
  process prometheus-webhook "$P/prometheus-webhook" --web.listen-address ":$((PORT + 3))" --web.enable-tls --web.cert-file "$T/tls.crt" --web.key-file "$T/tls.key"
  check 'it is an endpoint of its Service' 'created|unchanged' sh -c "$(declare -f behind); NODE=$NODE; behind default prometheus-operator-admission-webhook https $((PORT + 3)) | $K apply -f -"
  check 'the definition of two versions' 'serverside-applied' $K apply --server-side --force-conflicts -f "$O/example/prometheus-operator-crd-full/monitoring.coreos.com_alertmanagerconfigs.yaml"
  check 'converted by the webhook' patched $K patch crd alertmanagerconfigs.monitoring.coreos.com --patch-file "$O/example/alertmanager-crd-conversion/patch.json" --type merge
  check 'whose authority is injected' annotated $K annotate crd alertmanagerconfigs.monitoring.coreos.com cert-manager.io/inject-ca-from=default/webhooks
  until_ 'into the definition' '^LS0' $K get crd alertmanagerconfigs.monitoring.coreos.com -o 'jsonpath={.spec.conversion.webhook.clientConfig.caBundle}'
  until_ 'and the webhook configuration' '^LS0' $K get validatingwebhookconfiguration "prometheus-$NS" -o 'jsonpath={.webhooks[0].clientConfig.caBundle}'
  refused 'a rule that Prometheus does not understand' 'could not parse expression: 1:5: parse error: unclosed left parenthesis' \
    sh -c "printf 'apiVersion: monitoring.coreos.com/v1\nkind: PrometheusRule\nmetadata: {name: bad, namespace: $NS}\nspec: {groups: [{name: a, rules: [{record: x, expr: sum(}]}]}\n' | $K apply -f -"
  check 'an object in the older version' created sh -c "printf 'apiVersion: monitoring.coreos.com/v1alpha1\nkind: AlertmanagerConfig\nmetadata: {name: mail, namespace: $NS}\nspec:\n  route: {receiver: all, matchers: [{name: team, value: a, regex: true}]}\n  receivers: [{name: all}]\n  muteTimeIntervals: [{name: night}]\n' | $K apply -f -"
  check 'read in the newer one' '^=~ night$' $KN get alertmanagerconfigs.v1beta1.monitoring.coreos.com mail -o 'jsonpath={.spec.route.matchers[0].matchType} {.spec.timeIntervals[0].name}'
  check 'changed in the newer one' patched $KN patch alertmanagerconfigs.v1beta1.monitoring.coreos.com mail --type json -p '[{"op":"replace","path":"/spec/route/matchers/0/matchType","value":"!~"}]'
  check 'read in the older one' '^!~$' $KN get alertmanagerconfigs.v1alpha1.monitoring.coreos.com mail -o 'jsonpath={.spec.route.matchers[0].matchType}'
  until_ 'the operator has read it' "$NS/mail" sh -c "$KN get secret alertmanager-main-generated -o json | jq -r '.data[\"alertmanager.yaml.gz\"]' | base64 -d | gunzip"
}

gatekeeper() {
  G=$(program gatekeeper github.com/open-policy-agent/gatekeeper/v3 v3.23.1 .) || exit
  KN="$K -n $NS"; $K get ns "$NS" > "$T/out" 2>&1 || $K create ns "$NS" > "$T/out"; mkdir -p "$T/certs" "$T/audit"
  openssl req -x509 -newkey rsa:2048 -nodes -keyout "$T/certs/tls.key" -out "$T/certs/tls.crt" -days 2 -subj /CN=gatekeeper \
    -addext subjectAltName=DNS:gatekeeper-webhook-service.gatekeeper-system.svc > "$T/out" 2>&1
  check 'the manifests' 'gatekeeper-validating-webhook-configuration serverside-applied' $K apply --server-side -f "$G/deploy/gatekeeper.yaml"
  check 'its own pods are not needed' scaled $K -n gatekeeper-system scale deploy --all --replicas 0
  process gatekeeper env "KUBECONFIG=$(as gatekeeper-system gatekeeper-admin)" POD_NAME=process POD_NAMESPACE=gatekeeper-system NAMESPACE=gatekeeper-system "$P/gatekeeper" \
    --port "$((PORT + 4))" --cert-dir "$T/certs" --disable-cert-rotation --debug-use-fake-pod --audit-interval 3 --default-wait-for-vapb-generation 1 --api-cache-dir "$T/audit" \
    --health-addr "127.0.0.1:$((PORT + 5))" --prometheus-port "$((PORT + 6))" --shutdown-delay 0 --exempt-namespace gatekeeper-system \
    --operation webhook --operation mutation-webhook --operation audit --operation status --operation mutation-status --operation generate --operation mutation-controller
  check 'it is the endpoint of its Service' 'created|unchanged' sh -c "$(declare -f behind); NODE=$NODE; behind gatekeeper-system gatekeeper-webhook-service https-webhook-server $((PORT + 4)) | $K apply -f -"
  cat > "$T/template.yaml" <<Y
apiVersion: templates.gatekeeper.sh/v1
kind: ConstraintTemplate
metadata: {name: needslabels}
spec:
  crd: {spec: {names: {kind: NeedsLabels}, validation: {openAPIV3Schema: {type: object, properties: {labels: {type: array, items: {type: string}}}}}}}
  targets:
  - target: admission.k8s.gatekeeper.sh
    code:
    - engine: K8sNativeValidation
      source:
        validations:
        - expression: "variables.params.labels.all(l, has(object.metadata.labels) && l in object.metadata.labels)"
          messageExpression: "'there is a label missing of ' + variables.params.labels.join(', ')"
    - engine: Rego
      source:
        rego: |
          package needslabels
          violation[{"msg": msg}] {
            l := input.parameters.labels[_]
            not input.review.object.metadata.labels[l]
            msg := sprintf("label %v is missing", [l])
          }
Y
  until_ 'a template' 'needslabels (created|unchanged)' $K apply -f "$T/template.yaml"
  until_ 'becomes a definition' 'True' $K get crd needslabels.constraints.gatekeeper.sh -o 'jsonpath={.status.conditions[?(@.type=="Established")].status}'
  until_ 'and a policy' 'gatekeeper-needslabels' $K get validatingadmissionpolicy
  check 'an object that will be wrong' created $KN create cm early
  printf 'apiVersion: constraints.gatekeeper.sh/v1beta1\nkind: NeedsLabels\nmetadata: {name: %s}\nspec: {match: {kinds: [{apiGroups: [""], kinds: [ConfigMap]}], namespaces: [%s]}, parameters: {labels: [team]}}\n' "$NS" "$NS" > "$T/constraint.yaml"
  until_ 'a constraint' '(created|unchanged)' $K apply -f "$T/constraint.yaml"
  until_ 'has a binding' "gatekeeper-needslabels-$NS" $K get validatingadmissionpolicybinding
  until_ 'the policy refuses' "ValidatingAdmissionPolicy 'gatekeeper-needslabels' with binding 'gatekeeper-needslabels-$NS' denied request: there is a label missing of team" $KN create cm late
  until_ 'the audit finds what was there before' 'early' $K get needslabels "$NS" -o 'jsonpath={.status.violations[*].name}'
  B=$(base64 -w0 < "$T/certs/tls.crt")
  for w in validating mutating; do
    $K get "${w}webhookconfiguration" "gatekeeper-$w-webhook-configuration" -o json | jq "{webhooks: [.webhooks[] | .clientConfig.caBundle = \"$B\"]}" > "$T/$w.json"
    check "the $w webhook is trusted" patched $K patch "${w}webhookconfiguration" "gatekeeper-$w-webhook-configuration" --type merge --patch-file "$T/$w.json"
  done
  until_ 'the webhook refuses, too' 'admission webhook "validation.gatekeeper.sh" denied the request: \['"$NS"'\] (label team is missing|there is a label missing of team)|denied request: there is a label missing of team' $KN create cm late
  printf 'apiVersion: mutations.gatekeeper.sh/v1\nkind: AssignMetadata\nmetadata: {name: %s}\nspec: {match: {scope: Namespaced, namespaces: [%s], kinds: [{apiGroups: [""], kinds: [ConfigMap]}]}, location: metadata.labels.team, parameters: {assign: {value: shop}}}\n' "$NS" "$NS" > "$T/mutation.yaml"
  until_ 'a mutation' '(created|unchanged)' $K apply -f "$T/mutation.yaml"
  until_ 'makes it right' 'created' $KN create cm late
  check 'it has the label' '^shop$' $KN get cm late -o 'jsonpath={.metadata.labels.team}'
  refused 'a template that says nothing is refused by its webhook' 'admission webhook "validation.gatekeeper.sh" denied the request|invalid' \
    sh -c "printf 'apiVersion: templates.gatekeeper.sh/v1\nkind: ConstraintTemplate\nmetadata: {name: other}\nspec: {crd: {spec: {names: {kind: Wrong}}}, targets: [{target: admission.k8s.gatekeeper.sh, rego: nonsense}]}\n' | $K apply -f -"
  check 'delete the mutation' deleted $K delete --timeout 60s -f "$T/mutation.yaml"
  check 'delete the constraint' deleted $K delete --timeout 60s -f "$T/constraint.yaml"
  check 'delete the template' deleted $K delete --timeout 60s -f "$T/template.yaml"
  until_ 'its definition goes with it' 'not found' $K get crd needslabels.constraints.gatekeeper.sh
}

clean() {
  if [ -n "${process_ids[gatekeeper]:-}" ]; then
    ended gatekeeper
    check 'remove Gatekeeper' deleted $K delete --timeout 80s -f "$G/deploy/gatekeeper.yaml"
  fi
  if [ -n "${process_ids[prometheus-operator]:-}" ]; then
    check 'remove the second operator' deleted $K delete --wait=false validatingwebhookconfiguration/"prometheus-$NS" --ignore-not-found
    check 'its objects' deleted $K -n "$NS" delete alertmanager,alertmanagerconfig,servicemonitor,prometheusrule --all --timeout 60s
    ended prometheus-operator prometheus-webhook
    check 'its bundle' 'deleted' $K delete --timeout 80s -f "$O/bundle.yaml"
    $K -n default delete service/prometheus-operator-admission-webhook certificate/webhooks issuer/webhooks secret/webhooks --ignore-not-found > "$T/out" 2>&1
    $K -n kube-system delete service/kubelet endpoints/kubelet --ignore-not-found > "$T/out" 2>&1
  fi
  check 'remove the namespace' deleted $K delete ns "$NS" --timeout 80s
  if [ -n "${process_ids[controller]:-}" ]; then
    $K delete clusterissuer "own-$NS" > "$T/out" 2>&1; $K delete clusterrole "requests-$NS" > "$T/out" 2>&1
    ended controller cainjector webhook
    check 'uninstall the first' uninstalled $H uninstall cert-manager -n cert-manager --wait --timeout 60s
    $K delete crd -l app.kubernetes.io/instance=cert-manager --timeout 60s > "$T/out" 2>&1
    check 'and its namespace' deleted $K delete ns cert-manager --timeout 80s
  fi
}

kyverno() {
  Y=$(program kyverno github.com/kyverno/kyverno v1.19.1 ./cmd/kyverno) || exit
  KN="$K -n $NS"; $K get ns "$NS" > "$T/out" 2>&1 || $K create ns "$NS" > "$T/out"
  check 'the manifests' 'kyverno-reports-controller serverside-applied' $K apply --server-side -f "$Y/config/install-latest-testing.yaml"
  check 'its own pods are not needed' scaled $K -n kyverno scale deploy --all --replicas 0
  until_ 'roles are aggregated' 'policies.kyverno.io' $K get clusterrole kyverno:admission-controller -o 'jsonpath={.rules[*].apiGroups}'
  process kyverno env INIT_CONFIG=kyverno METRICS_CONFIG=kyverno-metrics KYVERNO_NAMESPACE=kyverno KYVERNO_POD_NAME=process KYVERNO_DEPLOYMENT=kyverno-admission-controller \
    KYVERNO_SERVICEACCOUNT_NAME=kyverno-admission-controller KYVERNO_ROLE_NAME=kyverno:admission-controller KYVERNO_SVC=kyverno-svc "TUF_ROOT=$T/tuf" \
    "$P/kyverno" --kubeconfig "$(as kyverno kyverno-admission-controller)" --serverIP "127.0.0.1:$((PORT + 7))" --webhookServerPort "$((PORT + 7))" \
    --caSecretName kyverno-svc.kyverno.svc.kyverno-tls-ca --tlsSecretName kyverno-svc.kyverno.svc.kyverno-tls-pair --disableMetrics=true --metricsPort "$((PORT + 8))" \
    --controllerRuntimeMetricsAddress "127.0.0.1:$((PORT + 9))" --backgroundServiceAccountName system:serviceaccount:kyverno:kyverno-background-controller \
    --reportsServiceAccountName system:serviceaccount:kyverno:kyverno-reports-controller --excludeBootstrapResources=false --protectManagedResources=false
  until_ 'it makes its webhooks' 'kyverno-policy-validating-webhook-cfg' $K get validatingwebhookconfigurations -o name
  cat > "$T/policies.yaml" <<Y
apiVersion: kyverno.io/v1
kind: ClusterPolicy
metadata: {name: team}
spec:
  background: false
  rules:
  - name: team
    match: {any: [{resources: {kinds: [ConfigMap], namespaces: [$NS]}}]}
    validate: {failureAction: Enforce, message: a team is needed, pattern: {metadata: {labels: {team: "?*"}}}}
---
apiVersion: kyverno.io/v1
kind: ClusterPolicy
metadata: {name: owner}
spec:
  background: false
  rules:
  - name: owner
    match: {any: [{resources: {kinds: [ConfigMap], namespaces: [$NS]}}]}
    mutate: {patchStrategicMerge: {metadata: {labels: {+(owner): kyverno}}}}
---
apiVersion: policies.kyverno.io/v1
kind: ValidatingPolicy
metadata: {name: ports}
spec:
  validationActions: [Deny]
  matchConstraints: {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: $NS}}, resourceRules: [{apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [services]}]}
  validations: [{expression: "object.spec.type != 'NodePort'", message: no node ports}]
---
apiVersion: policies.kyverno.io/v1
kind: MutatingPolicy
metadata: {name: labels}
spec:
  matchConstraints: {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: $NS}}, resourceRules: [{apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [secrets]}]}
  mutations: [{patchType: ApplyConfiguration, applyConfiguration: {expression: "Object{metadata: Object.metadata{labels: {'by': 'policy'}}}"}}]
Y
  until_ 'policies' 'mutatingpolicy.*/labels (created|unchanged)' $K apply -f "$T/policies.yaml"
  until_ 'that are ready' '^True True$' $K get clusterpolicies team owner -o 'jsonpath={.items[*].status.conditions[?(@.type=="Ready")].status}'
  until_ 'a pattern refuses' 'team: .validation error: a team is needed. rule team failed at path /metadata/labels/team/' $KN create cm without
  printf 'apiVersion: v1\nkind: ConfigMap\nmetadata: {name: with, labels: {team: red}}\n' > "$T/with.yaml"
  check 'and lets pass' created $KN apply -f "$T/with.yaml"
  check 'what is changed on its way' '"owner":"kyverno"' $KN get cm with -o 'jsonpath={.metadata.labels}'
  until_ 'an expression refuses' 'Policy ports failed: no node ports' $KN create service nodeport open --tcp=80
  check 'another service' created $KN create service clusterip inside --tcp=80
  until_ 'an expression changes' '"by":"policy"' sh -c "$KN create secret generic made --dry-run=server -o 'jsonpath={.metadata.labels}'"
  check 'policies go' 'mutatingpolicy.*"labels" deleted' $K delete -f "$T/policies.yaml"
  until_ 'and refuse nothing any more' created $KN create cm later
  ended kyverno
  check 'its webhooks are taken away' deleted $K delete validatingwebhookconfigurations,mutatingwebhookconfigurations -l webhook.kyverno.io/managed-by=kyverno
}
for operator; do "$operator"; done
clean
finish
