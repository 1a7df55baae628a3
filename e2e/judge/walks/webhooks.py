#!/usr/bin/env python3
"""webhooks.py [STOCK-KUBECONFIG OUR-KUBECONFIG]: admission webhooks: what is refused of a configuration, what they are asked, and everything that their answers may be. The servers call a
hook of this program; what they ask is compared too. Without kubeconfigs it starts fresh servers."""
from walk import *
import hooks as H
from hooks import review, patch
w = start(__file__)
V1 = "/api/v1"; N = V1 + "/namespaces/hooked"; AR = "/apis/admissionregistration.k8s.io/v1"
VAL, MUT = AR + "/validatingwebhookconfigurations", AR + "/mutatingwebhookconfigurations"
DRY = "?dryRun=All"; MERGE = "application/merge-patch+json"
h = H.Hooks(); h.sides(w)
w.known(r"(Validating|Mutating)Webhook|webhookconfigurations", r"Syntax error", r"Syntax error", "the texts of cel-go's generated parser for what does not parse at all")

w.known(r"asked.*accept-encoding", r"gzip", r"absent", "Go's HTTP client asks for compressed answers by itself")
w.known(r"asked .*binding.*managedFields", r"", r"absent", "nobody owns the fields of what is not stored here")
w.known(r"asked .*token.*metadata", r"", r"absent", "a token's request is given its account's name and time by upstream before it is admitted")
w.known(r"asked .*services ", r"IPAddress", r"", "upstream makes the IPAddress of a Service by a request to itself, which webhooks see too")
w.known(r"asked .*gracePeriodSeconds", r"30", r"absent", "upstream puts the pod's own grace into the options before it asks webhooks")
w.known(r"metadata\.continue", r"x", r"absent", "list metadata in a webhook's refusal")
w.known(r"302 (Fail|Ignore)", r"dial tcp 127.0.0.1:1", r"302", "redirects of webhooks are not followed")
w.known(r" kind (Fail|Ignore)", r"illegal base64|absent|InternalError|causes", r"unknown conversion|absent", "a patch that makes a Secret of a ConfigMap is refused for its kind before its data are read")
w.begin("configurations")
RULE = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"]}
def hook(name="a.walk.example.com", **k):
    return {x: y for x, y in dict({"name": name, "clientConfig": {"url": "https://a.example.com/x"}, "rules": [RULE], "sideEffects": "None", "admissionReviewVersions": ["v1"]}, **k).items() if y != "absent"}
def conf(kind, *hs, name="c", **k): return dict({"apiVersion": "admissionregistration.k8s.io/v1", "kind": kind + "WebhookConfiguration", "metadata": {"name": name}, "webhooks": list(hs)}, **k)
hs = [{}, {"name": ""}, {"name": "a"}, {"name": "a.b"}, {"name": "A.b.c"}, {"sideEffects": "absent"}, {"sideEffects": "Some"}, {"sideEffects": "Unknown"}, {"sideEffects": "Bogus"}, {"sideEffects": "NoneOnDryRun"}, {"admissionReviewVersions": "absent"}, {"admissionReviewVersions": []}, {"admissionReviewVersions": ["v2"]}, {"admissionReviewVersions": ["v1", "v1"]}, {"admissionReviewVersions": ["A_b", "v1"]}, {"admissionReviewVersions": ["v1beta1"]}, {"failurePolicy": "Bogus"}, {"failurePolicy": "Ignore"}, {"matchPolicy": "Bogus"}, {"matchPolicy": "Exact"}, {"timeoutSeconds": 0}, {"timeoutSeconds": 31}, {"timeoutSeconds": -1}, {"timeoutSeconds": 30}, {"reinvocationPolicy": "Bogus"}, {"reinvocationPolicy": "IfNeeded"},
  {"clientConfig": {}}, {"clientConfig": "absent"}, *({"clientConfig": c} for c in ({"url": "http://a"}, {"url": ""}, {"url": "https://"}, {"url": "https://a?b"}, {"url": "https://u@a/"}, {"url": "https://a#f"}, {"url": ":x"}, {"url": "https://a:b/"}, {"url": "https://[::1"}, {"service": {}}, {"service": {"namespace": "n", "name": "s"}}, {"service": {"namespace": "n", "name": "s", "path": "a"}}, {"service": {"namespace": "n", "name": "s", "path": "/a//b/"}}, {"service": {"namespace": "n", "name": "s", "port": 0}}, {"service": {"namespace": "n", "name": "s", "port": 65536}}, {"service": {"namespace": "n", "name": "s"}, "url": "https://a"}, {"url": "https://a", "caBundle": "Ym9ndXM="}, {"url": "https://a", "caBundle": "?"})),
  {"namespaceSelector": {"matchLabels": {"a b": "c"}}}, {"namespaceSelector": {"matchExpressions": [{"key": "a", "operator": "Bogus"}]}}, {"objectSelector": {"matchExpressions": [{"key": "a", "operator": "In"}]}}, {"objectSelector": {"matchExpressions": [{"key": "a", "operator": "Exists", "values": ["x"]}, {"key": "", "operator": "In", "values": ["a b"]}]}},
  *({"rules": [dict(RULE, **r)]} for r in ({}, {"apiGroups": []}, {"apiGroups": ["*", "a"]}, {"apiGroups": ["A/b"]}, {"apiVersions": []}, {"apiVersions": [""]}, {"apiVersions": ["*", "v1"]}, {"operations": []}, {"operations": ["*", "CREATE"]}, {"operations": ["Bogus"]}, {"operations": ["CONNECT", "DELETE", "UPDATE"]}, {"resources": []}, {"resources": [""]}, {"resources": ["*", "pods"]}, {"resources": ["*/*", "pods"]}, {"resources": ["*/*", "pods/status"]}, {"resources": ["pods/*", "pods/status"]}, {"resources": ["*/status", "pods/status"]}, {"resources": ["pods", "pods"]}, {"resources": ["pods/"]}, {"resources": ["/status"]}, {"resources": ["a/b/c"]}, {"resources": ["*/scale", "*"]}, {"scope": "Bogus"}, {"scope": "Cluster"}, {"scope": ""}, {"scope": "*"})), {"rules": []}, {"rules": "absent"},
  {"matchConditions": [{"name": "a", "expression": "true"}]}, *({"matchConditions": m} for m in ([{}], [{"name": "a", "expression": ""}], [{"name": "", "expression": "true"}], [{"name": "a b", "expression": "true"}], [{"name": "a", "expression": "1"}], [{"name": "a", "expression": "object.x =="}], [{"name": "a", "expression": "true"}] * 2, [{"name": f"n{i}", "expression": "true"} for i in range(65)], [{"name": "a", "expression": "object.metadata.name == 'x' && oldObject == null && request.operation == 'CREATE' && authorizer.path('/x').check('get').allowed()"}], [{"name": "a", "expression": "namespaceObject.metadata.name == 'x'"}], [{"name": "a", "expression": "params.x == 1"}], [{"name": "a", "expression": "variables.x"}], [{"name": "x/y", "expression": "request.bogus == 1"}], [{"name": "a", "expression": "object.x.all(y, y.all(z, z == 1))"}])), {"bogus": 1}]
for k in hs:
    for kind, at in (("Validating", VAL), ("Mutating", MUT)): w("POST", at + DRY, conf(kind, hook(**k)))
for kind, at in (("Validating", VAL), ("Mutating", MUT)):
    w("POST", at + DRY, conf(kind)); w("POST", at + DRY, conf(kind, hook(), hook())); w("POST", at + DRY, conf(kind, hook("b.walk.example.com"), hook())); w("POST", at + DRY, conf(kind, hook(), name="A b")); w("POST", at + DRY, dict(conf(kind), webhooks=None))
    w("POST", at, conf(kind, hook(), name="upd"))
    for k in hs[:40:3]: w("PATCH", f"{at}/upd{DRY}", {"webhooks": [hook(**k)]}, kind=MERGE)
    w("GET", f"{at}/upd", accept="application/json;as=Table;v=v1;g=meta.k8s.io"); w("GET", at, accept="application/json;as=Table;v=v1;g=meta.k8s.io"); w("DELETE", f"{at}/upd")

w.begin("validating")
for n, labels in (("hooked", {"hook": "yes"}), ("free", {})): w("POST", V1 + "/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": n, "labels": labels}}); w("POST", f"{V1}/namespaces/{n}/serviceaccounts", {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}}, check=False)
CA = {"caBundle": h.ca}
def client(path): return dict(CA, url="{{hook}}/" + path)
ALL = {"apiGroups": ["*"], "apiVersions": ["*"], "operations": ["*"], "resources": ["*/*"]}
SEL = {"namespaceSelector": {"matchLabels": {"hook": "yes"}}}
GONE = set()
def put(kind, *hs, name="c"):
    """Puts a configuration in place and waits until both servers have taken it up, or the one before down."""
    at = VAL if kind == "Validating" else MUT
    w("DELETE", f"{at}/{name}", check=False); w("POST", at, conf(kind, *hs, name=name), check=False); time.sleep(0.5)
def gone(kind, name="c"): w("DELETE", f"{VAL if kind == 'Validating' else MUT}/{name}", check=False); time.sleep(0.35)
def asked(name, what, norm=None):
    """What the two asked of a hook is the same."""
    a, b = h.taken(name)
    def clean_(requests):
        out = []
        for r in requests:
            body = json.loads(json.dumps(r["body"]))
            if isinstance(body, dict) and "request" in body: body["request"]["uid"] = "UID"
            body = canonical(clean(body, ""))
            text = re.sub(r'"(time|deletionTimestamp|timeAdded)": "[^"]*"', r'"\1": "T"', json.dumps(body)); text = re.sub(r"kube-api-access-\w+", "kube-api-access-X", text)
            hdr = {k.lower(): v for k, v in r["headers"].items() if k.lower() in ("content-type", "accept", "accept-encoding", "content-encoding")}
            told = {"path": re.sub(r"side-.", "side", r["path"]), "headers": hdr, "body": json.loads(text)}
            # Upstream asks again about a deletion whose object its cache did not have as it is: how often is a matter of time.
            if not (what.startswith("DELETE") and told in out): out.append(told)
        return out
    w.same(f"asked {name}: {what}", clean_(a), clean_(b))
h.on("ok")(lambda q, _: review(q))
put("Validating", hook(clientConfig=client("ok"), rules=[ALL], **SEL))
cm = lambda name="c", **k: dict({"apiVersion": "v1", "kind": "ConfigMap", "metadata": dict({"name": name}, **k.pop("meta", {}))}, **k)
pod = lambda name="p", **k: {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": dict({"containers": [{"name": "c", "image": "i"}]}, **k)}
dep = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": {"replicas": 1, "selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}}
def step(method, path, body=None, **k):
    w(method, path, body, **k); asked("ok", f"{method} {path}")
step("POST", N + "/configmaps", cm(data={"a": "b"})); step("PUT", N + "/configmaps/c", cm(data={"a": "c"})); step("PATCH", N + "/configmaps/c", {"data": {"d": "e"}}, kind=MERGE); step("PATCH", N + "/configmaps/c?fieldManager=x&force=true", cm(data={"a": "f"}), kind="application/apply-patch+yaml"); step("POST", N + "/configmaps" + DRY, cm("dry")); step("POST", N + "/configmaps?fieldManager=fm&fieldValidation=Strict", cm("opts")); step("DELETE", N + "/configmaps/opts", {"propagationPolicy": "Background", "gracePeriodSeconds": 0}); step("DELETE", N + "/configmaps/none"); step("GET", N + "/configmaps/c")
step("POST", N + "/pods", pod()); step("PATCH", N + "/pods/p/status", {"status": {"phase": "Running"}}, kind=MERGE); step("POST", N + "/pods/p/binding", {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n1"}}); step("POST", N + "/pods/p/eviction" + DRY, {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "p"}}); step("PATCH", N + "/pods/p/ephemeralcontainers", {"spec": {"ephemeralContainers": [{"name": "e", "image": "i"}]}}, kind="application/strategic-merge-patch+json"); step("PATCH", N + "/pods/p/resize", {"spec": {"containers": [{"name": "c", "resources": {}}]}}, kind="application/strategic-merge-patch+json"); step("POST", N + "/pods/p/exec?command=ls&container=c&stdout=true"); step("GET", N + "/pods/p/log"); step("GET", N + "/pods/p/proxy/"); step("POST", N + "/pods/p/portforward?ports=80"); step("POST", N + "/pods/p/attach?stdin=true"); step("POST", N + "/serviceaccounts/default/token", {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"audiences": ["a"]}}, norm=lambda d: d.get("kind"))
step("POST", "/apis/apps/v1/namespaces/hooked/deployments", dep); step("GET", "/apis/apps/v1/namespaces/hooked/deployments/d/scale"); step("PATCH", "/apis/apps/v1/namespaces/hooked/deployments/d/scale", {"spec": {"replicas": 2}}, kind=MERGE); step("PUT", "/apis/apps/v1/namespaces/hooked/deployments/d/scale", {"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "d", "namespace": "hooked"}, "spec": {"replicas": 3}}); step("PATCH", "/apis/apps/v1/namespaces/hooked/deployments/d/status", {"status": {"replicas": 1}}, kind=MERGE)
step("POST", N + "/services", {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}]}}); step("GET", N + "/services/s/proxy/"); step("DELETE", N + "/configmaps?labelSelector=x%3Dy"); step("PATCH", V1 + "/namespaces/hooked", {"metadata": {"labels": {"l": "m"}}}, kind=MERGE); step("PATCH", V1 + "/namespaces/hooked/status" + DRY, {"metadata": {"annotations": {"l": "m"}}}, kind=MERGE); step("PUT", V1 + "/namespaces/hooked/finalize" + DRY, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "hooked"}, "spec": {"finalizers": ["kubernetes"]}}); step("POST", V1 + "/nodes" + DRY, {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}}); step("POST", "/apis/authorization.k8s.io/v1/namespaces/hooked/localsubjectaccessreviews", {"apiVersion": "authorization.k8s.io/v1", "kind": "LocalSubjectAccessReview", "metadata": {"namespace": "hooked"}, "spec": {"user": "u", "resourceAttributes": {"namespace": "hooked", "verb": "get", "resource": "pods"}}}); step("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", {"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview", "spec": {"nonResourceAttributes": {"path": "/", "verb": "get"}}}); step("POST", "/apis/events.k8s.io/v1/namespaces/hooked/events", {"apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "e"}, "eventTime": "2026-01-01T00:00:00.000000Z", "reportingController": "a.b/c", "reportingInstance": "i", "action": "A", "reason": "R", "type": "Normal"})
step("POST", N + "/configmaps" + DRY, cm("who"), who="user:ann,system:masters"); step("DELETE", N + "/pods/p" + DRY); step("DELETE", N + "/pods/p", {"gracePeriodSeconds": 0}, norm=lambda d: d.get("kind")); step("POST", V1 + "/namespaces/free/configmaps" + DRY, cm())

w.begin("answers")
answers = {
 "deny": lambda q: review(q, False), "message": lambda q: review(q, False, status={"message": "because"}), "code": lambda q: review(q, False, status={"code": 418, "message": "teapot"}), "reason": lambda q: review(q, False, status={"code": 409, "reason": "Conflict", "message": "m", "details": {"name": "x", "causes": [{"reason": "R", "message": "M", "field": "f"}]}}), "reasononly": lambda q: review(q, False, status={"reason": "NotFound"}), "status": lambda q: review(q, False, status={"status": "Success", "code": 200, "message": "odd"}), "code500": lambda q: review(q, False, status={"code": 500, "message": "boom"}), "code401": lambda q: review(q, False, status={"code": 401}), "code100": lambda q: review(q, False, status={"code": 100, "message": "low"}), "metadata": lambda q: review(q, False, status={"metadata": {"continue": "x"}, "message": "meta", "kind": "Bogus", "apiVersion": "x/y"}),
 "warn": lambda q: review(q, warnings=["one", "two: \"quoted\" \\ é", "", "x" * 300, "line\nbreak"]), "warnmany": lambda q: review(q, warnings=["w" * 250 + str(i) for i in range(30)]), "warndeny": lambda q: review(q, False, warnings=["careful"], status={"message": "no"}), "annotate": lambda q: review(q, auditAnnotations={"key": "value", "bad key": "x"}),
 "500": lambda q: (500, "internal"), "404": lambda q: (404, "not here"), "403json": lambda q: (403, {"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": "status says", "code": 403, "reason": "Forbidden"}), "429": lambda q: (429, ("slow", {"Retry-After": "1"})), "302": lambda q: (302, ("", {"Location": "https://127.0.0.1:1/"})), "201": lambda q: (201, review(q)[1]), "204": lambda q: (204, ""), "empty": lambda q: (200, ""), "garbage": lambda q: (200, "garbage"), "html": lambda q: (200, ("<html>", {"Content-Type": "text/html"})), "array": lambda q: (200, []), "object": lambda q: (200, {}), "noresponse": lambda q: (200, {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview"}), "nouid": lambda q: (200, {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": {"allowed": True}}), "baduid": lambda q: (200, {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": {"uid": "zzz", "allowed": True}}), "badversion": lambda q: (200, {"apiVersion": "admission.k8s.io/v1beta1", "kind": "AdmissionReview", "response": {"uid": q["request"]["uid"], "allowed": True}}), "v2": lambda q: (200, {"apiVersion": "admission.k8s.io/v2", "kind": "AdmissionReview", "response": {"uid": q["request"]["uid"], "allowed": True}}), "badkind": lambda q: (200, {"apiVersion": "admission.k8s.io/v1", "kind": "Other", "response": {"uid": q["request"]["uid"], "allowed": True}}), "pod": lambda q: (200, {"apiVersion": "v1", "kind": "Pod"}), "badtype": lambda q: (200, {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": {"uid": q["request"]["uid"], "allowed": "yes"}}), "unknown": lambda q: (200, {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": {"uid": q["request"]["uid"], "allowed": True, "bogus": 1}}),
 "drop": lambda q: (None, ""), "patchval": lambda q: review(q, **patch({"op": "add", "path": "/data", "value": {"x": "y"}})), "patchonly": lambda q: review(q, patch="W10="), "typeonly": lambda q: review(q, patchType="JSONPatch"), "slow": lambda q: (time.sleep(2.5), review(q))[1], "big": lambda q: (200, "x" * 4000000),
}
# One configuration has a hook for each answer and each policy; an object says by its labels whom it is for.
CMR = [dict(RULE, operations=["CREATE", "UPDATE", "DELETE"])]
def chosen(n, p): return {"objectSelector": {"matchLabels": {"answer": n, "policy": p}}}
def sel(c, n, p, **k): return hook(f"{n}.{p.lower()}.walk.example.com", clientConfig=c, rules=CMR, failurePolicy=p, timeoutSeconds=k.pop("timeoutSeconds", 3), **chosen(n, p), **SEL, **k)
def labelled(n, p, name="ans", **k): return cm(name, meta={"labels": {"answer": n, "policy": p}}, **k)
def answered(clients, **timeouts):
    for kind in ("Validating", "Mutating"):
        put(kind, *(sel(c, n, p, **timeouts.get(n, {})) for n, c in clients.items() for p in ("Fail", "Ignore")))
        for n in clients:
            for p in ("Fail", "Ignore"): w("POST", N + "/configmaps" + DRY, labelled(n, p), label=f"{kind} {n} {p}", until=0.6)
        gone(kind)
for n, f in answers.items(): h.on(n)(lambda q, _, f=f: f(q))
answered({n: client(n) for n in answers}, slow={"timeoutSeconds": 1})
answered({"closed": {"url": "{{closed}}/x"}, "untrusted": {"url": "{{hook}}/ok"}, "host": dict(CA, url="https://no.such.host.invalid/x"), "service": dict(CA, service={"namespace": "hooked", "name": "nosvc"}), "port": dict(CA, service={"namespace": "hooked", "name": "s", "port": 81})})
h.asked.clear()

w.begin("patches")
pt = {"data": [{"op": "add", "path": "/data", "value": {"x": "y"}}], "label": [{"op": "add", "path": "/metadata/labels", "value": {"x": "y"}}], "none": [], "missing": [{"op": "remove", "path": "/data/none"}], "test": [{"op": "test", "path": "/metadata/name", "value": "zz"}], "bogusop": [{"op": "bogus", "path": "/x"}], "unknown": [{"op": "add", "path": "/bogus", "value": 1}], "wrongtype": [{"op": "add", "path": "/data", "value": "str"}], "invalid": [{"op": "add", "path": "/data", "value": {"bad key!": "v"}}], "name": [{"op": "replace", "path": "/metadata/name", "value": "other"}], "kind": [{"op": "replace", "path": "/kind", "value": "Secret"}], "nokind": [{"op": "remove", "path": "/kind"}], "rv": [{"op": "add", "path": "/metadata/resourceVersion", "value": "5"}], "null": [{"op": "add", "path": "/data", "value": None}], "immutable": [{"op": "add", "path": "/immutable", "value": True}], "managed": [{"op": "add", "path": "/metadata/managedFields", "value": []}]}
for n, ops in pt.items(): h.on("p-" + n)(lambda q, _, ops=ops: review(q, **patch(*ops)))
h.on("p-notjson")(lambda q, _: review(q, patchType="JSONPatch", patch="bm90anNvbg==")); h.on("p-notarray")(lambda q, _: review(q, patchType="JSONPatch", patch="e30=")); h.on("p-badb64")(lambda q, _: review(q, patchType="JSONPatch", patch="@@@")); h.on("p-badtype")(lambda q, _: review(q, patchType="MergePatch", patch="W10=")); h.on("p-deny")(lambda q, _: review(q, False, **patch({"op": "add", "path": "/data", "value": {"x": "y"}})))
names = list(pt) + ["notjson", "notarray", "badb64", "badtype", "deny"]
put("Mutating", *(sel(client("p-" + n), n, p) for n in names for p in ("Fail", "Ignore")))
w("POST", N + "/configmaps", cm("old", data={"k": "v"}))
for n in names:
    for p in ("Fail", "Ignore"): w("POST", N + "/configmaps" + DRY, labelled(n, p), label=f"{n} {p}", until=0.6); w("PUT", N + "/configmaps/old" + DRY, labelled(n, p, "old", data={"k": "w"}), label=f"{n} {p}")
put("Mutating", hook(clientConfig=client("p-data"), rules=[dict(RULE, operations=["DELETE"])], **SEL)); w("DELETE", N + "/configmaps/c" + DRY)
# Order, reinvocation, what the second sees.
def appender(tag):
    def f(q, _):
        data = (q["request"]["object"] or {}).get("data") or {}
        if tag in data: return review(q)
        return review(q, **patch(*([] if data else [{"op": "add", "path": "/data", "value": {}}]), {"op": "add", "path": "/data/" + tag, "value": str(len(data))}))
    return f
for t in "abc": h.on("add-" + t)(appender(t))
for pol in ("Never", "IfNeeded"):
    put("Mutating", *(hook(f"{t}.walk.example.com", clientConfig=client("add-" + t), rules=CMR, reinvocationPolicy=pol, **SEL) for t in "abc")); w("POST", N + "/configmaps" + DRY, cm("order"), label=pol)
    for t in "abc": asked("add-" + t, pol)
gone("Mutating")

w.begin("matching")
h.on("no")(lambda q, _: review(q, False, status={"message": "matched"}))
def tries(label, *reqs, kind="Validating", **k):
    put(kind, hook(clientConfig=client("no"), rules=k.pop("rules", CMR), **dict(SEL, **k)))
    for r in reqs: w(*r[:2], *(r[2:3]), label=f"{label} {kind}", until=0.7, **(r[3] if len(r) > 3 else {}))
    h.taken("no")
C = ("POST", N + "/configmaps" + DRY, cm("m")); CL = ("POST", N + "/configmaps" + DRY, cm("m", meta={"labels": {"x": "y"}})); U = ("PUT", N + "/configmaps/c" + DRY, cm(meta={"labels": {"x": "y"}})); D = ("DELETE", N + "/configmaps/c" + DRY)
for m in ([{"name": "t", "expression": "true"}], [{"name": "f", "expression": "false"}], [{"name": "n", "expression": "object.metadata.name == 'm'"}], [{"name": "e", "expression": "object.data.x == 'y'"}], [{"name": "e", "expression": "object.data.x == 'y'"}, {"name": "f", "expression": "false"}], [{"name": "o", "expression": "oldObject != null"}], [{"name": "op", "expression": "request.operation == 'DELETE' && object == null"}], [{"name": "u", "expression": "'system:masters' in request.userInfo.groups"}], [{"name": "a", "expression": "authorizer.group('').resource('configmaps').namespace('hooked').check('delete').allowed()"}], [{"name": "r", "expression": "request.resource.resource == 'configmaps' && request.kind.kind == 'ConfigMap' && request.name == 'm' && request.namespace == 'hooked' && request.dryRun"}], [{"name": "c", "expression": "[0,1,2,3,4,5,6,7,8,9].all(a, [0,1,2,3,4,5,6,7,8,9].all(b, [0,1,2,3,4,5,6,7,8,9].all(c, [0,1,2,3,4,5,6,7,8,9].all(d, [0,1,2,3,4,5,6,7,8,9].all(e, a + b + c + d + e >= 0)))))"}]):
    for p in ("Fail", "Ignore"):
        tries(json.dumps(m)[:90] + p, C, CL, U, D, matchConditions=m, failurePolicy=p)
tries("object selector", C, CL, U, D, objectSelector={"matchLabels": {"x": "y"}}); tries("namespace names", C, ("POST", V1 + "/namespaces/free/configmaps" + DRY, cm()), namespaceSelector={"matchLabels": {"kubernetes.io/metadata.name": "free"}})
for s in ("None", "NoneOnDryRun", "Some", "Unknown"):
    tries("side effects " + s, C, sideEffects=s) if s in ("None", "NoneOnDryRun") else None
deps = [("POST", f"/apis/{v}/namespaces/hooked/deployments" + DRY, dict(dep, apiVersion=v)) for v in ("apps/v1",)]
hpa = lambda v: ("POST", f"/apis/autoscaling/{v}/namespaces/hooked/horizontalpodautoscalers" + DRY, {"apiVersion": "autoscaling/" + v, "kind": "HorizontalPodAutoscaler", "metadata": {"name": "h"}, "spec": {"maxReplicas": 3, "scaleTargetRef": {"kind": "Deployment", "name": "d", "apiVersion": "apps/v1"}}})
for mp in ("Exact", "Equivalent"):
    for v in ("v1", "v2"):
        put("Validating", hook(clientConfig=client("ok"), rules=[{"apiGroups": ["autoscaling"], "apiVersions": [v], "operations": ["*"], "resources": ["horizontalpodautoscalers"]}], matchPolicy=mp, **SEL))
        for rv in ("v1", "v2"): step(*hpa(rv)[:3])
        put("Validating", hook(clientConfig=client("ok"), rules=[{"apiGroups": ["events.k8s.io"] if v == "v1" else [""], "apiVersions": ["v1"], "operations": ["*"], "resources": ["events"]}], matchPolicy=mp, **SEL))
        step("POST", N + "/events" + DRY, {"apiVersion": "v1", "kind": "Event", "metadata": {"name": "ev"}, "involvedObject": {"kind": "Pod", "name": "p", "namespace": "hooked"}, "reason": "R", "message": "m"}); step("POST", "/apis/events.k8s.io/v1/namespaces/hooked/events" + DRY, {"apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "e2"}, "eventTime": "2026-01-01T00:00:00.000000Z", "reportingController": "a.b/c", "reportingInstance": "i", "action": "A", "reason": "R", "type": "Normal"})
for sc in ("Cluster", "Namespaced", "*"):
    tries("scope " + sc, C, ("POST", V1 + "/namespaces" + DRY, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "scoped"}}), rules=[dict(ALL, resources=["configmaps", "namespaces"], scope=sc)], namespaceSelector={})
for r in ("pods", "pods/*", "*/status", "*/*", "*", "pods/log", "pods/exec", "pods/eviction"):
    tries("resource " + r, ("POST", N + "/pods" + DRY, pod("q")), ("PATCH", "/apis/apps/v1/namespaces/hooked/deployments/d/status" + DRY, {"status": {"replicas": 2}}, {"kind": MERGE}), ("POST", N + "/pods/p/eviction" + DRY, {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "p"}}), ("POST", N + "/pods/p/exec?command=x"), ("DELETE", N + "/configmaps" + DRY), rules=[dict(ALL, resources=[r])])
gone("Validating")
# Versions of reviews.
h.on("beta")(lambda q, _: review(q))
put("Validating", hook(clientConfig=client("beta"), rules=CMR, admissionReviewVersions=["v1beta1", "v1"], **SEL)); w("POST", N + "/configmaps" + DRY, cm("beta")); asked("beta", "v1beta1")
put("Validating", hook(clientConfig=client("beta"), rules=CMR, admissionReviewVersions=["v9", "v1"], **SEL)); w("POST", N + "/configmaps" + DRY, cm("beta")); asked("beta", "v9, v1")
gone("Validating")
w.end()
