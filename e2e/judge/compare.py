#!/usr/bin/env python3
"""compare.py STOCK-KUBECONFIG OUR-KUBECONFIG [-m create,update,status,table,patch,decode] [-k REGEX] [-n CASES-A-KIND] [-s SEED] [-o FILE]

The same requests to a stock kube-apiserver and to ours; the answers are compared field by field. Objects come from objects.yaml; each case
changes one field of one to a usual, an edge or an invalid value, found by the stock server's OpenAPI. Everything is a dry run but the
making of the objects themselves. Prints how many cases differ, and the differences by place, most frequent first; -o gets every case as a
line of JSON. Ends with 1 if there are differences."""
import argparse, base64, collections, concurrent.futures, copy, http.client, json, os, random, re, ssl, subprocess, sys, tempfile, threading
import yaml

NS = "judge"
HERE = os.path.dirname(os.path.abspath(__file__))


class Server:
    """One API server, by its kubeconfig: a connection for each thread."""

    def __init__(self, kubeconfig):
        config = yaml.safe_load(open(kubeconfig))
        cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        self.host = cluster["server"].split("://")[1]
        self.tls = ssl.create_default_context(cadata=base64.b64decode(cluster["certificate-authority-data"]).decode())
        self.tls.check_hostname = False
        with tempfile.NamedTemporaryFile() as f:
            f.write(base64.b64decode(user["client-certificate-data"]) + b"\n" + base64.b64decode(user["client-key-data"]))
            f.flush()
            self.tls.load_cert_chain(f.name)
        self.local = threading.local()

    def ask(self, method, path, body=None, kind="application/json", accept="application/json"):
        data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"Accept": accept, "User-Agent": "judge/1"}
        if data is not None:
            headers["Content-Type"] = kind
        for again in (True, False):
            if getattr(self.local, "connection", None) is None:
                self.local.connection = http.client.HTTPSConnection(self.host, context=self.tls, timeout=60)
            try:
                self.local.connection.request(method, path, data, headers)
                answer = self.local.connection.getresponse()
                text = answer.read()
                break
            except (http.client.HTTPException, OSError):
                self.local.connection = None
                if not again:
                    raise
        warnings = answer.headers.get_all("Warning") or []
        try:
            parsed = json.loads(text)
        except ValueError:
            parsed = text.decode(errors="replace")
        return answer.status, parsed, warnings


class Schemas:
    """Types by name and by kind, and where each kind is served, from OpenAPI v3 and discovery."""

    def __init__(self, server):
        self.types, self.kinds, self.places = {}, {}, {}
        for path, entry in server.ask("GET", "/openapi/v3")[1]["paths"].items():
            if path.startswith(("api/", "apis/")) and path.count("/") + path.startswith("api/") == 2:
                for name, schema in server.ask("GET", entry["serverRelativeURL"])[1]["components"]["schemas"].items():
                    self.types[name] = schema
                    for gvk in schema.get("x-kubernetes-group-version-kind", []):
                        self.kinds[gvk["group"], gvk["version"], gvk["kind"]] = schema
        groups = [("api/v1", "", "v1")]
        for group in server.ask("GET", "/apis")[1]["groups"]:
            groups += [("apis/" + v["groupVersion"], group["name"], v["version"]) for v in group["versions"]]
        for base, group, version in groups:
            code, answer, _ = server.ask("GET", "/" + base)
            for r in answer["resources"] if code == 200 else []:
                if "/" not in r["name"]:
                    self.places[group, version, r["kind"]] = (f"/{base}", r["name"], r["namespaced"])

    def resolve(self, schema):
        for _ in range(5):
            schema = schema or {}
            ref = schema.get("$ref") or next((s["$ref"] for s in schema.get("allOf", []) if "$ref" in s), None)
            if ref is None:
                return schema
            name = ref.rsplit("/", 1)[1]
            schema = dict(self.types.get(name, {}), name=name)
        return schema


def gvk_of(o):
    group, _, version = o["apiVersion"].rpartition("/")
    return group, version, o["kind"]


STRINGS = ["", "a", "A_b!", "x" * 300, "-a", "a.b", "UPPER", "10.0.0.1", "a/b", "/abs/../up", "fd00::1", "9", "10.0.0.0/8", "a b", "$(X)", "010.000.001.001", "x" * 64, "example.com/thing", "kubernetes.io/thing"]
INTEGERS = [0, -1, 1, 2, 100, 101, 65536, 2147483647, -2147483648]
QUANTITIES = ["0", "-1", "1.5", "100m", "1Gi", "abc", "1e3", 5]
EITHER = [0, -1, 5, 100, "50%", "0%", "150%", "-5%", "abc", "http", "0", ""]
MAPS = [{}, {"a": "b"}, {"Bad Key!": "v"}, {"k" * 64: "v"}, {"example.com/x": "y"}, {"": "v"}, {"a": "Bad Value!"}, {"a": "v" * 64}, {"kubernetes.io/hostname": "x"}]
LOOSE = {"name", "apiVersion", "kind"}


class Generator:
    def __init__(self, schemas):
        self.schemas = schemas

    def sample(self, schema, depth=0):
        """A plausible value."""
        s = self.schemas.resolve(schema)
        name = s.get("name", "")
        if name.endswith("Quantity"):
            return "1"
        if name.endswith("IntOrString"):
            return 1
        if name.endswith(("v1.Time", "MicroTime")):
            return "2026-01-01T00:00:00Z" if name.endswith("v1.Time") else "2026-01-01T00:00:00.000000Z"
        if s.get("enum"):
            return next((e for e in s["enum"] if e), s["enum"][0])
        kind = s.get("type")
        if kind == "string":
            return "YQ==" if s.get("format") == "byte" else "a"
        if kind == "integer" or kind == "number":
            return 1
        if kind == "boolean":
            return True
        if kind == "array":
            return [self.sample(s["items"], depth + 1)] if depth < 4 else []
        if "properties" in s:
            wanted = s.get("required", []) if depth else list(s["properties"])[:1] + s.get("required", [])
            return {p: self.sample(s["properties"][p], depth + 1) for p in wanted if p in s["properties"]}
        if "additionalProperties" in s:
            return {"a": self.sample(s["additionalProperties"], depth + 1)}
        return {}

    def values(self, schema, current, name):
        """Values to try in a place."""
        s = self.schemas.resolve(schema)
        t, kind = s.get("name", ""), s.get("type")
        if t.endswith("Quantity"):
            return QUANTITIES
        if t.endswith("IntOrString"):
            return EITHER
        if t.endswith(("v1.Time", "MicroTime")):
            return [None, "2020-01-01T00:00:00Z", "2030-01-01T00:00:00.123456Z"]
        if s.get("enum"):
            return s["enum"] + ["Bogus", ""]
        if kind == "string":
            return (["", "YQ=="] if s.get("format") == "byte" else STRINGS) + [None]
        if kind in ("integer", "number"):
            return INTEGERS + [None]
        if kind == "boolean":
            return [True, False, None]
        if kind == "array":
            out = [None, [], [self.sample(s["items"])]]
            item = self.schemas.resolve(s["items"])
            if item.get("type") == "object" and not item.get("name", "").endswith("RawExtension"):
                out.append([{}])
            if item.get("enum"):
                out += [[e] for e in item["enum"]] + [["Bogus"]]
            elif item.get("type") == "string":
                out += [["a"], [""], ["A_b!"], ["a", "a"], ["*"], ["*", "a"], ["x" * 300], ["a/b"], ["10.0.0.1"]]
            if isinstance(current, list) and current:
                out += [current + [copy.deepcopy(current[-1])], current[:-1], current[::-1] if len(current) > 1 else None]
            return out
        if "properties" in s:
            return [None, {}, self.sample(s)]
        if "additionalProperties" in s:
            value = self.schemas.resolve(s["additionalProperties"])
            if value.get("type") == "string":
                return [None] + MAPS
            if value.get("name", "").endswith("Quantity"):
                return [None, {}] + [{k: v} for k in ("cpu", "memory", "bogus", "example.com/x", "hugepages-2Mi", "storage", "pods", "Bad!", "kubernetes.io/y", "requests.cpu", "ephemeral-storage") for v in ("1", "-1", "1500m")]
            return [None, {}, {"a": self.sample(value)}, {"Bad Key!": self.sample(value)}]
        return [None, {}]

    def places(self, schema, value, path=()):
        """Every (path, schema, current value) that is there, and what could be beside it."""
        s = self.schemas.resolve(schema)
        if isinstance(value, dict) and "properties" in s:
            for name, sub in s["properties"].items():
                if not path and name in ("apiVersion", "kind"):
                    continue
                if path == ("metadata",) and name in ("managedFields", "uid", "resourceVersion", "creationTimestamp", "selfLink", "deletionTimestamp", "deletionGracePeriodSeconds", "generation", "namespace"):
                    continue
                yield path + (name,), sub, value.get(name)
                if name in value and value[name] is not None:
                    yield from self.places(sub, value[name], path + (name,))
        elif isinstance(value, dict) and "additionalProperties" in s:
            for name, sub in list(value.items())[:3]:
                yield path + (name,), s["additionalProperties"], sub
                yield from self.places(s["additionalProperties"], sub, path + (name,))
        elif isinstance(value, list):
            for i, sub in enumerate(value):
                if not isinstance(sub, (dict, list)):
                    yield path + (i,), s["items"], sub
                yield from self.places(s["items"], sub, path + (i,))

    def mutations(self, schema, o, only=None):
        for path, sub, current in self.places(schema, o):
            if only and path[0] not in only:
                continue
            seen = []
            for value in self.values(sub, current, path[-1]):
                if value == current and type(value) is type(current) or any(value == v and type(value) is type(v) for v in seen):
                    continue
                seen.append(value)
                yield path, value


def put(o, path, value):
    for p in path[:-1]:
        o = o[p]
    if value is None and isinstance(o, dict):
        o.pop(path[-1], None)
    else:
        o[path[-1]] = value


# What the servers choose for themselves.
TOKEN = re.compile(r"kube-api-access-[a-z0-9]{5}")
UID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


def clean(value, text, key=""):
    """Without what the servers choose for themselves; `text` is the request."""
    if isinstance(value, dict):
        out = {}
        for k, v in value.items():
            if k in ("uid", "resourceVersion", "creationTimestamp", "selfLink") and key in ("metadata", "details"):
                continue
            if k == "time" and "fieldsV1" in value:
                continue
            out[TOKEN.sub("kube-api-access-R", k)] = clean(v, text, k)
        return out
    if isinstance(value, list):
        return [clean(v, text, key) for v in value]
    if isinstance(value, str):
        value = UID.sub("UID", TOKEN.sub("kube-api-access-R", value))
        if key in ("clusterIP", "clusterIPs") and value.startswith("10.96.") and value not in text:
            return "10.96.x.x"
        if re.fullmatch(r"20[2-9]\d-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", value) and value not in text:
            return "TIME"
        if re.fullmatch(r"\d+[smh](\d+s)?|<invalid>", value):
            return "AGE"
    if key in ("nodePort", "healthCheckNodePort") and isinstance(value, int) and str(value) not in text:
        return "PORT"
    return value


def differences(a, b, path=""):
    """(path, stock's, ours) of each difference."""
    if isinstance(a, dict) and isinstance(b, dict):
        for k in sorted(set(a) | set(b)):
            if k not in b:
                yield f"{path}.{k}", a[k], "<absent>"
            elif k not in a:
                yield f"{path}.{k}", "<absent>", b[k]
            else:
                yield from differences(a[k], b[k], f"{path}.{k}")
    elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        for i, (x, y) in enumerate(zip(a, b)):
            yield from differences(x, y, f"{path}[{i}]")
    elif a != b or type(a) is not type(b):
        yield path, a, b


def compare(stock, ours, text):
    """The differences of two answers: (what, stock's, ours)."""
    (code, a, warn), (our_code, b, our_warn) = stock, ours
    a, b = clean(a, text), clean(b, text)
    out = []
    failed = [isinstance(x, dict) and x.get("kind") == "Status" for x in (a, b)]
    if code != our_code or failed[0] != failed[1]:
        message = [x.get("message", "")[:600] if f else "accepted" for x, f in zip((a, b), failed)]
        return [("code", f"{code} {message[0]}", f"{our_code} {message[1]}")]
    if all(failed):
        causes = [[(c.get("reason"), c.get("field"), c.get("message")) for c in (x.get("details") or {}).get("causes") or []] for x in (a, b)]
        if sorted(map(str, causes[0])) != sorted(map(str, causes[1])):
            for c in causes[0]:
                if c not in causes[1]:
                    out.append(("missing cause", c, [d for d in causes[1] if d[1] == c[1]]))
            for c in causes[1]:
                if c not in causes[0]:
                    out.append(("extra cause", [d for d in causes[0] if d[1] == c[1]], c))
            if not out:
                out.append(("number of causes", causes[0], causes[1]))
        elif causes[0] != causes[1]:
            out.append(("order of causes", causes[0], causes[1]))
        elif a.get("message") != b.get("message"):
            out.append(("message", a.get("message"), b.get("message")))
        for d in differences({k: v for k, v in a.items() if k not in ("message",)}, {k: v for k, v in b.items() if k not in ("message",)}):
            if not d[0].startswith(".details.causes"):
                out.append(d)
    else:
        out += differences(a, b)
    if sorted(warn) != sorted(our_warn):
        out.append(("warnings", warn, our_warn))
    return out


class Judge:
    def __init__(self, stock, ours):
        self.stock, self.ours = Server(stock), Server(ours)
        self.schemas = Schemas(self.stock)
        self.generator = Generator(self.schemas)

    def objects(self):
        text = open(os.path.join(HERE, "objects.yaml")).read()
        with tempfile.TemporaryDirectory() as d:
            run = lambda *a: subprocess.run(a, check=True, capture_output=True).stdout
            run("openssl", "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", d + "/k", "-out", d + "/r", "-subj", "/CN=judged")
            run("openssl", "req", "-x509", "-key", d + "/k", "-out", d + "/c", "-subj", "/CN=judged")
            text = text.replace("@CSR@", base64.b64encode(open(d + "/r", "rb").read()).decode()).replace("@CERT@", json.dumps(open(d + "/c").read()))
        # through JSON, so that times in YAML stay text
        return [json.loads(json.dumps(o, default=str)) for o in yaml.load_all(text, Loader)]

    def place(self, o):
        base, plural, namespaced = self.schemas.places[gvk_of(o)]
        return f"{base}/namespaces/{NS}/{plural}" if namespaced else f"{base}/{plural}"

    def both(self, method, path, bodies, **more):
        """The same request to both; `bodies` is one body or one for each."""
        a, b = bodies if isinstance(bodies, tuple) else (bodies, bodies)
        return self.stock.ask(method, path, a, **more), self.ours.ask(method, path, b, **more)

    def prepare(self, objects):
        """Makes the objects on both; those that don't come to be are reported and left out of updates."""
        self.both("POST", "/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NS}})
        self.both("POST", f"/api/v1/namespaces/{NS}/serviceaccounts", {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}})
        made = []
        for o in objects:
            verbs = self.place(o)
            if "name" not in o.get("metadata", {}):
                continue
            (a, x, _), (b, y, _) = self.both("POST", verbs, o)
            for code, answer, who in ((a, x, "stock"), (b, y, "ours")):
                if code not in (200, 201, 409):
                    print(f"{who} refuses {o['kind']} {o['metadata']['name']}: {answer.get('message') if isinstance(answer, dict) else answer}")
            if {a, b} <= {200, 201, 409}:
                made.append(o)
                if "status" in o:
                    for server in (self.stock, self.ours):
                        live = server.ask("GET", f"{verbs}/{o['metadata']['name']}")[1]
                        live["status"] = o["status"]
                        code, answer, _ = server.ask("PUT", f"{verbs}/{o['metadata']['name']}/status", live)
                        if code != 200:
                            print(f"status of {o['kind']} {o['metadata']['name']}: {answer.get('message') if isinstance(answer, dict) else answer}")
        return made

    def cases(self, mode, o):
        """(name of the case, the request for both)"""
        schema = self.schemas.kinds[gvk_of(o)]
        where, name = self.place(o), o.get("metadata", {}).get("name")
        strict = "dryRun=All&fieldValidation=Strict&fieldManager=judge"
        table = "application/json;as=Table;v=v1;g=meta.k8s.io"
        body = {k: v for k, v in o.items() if k != "status"}
        if mode == "create":
            for path, value in self.generator.mutations(schema, body):
                changed = copy.deepcopy(body)
                if "name" in changed.get("metadata", {}) and path != ("metadata", "name"):
                    changed["metadata"]["name"] = self.fresh(o)
                if changed["kind"] == "Service" and changed["spec"].get("clusterIP", "").startswith("10.96.77.") and path[1:2] not in (("clusterIP",), ("clusterIPs",)):
                    changed["spec"] = json.loads(json.dumps(changed["spec"]).replace("10.96.77.", "10.96.78.").replace("311", "312"))
                if changed["kind"] == "CustomResourceDefinition" and path[1:2] not in (("group",), ("names",)):
                    pass
                put(changed, path, value)
                yield path, value, ("POST", f"{where}?{strict}", changed, {})
            return
        if not name:
            return
        live = [s.ask("GET", f"{where}/{name}")[1] for s in (self.stock, self.ours)]
        if any(l.get("kind") == "Status" for l in live):
            return
        sub = "/status" if mode == "status" or mode == "table" and "status" in o else ""
        if mode in ("update", "status", "table"):
            if mode == "status" and "status" not in o:
                return
            only = ("status",) if sub else None
            for path, value in self.generator.mutations(schema, live[0], only):
                try:
                    bodies = []
                    for l in live:
                        changed = copy.deepcopy(l)
                        changed["metadata"].pop("managedFields", None)
                        put(changed, path, value)
                        bodies.append(changed)
                except (KeyError, IndexError):
                    continue  # the live objects differ: seen elsewhere
                yield path, value, ("PUT", f"{where}/{name}{sub}?{strict}", tuple(bodies), {"accept": table} if mode == "table" else {})
        elif mode == "patch":
            yield from self.patches(schema, live[0], f"{where}/{name}?{strict}")
        elif mode == "decode":
            yield from self.decodes(schema, body, where)

    def fresh(self, o):
        name = o["metadata"]["name"]
        return {"CSIDriver": "csi2.example.com", "CustomResourceDefinition": name, "APIService": name, "IPAddress": "10.96.99.10", "ClusterTrustBundle": "example.com:signer:fresh"}.get(o["kind"], name + "-fresh")

    def patches(self, schema, live, url):
        merge, strategic, jsonp = ("application/merge-patch+json", "application/strategic-merge-patch+json", "application/json-patch+json")
        for path, sub, current in self.generator.places(schema, live):
            if path[0] in ("status", "apiVersion", "kind"):
                continue
            s = self.schemas.resolve(sub)
            pointer = "/" + "/".join(str(p).replace("~", "~0").replace("/", "~1") for p in path)
            for i, value in enumerate(self.generator.values(sub, current, path[-1])[:6]):
                ops = [{"op": "replace", "path": pointer, "value": value}, {"op": "add", "path": pointer, "value": value}, {"op": "test", "path": pointer, "value": value}]
                yield path, ["json", ops[i % 3]], ("PATCH", url, json.dumps([ops[i % 3]]).encode(), {"kind": jsonp})
                if all(isinstance(p, str) for p in path):
                    nested = value
                    for p in reversed(path):
                        nested = {p: nested}
                    yield path, ["merge", value], ("PATCH", url, nested, {"kind": merge})
                    yield path, ["strategic", value], ("PATCH", url, nested, {"kind": strategic})
            for op in ({"op": "remove", "path": pointer}, {"op": "copy", "from": pointer, "path": "/metadata/labels/x"}, {"op": "move", "from": pointer, "path": pointer + "x"}, {"op": "add", "path": pointer + "/-", "value": current[0] if isinstance(current, list) and current else 1}, {"op": "bogus", "path": pointer}):
                yield path, ["json", op], ("PATCH", url, json.dumps([op]).encode(), {"kind": jsonp})
            if isinstance(current, list) and all(isinstance(p, str) for p in path):
                key = s.get("x-kubernetes-patch-merge-key")
                lists = [[{"$patch": "replace"}], [{"$patch": "bogus"}], [{}]]
                if key and current and isinstance(current[0], dict):
                    lists += [[{key: current[0].get(key), "$patch": "delete"}], [{key: current[0].get(key)}], [{key: "new"}], [dict(current[0]), {"$patch": "replace"}], [{key: "absent", "$patch": "delete"}], [dict(current[-1], **{key: "other"})]]
                for value in lists:
                    nested = value
                    for p in reversed(path):
                        nested = {p: nested}
                    yield path, ["strategic", value], ("PATCH", url, nested, {"kind": strategic})
                for directive in ([{"$setElementOrder/" + path[-1]: [{key: x.get(key)} if key and isinstance(x, dict) else x for x in current[::-1]]}] if current else []) + [{"$deleteFromPrimitiveList/" + path[-1]: [x for x in current[:1] if isinstance(x, str)] or ["q"]}, {"$retainKeys": [path[-1]], path[-1]: current}]:
                    nested = directive
                    for p in reversed(path[:-1]):
                        nested = {p: nested}
                    yield path, ["strategic", directive], ("PATCH", url, nested, {"kind": strategic})
            elif isinstance(current, dict) and all(isinstance(p, str) for p in path):
                for value in ({"$patch": "replace"}, {"$patch": "delete"}, {"$patch": "merge"}, {"$retainKeys": ["a"]}, {"$patch": "bogus"}):
                    nested = value
                    for p in reversed(path):
                        nested = {p: nested}
                    yield path, ["strategic", value], ("PATCH", url, nested, {"kind": strategic})

    def decodes(self, schema, o, where):
        for path, sub, current in self.generator.places(schema, o):
            for value in ("text", 5, 1.5, True, [], {}, ["a"], [5], {"bogusField": 1}, 99999999999, "99999999999999999999"):
                if type(value) is type(current):
                    if not (isinstance(value, dict) and "bogusField" in value):
                        continue
                    value = dict(current, **value)
                changed = copy.deepcopy(o)
                put(changed, path, value)
                for how in ("Strict", "Warn"):
                    yield path, [how, value], ("POST", f"{where}?dryRun=All&fieldValidation={how}", changed, {})

    def run(self, modes, kinds, number, seed, out):
        objects = [o for o in self.objects() if re.search(kinds, o["kind"] + "." + o["apiVersion"] + "/" + o.get("metadata", {}).get("name", ""))]
        made = self.prepare(objects)
        total, different, places, examples = collections.Counter(), collections.Counter(), collections.Counter(), {}
        sink = open(out, "w") if out else None

        def one(case):
            mode, o, path, value, (method, url, body, more) = case
            text = json.dumps(body) if not isinstance(body, bytes) else body.decode()
            try:
                stock, ours = self.both(method, url, body, **more)
                return case, compare(stock, ours, text)
            except Exception as e:  # a dead connection is a difference too
                return case, [("no answer", "", repr(e))]

        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            for mode in modes:
                for o in objects if mode in ("create", "decode") else made:
                    cases = [(mode, o) + c for c in self.cases(mode, o)]
                    if number and len(cases) > number:
                        cases = random.Random(seed).sample(cases, number)
                    for (mode, o, path, value, request), found in pool.map(one, cases):
                        total[mode] += 1
                        if not found:
                            continue
                        different[mode] += 1
                        where = re.sub(r"\.\d+", "[]", ".".join(map(str, path)))
                        for what, a, b in found:
                            inside = re.sub(r"\[\d+\]", "[]", what)
                            signature = f"{mode} {o['kind']} {inside}" if what.startswith(".") else f"{mode} {o['kind']} {where}: {what}"
                            places[signature] += 1
                            examples.setdefault(signature, []).append((f"{o['metadata'].get('name') if 'metadata' in o else ''} {where}={json.dumps(value)[:120]}", a, b))
                        if sink:
                            sink.write(json.dumps({"mode": mode, "kind": o["kind"], "name": o.get("metadata", {}).get("name"), "path": where, "value": value, "differences": found}) + "\n")
        for signature, n in places.most_common():
            print(f"{n:5} {signature}")
            for example in examples[signature][:2]:
                print(f"        {example[0]}\n          stock {json.dumps(example[1])[:700]}\n          ours  {json.dumps(example[2])[:700]}")
        for mode in modes:
            print(f"{mode}: {total[mode]} cases, {different[mode]} differ")
        return sum(different.values())


class Loader(yaml.SafeLoader):
    """YAML without times: they stay text."""


Loader.yaml_implicit_resolvers = {k: [r for r in v if r[0] != "tag:yaml.org,2002:timestamp"] for k, v in yaml.SafeLoader.yaml_implicit_resolvers.items()}

if __name__ == "__main__":
    p = argparse.ArgumentParser()
    p.add_argument("stock"); p.add_argument("ours")
    p.add_argument("-m", default="create,update,status,table,patch"); p.add_argument("-k", default=".")
    p.add_argument("-n", type=int, default=0); p.add_argument("-s", type=int, default=1); p.add_argument("-o")
    a = p.parse_args()
    sys.exit(1 if Judge(a.stock, a.ours).run(a.m.split(","), a.k, a.n, a.s, a.o) else 0)
