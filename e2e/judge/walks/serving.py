#!/usr/bin/env python3
"""serving.py [STOCK-KUBECONFIG OUR-KUBECONFIG]: what is served besides resources: the root, health checks, version, keys of service accounts, pages about the process, profiles, component
statuses, and who may see them. Without kubeconfigs it starts fresh servers."""
from walk import *
w = start(__file__)
ANY = "*/*"; PLAIN = "text/plain"
w.begin("health")
w.known(r"health", r"\[\+\]", r"\[\+\]", "the names of the checks are those of each server's own parts")
def shape(text):
    """The lines about checks that both may have, and the last line."""
    if not isinstance(text, str): return text
    lines = text.splitlines()
    return [l for l in lines if re.match(r"\[.\](ping|log|etcd|etcd-readiness|informer-sync|shutdown|poststarthook/start-apiextensions-informers|poststarthook/generic-apiserver-start-informers) ", l)] + lines[-1:]
for who in ("admin", "anon", "user:nobody", "user:u,system:authenticated"):
    for p in ("/livez", "/readyz", "/healthz", "/livez?verbose", "/readyz?verbose", "/healthz?verbose", "/livez/ping", "/readyz/ping", "/healthz/ping", "/healthz/etcd", "/livez/etcd", "/readyz/etcd", "/readyz/informer-sync", "/readyz/shutdown", "/livez/log", "/livez/bogus", "/livez/ping?verbose", "/livez?exclude=ping", "/livez?verbose&exclude=ping&exclude=bogus", "/livez?exclude=bogus", "/readyz?verbose&exclude=etcd", "/livez/", "/livez?verbose=false"):
        w("GET", p, who=who, accept=ANY, norm=shape, until=3)
for m in ("POST", "HEAD", "PUT", "DELETE", "OPTIONS"): w(m, "/livez", accept=ANY); w(m, "/livez/ping", accept=ANY)
for a in ("application/json", "text/html", PLAIN): w("GET", "/livez", accept=a)
w.begin("root")
def paths(d):
    if isinstance(d, dict) and "paths" in d: return sorted(p for p in d["paths"] if p.startswith(("/api", "/version", "/open", "/.well", "/logs")) or p in ("/metrics", "/healthz", "/livez", "/readyz", "/flagz", "/statusz"))
    return d
w.known(r"/version.*body", r"", r"", "who built it with what")
w.known(r"DELETE /metrics", r"", r"", "figures cannot be set back here")
w.known(r"keys .*jwks_uri", r"", r"kubernetes.default", "keys are named by an address that is good in the cluster too")
w.known(r"keys .*openid/v1/jwks.*keys", r"", r"", "the key that each server signs with")
w.known(r"profiles .*pprof", r"^(200|302|404) ", r"^(501|404) ", "there are no profiles of Go's runtime")
w.known(r"profiles .*debug/flags", r"^(200|400|406) ", r"^404 ", "what is logged is said at start")
for who in ("admin", "anon", "user:u,system:authenticated"):
    for p in ("/", "/api", "/apis", "/api/", "/apis/", "/version", "/version/", "/openapi", "/openapi/v2/", "/bogus", "/api/v2", "/apis/bogus", "/metrics/bogus", "/logs", "/swagger.json", "/favicon.ico", "/ui", "/index.html", "//", "/api//v1", "/apis/apps/v1/", "/api/v1/../v1/nodes"):
        w("GET", p, who=who, norm=lambda d: json.loads(re.sub(r'"serverAddress": "[^"]*"', '"serverAddress": "A"', json.dumps(paths(d)))) if isinstance(d, dict) else d)
for m in ("POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"):
    for p in ("/", "/version", "/api", "/apis", "/openapi/v2", "/openapi/v3", "/metrics"): w(m, p, accept=ANY, norm=lambda d: "" if isinstance(d, str) else paths(d) if "paths" in d and "/api" in str(d["paths"])[:40] else d.get("message", ""))
for a in (ANY, "application/yaml", "text/html", "application/vnd.kubernetes.protobuf", PLAIN): 
    for p in ("/version", "/api", "/apis"): w("GET", p, accept=a, norm=lambda d: "" if isinstance(d, str) else sorted(d))
w.begin("keys")
for who in ("admin", "anon", "user:u,system:authenticated", "user:system:serviceaccount:default:default,system:serviceaccounts,system:authenticated"):
    for p in ("/.well-known/openid-configuration", "/openid/v1/jwks", "/.well-known", "/.well-known/", "/openid", "/openid/v1", "/.well-known/bogus"):
        w("GET", p, who=who, accept=ANY, norm=lambda d: {k: (sorted(x) for x in v) if False else [sorted(x) for x in v] if k == "keys" else re.sub(r"https://[0-9.:]+", "A", json.dumps(v)) for k, v in d.items() if k != "id_token_signing_alg_values_supported"} if isinstance(d, dict) and d.get("kind") != "Status" else d)
w.known(r"keys .*(alg|kty|crv|body.keys)", r"", r"", "the key that each server signs with")
for m in ("POST", "HEAD", "OPTIONS"): w(m, "/openid/v1/jwks", accept=ANY); w(m, "/.well-known/openid-configuration", accept=ANY)
w.begin("pages")
w.known(r"(flagz|statusz).*body", r"", r"", "flags, addresses and versions are each server's own")
Z = ("application/json;v=v1alpha1;g=config.k8s.io;as=Flagz", "application/json;v=v1alpha1;g=config.k8s.io;as=Statusz", "application/yaml;v=v1alpha1;g=config.k8s.io;as=Statusz", "application/json;v=v1beta1;g=config.k8s.io;as=Statusz", "application/json;v=v1beta1;g=config.k8s.io;as=Flagz", "application/json;v=v9;g=config.k8s.io;as=Statusz")
for p in ("/flagz", "/statusz"):
    for who in ("admin", "anon", "user:u,system:authenticated", "user:m,system:monitoring"):
        for a in (PLAIN, ANY, "application/json", "text/html", "") + Z: w("GET", p, who=who, accept=a, norm=lambda d: ([l.split(":")[0].split("=")[0] for l in d.splitlines()][:3] if isinstance(d, str) else {k: v for k, v in d.items() if k in ("kind", "apiVersion", "message", "reason", "code")}))
    for m in ("POST", "HEAD", "OPTIONS", "DELETE"): w(m, p, accept=PLAIN, norm=lambda d: "")
w.begin("profiles")
w.known(r"pprof.*", r"", r"Rust|no such profile|not", "profiles of Go's runtime") if False else None
for p in ("/debug/pprof", "/debug/pprof/", "/debug/pprof/cmdline", "/debug/pprof/symbol", "/debug/pprof/goroutine", "/debug/pprof/heap", "/debug/pprof/bogus", "/debug/pprof/profile?seconds=x", "/debug/flags/v", "/debug/flags", "/debug", "/debug/"):
    for who in ("admin", "user:nobody"): w("GET", p, who=who, accept=ANY, norm=lambda d: d if isinstance(d, dict) else d[:40] if "404" in d or "nknown" in d else "")
w("PUT", "/debug/flags/v", "2", accept=ANY, kind=PLAIN); w("PUT", "/debug/flags/v", "x", accept=ANY, kind=PLAIN)
w.begin("components")
C = "/api/v1/componentstatuses"
w.known(r"components .*(items|rows)", r"", r"", "scheduler and controllers run inside of the server here")
for q in ("", "?labelSelector=a%3Db", "?fieldSelector=metadata.name%3Detcd-0", "?limit=1", "?resourceVersion=0"): w("GET", C + q, norm=lambda d: {k: v for k, v in d.items() if k != "items"} if isinstance(d, dict) else d)
for n in ("etcd-0", "scheduler", "controller-manager", "bogus"): w("GET", f"{C}/{n}", norm=lambda d: {k: v for k, v in d.items() if k not in ("conditions",)})
w("POST", C, {"apiVersion": "v1", "kind": "ComponentStatus", "metadata": {"name": "x"}}); w("DELETE", C + "/etcd-0"); w("GET", C, accept="application/json;as=Table;v=v1;g=meta.k8s.io", norm=lambda d: [c["name"] for c in d.get("columnDefinitions", [])]); w("GET", C, who="user:nobody")
w.begin("metrics")
for p in ("/metrics", "/metrics/slis", "/metrics/cadvisor"):
    for who in ("admin", "anon", "user:m,system:monitoring"):
        for a in (ANY, PLAIN, "application/json", "application/openmetrics-text;version=1.0.0", "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited"): w("GET", p, who=who, accept=a, norm=lambda d: "" if isinstance(d, str) else d.get("message"))
w("DELETE", "/metrics", accept=ANY, norm=lambda d: "")
w.end()
