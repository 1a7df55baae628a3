#!/usr/bin/env python3
"""audits.py: audit events by a policy with every level, stages left out and managed fields left out, as the log writes them and as batches for a webhook. The webhook is a hook of this program.
Starts fresh servers."""
from walk import *
import hooks as H
if len(sys.argv) > 2: sys.exit("audits.py configures its servers itself")
h = H.Hooks()
def rule(level, **k): return dict({"level": level}, **k)
POLICY = {"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived"], "rules": [
  rule("None", users=["quiet"]), rule("Metadata", userGroups=["told"], omitStages=["ResponseComplete"]), rule("Request", verbs=["create", "patch"], resources=[{"group": "", "resources": ["secrets"]}], omitManagedFields=True), rule("Metadata", resources=[{"group": "", "resources": ["secrets"]}]), rule("None", resources=[{"group": "", "resources": ["configmaps"], "resourceNames": ["unseen"]}]), rule("RequestResponse", namespaces=["deep"], resources=[{"group": ""}], omitManagedFields=True), rule("RequestResponse", resources=[{"group": "", "resources": ["pods/*", "*/status"]}]), rule("Request", resources=[{"group": "", "resources": ["configmaps"]}, {"group": "apps"}]),
  rule("None", nonResourceURLs=["/healthz*", "/livez", "/readyz*"]), rule("RequestResponse", nonResourceURLs=["/version", "/api*"]), rule("Metadata", nonResourceURLs=["*"]), rule("Metadata", resources=[{"group": "*"}] if False else None, verbs=["list", "get", "watch", "deletecollection"]), rule("RequestResponse")]}
for r in POLICY["rules"]:
    for k in [k for k, v in r.items() if v is None]: del r[k]
def prepare(at):
    open(f"{at}/policy.yaml", "w").write(json.dumps(POLICY))
    for side in ("side-a", "side-b"):
        open(f"{at}/{side}.kubeconfig", "w").write(json.dumps({"apiVersion": "v1", "kind": "Config", "current-context": "c", "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}], "users": [{"name": "u", "user": {"token": "audit-token"}}], "clusters": [{"name": "c", "cluster": {"server": f"{h.at}/{side}/audit", "certificate-authority-data": h.ca}}]}))
def flags(side): return ("--audit-policy-file={dir}/policy.yaml", f"--audit-log-path={{dir}}/{side}.log", f"--audit-webhook-config-file={{dir}}/{side}.kubeconfig", "--audit-webhook-batch-max-wait=1s", "--audit-webhook-truncate-enabled", "--audit-webhook-truncate-max-event-size=4000", "--audit-webhook-truncate-max-batch-size=20000")
BATCHES, LOCK = {"side-a": [], "side-b": []}, __import__("threading").Lock()
@h.on("audit")
def take(q, r):
    with LOCK: BATCHES[r.path.split("/")[1]].append((r.path, {k.lower(): v for k, v in r.headers.items()}, q))
    return 200, ""
w = start(__file__, stock=flags("side-a"), ours=flags("side-b"), prepare=prepare)
w.known(r"responseObject$", r"absent", r"gitVersion", "upstream's page of the version tells auditing nothing")
w.known(r"authorization\.k8s\.io/reason", r"system:public-info-viewer", r"system:discovery", "which of several bindings that allow it is named is chance upstream")
w.known(r"(asked|batch).*accept-encoding", r"gzip", r"absent", "Go's HTTP client asks for compressed answers by itself")
V1, MERGE, APPLY = "/api/v1", "application/merge-patch+json", "application/apply-patch+yaml"
w.begin("audit")
for n in ("deep", "plain"): w("POST", V1 + "/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": n}})
cm = lambda name, **k: dict({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"a": "b"}}, **k)
sec = lambda name: {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": {"a": "b"}}
quiet = lambda d: ""
for ns in ("deep", "plain"):
    N = f"{V1}/namespaces/{ns}"
    for who in ("admin", "user:quiet,system:masters", "user:told,told,system:masters", "user:nobody"):
        n = re.sub(r"\W", "", who)
        for step in (("POST", N + "/configmaps", cm(n)), ("POST", N + "/configmaps?dryRun=All", cm(n + "d")), ("GET", N + f"/configmaps/{n}"), ("GET", N + "/configmaps?labelSelector=a%3Db&limit=1"), ("GET", N + "/configmaps?watch=true&timeoutSeconds=1&resourceVersion=0&fieldSelector=metadata.name%3Dz"), ("PUT", N + f"/configmaps/{n}", cm(n, data={"c": "d"})), ("POST", N + "/secrets", sec(n)), ("GET", N + f"/secrets/{n}"), ("DELETE", N + f"/secrets/{n}"), ("POST", N + "/configmaps", cm("unseen")), ("DELETE", N + "/configmaps/unseen"), ("DELETE", N + "/configmaps?labelSelector=none%3Dx"), ("GET", N + "/configmaps/absent"), ("POST", N + "/configmaps", {"kind": "Bogus"}), ("POST", N + "/configmaps", b"not json"), ("GET", N + "/pods/none/log"), ("GET", N + "/bogus"), ("DELETE", N + f"/configmaps/{n}", {"kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": 0})): w(*step, who=who, norm=quiet, check=False)
        w("PATCH", N + f"/configmaps/{n}p?fieldManager=x", cm(n + "p"), kind=APPLY, who=who, norm=quiet, check=False); w("PATCH", N + f"/configmaps/{n}p", {"data": {"x": "y"}}, kind=MERGE, who=who, norm=quiet, check=False); w("POST", N + "/configmaps", cm(n + "big", data={"a": "x" * 9000}), who=who, norm=quiet, check=False)
        w("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", {"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview", "spec": {"resourceAttributes": {"verb": "get", "resource": "pods"}}}, who=who, norm=quiet, check=False)
for who in ("admin", "anon", "user:told,told", "token:bogus"):
    for p in ("/version", "/healthz", "/livez", "/readyz/ping", "/metrics", "/api", "/apis", "/openapi/v3", "/bogus", "/"): w("GET", p, who=who, accept="*/*", norm=quiet, check=False)
time.sleep(4)
def load(path):
    out = {}
    for line in open(path):
        e = json.loads(line)
        if e["auditID"].startswith("step-"): out.setdefault(e["auditID"], []).append(e)
    return out
def plain(e):
    e = {k: v for k, v in e.items() if k not in ("requestReceivedTimestamp", "stageTimestamp", "sourceIPs")}
    t = json.dumps(e, sort_keys=True)
    for pattern, text in ((r"JTI=[0-9a-f-]+", "JTI"), (r"X509SHA256=[0-9a-f]+", "X5"), (r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", "UID"), (r"20\d\d-\d\d-\d\dT[\d:.]+Z", "TIME"), (r'"(resourceVersion|remainingItemCount|continue)": ("[^"]*"|\d+)', r'"\1": "RV"'), (r"\d+\.\d+\.\d+\.\d+:\d+", "HOST"), (r'scheme \\"[^"]*"', "scheme S"), (r"resourceVersion=\d+", "resourceVersion=RV")): t = re.sub(pattern, text, t)
    return json.loads(t)
w.begin("log")
a, b = (load(f"{w.dir}/{side}.log") for side in ("side-a", "side-b"))
for i in sorted(set(a) | set(b)):
    first = (a.get(i) or b.get(i))[0]
    what = f"{first['verb']} {first['requestURI'][:120]} by {first['user'].get('username')} as {first.get('impersonatedUser', {}).get('username')}"
    w.same(what, [plain(e) for e in a.get(i, [])], [plain(e) for e in b.get(i, [])])
w.begin("batch")
with LOCK: got = [list(BATCHES[side]) for side in ("side-a", "side-b")]
w.same("batches", *[{"some": bool(g), "headers": {k: re.sub(r"127.0.0.1:\d+", "HOST", v) for k, v in g[0][1].items() if k not in ("content-length", "user-agent")} if g else {}, "members": sorted({tuple(sorted(q)) for _, _, q in g}), "kind": sorted({(q.get("kind"), q.get("apiVersion")) for _, _, q in g}), "path": sorted({re.sub("side-.", "side", p) for p, _, _ in g})} for g in got])
sides = []
for g in got:
    out = {}
    for _, _, q in g:
        for e in q["items"]:
            if e["auditID"].startswith("step-"): out.setdefault(e["auditID"], []).append(e)
    sides.append(out)
for i in sorted(set(sides[0]) | set(sides[1])):
    first = (sides[0].get(i) or sides[1].get(i))[0]
    w.same(f"{first['verb']} {first['requestURI'][:120]}", *[[plain(e) for e in s.get(i, [])] for s in sides])
w.end()
