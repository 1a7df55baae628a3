"""What apply.py generates: for each kind a rich object in which parts are left out, varied and repeated at random."""
import random


class C:
    """One of these."""

    def __init__(self, *of):
        self.of = of


class O:
    """There, or not."""

    def __init__(self, of, p=0.5):
        self.of, self.p = of, p


class L:
    """Some of these, in any order; seldom one twice."""

    def __init__(self, *of, twice=0.04, some=1):
        self.of, self.twice, self.some = of, twice, some


class N:
    """So many made from this."""

    def __init__(self, of, most=3, least=0):
        self.of, self.most, self.least = of, most, least


class Kind:
    def __init__(self, group, versions, kind, plural, template, namespaced=True, status=True, scale=False, strategic=True, rv_needed=False):
        self.group, self.versions, self.kind, self.plural = group, versions, kind, plural
        self.templates = template if isinstance(template, dict) and set(template) == set(versions) else {v: template for v in versions}
        self.namespaced, self.status, self.scale, self.strategic, self.rv_needed = namespaced, status, scale, strategic, rv_needed

    def template(self, version):
        return self.templates[version]


ABSENT = object()


def make(t, rng: random.Random):
    if isinstance(t, O):
        return make(t.of, rng) if rng.random() < t.p else ABSENT
    if isinstance(t, C):
        return make(rng.choice(t.of), rng)
    if isinstance(t, L):
        items = [make(i, rng) for i in rng.sample(t.of, rng.randint(min(t.some, len(t.of)), len(t.of)))]
        items = [i for i in items if i is not ABSENT]
        if items and rng.random() < t.twice:
            items.append(rng.choice(items))
        return items
    if isinstance(t, N):
        return [make(t.of, rng) for _ in range(rng.randint(t.least, t.most))]
    if isinstance(t, dict):
        made = {k: make(v, rng) for k, v in t.items()}
        return {k: v for k, v in made.items() if v is not ABSENT}
    if isinstance(t, list):
        return [v for v in (make(i, rng) for i in t) if v is not ABSENT]
    return t


AB = C("a", "b", "c")
TEXT = O(C("x", "y", "z", ""))
LABELS = O({"app": C("a", "b"), "tier": O(C("1", "2")), "example.com/k": O(C("v", ""))})
OWNER = lambda uid: {"apiVersion": "v1", "kind": "ConfigMap", "name": C("x", "y"), "uid": uid, "controller": O(C(True, False), 0.2), "blockOwnerDeletion": O(True, 0.2)}
META = {
    "labels": LABELS,
    "annotations": O({"note": C("a", "b"), "other": O(C("1", "2")), "kubectl.kubernetes.io/last-applied-configuration": O("{}", 0.02)}, 0.4),
    "finalizers": O(L("example.com/a", "example.com/b", "example.com/c"), 0.15),
    "ownerReferences": O(L(OWNER("u1"), OWNER("u2")), 0.15),
}
QUANTITIES = {"cpu": O(C("1", "500m", "0.5", 1)), "memory": O(C("1Gi", "1024Mi", "64M"))}
PROBE = {"httpGet": {"path": C("/", "/x"), "port": C(80, "web")}, "periodSeconds": O(C(5, 10)), "initialDelaySeconds": O(C(0, 3))}
ENV = lambda name: C(
    {"name": name, "value": C("1", "2", "")},
    {"name": name},
    {"name": name, "valueFrom": C({"fieldRef": {"fieldPath": "metadata.name"}}, {"configMapKeyRef": {"name": "c", "key": AB, "optional": O(True)}})},
)
PORT = lambda number: {"containerPort": number, "protocol": O(C("TCP", "UDP"), 0.6), "name": O(C("web", "dns"), 0.2)}
CONTAINER = lambda name: {
    "name": name, "image": C("i:1", "i:2"), "command": O([C("sh", "bash"), "-c"], 0.3), "args": O(N(C("1", "2"), 3), 0.3),
    "env": O(L(ENV("A"), ENV("B"), ENV("D"))), "ports": O(L(PORT(80), PORT(81), PORT(80))),
    "resources": O({"limits": O(QUANTITIES), "requests": O({"cpu": O("100m"), "memory": O("1Mi")}), "claims": O([], 0.05)}),
    "volumeMounts": O(L({"name": "v", "mountPath": "/v", "readOnly": O(C(True, False))}, {"name": "w", "mountPath": "/w", "subPath": O("s")}), 0.2),
    "livenessProbe": O(PROBE, 0.2), "imagePullPolicy": O(C("Always", "IfNotPresent"), 0.2), "envFrom": O([{"configMapRef": {"name": AB}}], 0.2),
    "securityContext": O({"runAsUser": O(C(1, 2)), "capabilities": O({"add": O(N(C("X", "Y"), 2)), "drop": O(["ALL"])}), "privileged": O(C(True, False))}, 0.2),
    "lifecycle": O({"preStop": {"exec": {"command": ["true"]}}}, 0.1),
}
POD_SPEC = {
    "containers": L(CONTAINER("a"), CONTAINER("b"), CONTAINER("c")), "initContainers": O(L(CONTAINER("i")), 0.1),
    "volumes": O([{"name": "v", "emptyDir": {}}, {"name": "w", "configMap": {"name": AB, "items": O([{"key": AB, "path": AB}])}}], 0.85),
    "nodeSelector": O({"disk": C("ssd", "hdd"), "zone": O(C("1", "2"))}, 0.3), "terminationGracePeriodSeconds": O(C(0, 30, 60), 0.3),
    "tolerations": O(N({"key": AB, "operator": C("Exists", "Exists"), "effect": O("NoSchedule")}, 2), 0.3),
    "imagePullSecrets": O(L({"name": "p"}, {"name": "q"}), 0.2), "hostAliases": O(L({"ip": "1.2.3.4", "hostnames": N(C("h", "g"), 2)}, {"ip": "1.2.3.5"}), 0.2),
    "affinity": O({"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": N({"weight": C(1, 2), "preference": {"matchExpressions": [{"key": AB, "operator": "Exists"}]}}, 2)}}, 0.15),
    "topologySpreadConstraints": O(L({"maxSkew": C(1, 2), "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}, {"maxSkew": 1, "topologyKey": "host", "whenUnsatisfiable": C("ScheduleAnyway", "DoNotSchedule")}), 0.15),
    "securityContext": O({"fsGroup": O(C(1, 2)), "supplementalGroups": O(N(C(1, 2), 2)), "sysctls": O([{"name": "kernel.shm_rmid_forced", "value": C("0", "1")}])}, 0.2),
    "serviceAccountName": O("default", 0.1), "priority": O(0, 0.05), "overhead": O({}, 0.03), "restartPolicy": O("Always", 0.2),
    "readinessGates": O(N({"conditionType": C("a/b", "c/d")}, 2), 0.1), "dnsConfig": O({"nameservers": O(N("1.1.1.1", 2)), "options": O(N({"name": AB, "value": O("1")}, 2))}, 0.1),
}
TEMPLATE = {"metadata": {"labels": {"app": "a", "x": O(C("1", "2"))}, "annotations": O({"t": C("1", "2")}, 0.2)}, "spec": POD_SPEC}
SELECTOR = {"matchLabels": {"app": "a"}}
CONDITION = lambda type_: {
    "type": type_, "status": C("True", "False", "Unknown"), "reason": C("A", "B"), "message": O(C("m", "n")),
    "lastTransitionTime": O(C("2001-01-01T00:00:00Z", "2001-01-02T00:00:00Z", None), 0.7), "observedGeneration": O(C(1, 2), 0.3),
}
STRICT_CONDITION = lambda type_: {**CONDITION(type_), "lastTransitionTime": "2001-01-01T00:00:00Z", "message": C("m", "n")}
PLAIN_CONDITION = lambda type_: {k: v for k, v in CONDITION(type_).items() if k != "observedGeneration"}
PLAIN_CONDITIONS = O(L(PLAIN_CONDITION("Available"), PLAIN_CONDITION("Progressing")), 0.7)
STRICT_CONDITIONS = O(L(STRICT_CONDITION("Ready"), STRICT_CONDITION("Good")), 0.5)
COUNTS = {"replicas": C(0, 1, 2), "readyReplicas": O(C(0, 1)), "availableReplicas": O(C(0, 1)), "observedGeneration": O(C(1, 2))}

STRUCTURE = {"type": "object", "properties": {"x": {"type": "string"}, "y": {"type": "integer"}}}
THING = {
    "type": "object",
    "properties": {
        "spec": {
            "type": "object",
            "properties": {
                "text": {"type": "string"}, "int": {"type": "integer"}, "number": {"type": "number"}, "flag": {"type": "boolean"},
                "either": {"x-kubernetes-int-or-string": True}, "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
                "any": {"x-kubernetes-preserve-unknown-fields": True},
                "set": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
                "intSet": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "integer"}},
                "map": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"], "items": {"type": "object", "required": ["k"], "properties": {
                    "k": {"type": "string"}, "v": {"type": "integer"}, "in": STRUCTURE,
                    "sub": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["n"], "items": {"type": "object", "required": ["n"], "properties": {"n": {"type": "integer"}, "v": {"type": "string"}}}}}}},
                "pair": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["port", "protocol"], "items": {"type": "object", "required": ["port"], "properties": {
                    "port": {"type": "integer"}, "protocol": {"type": "string", "default": "TCP"}, "v": {"type": "string"}}}},
                "atomic": {"type": "array", "x-kubernetes-list-type": "atomic", "items": STRUCTURE},
                "plain": {"type": "array", "items": {"type": "string"}}, "texts": {"type": "object", "additionalProperties": {"type": "string"}},
                "objects": {"type": "object", "additionalProperties": STRUCTURE},
                "whole": {**STRUCTURE, "x-kubernetes-map-type": "atomic"}, "granular": {**STRUCTURE, "x-kubernetes-map-type": "granular"},
                "embedded": {"type": "object", "x-kubernetes-embedded-resource": True, "x-kubernetes-preserve-unknown-fields": True},
                "nil": {"type": "string", "nullable": True}, "nilObject": {**STRUCTURE, "nullable": True},
                "given": {"type": "object", "default": {}, "properties": {"x": {"type": "integer", "default": 1}, "y": {"type": "string"}}},
                "level": {"type": "string", "default": "low", "enum": ["low", "high"]}, "replicas": {"type": "integer", "minimum": 0},
                "nested": {"type": "array", "items": {"type": "array", "items": {"type": "string"}}},
            },
        },
        "status": {
            "type": "object",
            "properties": {
                "replicas": {"type": "integer"}, "selector": {"type": "string"}, "phase": {"type": "string", "default": "new"},
                "conditions": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"], "items": {"type": "object", "required": ["type"], "properties": {
                    "type": {"type": "string"}, "status": {"type": "string"}, "reason": {"type": "string"}, "message": {"type": "string"},
                    "lastTransitionTime": {"type": "string", "format": "date-time", "nullable": True}, "observedGeneration": {"type": "integer"}}}},
            },
        },
        "extra": {"type": "object", "additionalProperties": {"type": "integer"}},
    },
}


def definition(plural, kind, versions, schema, subresources=None):
    made = [{"name": v, "served": True, "storage": v == "v1", "schema": {"openAPIV3Schema": schema}, **({"subresources": subresources} if subresources else {})} for v in versions]
    return {"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": f"{plural}.judge.example.com"},
            "spec": {"group": "judge.example.com", "scope": "Namespaced", "names": {"plural": plural, "kind": kind, "singular": kind.lower(), "listKind": kind + "List"}, "versions": made}}


SCALE = {"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas", "labelSelectorPath": ".status.selector"}
DEFINITIONS = [
    definition("things", "Thing", ["v1", "v2"], THING, {"status": {}, "scale": SCALE}),
    definition("plains", "Plain", ["v1"], THING),
    definition("looses", "Loose", ["v1"], {"type": "object", "x-kubernetes-preserve-unknown-fields": True, "properties": {"spec": {"type": "object", "x-kubernetes-preserve-unknown-fields": True, "properties": {
        "set": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}}}}}}),
]
XY = {"x": TEXT, "y": O(C(1, 2))}
MAP_ITEM = lambda k: {"k": k, "v": O(C(1, 2)), "in": O(XY, 0.4), "sub": O(L({"n": 1, "v": TEXT}, {"n": 2, "v": TEXT}), 0.4)}
THING_SPEC = {
    "text": TEXT, "int": O(C(0, 1, 2)), "number": O(C(1, 1.5, 2.0), 0.3), "flag": O(C(True, False)), "either": O(C(1, "1", "50%"), 0.3), "free": O({"a": O(XY), "b": O([1, C(2, 3)]), "c": O(None, 0.2)}, 0.4),
    "any": O(C(1, "x", True, [1], {"a": 1, "b": O({})}, None), 0.3), "set": O(L("a", "b", "c")), "intSet": O(L(1, 2, 3), 0.3),
    "map": O(L(MAP_ITEM("a"), MAP_ITEM("b"), MAP_ITEM("c"))), "pair": O(L({"port": 80, "v": TEXT}, {"port": 80, "protocol": "UDP"}, {"port": 81, "protocol": C("TCP", "UDP"), "v": TEXT})),
    "atomic": O(N(XY, 2), 0.3), "plain": O(N(AB, 3), 0.3), "texts": O({"a": O(AB), "b": O(AB)}), "objects": O({"a": O(XY), "b": O(XY)}), "whole": O(XY, 0.4), "granular": O(XY, 0.4),
    "embedded": O({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": AB, "labels": LABELS}, "data": O(XY)}, 0.2), "nil": O(C(None, "x"), 0.3), "nilObject": O(C(None, XY), 0.3),
    "given": O({"x": O(C(1, 2)), "y": TEXT}, 0.3), "level": O(C("low", "high"), 0.4), "replicas": O(C(0, 1, 2), 0.4), "nested": O(N(N(AB, 2), 2), 0.2), "unknown": O("u", 0.04),
}
THING_STATUS = {"replicas": O(C(0, 1)), "selector": O(C("a=b", "")), "phase": O(C("new", "old")), "conditions": O(L(CONDITION("Ready"), CONDITION("Good")), 0.7)}
WEBHOOK = lambda name: {
    "name": name, "clientConfig": {"url": C("https://example.com/a", "https://example.com/b")}, "sideEffects": "None", "admissionReviewVersions": ["v1"],
    "rules": O([{"operations": N(C("CREATE", "UPDATE"), 2, 1), "apiGroups": ["judge.example.org"], "apiVersions": ["v1"], "resources": [AB]}]), "failurePolicy": O(C("Ignore", "Fail")),
    "timeoutSeconds": O(C(1, 2)), "matchConditions": O(L({"name": "m", "expression": C("true", "false")}, {"name": "n", "expression": "true"}), 0.3), "namespaceSelector": O({"matchLabels": {"a": AB}}, 0.3),
}
METRIC = lambda name: {"type": "Resource", "resource": {"name": name, "target": {"type": "Utilization", "averageUtilization": C(50, 60)}}}
RULE = {"apiGroups": O([AB]), "resources": [AB], "verbs": N(C("get", "list"), 2, 1)}

KINDS = [
    Kind("", ["v1"], "ConfigMap", "configmaps", {"metadata": META, "data": O({"a": TEXT, "b": TEXT, "c": TEXT}), "binaryData": O({"z": C("AA==", "AQ==")}, 0.2), "immutable": O(C(True, False), 0.05)}, status=False),
    Kind("judge.example.com", ["v1", "v2"], "Thing", "things", {"metadata": META, "spec": O(THING_SPEC, 0.95), "status": THING_STATUS, "extra": O({"a": O(1), "b": O(2)}, 0.3)}, scale=True, strategic=False, rv_needed=True),
    Kind("apps", ["v1"], "Deployment", "deployments", {"metadata": META, "spec": {"replicas": O(C(0, 1, 2)), "selector": SELECTOR, "template": TEMPLATE, "minReadySeconds": O(C(0, 5)), "paused": O(C(True, False)), "revisionHistoryLimit": O(C(1, 2)),
        "strategy": O(C({"type": "Recreate"}, {"type": "RollingUpdate"}, {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": C(1, "25%"), "maxUnavailable": O(C(0, "10%"))}}, {"rollingUpdate": {"maxSurge": 2}}), 0.5), "progressDeadlineSeconds": O(C(600, 700), 0.2)},
        "status": {**COUNTS, "conditions": PLAIN_CONDITIONS}}, scale=True),
    Kind("", ["v1"], "Service", "services", {"metadata": META, "spec": {"clusterIP": "None", "selector": O({"app": AB, "x": O("1")}), "sessionAffinity": O(C("None", "None")), "publishNotReadyAddresses": O(C(True, False)), "externalIPs": O(N("1.2.3.4", 1), 0.1),
        "ports": L({"name": "a", "port": 80, "targetPort": O(C(80, "web", "")), "protocol": O("TCP")}, {"name": "b", "port": 81, "protocol": O(C("TCP", "UDP"))}, {"name": "c", "port": 80, "protocol": "UDP"}, {"name": O("d"), "port": 82, "appProtocol": O("http")})},
        "status": {"loadBalancer": O({"ingress": O(N({"ip": C("1.1.1.1", "1.1.1.2")}, 2))}), "conditions": STRICT_CONDITIONS}}),
    Kind("judge.example.com", ["v1"], "Plain", "plains", {"metadata": META, "spec": O(THING_SPEC, 0.95), "status": O(THING_STATUS, 0.5), "extra": O({"a": O(1), "b": O(2)}, 0.3)}, status=False, strategic=False, rv_needed=True),
    Kind("autoscaling", ["v1", "v2"], "HorizontalPodAutoscaler", "horizontalpodautoscalers", {
        "v2": {"metadata": META, "spec": {"scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": AB}, "minReplicas": O(C(1, 2)), "maxReplicas": C(3, 4), "metrics": O(L(METRIC("cpu"), METRIC("memory"))),
            "behavior": O({"scaleDown": O({"stabilizationWindowSeconds": C(0, 60), "policies": O(N({"type": "Pods", "value": C(1, 2), "periodSeconds": 60}, 2))}), "scaleUp": O({"selectPolicy": C("Max", "Min")})}, 0.3)},
            "status": {"currentReplicas": O(C(0, 1)), "desiredReplicas": C(0, 1), "conditions": O(L({k: v for k, v in CONDITION("AbleToScale").items() if k != "observedGeneration"}))}},
        "v1": {"metadata": META, "spec": {"scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": AB}, "minReplicas": O(C(1, 2)), "maxReplicas": C(3, 4), "targetCPUUtilizationPercentage": O(C(50, 60))}, "status": {"currentReplicas": C(0, 1), "desiredReplicas": C(0, 1)}}}),
    Kind("", ["v1"], "Pod", "pods", {"metadata": META, "spec": {k: v for k, v in POD_SPEC.items() if k not in ("affinity", "topologySpreadConstraints")}, "status": {"phase": O(C("Running", "Pending")), "podIP": O("10.0.0.1"), "podIPs": O([{"ip": "10.0.0.1"}], 0.3),
        "conditions": O(L({k: v for k, v in CONDITION("Ready").items()}, CONDITION("example.com/x"))), "message": TEXT, "containerStatuses": O([{"name": AB, "ready": C(True, False), "restartCount": C(0, 1), "image": "i", "imageID": ""}], 0.2)}}),
    Kind("networking.k8s.io", ["v1"], "Ingress", "ingresses", {"metadata": META, "spec": {"ingressClassName": O(C("x", "y"), 0.3), "tls": O(N({"hosts": O(N(C("a.com", "b.com"), 2)), "secretName": O(AB)}, 2)), "defaultBackend": {"service": {"name": AB, "port": C({"number": 80}, {"name": "web"})}},
        "rules": O(N({"host": O(C("a.com", "b.com")), "http": O({"paths": N({"path": C("/", "/x"), "pathType": "Prefix", "backend": {"service": {"name": AB, "port": {"number": C(80, 81)}}}}, 2, 1)})}, 2))},
        "status": {"loadBalancer": {"ingress": O(N({"ip": C("1.1.1.1", "1.1.1.2"), "ports": O([{"port": 80, "protocol": "TCP"}])}, 2))}}}),
    Kind("", ["v1"], "Secret", "secrets", {"metadata": META, "data": O({"a": C("AA==", "AQ=="), "b": O("Ag==")}), "stringData": O({"c": TEXT}, 0.3), "type": O("Opaque", 0.2)}, status=False),
    Kind("", ["v1"], "ServiceAccount", "serviceaccounts", {"metadata": META, "secrets": O(L({"name": "a"}, {"name": "b", "namespace": O("n")})), "imagePullSecrets": O(N({"name": AB}, 2)), "automountServiceAccountToken": O(C(True, False))}, status=False),
    Kind("networking.k8s.io", ["v1"], "NetworkPolicy", "networkpolicies", {"metadata": META, "spec": {"podSelector": O(C({}, {"matchLabels": {"a": AB}, "matchExpressions": O([{"key": AB, "operator": "In", "values": N(C("x", "y"), 2, 1)}])}), 0.9), "policyTypes": O(L("Ingress", "Egress")),
        "ingress": O(N({"from": O(N({"podSelector": {"matchLabels": {"a": AB}}}, 2)), "ports": O(N({"port": C(80, "web"), "protocol": O("UDP")}, 2))}, 2))}}, status=False),
    Kind("batch", ["v1"], "CronJob", "cronjobs", {"metadata": META, "spec": {"schedule": C("* * * * *", "@hourly"), "suspend": O(C(True, False)), "concurrencyPolicy": O(C("Allow", "Forbid")), "successfulJobsHistoryLimit": O(C(1, 2)), "timeZone": O("UTC", 0.2),
        "jobTemplate": {"metadata": O({"labels": LABELS}, 0.3), "spec": {"backoffLimit": O(C(1, 2)), "template": {"metadata": O({"labels": LABELS}), "spec": {**POD_SPEC, "restartPolicy": C("Never", "OnFailure")}}}}},
        "status": {"lastScheduleTime": O("2001-01-01T00:00:00Z"), "active": O(N({"kind": "Job", "name": AB}, 2))}}),
    Kind("apps", ["v1"], "StatefulSet", "statefulsets", {"metadata": META, "spec": {"serviceName": O("s"), "selector": SELECTOR, "template": TEMPLATE, "replicas": O(C(0, 1, 2)), "podManagementPolicy": O("OrderedReady", 0.1), "updateStrategy": O(C({"type": "OnDelete"}, {"type": "RollingUpdate", "rollingUpdate": O({"partition": C(0, 1)})})),
        "persistentVolumeClaimRetentionPolicy": O({"whenDeleted": C("Retain", "Delete")}, 0.2)}, "status": {**COUNTS, "conditions": PLAIN_CONDITIONS}}, scale=True),
    Kind("policy", ["v1"], "PodDisruptionBudget", "poddisruptionbudgets", {"metadata": META, "spec": {"minAvailable": C(1, "50%"), "selector": O({"matchLabels": {"a": AB}}), "unhealthyPodEvictionPolicy": O(C("IfHealthyBudget", "AlwaysAllow"))},
        "status": {"currentHealthy": C(0, 1), "desiredHealthy": 1, "disruptionsAllowed": C(0, 1), "expectedPods": 1, "disruptedPods": O({"p": "2001-01-01T00:00:00Z"}), "conditions": STRICT_CONDITIONS}}),
    Kind("rbac.authorization.k8s.io", ["v1"], "Role", "roles", {"metadata": META, "rules": O(N(RULE, 3))}, status=False),
    Kind("rbac.authorization.k8s.io", ["v1"], "ClusterRole", "clusterroles", {"metadata": META, "rules": O(N(RULE, 3)), "aggregationRule": O({"clusterRoleSelectors": N({"matchLabels": {"a": AB}}, 2, 1)}, 0.3)}, status=False, namespaced=False),
    Kind("", ["v1"], "Node", "nodes", {"metadata": META, "spec": O({"unschedulable": O(C(True, False)), "taints": O(L({"key": "a", "effect": "NoSchedule", "value": O("x")}, {"key": "b", "effect": "NoExecute"}, {"key": "a", "effect": "NoExecute"})), "podCIDR": O("10.0.0.0/24", 0.1), "podCIDRs": O(["10.0.0.0/24"], 0.1)}),
        "status": {"capacity": O(QUANTITIES), "allocatable": O(QUANTITIES, 0.2), "conditions": O(L({**PLAIN_CONDITION("Ready"), "lastHeartbeatTime": O("2001-01-01T00:00:00Z")}, PLAIN_CONDITION("DiskPressure"))), "addresses": O(L({"type": "InternalIP", "address": "1.1.1.1"}, {"type": "InternalIP", "address": "1.1.1.2"}, {"type": "Hostname", "address": "h"}, twice=0.2)), "images": O(N({"names": [AB], "sizeBytes": 1}, 2))}}, namespaced=False),
    Kind("", ["v1"], "Namespace", "namespaces", {"metadata": META, "status": {"conditions": O(L(PLAIN_CONDITION("X"), PLAIN_CONDITION("Y")))}}, namespaced=False),
    Kind("", ["v1"], "ResourceQuota", "resourcequotas", {"metadata": META, "spec": {"hard": O({"pods": C("1", 2), "cpu": O(C("1", "1000m"))}), "scopes": O(["BestEffort"], 0.1)}, "status": {"hard": O({"pods": C("1", "2")}), "used": O({"pods": C("0", "1")})}}),
    Kind("", ["v1"], "PersistentVolumeClaim", "persistentvolumeclaims", {"metadata": META, "spec": {"accessModes": L("ReadWriteOnce", "ReadOnlyMany"), "resources": {"requests": {"storage": C("1Gi", "1024Mi")}}, "storageClassName": O(C("", "x"), 0.8)},
        "status": {"phase": O(C("Pending", "Bound")), "capacity": O({"storage": "1Gi"}), "conditions": O(L(PLAIN_CONDITION("Resizing"), PLAIN_CONDITION("FileSystemResizePending"))), "accessModes": O(["ReadWriteOnce"])}}),
    Kind("", ["v1"], "PersistentVolume", "persistentvolumes", {"metadata": META, "spec": {"capacity": {"storage": C("1Gi", "2Gi")}, "accessModes": L("ReadWriteOnce", "ReadOnlyMany"), "hostPath": {"path": C("/a", "/b")}, "persistentVolumeReclaimPolicy": O(C("Retain", "Delete")), "mountOptions": O(N(AB, 2)), "claimRef": O({"name": AB, "namespace": "n", "uid": O("u")})},
        "status": {"phase": O(C("Available", "Released")), "message": TEXT}}, namespaced=False),
    Kind("admissionregistration.k8s.io", ["v1"], "ValidatingWebhookConfiguration", "validatingwebhookconfigurations", {"metadata": META, "webhooks": O(L(WEBHOOK("a.example.com"), WEBHOOK("b.example.com")))}, status=False, namespaced=False),
    Kind("batch", ["v1"], "Job", "jobs", {"metadata": META, "spec": {"parallelism": O(C(1, 2)), "completions": O(2, 0.2), "backoffLimit": O(C(1, 2)), "suspend": O(C(True, False)), "activeDeadlineSeconds": O(C(10, 20)), "template": {"metadata": O({"labels": O({"x": AB})}), "spec": {"restartPolicy": "Never", "containers": [CONTAINER("a")]}}},
        "status": {"active": O(C(0, 1)), "failed": O(1, 0.2), "conditions": O(L(PLAIN_CONDITION("Suspended")))}}),
    Kind("discovery.k8s.io", ["v1"], "EndpointSlice", "endpointslices", {"metadata": META, "addressType": C("IPv4"), "endpoints": O(N({"addresses": ["10.0.0.1"], "conditions": O({"ready": C(True, False)}), "nodeName": O(AB)}, 2)), "ports": O(N({"name": C("a", ""), "port": C(80, 81), "protocol": O("TCP")}, 1))}, status=False),
    Kind("", ["v1"], "Endpoints", "endpoints", {"metadata": META, "subsets": O(N({"addresses": O(N({"ip": C("10.0.0.1", "10.0.0.2")}, 2)), "ports": O([{"port": C(80, 81), "name": O("a", 0.2)}])}, 2))}, status=False),
    Kind("storage.k8s.io", ["v1"], "CSINode", "csinodes", {"metadata": META, "spec": {"drivers": L({"name": "a", "nodeID": C("1", "2"), "topologyKeys": O(N(AB, 1))}, {"name": "b", "nodeID": "1", "allocatable": O({"count": 1})})}}, status=False, namespaced=False),
    Kind("judge.example.com", ["v1"], "Loose", "looses", {"metadata": META, "spec": O({"set": O(L("a", "b")), "free": O(XY), "list": O(N(XY, 2)), "n": O(C(1, 1.5, None, "t"))}), "other": O(XY), "status": O({"a": AB})}, status=False, strategic=False, rv_needed=True),
]
