#!/usr/bin/env python3
"""wire.py STOCK-KUBECONFIG OUR-KUBECONFIG [-k REGEX] [-v]: raw requests to both servers, the answers compared: code, headers, body. Paths and methods
that are unknown, forms that clients ask for (tables, metadata, YAML, protobuf, CBOR, gzip), options of lists, watches and writes that are right and
wrong, selectors, bodies that cannot be read, callers that nobody knows. Ends with 1 if there are differences."""
import sys
import argparse, base64, collections, concurrent.futures, json, os, re, time
import yaml

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from compare import clean, differences
from server import Server

NS = "wire"
HEADERS = ("Content-Type", "Cache-Control", "Warning", "Allow", "Content-Encoding", "Retry-After", "X-Content-Type-Options", "Vary", "Location", "WWW-Authenticate", "X-Kubernetes-Pf-Prioritylevel-Uid")
PRESENT = ("Audit-Id", "X-Kubernetes-Pf-Flowschema-Uid", "Etag", "Date")
TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io"
META = "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io"
METAS = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"
PROTO = "application/vnd.kubernetes.protobuf"
CM = f"/api/v1/namespaces/{NS}/configmaps"
SETUP = f"""
- [/api/v1/namespaces, {{apiVersion: v1, kind: Namespace, metadata: {{name: {NS}}}}}]
- [/api/v1/namespaces/{NS}/serviceaccounts, {{apiVersion: v1, kind: ServiceAccount, metadata: {{name: default}}}}]
- [{CM}, {{apiVersion: v1, kind: ConfigMap, metadata: {{name: a, labels: {{app: x, tier: one}}}}, data: {{k: v}}}}]
- [{CM}, {{apiVersion: v1, kind: ConfigMap, metadata: {{name: b, labels: {{app: x}}}}, data: {{k: "<&>"}}}}]
- [{CM}, {{apiVersion: v1, kind: ConfigMap, metadata: {{name: c, labels: {{app: y}}}}, binaryData: {{k: AAEC}}}}]
- [{CM}, {{apiVersion: v1, kind: ConfigMap, metadata: {{name: d, annotations: {{a: b}}, finalizers: [example.com/x]}}}}]
- [/api/v1/namespaces/{NS}/secrets, {{apiVersion: v1, kind: Secret, metadata: {{name: s}}, type: Opaque, data: {{k: AAEC}}}}]
- [/api/v1/namespaces/{NS}/pods, {{apiVersion: v1, kind: Pod, metadata: {{name: p, labels: {{app: x}}}}, spec: {{containers: [{{name: c, image: i}}]}}}}]
- [/api/v1/namespaces/{NS}/services, {{apiVersion: v1, kind: Service, metadata: {{name: v}}, spec: {{ports: [{{port: 80}}], clusterIP: 10.96.55.5}}}}]
- [/apis/apps/v1/namespaces/{NS}/deployments, {{apiVersion: apps/v1, kind: Deployment, metadata: {{name: d}}, spec: {{selector: {{matchLabels: {{a: b}}}}, template: {{metadata: {{labels: {{a: b}}}}, spec: {{containers: [{{name: c, image: i}}]}}}}}}}}]
- [/api/v1/nodes, {{apiVersion: v1, kind: Node, metadata: {{name: n}}}}]
- [/apis/apiextensions.k8s.io/v1/customresourcedefinitions, {{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, metadata: {{name: wires.judge.example.com}}, spec: {{group: judge.example.com, scope: Namespaced, names: {{plural: wires, singular: wire, kind: Wire, listKind: WireList, shortNames: [wi], categories: [all]}}, versions: [{{name: v1, served: true, storage: true, subresources: {{status: {{}}, scale: {{specReplicasPath: .spec.n, statusReplicasPath: .status.n}}}}, selectableFields: [{{jsonPath: .spec.color}}], additionalPrinterColumns: [{{name: Color, type: string, jsonPath: .spec.color}}], schema: {{openAPIV3Schema: {{type: object, properties: {{spec: {{type: object, properties: {{color: {{type: string}}, n: {{type: integer}}}}}}, status: {{type: object, properties: {{n: {{type: integer}}}}}}}}}}}}}}, {{name: v1beta1, served: true, storage: false, deprecated: true, schema: {{openAPIV3Schema: {{type: object, x-kubernetes-preserve-unknown-fields: true}}}}}}]}}}}]
- [/apis/judge.example.com/v1/namespaces/{NS}/wires, {{apiVersion: judge.example.com/v1, kind: Wire, metadata: {{name: one, labels: {{app: x}}}}, spec: {{color: red, n: 2}}}}]
- [/apis/judge.example.com/v1/namespaces/{NS}/wires, {{apiVersion: judge.example.com/v1, kind: Wire, metadata: {{name: two}}, spec: {{color: blue}}}}]
"""
WIRES = f"/apis/judge.example.com/v1/namespaces/{NS}/wires"


# Differences with a reason: expressions for "METHOD PATH HEADERS BODY" and for what differs ("PLACE STOCK / OURS"), and the reason.
EXPLAINED = [
    (r"[?&](labelSelector=a>|fieldSelector=metadata.name>a|labelSelector=a<|labelSelector=é)", r"", "bytes that must be escaped in a URL: the HTTP library refuses the request line, Go's takes it"),
    (r"^(GET|OPTIONS|BOGUS|TRACE|POST|PUT|PATCH|DELETE|HEAD) /(\?\S*)? ", r"\.paths ", "the hooks and controllers that upstream names among its checks are Go's: ours has other parts"),
    (r"resourceVersion=1(&|\s|$)", r"too old|c E|ERROR|code 410|documents", "how far back a fresh server remembers: the stock cache has begun before ours"),
    (r"vnd.kubernetes.protobuf.*k8s|wires.*vnd.kubernetes.protobuf", r"no answer|<absent> / 415", "the stock server panics over protobuf for custom resources and drops the connection"),
    (r"/openapi/v3/", r"Content-Encoding|Vary", "compressed when asked for, which upstream leaves out for these documents"),
    (r"PartialObjectMetadataList", r"documents \[\] /|\('', False\)", "upstream ends a watch without a word when it cannot make a list of an object"),
    (r"(json-patch|merge-patch|strategic-merge-patch)\+json", r"Invalid value: ..?.?.?\{", "the patched document in the text: Go has the order of structs"),
    (r"strategic-merge-patch", r"cannot (restore|convert)", "Go's converter from maps words a wrong type in its own way"),
    (r"", r"yaml: (line \d+: )?", "the texts of Go's YAML parser"),
    (r"jwks|openid-configuration", r"keys|alg|jwks_uri|id_token", "what keys a server has, and under which address it publishes them, is its configuration"),
    (r"/pods/p/(log|exec)", r"406 / 204|500 / 204|405 / 400", "forms that nobody asks of a stream of text"),
    (r"componentstatuses", r"", "ours does not ask components on ports that it does not have"),
    (r"namespaces/(%2e%2e|\.\.)/", r"", "a namespace that is a path: upstream's store refuses the key, ours finds nothing there"),
    (r"wires/\w+/scale", r"no kind is registered", "upstream cannot say what is wrong with an empty scale of a custom resource"),
    (r"selfsubjectaccessreviews", r"cannot be handled as a SelfSubjectAccessReview", "upstream reads the other kind before it says that it is another"),
    (r"/events\?dryRun", r"causes|message", "the order in which an event's metadata is looked at"),
    (r"generateName", r"metadata.name g-", "generated names"),
    (r"/openapi/v3/.*'Accept', '(bogus|;|,)'", r"", "of an Accept that names no form upstream answers 200 with nothing"),
    (r"/api/v1/configmaps\?", r"", "ConfigMaps that each server keeps of itself, in its own order: ours publishes cluster-info"),
    (r"/clusterrole(binding)?s", r"items|rows|remainingItemCount", "roles that kubeadm makes in a stock cluster, and ours itself"),
    (r"/ipaddresses", r"items|continue|remainingItemCount", "addresses of Services, which upstream keeps as objects too"),
]
EXPLAINED = [(re.compile(a), re.compile(b), why) for a, b, why in EXPLAINED]


def explanation(case, what):
    return next((why for place, difference, why in EXPLAINED if place.search(case) and difference.search(what)), None)


def token(text):
    """A continue token, readable and without the revision."""
    try:
        value = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        return {"padded": text.endswith("="), **{k: ("N" if k == "rv" and v != -1 else v) for k, v in value.items()}, "(order)": list(value)}
    except (ValueError, TypeError):
        return text


def strip(value, key=""):
    if isinstance(value, dict):
        return {k: token(v) if k == "continue" and isinstance(v, str) and v else strip(v, k) for k, v in value.items()}
    if isinstance(value, list):
        return [strip(v, key) for v in value]
    if isinstance(value, str) and key in ("message",):
        return re.sub(r"\b\d{2,}x?\b", "N", value)
    return value


def body_of(kind, data):
    """The body as something that can be compared."""
    text = data.decode(errors="replace")
    try:
        if "json" in kind and "protobuf" not in kind:
            lines = [json.loads(line) for line in text.splitlines() if line.strip()] if text.count("\n") > 1 and not text.startswith("{\n") else [json.loads(text)] if text.strip() else []
            for v in lines:
                if isinstance(v, dict) and "rows" in v:
                    for row in v["rows"] or []:
                        row["cells"] = ["AGE" if isinstance(c, str) and re.fullmatch(r"\d+[smhd].*", c) else c for c in row["cells"]]
                if isinstance(v, dict) and str(v.get("kind", "")).endswith("List") and isinstance(v.get("items"), list):
                    # What each server has of its own (certificates, the cluster's address) is no answer to compare.
                    v["items"] = [i for i in v["items"] if i.get("metadata", {}).get("namespace", NS) == NS or "spec" not in i and v["kind"] != "ConfigMapList"]
            return {"documents": [strip(clean(v, "")) for v in lines], "pretty": text.startswith("{\n")}
        if "yaml" in kind:
            return strip(clean(json.loads(json.dumps(yaml.safe_load(text), default=str)), ""))
    except ValueError:
        pass
    if "protobuf" in kind or "cbor" in kind:
        return re.sub(rb"[^ -~]+", b" ", data).decode()[:4].strip(), bool(data)
    return re.sub(r"\d{2,}", "N", text)


def requests(ids):
    """(name, method, path, headers, body); {rv}, {future}, {continue} are each server's own."""
    out = []

    def add(method, path, *headers, body=None, kind=None):
        headers = list(headers)
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
        if body is not None and kind != "":
            headers.append(("Content-Type", kind or "application/json"))
        out.append((method, path, headers, body))

    accept = lambda a: ("Accept", a)
    cm = lambda name="new", **more: dict({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}}, **more)
    # paths and methods
    paths = ["/", "/api", "/api/", "/apis", "/apis/", "/api/v1", "/api/v1/", "/api/v2", "/apis/apps", "/apis/apps/", "/apis/apps/v1", "/apis/apps/v1/", "/apis/apps/v9", "/apis/none", "/apis/none/",
             "/apis/none/v1", "/apis/none/v1/things", "/apis/apps/v9/deployments", "/bogus", "/bogus/", "/api/v1/bogus", f"/api/v1/namespaces/{NS}/bogus", f"{CM}/a/bogus", "/api/v1/configmaps/a", f"/api/v1/namespaces/{NS}/nodes",
             f"/api/v1/namespaces/{NS}/nodes/n", "/healthz", "/healthz/", "/healthz/ping", "/healthz/etcd", "/healthz/bogus", "/livez", "/livez/ping", "/readyz", "/readyz/ping", "/readyz/bogus", "/version", "/version/",
             "/logs", "/logs/", "/swagger.json", "/swagger-2.0.0.json", "/ui", "/ui/", "/openapi", "/openapi/v2/", "/openapi/v3/", "/openapi/v3/apis/none/v1", "/openapi/v4", "/openid/v1/jwks", "/openid/v1/jwks/",
             "/.well-known/openid-configuration", "//api/v1", "/api//v1/namespaces", "/api/v1/namespaces/", f"/api/v1/namespaces/{NS}", f"/api/v1/namespaces/{NS}/", CM, CM + "/", CM + "/a", CM + "/a/", CM + "/absent",
             "/api/v1/namespaces/absent/configmaps", "/api/v1/namespaces/absent", "/api/v1/namespaces/absent/configmaps/a", f"/api/v1/namespaces/{NS}/pods/p/status", f"/api/v1/namespaces/{NS}/pods/p/log", f"/api/v1/namespaces/{NS}/pods/p/exec",
             f"/api/v1/namespaces/{NS}/pods/p/binding", f"/api/v1/namespaces/{NS}/pods/p/eviction", f"/api/v1/namespaces/{NS}/pods/absent/log", f"/api/v1/namespaces/{NS}/pods/p/proxy", f"/apis/apps/v1/namespaces/{NS}/deployments/d/scale",
             f"/api/v1/namespaces/{NS}/finalize", f"/api/v1/namespaces/{NS}/status", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", "/apis/authentication.k8s.io/v1/tokenreviews/x", "/api/v1/componentstatuses/absent",
             WIRES, WIRES + "/one", WIRES + "/one/status", WIRES + "/one/scale", WIRES + "/two/scale", WIRES + "/one/bogus", WIRES + "/absent", "/apis/judge.example.com/v1/wires", "/apis/judge.example.com/v1/wires/one", "/apis/judge.example.com/v1beta1/wires",
             "/apis/judge.example.com", "/apis/judge.example.com/v1", "/apis/judge.example.com/v1/", "/apis/judge.example.com/v2", "/apis/judge.example.com/v2/wires", "/apis/judge.example.com/v1/bogus", f"/apis/judge.example.com/v1/namespaces/{NS}/bogus/x",
             "/api/v1/watch/configmaps", f"/api/v1/watch/namespaces/{NS}/configmaps/a", f"/api/v1/proxy/namespaces/{NS}/pods/p", "/api/v1/namespaces/%2e%2e/configmaps", f"{CM}/a%2fb", f"{CM}/%61", f"{CM}/a%00", f"{CM}/a%20b"]
    for path in paths:
        for method in ("GET", "HEAD", "OPTIONS", "TRACE", "BOGUS"):
            if not (method in ("GET", "HEAD") and "/watch/" in path):
                add(method, path)
        for method in ("POST", "PUT", "PATCH", "DELETE"):
            if method == "DELETE" and path.rstrip("/").split("/")[-1] in (NS, "a", "d", "p", "one", "two", "configmaps", "wires", "finalize", "status", "%61", "n", "nodes", "d", "jwks") and "bogus" not in path:
                continue
            if path.endswith(("/proxy", "/exec")):
                continue
            add(method, path + "?dryRun=All", body=b'{"dryRun":["All"]}' if method == "DELETE" else b"{}")
            if method in ("POST", "PUT"):
                add(method, path + "?dryRun=All")
    for path in ("/healthz", "/livez", "/readyz"):
        for query in ("verbose", "verbose=1", "verbose&exclude=ping", "exclude=bogus"):
            add("HEAD", f"{path}?{query}")
        add("GET", f"{path}?exclude=bogus")
    # forms
    forms = ["", "*/*", "application/*", "text/html", "text/*", "application/json", "application/JSON", "application/json;charset=utf-8", "application/json, */*", "application/yaml", "text/yaml", "application/xml", "application/xml, application/json;q=0.5", "application/json;q=0",
             "application/yaml;q=0.9,application/json;q=0.8", PROTO, PROTO + ",application/json", PROTO + ";stream=watch", "application/cbor", "application/cbor,application/json", "application/cbor-seq", "application/json;stream=watch", "application/json;pretty=1", "application/json;pretty=0", "application/json;as=",
             TABLE, TABLE + ",application/json", TABLE.replace("v=v1;", "v=v1beta1;"), TABLE.replace("v=v1;", "v=v2;"), TABLE.replace("v=v1;", "v=v2;") + ",application/json", TABLE.replace("json", "yaml"), TABLE.replace("application/json", PROTO), TABLE.replace(";g=meta.k8s.io", ""), TABLE.replace("Table", "Bogus"),
             TABLE.replace("meta.k8s.io", "bogus"), META, METAS, META.replace("v=v1;", "v=v1beta1;"), METAS.replace("v=v1;", "v=v1beta1;"), META.replace("application/json", PROTO), METAS.replace("application/json", PROTO), META.replace("json", "yaml"), METAS.replace("json", "yaml"),
             "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList", "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList", "application/json;g=apidiscovery.k8s.io;v=v3;as=APIGroupDiscoveryList", "application/json;g=apidiscovery.k8s.io;v=v3;as=APIGroupDiscoveryList,application/json",
             PROTO + ";g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList", "application/cbor;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList", "bogus", ";", ",", "application/json; as=Table; v=v1; g=meta.k8s.io", "a/b/c, application/json"]
    for path in (CM, CM + "/a", CM + "/absent", WIRES, WIRES + "/one", "/apis/judge.example.com/v1beta1/wires", "/api", "/apis", "/api/v1", "/apis/apps", "/apis/apps/v1", "/version", "/", "/openapi/v2", "/openapi/v3", "/openapi/v3/apis/apps/v1", "/api/v1/bogus", "/bogus", f"/apis/apps/v1/namespaces/{NS}/deployments/d/scale", WIRES + "/one/scale",
                 "/apis/judge.example.com/v1", "/healthz", "/metrics", f"/api/v1/namespaces/{NS}/pods/p/log", "/flagz", "/statusz"):
        for form in forms:
            add("GET", path, accept(form))
    for form in forms:
        add("POST", CM + "?dryRun=All", accept(form), body=cm())
        add("POST", WIRES + "?dryRun=All", accept(form), body={"apiVersion": "judge.example.com/v1", "kind": "Wire", "metadata": {"name": "n"}})
        add("DELETE", CM + "/a?dryRun=All", accept(form))
        add("DELETE", CM + "?dryRun=All&labelSelector=app%3Dx", accept(form))
        add("GET", CM + "?watch=1&timeoutSeconds=1", accept(form))
        add("GET", WIRES + "?watch=1&timeoutSeconds=1", accept(form))
        add("GET", CM + "?watch=1&timeoutSeconds=1&resourceVersion=1", accept(form))
        add("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", accept(form), body={"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview", "spec": {"nonResourceAttributes": {"path": "/", "verb": "get"}}})
    for value in ("None", "Metadata", "Object", "bogus", ""):
        for path in (CM, CM + "/a", WIRES, WIRES + "/one"):
            add("GET", f"{path}?includeObject={value}", accept(TABLE))
        add("GET", f"{CM}?watch=1&timeoutSeconds=1&includeObject={value}", accept(TABLE))
    for value in ("true", "1", "false", "0", "bogus", ""):
        add("GET", f"{CM}/a?pretty={value}"); add("GET", f"{CM}?pretty={value}"); add("GET", f"/api?pretty={value}"); add("GET", f"{CM}/absent?pretty={value}"); add("GET", f"{WIRES}?pretty={value}")
    for agent in ("curl/8", "Wget/1", "Mozilla/5.0 x", "kubectl/v1"):
        add("GET", CM + "/a", ("User-Agent", agent))
    for encoding in ("gzip", "gzip, deflate", "deflate", "*", "gzip;q=0", "identity"):
        for path in (CM, CM + "/a", "/api/v1", "/apis", "/openapi/v2", "/openapi/v3", "/openapi/v3/api/v1", "/openapi/v3/apis/apps/v1", "/apis/rbac.authorization.k8s.io/v1/clusterroles", "/api/v1/bogus", "/version", "/metrics"):
            add("GET", path, ("Accept-Encoding", encoding))
        add("GET", "/apis", ("Accept-Encoding", encoding), accept(forms[-16]))
        add("GET", "/apis/rbac.authorization.k8s.io/v1/clusterroles", ("Accept-Encoding", encoding), accept(TABLE))
    # lists
    for path in (CM, "/api/v1/configmaps", WIRES, "/api/v1/namespaces"):
        for query in ("limit=2", "limit=-1", "limit=a", "limit=", "limit=99999999999999999999", "limit=0", "limit=2&resourceVersion={rv}", "limit=2&resourceVersion=0", "limit=2&continue={continue}", "limit=2&continue={continue}&resourceVersion={rv}", "limit=2&continue={continue}&resourceVersion=0",
                      "limit=2&continue={continue}&resourceVersionMatch=Exact", "limit=2&continue={continue}&resourceVersion={rv}&resourceVersionMatch=Exact", "continue=bogus", "continue=!!", "continue=e30", "continue=eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6MCwic3RhcnQiOiJhIn0", "continue=eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6NSwic3RhcnQiOiIifQ",
                      "continue=eyJ2IjoibWV0YS5rOHMuaW8vdjkiLCJydiI6NSwic3RhcnQiOiJhIn0", "continue=eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6NSwic3RhcnQiOiIuLi9hIn0", "continue=eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6LTEsInN0YXJ0IjoiYlx1MDAwMCJ9",
                      "resourceVersion=a", "resourceVersion=-1", "resourceVersion=0", "resourceVersion=", "resourceVersion=1", "resourceVersion={future}", "resourceVersion={rv}", "resourceVersion={rv}x", "resourceVersion=99999999999999999999",
                      "resourceVersionMatch=Exact", "resourceVersionMatch=NotOlderThan", "resourceVersionMatch=bogus", "resourceVersion=0&resourceVersionMatch=Exact", "resourceVersion=0&resourceVersionMatch=NotOlderThan", "resourceVersion={rv}&resourceVersionMatch=Exact", "resourceVersion={rv}&resourceVersionMatch=bogus",
                      "resourceVersion={rv}&resourceVersionMatch=NotOlderThan", "resourceVersion=1&resourceVersionMatch=Exact", "resourceVersion={future}&resourceVersionMatch=Exact", "resourceVersion={future}&resourceVersionMatch=NotOlderThan", "resourceVersion=a&resourceVersionMatch=Exact", "sendInitialEvents=true", "sendInitialEvents=false", "sendInitialEvents=bogus",
                      "allowWatchBookmarks=true", "allowWatchBookmarks=bogus", "timeoutSeconds=a", "timeoutSeconds=-1", "timeoutSeconds=0", "watch=bogus", "watch=0", "watch=false", "bogus=1", "timeoutSeconds=1", "shardSelector=x", "limit=1&limit=3"):
            if query.startswith("watch=bogus"):
                continue
            add("GET", f"{path}?{query}")
        for query in ("", "labelSelector=", "labelSelector=app", "labelSelector=app%3Dx", "labelSelector=app%3D%3Dx", "labelSelector=app!%3Dx", "labelSelector=!app", "labelSelector=app+in+(x,y)", "labelSelector=app+notin+(x)", "labelSelector=app+in+()", "labelSelector=app+in", "labelSelector=app+in+x", "labelSelector=%3Dx", "labelSelector=app%3D", "labelSelector=,", "labelSelector=a,,b",
                      "labelSelector=Bad+Key", "labelSelector=-bad", "labelSelector=a%3Db%3Dc", "labelSelector=a%3Dbad+value", "labelSelector=a%3D-x", "labelSelector=a>1", "labelSelector=a>x", "labelSelector=a<", "labelSelector=a/b/c", "labelSelector=/a", "labelSelector=" + "k" * 64, "labelSelector=a%3D" + "v" * 64, "labelSelector=a+in+(-x)", "labelSelector=in+in+(in)", "labelSelector=a+exists", "labelSelector=(a)",
                      "labelSelector=a%3D%3D%3Db", "labelSelector=a!b", "labelSelector=a+in+(b", "labelSelector=é",
                      "fieldSelector=", "fieldSelector=metadata.name%3Da", "fieldSelector=metadata.name!%3Da", "fieldSelector=metadata.name%3D%3Da", "fieldSelector=metadata.name", "fieldSelector=bogus%3D1", "fieldSelector=metadata.namespace%3D" + NS, "fieldSelector=metadata.namespace%3Dother", "fieldSelector=,", "fieldSelector=metadata.name%3Da,", "fieldSelector=metadata.name%3Da%5C", "fieldSelector=metadata.name%3Da%5C%2C",
                      "fieldSelector=metadata.name%3Da%5Cb", "fieldSelector=%3D", "fieldSelector=metadata.name%3D", "fieldSelector=metadata.name>a", "fieldSelector=metadata.uid%3D1", "fieldSelector=spec.color%3Dred", "fieldSelector=status.phase%3DActive", "fieldSelector=metadata.name%3Da,metadata.name%3Db", "fieldSelector=metadata.name%3Da%3Db", "fieldSelector=metadata.name%3D..%2Fx"):
            add("GET", f"{path}?{query}")
            if query and not query.endswith("Selector="):
                add("GET", f"{path}?watch=1&timeoutSeconds=1&{query}")
    # watches
    for path in (CM, WIRES):
        for query in ("", "resourceVersion=0", "resourceVersion={rv}", "resourceVersion=1", "resourceVersion={future}", "resourceVersion=a", "resourceVersion=-1", "resourceVersionMatch=NotOlderThan", "resourceVersionMatch=Exact", "resourceVersionMatch=bogus", "sendInitialEvents=true", "sendInitialEvents=false", "sendInitialEvents=true&resourceVersionMatch=NotOlderThan",
                      "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true", "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&resourceVersion=0", "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&resourceVersion={rv}",
                      "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&resourceVersion={future}", "sendInitialEvents=false&resourceVersionMatch=NotOlderThan&resourceVersion={rv}", "sendInitialEvents=false&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true",
                      "sendInitialEvents=true&resourceVersionMatch=Exact", "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&continue=x", "limit=1", "continue={continue}", "allowWatchBookmarks=true", "sendInitialEvents=bogus&resourceVersionMatch=NotOlderThan", "resourceVersion=0&sendInitialEvents=true", "pretty=true"):
            add("GET", f"{path}?watch=true&timeoutSeconds=1&{query}")
        add("GET", f"{path}?watch=true&timeoutSeconds=a"); add("GET", f"{path}/a?watch=true&timeoutSeconds=1"); add("GET", f"{path}/absent?watch=true&timeoutSeconds=1")
    add("GET", f"/api/v1/watch/namespaces/{NS}/configmaps?timeoutSeconds=1"); add("GET", f"/api/v1/watch/namespaces/{NS}/configmaps/a?timeoutSeconds=1"); add("GET", f"/api/v1/watch/namespaces/{NS}/configmaps/a?timeoutSeconds=1&fieldSelector=metadata.name%3Db")
    add("GET", f"/api/v1/watch/bogus?timeoutSeconds=1"); add("HEAD", f"{CM}?watch=1&timeoutSeconds=1"); add("POST", f"/api/v1/watch/namespaces/{NS}/configmaps?timeoutSeconds=1", body=cm())
    add("GET", f"/apis/judge.example.com/v1/watch/namespaces/{NS}/wires?timeoutSeconds=1")
    # reads
    for path in (CM + "/a", WIRES + "/one"):
        for query in ("resourceVersion=0", "resourceVersion=1", "resourceVersion={rv}", "resourceVersion={future}", "resourceVersion=a", "resourceVersion=-1", "resourceVersionMatch=Exact", "export=true", "exact=1", "bogus=1", "fieldSelector=metadata.name%3Db", "labelSelector=bogus,,"):
            add("GET", f"{path}?{query}")
    # writes: bodies
    bodies = [(b"", None), (b"{}", None), (b"[]", None), (b"null", None), (b"5", None), (b'"x"', None), (b"{", None), (b"{]", None), (b"bogus", None), (b"\x00\x01", None), (b"k8s\x00bogus", PROTO), (b"bogus", PROTO), (b"", PROTO), (b"a: [", "application/yaml"), (b"a: b", "application/yaml"), (b"- a", "application/yaml"), (b"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: new}\n", "application/yaml"),
              (b"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: new}\n", None), (cm(), "application/yaml"), (cm(), "text/plain"), (cm(), "application/xml"), (cm(), ""), (cm(), "application/json; charset=utf-8"), (cm(), "application/json;stream=watch"), (cm(), "bogus"), (cm(), "application/x-www-form-urlencoded"), (cm(), "*/*"), (cm(), "application/cbor"), (b"\xd9\xd9\xf7\xa0", "application/cbor"),
              ({"kind": "ConfigMap"}, None), ({"apiVersion": "v1"}, None), ({"apiVersion": "v2", "kind": "ConfigMap"}, None), ({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "x"}}, None), ({"apiVersion": "v1", "kind": "Bogus", "metadata": {"name": "x"}}, None), ({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "x"}}, None), ({"apiVersion": "a/b/c", "kind": "ConfigMap"}, None),
              ({"apiVersion": 1, "kind": "ConfigMap"}, None), ({"apiVersion": "v1", "kind": []}, None), ({"metadata": {"name": "new"}}, None), (cm(metadata="x"), None), (cm(metadata={"name": 5}), None), (cm(metadata={}), None), (cm(metadata={"name": "new", "namespace": "other"}), None), (cm(metadata={"name": "new", "namespace": NS}), None), (cm(metadata={"generateName": "g-"}), None), (cm(metadata={"name": "Bad_Name"}), None),
              (cm(metadata={"name": "new", "uid": "x"}), None), (cm(metadata={"name": "new", "resourceVersion": "5"}), None), (cm("a"), None), (cm(data={"k": 5}), None), (cm(data={"k": "v"}, bogus=1), None), (b'{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"new"},"data":{"a":"1","a":"2"}}', None), (b'{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"new"}} trailing', None),
              (b'{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"new"}}{}', None), (b'{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"new"},"data":{"k":"\xff"}}', None), (b'\xef\xbb\xbf{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"new"}}', None), (b'{"apiVersion":"v1","KIND":"ConfigMap","Metadata":{"Name":"new"}}', None), (cm(data={"k": "v" * 1100000}), None), (cm(data={"k": "v" * 3200000}), None),
              (b"[" * 20000, None), (b'{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"new"},"data":' + b'{"a":' * 12000 + b"1" + b"}" * 12000 + b"}", None), (b'{"apiVersion":"v1","kind":"ConfigMapList","items":[]}', None)]
    for body, kind in bodies:
        for more in ("", "&fieldValidation=Strict"):
            add("POST", f"{CM}?dryRun=All{more}", body=body, kind=kind)
            add("PUT", f"{CM}/a?dryRun=All{more}", body=body, kind=kind)
        wire = body
        if isinstance(body, dict):
            wire = json.loads(json.dumps(body).replace('"v1"', '"judge.example.com/v1"').replace('"ConfigMap"', '"Wire"').replace('"data"', '"spec"'))
        elif b"ConfigMap" in body:
            wire = body.replace(b'"v1"', b'"judge.example.com/v1"').replace(b"ConfigMap", b"Wire").replace(b'"data"', b'"spec"').replace(b"apiVersion: v1", b"apiVersion: judge.example.com/v1")
        for more in ("", "&fieldValidation=Strict"):
            add("POST", f"{WIRES}?dryRun=All{more}", body=wire, kind=kind)
        add("PUT", f"{WIRES}/one?dryRun=All", body=wire, kind=kind)
        add("DELETE", f"{CM}/absent?dryRun=All", body=body, kind=kind)  # a body's options are all: this would delete
        add("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", body=body, kind=kind)
    for path, body in ((CM, cm()), (WIRES, {"apiVersion": "judge.example.com/v1", "kind": "Wire", "metadata": {"name": "n"}})):
        for query in ("dryRun=bogus", "dryRun=", "dryRun=All&dryRun=All", "dryRun=All&dryRun=x", "dryRun=All&fieldManager=" + "x" * 129, "dryRun=All&fieldManager=%01", "dryRun=All&fieldManager=", "dryRun=All&fieldValidation=bogus", "dryRun=All&fieldValidation=", "dryRun=All&force=true", "dryRun=All&pretty=true", "dryRun=All&fieldValidation=Ignore", "dryRun=All&bogus=x", "dryRun=All&timeout=1s", "dryRun=All&timeout=bogus", "dryRun=All&timeout=-1s", "dryRun=All&timeout=100h"):
            add("POST", f"{path}?{query}", body=body)
            name = "a" if path == CM else "one"
            named = dict(body, metadata={"name": name})
            if "dryRun=All" in query or query == "dryRun=bogus":
                add("PUT", f"{path}/{name}?{query}", body=named)
                for kind in ("merge-patch+json", "apply-patch+yaml"):
                    add("PATCH", f"{path}/{name}?{query}", body=named, kind="application/" + kind)
                add("DELETE", f"{path}/{name}?{query}"); add("DELETE", f"{path}?{query}&labelSelector=app%3Dx")
    for name in ("new", "a", "Bad_Name", "a%2Fb"):
        for o in (cm(), cm("a"), cm(""), cm(metadata={}), cm("a", metadata={"name": "a", "resourceVersion": "1"}), cm("a", metadata={"name": "a", "resourceVersion": "x"}), cm("a", metadata={"name": "a", "uid": "x"}), cm("a", metadata={"name": "a", "namespace": "other"}), cm("a", metadata={"name": "a", "resourceVersion": "0"})):
            add("PUT", f"{CM}/{name}?dryRun=All", body=o)
    # patches
    patches = [("application/json-patch+json", p) for p in (b"", b"{}", b"[]", b"null", b"[", b"5", [{}], [{"op": "bogus"}], [{"op": "add"}], [{"op": "add", "path": "data/x", "value": "1"}], [{"op": "add", "path": "/data/x", "value": "1"}], [{"op": "remove", "path": "/data/none"}], [{"op": "replace", "path": "/none/x", "value": 1}], [{"op": "test", "path": "/data/k", "value": "w"}], [{"op": "test", "path": "/data/k", "value": "v"}],
               [{"op": "replace", "path": "/metadata/name", "value": "b"}], [{"op": "replace", "path": "/kind", "value": "Secret"}], [{"op": "remove", "path": "/metadata"}], [{"op": "replace", "path": "", "value": 5}], [{"op": "move", "from": "/data/k", "path": "/data/l"}], [{"op": "copy", "from": "/data/z", "path": "/data/l"}], [{"op": "add", "path": "/data/-", "value": 1}], [{"op": "add", "path": "/data/x", "value": 5}], [{"op": "test", "path": "/data/k"}] * 10001, [{"op": "replace", "path": "/metadata/resourceVersion", "value": "1"}])]
    for kind in ("application/merge-patch+json", "application/strategic-merge-patch+json", "application/apply-patch+yaml", "application/apply-patch+cbor"):
        patches += [(kind, p) for p in (b"", b"{}", b"[]", b"null", b"5", b"{", b'"x"', {"data": {"k": "w"}}, {"data": 5}, {"data": {"k": None}}, {"data": {"k": 5}}, {"metadata": {"name": "b"}}, {"metadata": {"name": None}}, {"kind": "Secret"}, {"apiVersion": "v2"}, {"metadata": {"resourceVersion": "1"}}, {"metadata": {"uid": "x"}}, {"bogus": 1}, {"metadata": {"finalizers": ["x"]}}, cm("a"), cm("b"), cm("a", data={"k": "w"}), cm("a", data={"k": 5}), cm("a", bogus=1), cm("a", metadata={"name": "a", "managedFields": []}),
                  cm("a", metadata={"name": "a", "resourceVersion": "1"}), cm("a", metadata={"name": "a", "managedFields": [{}]}), {"$patch": "replace"}, {"$patch": "delete"}, {"$patch": "bogus"}, b"a: b", b"data: {k: w}", b'{"data":{"k":"1","k":"2"}}')]
    patches += [(k, {"data": {"k": "w"}}) for k in ("", "application/json", "application/yaml", "text/plain", "bogus", "application/merge-patch+json; charset=utf-8", "application/merge-patch+yaml", PROTO)]
    for kind, body in patches:
        for path in (CM + "/a", WIRES + "/one"):
            if path.startswith(WIRES) and not isinstance(body, bytes):
                body = json.loads(json.dumps(body).replace('"v1"', '"judge.example.com/v1"').replace('"ConfigMap"', '"Wire"').replace('"data"', '"spec"').replace("/data/", "/spec/").replace('"name": "a"', '"name": "one"').replace('"k"', '"color"').replace("/k", "/color"))
            for query in ("dryRun=All", "dryRun=All&fieldManager=m", "dryRun=All&fieldManager=m&force=true", "dryRun=All&fieldValidation=Strict&fieldManager=m"):
                if query == "dryRun=All" or "apply" in kind or "Strict" in query:
                    add("PATCH", f"{path}?{query}", body=body, kind=kind)
    add("PATCH", f"{CM}/absent?dryRun=All", body={}, kind="application/merge-patch+json"); add("PATCH", f"{CM}?dryRun=All", body={}, kind="application/merge-patch+json")
    # deletions
    for o in ({}, {"kind": "DeleteOptions", "apiVersion": "v1"}, {"kind": "DeleteOptions", "apiVersion": "meta.k8s.io/v1"}, {"kind": "DeleteOptions", "apiVersion": "apps/v1"}, {"kind": "DeleteOptions", "apiVersion": "bogus/v1"}, {"kind": "Bogus", "apiVersion": "v1"}, {"kind": "ConfigMap", "apiVersion": "v1"}, {"propagationPolicy": "Bogus"}, {"propagationPolicy": "Orphan"}, {"propagationPolicy": "Foreground"}, {"propagationPolicy": "Orphan", "orphanDependents": True},
              {"orphanDependents": True}, {"gracePeriodSeconds": -1}, {"gracePeriodSeconds": 0}, {"gracePeriodSeconds": "a"}, {"preconditions": {"uid": "x"}}, {"preconditions": {"resourceVersion": "1"}}, {"dryRun": ["bogus"]}, {"dryRun": ["All"]}, {"dryRun": "All"}, {"bogus": 1}, {"ignoreStoreReadErrorWithClusterBreakingPotential": True}):
        for path in (CM + "/a", CM + "/d", CM + "/absent", WIRES + "/one", f"/api/v1/namespaces/{NS}/pods/p", CM):
            add("DELETE", path + ("?labelSelector=app%3Dx" if path == CM else ""), body=dict({"dryRun": ["All"]}, **o))
    for q in ("gracePeriodSeconds=a", "gracePeriodSeconds=-1", "gracePeriodSeconds=0", "propagationPolicy=Bogus", "propagationPolicy=Background", "orphanDependents=true", "orphanDependents=bogus", "orphanDependents=true&propagationPolicy=Orphan", "limit=1", "resourceVersion=1", "labelSelector=a,,", "fieldSelector=bogus%3D1", "preconditions=x", "ignoreStoreReadErrorWithClusterBreakingPotential=true"):
        for path in (CM + "/a", WIRES + "/one", f"/api/v1/namespaces/{NS}/pods/p"):
            add("DELETE", f"{path}?dryRun=All&{q}")
    # kinds: unknown and known selectors, deprecated versions
    for path in ids:
        add("GET", path + "?fieldSelector=bogus%3D1&limit=1")
        for field in ("spec.nodeName", "status.phase", "status.podIP", "spec.unschedulable", "involvedObject.kind", "reason", "type", "spec.type", "spec.clusterIP", "status.replicas", "status.successful", "spec.signerName", "metadata.uid", "spec.driver", "spec.schedulerName", "spec.serviceAccountName", "spec.restartPolicy", "spec.hostNetwork", "status.nominatedNodeName", "reportingComponent", "source", "regarding.kind", "spec.nodeName!"):
            if any(w in path for w in ("pods", "nodes", "events", "secrets", "services", "replicasets", "jobs", "certificate", "resourceslices", "namespaces", "persistentvolumes")):
                add("GET", f"{path}?fieldSelector={field}%3D1&limit=1")
        add("GET", path + "?limit=1", accept(TABLE)); add("GET", path + "?limit=1", accept(METAS)); add("GET", path + "?limit=1", accept(PROTO)); add("GET", path + "?limit=1", accept("application/yaml")); add("GET", path + "/absent"); add("DELETE", path + "/absent"); add("GET", path + "?watch=1&timeoutSeconds=1&resourceVersion={future}", accept("text/html"))
        add("POST", path + "?dryRun=All", body=b"{}"); add("OPTIONS", path); add("PUT", path + "/x?dryRun=All", body=b"{}"); add("PATCH", path + "/absent?dryRun=All", body=b"{}", kind="application/merge-patch+json"); add("PATCH", path + "/absent?dryRun=All", body=b"{}", kind="application/bogus")
    # headers of who asks
    for headers in ([("Authorization", "Bearer bogus")], [("Authorization", "Basic Ym9iOmJvYg==")], [("Authorization", "Bearer")], [("Impersonate-User", "bob")], [("Impersonate-User", "bob"), ("Impersonate-Group", "system:masters")], [("Impersonate-Group", "x")], [("Impersonate-Uid", "x")], [("Impersonate-Extra-a", "x")], [("Impersonate-User", "system:serviceaccount:a:b")], [("Impersonate-User", "system:anonymous")],
                    [("Audit-ID", "given")], [("Origin", "http://x")], [("X-Remote-User", "bob")], [("Expect", "200-ok")], [("Content-Encoding", "gzip")], [("If-None-Match", '"x"')], [("Range", "bytes=0-1")], [("X-Forwarded-For", "1.2.3.4")], [("Connection", "Upgrade"), ("Upgrade", "websocket")], [("Connection", "Upgrade"), ("Upgrade", "bogus")]):
        for path in (CM, CM + "/a", "/api", "/healthz", "/bogus", "/version", "/apis/judge.example.com/v1/wires"):
            add("GET", path, *headers)
        add("POST", CM + "?dryRun=All", *headers, body=cm())
    return out


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("stock"); p.add_argument("ours"); p.add_argument("-k", default="."); p.add_argument("-v", action="store_true", help="every case, not two of a sort"); p.add_argument("-j", type=int, default=8)
    a = p.parse_args()
    servers = [Server(a.stock, timeout=20), Server(a.ours, timeout=20)]
    strangers = [Server(a.stock, False, 20), Server(a.ours, False, 20)]
    marks = []
    for server in servers:
        for path, body in yaml.safe_load(SETUP):
            for _ in range(40):
                code, answer, _ = server.ask("POST", path, body)
                if code in (200, 201, 409) or "already allocated" in str(answer):
                    break
                time.sleep(0.25)
            else:
                sys.exit(f"{server.host} refuses {body['kind']}: {answer}")
        rv = server.ask("GET", CM)[1]["metadata"]["resourceVersion"]
        page = server.ask("GET", CM + "?limit=2")[1]["metadata"]["continue"]
        marks.append({"rv": rv, "future": str(int(rv) + 1000000), "continue": page})
    places = []
    for base in ["api/v1"] + [f"apis/{v['groupVersion']}" for g in servers[0].ask("GET", "/apis")[1]["groups"] for v in g["versions"]]:
        for r in servers[0].ask("GET", "/" + base)[1]["resources"]:
            if "list" in r["verbs"] and "/" not in r["name"] and r["name"] != "wires":
                places.append(f"/{base}/namespaces/{NS}/{r['name']}" if r["namespaced"] else f"/{base}/{r['name']}")
    cases = [("", servers, *r) for r in requests(places)]
    cases += [("anonymous ", strangers, m, path, h, None) for m in ("GET", "POST") for path in (CM, CM + "/a", "/", "/api", "/apis/apps/v1", "/healthz", "/livez", "/readyz", "/version", "/metrics", "/bogus", "/openapi/v2", "/api/v1/bogus", "/apis/judge.example.com/v1/wires", "/.well-known/openid-configuration", "/openid/v1/jwks") for h in ([], [("Authorization", "Bearer bogus")], [("Accept", PROTO)], [("Accept", "text/html")], [("Accept", "application/yaml")])]
    cases = [c for c in cases if re.search(a.k, f"{c[0]}{c[2]} {c[3]} {c[4]}")]

    def one(case):
        who, pair, method, path, headers, body = case
        answers = []
        for server, mark in zip(pair, marks):
            at = path
            for k, v in mark.items():
                at = at.replace("{" + k + "}", v)
            try:
                code, got, data = server.raw(method, at, headers, body)
            except Exception as e:
                answers.append({"no answer": type(e).__name__})
                continue
            if got.get("Content-Encoding") == "gzip":
                import gzip
                data = gzip.decompress(data)
            told = {h: got.get_all(h) for h in HEADERS if h in got}
            if "Location" in told:
                told["Location"] = [re.sub(r"hash=\w+", "hash=H", re.sub(r"https?://[^/]+", "", v)) for v in told["Location"]]
            if "X-Kubernetes-Pf-Prioritylevel-Uid" in told:
                told["X-Kubernetes-Pf-Prioritylevel-Uid"] = True
            kind = got.get("Content-Type", "")
            shown = body_of(kind, data)
            if re.match(r"/(openapi/v[23](/.+)?|metrics|version|flagz|statusz|apis?|)$", path.split("?")[0].rstrip("/")) and code == 200:
                shown = ""
            if isinstance(shown, dict) and "documents" in shown and code == 200 and "limit=1" in path:
                shown = [{k: v for k, v in x.items() if k not in ("items", "metadata", "rows")} if isinstance(x, dict) else x for x in shown["documents"]]
            answers.append({"code": code, "headers": told, "has": [h for h in PRESENT if h in got], "body": shown})
        return case, list(differences(*answers))

    total = different = 0
    known = collections.Counter()
    sorts, examples = collections.Counter(), collections.defaultdict(list)
    with concurrent.futures.ThreadPoolExecutor(a.j) as pool:
        for (who, _, method, path, headers, body), found in pool.map(one, cases):
            total += 1
            code = [d for d in found if d[0] == ".code"]
            asked = f"{who}{method} {path} {headers} {(body or b'')[:150]!r}"
            # What answers with another code differs in everything.
            reasons = [explanation(asked, f"{what} {s} / {o}") for what, s, o in code or found]
            if found and all(reasons):
                known.update(set(reasons))
                continue
            different += bool(found)
            for what, s, o in code or found:
                sort = f"{what} {str(s)[:80]} / {str(o)[:80]}"
                sort = re.sub(r"\[\d+\]", "[]", sort)
                sorts[sort] += 1
                examples[sort].append((f"{who}{method} {path} {headers} {(body or b'')[:150]!r}", s, o, found if code else None))
    for sort, n in sorts.most_common():
        print(f"{n:5} {sort[:200]}")
        for case, s, o, more in examples[sort][:None if a.v else 2]:
            print(f"        {case[:330]}\n          stock {json.dumps(s)[:400]}\n          ours  {json.dumps(o)[:400]}")
            for what, x, y in (more or [])[1:3]:
                print(f"            {what}\n              stock {json.dumps(x)[:300]}\n              ours  {json.dumps(y)[:300]}")
    for why, n in known.most_common():
        print(f"{n:5} known: {why}")
    print(f"{total} requests, {different} differ, {known.total()} more for known reasons")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
