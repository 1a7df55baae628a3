#!/usr/bin/env python3
"""aggregation.py [STOCK-KUBECONFIG OUR-KUBECONFIG]: APIServices: what is refused, conditions for every way in which the server behind may be missing or wrong, what is passed on to it and what
comes back, discovery and OpenAPI. The server behind is a hook of this program. Without kubeconfigs it starts fresh servers."""
from walk import *
import hooks as H, threading
w = start(__file__, stock=("--enable-aggregator-routing=true",))
AS = "/apis/apiregistration.k8s.io/v1/apiservices"; V1 = "/api/v1"; DRY = "?dryRun=All"; MERGE = "application/merge-patch+json"
T = "application/json;as=Table;v=v1;g=meta.k8s.io"
def notime(d): return json.loads(re.sub(r'"lastTransitionTime": "[^"]*"', '"lastTransitionTime": "T"', json.dumps(d)))
w.known(r"accept-encoding", r"gzip", r"absent", "Go's HTTP client asks for compressed answers by itself")
w.known(r"credential-id", r"X509SHA256", r"X509SHA256", "the certificates of each server's administrator")
w.known(r"external name", r"ExternalName", r"failing or missing", "endpoint routing upstream does not know Services that are names; ours asks where they lead")
w.known(r"x=%20y", r"\+y", r"%20y", "upstream writes queries anew: the same to who reads them")
w.known(r"a%2Fb", r"", r"", "upstream loses that a slash was escaped")
w.known(r"//things.*forwarded-uri", r"", r"", "upstream cleans the path that it tells of")
w.known(r"drop.*\.theirs|drop.*their headers", r"", r"", "Go asks once more on a connection that breaks")
w.known(r"Upgrade.*x-forwarded", r"", r"", "upstream does not say whence an upgrade comes")
w.begin("local")
w("GET", AS, norm=lambda d: sorted((i["metadata"]["name"], json.dumps(i["spec"], sort_keys=True), json.dumps(i["metadata"].get("labels"), sort_keys=True), json.dumps([(c["type"], c["status"], c["reason"], c["message"]) for c in i["status"]["conditions"]])) for i in d["items"]), until=8)
w("GET", AS, accept=T, norm=lambda d: sorted(json.dumps(r["cells"][:3]) for r in d["rows"])); w("GET", AS + "/v1.apps", accept=T, norm=lambda d: d["columnDefinitions"])
for n in ("v1.", "v1.apps"): w("GET", f"{AS}/{n}", norm=notime); w("PATCH", f"{AS}/{n}{DRY}", {"spec": {"groupPriorityMinimum": 5}}, kind=MERGE, norm=notime); w("DELETE", f"{AS}/{n}{DRY}", norm=notime)
w.begin("validation")
def svc(group="agg.example.com", version="v1", name=None, **s): return {"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService", "metadata": {"name": name if name is not None else f"{version}.{group}"}, "spec": {k: v for k, v in dict({"group": group, "version": version, "groupPriorityMinimum": 1000, "versionPriority": 10, "service": {"namespace": "agg", "name": "behind"}, "insecureSkipTLSVerify": True}, **s).items() if v != "absent"}}
for o in (svc(), svc(name="wrong"), svc(name=""), svc(group=""), svc(version=""), svc(group="A b"), svc(version="V_1"), svc(group="", version="v9"), svc(groupPriorityMinimum=0), svc(groupPriorityMinimum=-1), svc(groupPriorityMinimum=20001), svc(groupPriorityMinimum=20000), svc(groupPriorityMinimum="absent"), svc(versionPriority=0), svc(versionPriority=1001), svc(versionPriority=-5), svc(versionPriority="absent"), svc(service="absent"), svc(service={}), svc(service=None), svc(service={"namespace": "a"}), svc(service={"name": "a"}), svc(service={"namespace": "A b", "name": "c_"}), svc(service={"namespace": "a", "name": "b", "port": 0}), svc(service={"namespace": "a", "name": "b", "port": 70000}), svc(service={"namespace": "a", "name": "b", "port": -1}), svc(insecureSkipTLSVerify="absent"), svc(insecureSkipTLSVerify=False), svc(caBundle="Ym9ndXM="), svc(insecureSkipTLSVerify="absent", caBundle="Ym9ndXM="), svc(insecureSkipTLSVerify="absent", caBundle="??"), svc(service="absent", insecureSkipTLSVerify="absent"), svc(service="absent", insecureSkipTLSVerify="absent", caBundle="YQ=="), svc(bogus=1), dict(svc(), status={"conditions": [{"type": "X", "status": "True"}]}), dict(svc(), spec={}), {"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService", "metadata": {"name": "v1.x"}}): w("POST", AS + DRY, o)
w.begin("missing")
def condition(name, label, seconds=12):
    """The Available condition, once both have come to the same."""
    w("GET", f"{AS}/{name}", norm=lambda d: [(c["type"], c["status"], c["reason"], re.sub(r"127\.0\.0\.1:\d+|10\.\d+\.\d+\.\d+(:\d+)?|\[::1\]:\d+", "ADDRESS", c["message"])) for c in (d.get("status") or {}).get("conditions") or []], until=seconds, label=label)
def served(label, *paths, who="admin", **k):
    for p in paths or ("/apis/agg.example.com/v1", "/apis/agg.example.com", "/apis/agg.example.com/v1/things", "/apis/agg.example.com/v1/namespaces/default/things/a?x=y"): w("GET", p, label=label, who=who, norm=lambda d: re.sub(r"127\.0\.0\.1:\d+|10\.\d+\.\d+\.\d+(:\d+)?", "ADDRESS", d) if isinstance(d, str) else d, until=3, **k)
N = V1 + "/namespaces/agg"
w("POST", AS, svc(), norm=notime); condition("v1.agg.example.com", "no namespace"); served("no namespace")
w("POST", V1 + "/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "agg"}}); condition("v1.agg.example.com", "no service")
h = H.Hooks(dns=("behind.agg.svc", "behind.agg.svc.cluster.local"), bind="0.0.0.0"); h.sides(w)
def service(**s): return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "behind"}, "spec": dict({"ports": [{"port": 443, "targetPort": h.port}]}, **s)}
w("POST", N + "/services", service(ports=[{"port": 80}])); condition("v1.agg.example.com", "wrong port"); served("wrong port"); w("DELETE", N + "/services/behind", norm=lambda d: d.get("kind"))
w("POST", N + "/services", service(type="ExternalName", externalName="no.such.host.invalid", ports=[])); condition("v1.agg.example.com", "external name"); w("DELETE", N + "/services/behind", norm=lambda d: d.get("kind"))
w("POST", N + "/services", service()); condition("v1.agg.example.com", "no endpoints"); served("no endpoints")
ip = [l.split()[3].split("/")[0] for l in os.popen("ip -4 -o addr show scope global").read().splitlines()][0]
E_ = lambda port, ready=True, addr=None: {"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": {"name": "behind-1", "labels": {"kubernetes.io/service-name": "behind"}}, "addressType": "IPv4", "ports": [{"port": port, "protocol": "TCP", "name": ""}], "endpoints": [{"addresses": [addr or ip], "conditions": {"ready": ready}}]}
def endpoints(*a, **k):
    w("DELETE", "/apis/discovery.k8s.io/v1/namespaces/agg/endpointslices/behind-1", check=False); w("DELETE", N + "/endpoints/behind", check=False)
    s = E_(*a, **k); w("POST", "/apis/discovery.k8s.io/v1/namespaces/agg/endpointslices", s, check=False)
    w("POST", N + "/endpoints", {"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "behind", "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}}, "subsets": [{"addresses" if s["endpoints"][0]["conditions"]["ready"] else "notReadyAddresses": [{"ip": s["endpoints"][0]["addresses"][0]}], "ports": [{"port": s["ports"][0]["port"], "name": ""}]}]}, check=False)
endpoints(h.port, ready=False); condition("v1.agg.example.com", "endpoint not ready")
w.begin("wrong")
endpoints(H.closed_port()); condition("v1.agg.example.com", "closed"); served("closed")
S = {"handler": None}
seen, lock = [], threading.Lock()
@h.on("*")
def behind(request, handler):
    with lock: seen.append((handler.command, handler.path, {k.lower(): v for k, v in handler.headers.items()}, request if not isinstance(request, bytes) else request.decode(errors="replace")))
    return S["handler"](request, handler)
for label, f in (("404", lambda q, r: (404, "no")), ("500", lambda q, r: (500, "boom")), ("403", lambda q, r: (403, {"kind": "Status", "apiVersion": "v1", "code": 403, "message": "go away"})), ("301", lambda q, r: (301, ("", {"Location": "/elsewhere"}))), ("drop", lambda q, r: (None, "")), ("slow", lambda q, r: (time.sleep(7), (200, "late"))[1])):
    S["handler"] = f
    w("DELETE", AS + "/v1.agg.example.com", check=False); w("POST", AS, svc(), check=False); endpoints(h.port); time.sleep(1); condition("v1.agg.example.com", label, 22)
    if label in ("500", "404"): served(label)
w.begin("certificates")
S["handler"] = lambda q, r: (200, {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "agg.example.com/v1", "resources": []})
other = H.issue("other authority")
for label, spec in (("unknown authority", {"insecureSkipTLSVerify": "absent", "caBundle": base64.b64encode(H.pem(other[1])).decode()}), ("good", {"insecureSkipTLSVerify": "absent", "caBundle": h.ca})):
    w("DELETE", AS + "/v1.agg.example.com", check=False); w("POST", AS, svc(**spec), check=False); time.sleep(1); condition("v1.agg.example.com", label, 22)
w.begin("proxied")
RES = [{"name": "things", "singularName": "thing", "namespaced": True, "kind": "Thing", "verbs": ["get", "list"], "shortNames": ["th"], "categories": ["all"]}, {"name": "things/status", "singularName": "", "namespaced": True, "kind": "Thing", "verbs": ["get"]}]
def server(q, r):
    p = r.path.split("?")[0]
    if p == "/apis/agg.example.com/v1": return 200, {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "agg.example.com/v1", "resources": RES}
    if p == "/apis/agg.example.com": return 200, {"kind": "APIGroup", "apiVersion": "v1", "name": "agg.example.com", "versions": [{"groupVersion": "agg.example.com/v1", "version": "v1"}], "preferredVersion": {"groupVersion": "agg.example.com/v1", "version": "v1"}}
    if p == "/apis":
        return 200, ({"kind": "APIGroupList", "apiVersion": "v1", "groups": [{"name": "agg.example.com", "versions": [{"groupVersion": "agg.example.com/v1", "version": "v1"}], "preferredVersion": {"groupVersion": "agg.example.com/v1", "version": "v1"}}]}, {"Content-Type": "application/json"})
    if p == "/openapi/v2": return 200, {"swagger": "2.0", "info": {"title": "behind", "version": "v1"}, "paths": {"/apis/agg.example.com/v1/things": {"get": {"operationId": "listThings", "responses": {"200": {"description": "OK", "schema": {"$ref": "#/definitions/com.example.agg.v1.Thing"}}}}}}, "definitions": {"com.example.agg.v1.Thing": {"type": "object", "properties": {"x": {"type": "string"}}}}}
    if p == "/openapi/v3": return 200, {"paths": {"apis/agg.example.com/v1": {"serverRelativeURL": "/openapi/v3/apis/agg.example.com/v1?hash=abc"}}}
    if p == "/openapi/v3/apis/agg.example.com/v1": return 200, ({"openapi": "3.0.0", "info": {"title": "behind", "version": "v1"}, "paths": {}, "components": {"schemas": {"com.example.agg.v1.Thing": {"type": "object"}}}}, {"ETag": '"abc"'})
    if p.endswith("/status/418"): return 418, ("teapot", {"Content-Type": "text/plain", "X-Behind": "1", "Warning": '299 - "from behind"', "Audit-Id": "theirs", "Cache-Control": "max-age=5"})
    if p.endswith("/drop"): return None, ""
    if p.endswith("/away"): return 302, ("", {"Location": "/apis/agg.example.com/v1/things"})
    if p.endswith("/abs"): return 302, ("", {"Location": "https://elsewhere.example.com/x"})
    if p.endswith("/big"): return 200, "x" * 200000
    return 200, {"method": r.command, "path": r.path, "body": q if not isinstance(q, bytes) else q.decode(errors="replace")}
S["handler"] = server
w("DELETE", AS + "/v1.agg.example.com", check=False); w("POST", AS, svc(insecureSkipTLSVerify="absent", caBundle=h.ca), norm=notime); time.sleep(1); condition("v1.agg.example.com", "serving", 22); time.sleep(2)
B = "/apis/agg.example.com/v1"
def passed(method, path, body=None, **k):
    """Asked through both: what came back, and what the server behind got."""
    with lock: seen.clear()
    got = []
    for side in w.sides:
        with lock: seen.clear()
        code, hdr, doc = w.one(side, method, path, body, **k)
        time.sleep(0.05)
        with lock: theirs = [s for s in seen if s[1].startswith(path.split("?")[0]) and s[0] == method]
        hs = [{n: ("X" if n in ("x-forwarded-for", "x-remote-uid", "x-forwarded-host", "host") else "Go-or-ours" if n == "user-agent" and "walk" not in v else v) for n, v in s[2].items() if n not in ("content-length", "connection", "audit-id", "te", "transfer-encoding")} for s in theirs]
        got.append({"code": code, "headers": {n: hdr.get_all(n) for n in KEEP + ("X-Behind",) if hdr and hdr.get_all(n) and n not in ("Audit-Id", "X-Kubernetes-Pf-Flowschema-Uid", "X-Kubernetes-Pf-Prioritylevel-Uid")}, "body": doc if not isinstance(doc, str) else re.sub(r"\d+\.\d+\.\d+\.\d+:\d+", "ADDRESS", doc[:300]), "theirs": [(s[0], s[1], s[3]) for s in theirs], "their headers": hs})
    w.same(f"{method} {path} {k}", *got)
for who in ("admin", "user:ann,g1,system:masters", "anon", "user:nobody", "token:bogus"): passed("GET", B + "/things", who=who)
for m, p, b in (("GET", B, None), ("GET", B + "/things?labelSelector=a%3Db&x=%20y", None), ("POST", B + "/namespaces/default/things", {"a": "b"}), ("PUT", B + "/namespaces/default/things/a", {"a": "b"}), ("PATCH", B + "/namespaces/default/things/a", {"a": "b"}), ("DELETE", B + "/namespaces/default/things/a", None), ("HEAD", B + "/things", None), ("OPTIONS", B + "/things", None), ("GET", B + "/status/418", None), ("GET", B + "/drop", None), ("GET", B + "/away", None), ("GET", B + "/abs", None), ("GET", B + "/big", None), ("GET", B + "/a%2Fb", None), ("GET", B + "/things/", None), ("GET", B + "//things", None), ("GET", "/apis/agg.example.com/v2/things", None), ("GET", "/apis/agg.example.com", None), ("POST", B + "/things?dryRun=All", "not json")): passed(m, p, b)
passed("GET", B + "/things", headers=(("X-Remote-User", "evil"), ("X-Remote-Group", "system:masters"), ("X-Remote-Extra-Scopes", "x"), ("Authorization", "Bearer x"), ("X-Forwarded-For", "9.9.9.9"), ("X-Custom", "kept"), ("Impersonate-User", "imp"), ("Impersonate-Group", "system:masters"), ("Impersonate-Uid", "u-1"), ("Impersonate-Extra-Scope", "one"), ("Accept-Encoding", "gzip"), ("If-None-Match", '"x"')))
passed("GET", B + "/things", headers=(("Connection", "Upgrade"), ("Upgrade", "websocket")))
w.begin("documents")
w("GET", "/apis", norm=lambda d: [g for g in d["groups"] if "agg" in g["name"]], until=5)
V2 = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
w("GET", "/apis", accept=V2, norm=lambda d: [g for g in d["items"] if "agg" in g["metadata"].get("name", "")], until=15)
w("GET", "/openapi/v2", norm=lambda d: ({k: v for k, v in d["paths"].items() if "agg.example" in k}, {k: v for k, v in d["definitions"].items() if "agg" in k and "example" in k}), until=20)
w("GET", "/openapi/v3", norm=lambda d: {k: re.sub("hash=.*", "", v["serverRelativeURL"]) for k, v in d["paths"].items() if "agg" in k}, until=20); w("GET", "/openapi/v3/apis/agg.example.com/v1", until=10); w("GET", "/openapi/v3/apis/agg.example.com", until=3)
for g, p, vp in (("zz.example.com", 2000, 5), ("aa.example.com", 2000, 5), ("first.example.com", 18000, 5), ("last.example.com", 1, 1)): w("POST", AS, svc(group=g, groupPriorityMinimum=p, versionPriority=vp), norm=notime)
for v, vp in (("v2", 10), ("v2beta1", 20), ("v3alpha1", 1)): w("POST", AS, svc(version=v, versionPriority=vp), norm=notime)
time.sleep(3)
w("GET", "/apis", norm=lambda d: [(g["name"], [v["version"] for v in g["versions"]], g["preferredVersion"]["version"]) for g in d["groups"]], until=8); w("GET", "/apis/agg.example.com", until=5); w("GET", "/apis", accept=V2, norm=lambda d: [(g["metadata"].get("name"), [(v["version"], v.get("freshness")) for v in g["versions"]]) for g in d["items"]], until=15)
w("GET", AS, norm=lambda d: sorted((i["metadata"]["name"], i["spec"].get("service")) for i in d["items"] if i["spec"].get("service")))
w("DELETE", AS + "/v1.agg.example.com", norm=notime); served("deleted", "/apis/agg.example.com/v1", "/apis/agg.example.com")
w.end()
