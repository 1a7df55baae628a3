#!/usr/bin/env python3
"""flow.py [STOCK-KUBECONFIG OUR-KUBECONFIG]: API priority and fairness: flow schemas and priority levels, what is refused of them, mandatory and suggested ones, where requests are
put, statuses, refusals of a full level, debug pages and metrics. Without kubeconfigs it starts fresh servers."""
from walk import *
import threading
w = start(__file__)
FC = "/apis/flowcontrol.apiserver.k8s.io/v1"; FS, PL = FC + "/flowschemas", FC + "/prioritylevelconfigurations"
MERGE, APPLY = "application/merge-patch+json", "application/apply-patch+yaml"; DRY = "?dryRun=All"
T = "application/json;as=Table;v=v1;g=meta.k8s.io"
def notime(d): return json.loads(re.sub(r'"lastTransitionTime": "[^"]*"', '"lastTransitionTime": "T"', json.dumps(d)))
def by_name(d):
    if isinstance(d, dict) and "items" in d: d["items"].sort(key=lambda i: i["metadata"]["name"])
    return notime(d)
w.known(r"/version", r"", r"", "who built it with what")
w.known(r"debug_|/debug/.*X-Content-Type-Options", r"absent", r"nosniff", "a header more on debug pages")
w.known(r"order of causes", r"", r"", "what the fixed spec must be is told after what declarations say")
w.known(r"metrics that only one has", r"(dispatch_r|latest_s|next_s_bounds|next_discounted_s_bounds)\{priority_level", r"^\[\]$", "figures of the virtual world of queues, which upstream writes when it takes a request out of one")
w.known(r"dump_requests.*body", r"PriorityLevelName", r"PriorityLevelName", "the width of the columns is that of the values")
w.begin("bootstrap")
for at in (FS, PL):
    w("GET", at, norm=by_name, until=8)
    for i in w.one(w.sides[0], "GET", at)[2]["items"]:
        w("GET", f"{at}/{i['metadata']['name']}", norm=notime, until=3)
w("GET", FS, accept=T, norm=lambda d: sorted(json.dumps(r["cells"]) for r in d["rows"])); w("GET", PL, accept=T, norm=lambda d: sorted(json.dumps(r["cells"]) for r in d["rows"])); w("GET", FC); w("GET", "/apis/flowcontrol.apiserver.k8s.io/v1beta3")
w.begin("validation")
def fs(name="f", **s): return {"apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": "FlowSchema", "metadata": {"name": name}, "spec": {k: v for k, v in dict({"priorityLevelConfiguration": {"name": "workload-low"}, "matchingPrecedence": 100, "distinguisherMethod": {"type": "ByUser"}, "rules": [{"subjects": [{"kind": "User", "user": {"name": "u"}}], "resourceRules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"], "namespaces": ["*"]}]}]}, **s).items() if v != "absent"}}
def rr(**k): return {"rules": [{"subjects": [{"kind": "User", "user": {"name": "u"}}], "resourceRules": [dict({"verbs": ["get"], "apiGroups": [""], "resources": ["pods"], "namespaces": ["*"]}, **k)]}]}
def nr(**k): return {"rules": [{"subjects": [{"kind": "User", "user": {"name": "u"}}], "nonResourceRules": [dict({"verbs": ["get"], "nonResourceURLs": ["/healthz"]}, **k)]}]}
def sj(*s): return {"rules": [{"subjects": list(s), "nonResourceRules": [{"verbs": ["get"], "nonResourceURLs": ["*"]}]}]}
for s in ({}, {"priorityLevelConfiguration": {"name": ""}}, {"priorityLevelConfiguration": "absent"}, {"priorityLevelConfiguration": {"name": "A b"}}, {"priorityLevelConfiguration": {"name": "none"}}, {"matchingPrecedence": 0}, {"matchingPrecedence": -1}, {"matchingPrecedence": 1}, {"matchingPrecedence": 10000}, {"matchingPrecedence": 10001}, {"matchingPrecedence": "absent"}, {"distinguisherMethod": {}}, {"distinguisherMethod": {"type": "Bogus"}}, {"distinguisherMethod": {"type": "ByNamespace"}}, {"distinguisherMethod": "absent"}, {"rules": []}, {"rules": "absent"}, {"rules": [{}]}, {"rules": [{"subjects": [{"kind": "User", "user": {"name": "u"}}]}]}, {"rules": [{"resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"]}]}]},
          rr(verbs=[]), rr(verbs=["*", "get"]), rr(verbs=["bogus"]), rr(verbs=["GET"]), rr(apiGroups=[]), rr(apiGroups=["*", "a"]), rr(resources=[]), rr(resources=["*", "pods"]), rr(resources=["pods/"]), rr(namespaces=[]), rr(namespaces=[], clusterScope=True), rr(namespaces=["*", "a"]), rr(namespaces=["A_b"]), rr(namespaces=[""]), rr(namespaces=[], clusterScope=False), nr(verbs=[]), nr(verbs=["*", "get"]), nr(verbs=["list"]), nr(nonResourceURLs=[]), nr(nonResourceURLs=["*", "/a"]), nr(nonResourceURLs=["a"]), nr(nonResourceURLs=["/a/*/b"]), nr(nonResourceURLs=["/a*"]), nr(nonResourceURLs=["/a//b"]), nr(nonResourceURLs=["/a/*"]), nr(nonResourceURLs=[""]), nr(nonResourceURLs=["/a b"]), nr(nonResourceURLs=["//"]), nr(nonResourceURLs=["/"]),
          sj({}), sj({"kind": "Bogus"}), sj({"kind": "User"}), sj({"kind": "User", "user": {"name": ""}}), sj({"kind": "User", "user": {"name": "*"}}), sj({"kind": "User", "group": {"name": "g"}}), sj({"kind": "User", "user": {"name": "u"}, "group": {"name": "g"}}), sj({"kind": "Group"}), sj({"kind": "Group", "group": {"name": ""}}), sj({"kind": "Group", "group": {"name": "g"}, "serviceAccount": {"name": "s", "namespace": "n"}}), sj({"kind": "ServiceAccount"}), sj({"kind": "ServiceAccount", "serviceAccount": {}}), sj({"kind": "ServiceAccount", "serviceAccount": {"name": "A b", "namespace": "C_"}}), sj({"kind": "ServiceAccount", "serviceAccount": {"name": "*", "namespace": "n"}}), sj({"kind": "ServiceAccount", "serviceAccount": {"name": "s", "namespace": "*"}}), {"bogus": 1}):
    w("POST", FS + DRY, fs(**s))
for n in ("A b", "", "exempt", "catch-all", "x" * 254): w("POST", FS + DRY, fs(n))
w("POST", FS + DRY, dict(fs(), status={"conditions": [{"type": "Dangling", "status": "True", "reason": "r", "message": "m", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}))
def pl(name="p", **s): return {"apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": "PriorityLevelConfiguration", "metadata": {"name": name}, "spec": s}
L = lambda **k: {"type": "Limited", "limited": k}
Q = lambda **k: L(limitResponse={"type": "Queue", "queuing": k})
for s in ({}, {"type": ""}, {"type": "Bogus"}, {"type": "Limited"}, {"type": "Exempt"}, {"type": "Exempt", "exempt": {}}, {"type": "Exempt", "exempt": {"nominalConcurrencyShares": 5, "lendablePercent": 50}}, {"type": "Exempt", "exempt": {"nominalConcurrencyShares": -1, "lendablePercent": 101}}, {"type": "Exempt", "limited": {}}, {"type": "Limited", "exempt": {}}, {"type": "Limited", "limited": {}, "exempt": {}}, L(), L(nominalConcurrencyShares=0), L(nominalConcurrencyShares=-1), L(nominalConcurrencyShares=5, limitResponse={"type": "Reject"}), L(limitResponse={}), L(limitResponse={"type": "Bogus"}), L(limitResponse={"type": "Reject", "queuing": {}}), L(limitResponse={"type": "Queue"}), L(limitResponse={"type": "Reject"}, lendablePercent=0), L(limitResponse={"type": "Reject"}, lendablePercent=-1), L(limitResponse={"type": "Reject"}, lendablePercent=101), L(limitResponse={"type": "Reject"}, borrowingLimitPercent=-1), L(limitResponse={"type": "Reject"}, borrowingLimitPercent=500), L(limitResponse={"type": "Reject"}, lendablePercent=100, borrowingLimitPercent=0),
          Q(), Q(queues=0), Q(queues=-1), Q(queues=1), Q(queues=10000001), Q(queues=1, handSize=2), Q(queues=64, handSize=0), Q(queues=64, handSize=-1), Q(queues=64, handSize=65), Q(queues=64, handSize=8, queueLengthLimit=0), Q(queues=64, handSize=8, queueLengthLimit=-1), Q(queues=1000000, handSize=20), Q(queues=64, handSize=12), Q(queues=2, handSize=1, queueLengthLimit=3)):
    w("POST", PL + DRY, pl(**s))
w("POST", PL + DRY, pl("exempt", type="Exempt")); w("POST", PL + DRY, pl("catch-all", **L(limitResponse={"type": "Reject"})))
w.begin("mandatory")
for at, name in ((FS, "exempt"), (FS, "catch-all"), (PL, "exempt"), (PL, "catch-all"), (FS, "global-default"), (PL, "workload-low")):
    w("PATCH", f"{at}/{name}{DRY}", {"spec": {"matchingPrecedence": 7} if at == FS else {"type": "Limited", "limited": {"nominalConcurrencyShares": 77}}}, kind=MERGE, norm=notime)
    w("PATCH", f"{at}/{name}{DRY}", {"spec": {"rules": None} if at == FS else {"exempt": {"lendablePercent": 10}}}, kind=MERGE, norm=notime); w("PATCH", f"{at}/{name}{DRY}", {"metadata": {"annotations": {"apf.kubernetes.io/autoupdate-spec": "false"}}}, kind=MERGE, norm=notime); w("DELETE", f"{at}/{name}{DRY}", norm=notime)
w("DELETE", f"{FS}/catch-all", norm=notime); w("DELETE", f"{PL}/catch-all", norm=notime)
w.begin("statuses")
w("POST", FS, fs("dangling", priorityLevelConfiguration={"name": "nowhere"}, matchingPrecedence=1000)); w("GET", f"{FS}/dangling", norm=notime, until=6, label="dangling"); time.sleep(0.5); w("GET", f"{FS}/dangling", norm=notime, until=6)
w("GET", f"{FS}/dangling", accept=T, norm=lambda d: d["rows"][0]["cells"], until=3)
w("POST", PL, pl("nowhere", **L(nominalConcurrencyShares=1, limitResponse={"type": "Reject"}))); time.sleep(1); w("GET", f"{FS}/dangling", norm=notime, until=6); w("GET", f"{PL}/nowhere", norm=notime)
w("PATCH", f"{FS}/dangling/status", {"status": {"conditions": [{"type": "Mine", "status": "True", "reason": "r", "message": "m", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}}, kind=MERGE, norm=notime); w("PATCH", f"{PL}/nowhere/status" + DRY, {"status": {"conditions": [{"type": "", "status": "Bogus"}]}}, kind=MERGE, norm=notime); w("GET", f"{FS}/dangling/status", norm=notime); w("DELETE", f"{PL}/nowhere", norm=notime); time.sleep(1); w("GET", f"{FS}/dangling", norm=notime, until=6); w("DELETE", f"{FS}/dangling", norm=notime)
w.begin("classify")
def seen(method, path, body=None, **k):
    """Where a request was put: by the names that the header's UIDs have."""
    out = []
    for side in w.sides:
        code, got, _ = w.one(side, method, path, body, **k)
        names = []
        for at, header in ((FS, "X-Kubernetes-PF-FlowSchema-UID"), (PL, "X-Kubernetes-PF-PriorityLevel-UID")):
            uid = got.get(header) if got else None
            names.append(next((i["metadata"]["name"] for i in w.one(side, "GET", at)[2]["items"] if i["metadata"]["uid"] == uid), uid))
        out.append([code] + names)
    w.same(f"{method} {path} {k}", *out)
V1 = "/api/v1"; A = ",system:authenticated"
for who in ("admin", "anon", "user:u", "user:u,system:authenticated", "user:system:node:n1,system:nodes" + A, "user:system:kube-scheduler" + A, "user:system:kube-controller-manager" + A, "user:system:serviceaccount:kube-system:job-controller,system:serviceaccounts:kube-system,system:serviceaccounts" + A, "user:system:serviceaccount:default:x,system:serviceaccounts:default,system:serviceaccounts" + A, "user:x,system:masters", "user:system:anonymous,system:unauthenticated", "user:system:apiserver,system:masters"):
    for m, p in (("GET", V1 + "/pods"), ("GET", "/healthz"), ("GET", "/version"), ("GET", "/apis"), ("GET", "/openapi/v2"), ("GET", "/metrics"), ("GET", "/nope"), ("GET", "/livez"), ("GET", "/readyz"), ("GET", "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/x"), ("PUT", "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/x"), ("GET", V1 + "/nodes/n1"), ("GET", V1 + "/namespaces/default/endpoints/x"), ("POST", V1 + "/namespaces/default/events"), ("POST", "/apis/events.k8s.io/v1/namespaces/default/events"), ("GET", V1 + "/namespaces/default/configmaps"), ("POST", "/apis/authentication.k8s.io/v1/tokenreviews"), ("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews")):
        seen(m, p, {} if m != "GET" else None, who=who)
w("POST", FS, fs("mine", matchingPrecedence=50, rules=[{"subjects": [{"kind": "User", "user": {"name": "flo"}}, {"kind": "Group", "group": {"name": "flows"}}, {"kind": "ServiceAccount", "serviceAccount": {"name": "*", "namespace": "spaced"}}], "resourceRules": [{"verbs": ["list"], "apiGroups": [""], "resources": ["pods", "configmaps/status"], "namespaces": ["one"], "clusterScope": True}], "nonResourceRules": [{"verbs": ["get"], "nonResourceURLs": ["/version", "/open*", "/debug/*"]}]}])); time.sleep(1.5)
for who in ("user:flo", "user:u,flows", "user:system:serviceaccount:spaced:any", "user:system:serviceaccount:other:any"):
    for p in (V1 + "/pods", V1 + "/namespaces/one/pods", V1 + "/namespaces/two/pods", V1 + "/namespaces/one/configmaps", "/version", "/version/x", "/openapi/v3", "/debug/x", "/debug", V1 + "/namespaces/one/pods?watch=1&timeoutSeconds=1"): seen("GET", p, who=who)
w("DELETE", f"{FS}/mine", norm=notime)
w.begin("refusal")
w("POST", PL, pl("tiny", **L(nominalConcurrencyShares=0, lendablePercent=0, borrowingLimitPercent=0, limitResponse={"type": "Reject"})), norm=notime); w("POST", FS, fs("tiny", matchingPrecedence=40, priorityLevelConfiguration={"name": "tiny"}, rules=[{"subjects": [{"kind": "User", "user": {"name": "tim"}}], "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"], "clusterScope": True}], "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}]}])); time.sleep(1.5)
for m, p in (("GET", V1 + "/namespaces/default/pods"), ("GET", "/version"), ("GET", V1 + "/pods?watch=1&timeoutSeconds=1"), ("POST", V1 + "/namespaces/default/configmaps"), ("GET", "/healthz"), ("DELETE", V1 + "/namespaces/default/configmaps")): w(m, p, {} if m == "POST" else None, who="user:tim,system:masters", until=3)
for t in (MERGE, APPLY): w("PATCH", f"{PL}/tiny?fieldManager=x", pl("tiny", type="Limited", limited={"lendablePercent": 10}), kind=t, norm=notime)
w("DELETE", f"{FS}/tiny", norm=notime); w("DELETE", f"{PL}/tiny", norm=notime)
w.begin("debug")
def columns(text):
    """The header and the names in the first two columns: figures differ from run to run."""
    return sorted({tuple(c.strip() for c in l.split(",")[:1]) for l in text.splitlines()[1:]}), text.splitlines()[0] if text else ""
for page in ("dump_priority_levels", "dump_queues", "dump_requests", "bogus", ""):
    w("GET", "/debug/api_priority_and_fairness/" + page, accept="*/*", norm=lambda d: columns(d) if isinstance(d, str) else d); w("GET", "/debug/api_priority_and_fairness/" + page, who="user:u", accept="*/*")
w("GET", "/debug/api_priority_and_fairness/dump_requests?includeRequestDetails=1", accept="*/*", norm=lambda d: d.splitlines()[0])
def metrics(side):
    text = w.one(side, "GET", "/metrics", accept="*/*")[2]
    return sorted({re.sub(r"(bound|le)=\"[^\"]*\",?", "", l.split("}")[0].rsplit(" ", 1)[0] if "{" not in l else l.split("}")[0]) for l in text.splitlines() if l.startswith("apiserver_flowcontrol") and "flow_schema" not in l})
# Levels that are gone stay in the figures upstream.
a, b = (set(m for m in metrics(s) if "nowhere" not in m and "tiny" not in m) for s in w.sides)
w.same("metrics that only one has", sorted(a - b), sorted(b - a)) if a != b else None
w.end()
