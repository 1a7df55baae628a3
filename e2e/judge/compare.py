#!/usr/bin/env python3
"""compare.py STOCK-KUBECONFIG OUR-KUBECONFIG [-m create,update,status,request,table,patch,decode,deep,deepstatus] [-k REGEX] [-n CASES-A-KIND] [-s SEED] [-o FILE]

The same requests to a stock kube-apiserver and to ours; the answers are compared field by field. Objects come from objects.yaml; each case
changes one field of one to a usual, an edge or an invalid value, found by the stock server's OpenAPI; `deep` and `deepstatus` fill what is not there
with everything that it may have, and change one field of that. Everything is a dry run but the
making of the objects themselves. Warnings are compared like answers. Prints how many cases differ, and the differences by place, most
frequent first; -o gets every case as a line of JSON. What differs for a known reason (EXPLAINED) is counted for itself. Ends with 1 if there
are differences without a reason."""
import argparse, base64, collections, concurrent.futures, copy, json, os, random, re, subprocess, sys, tempfile, time
import yaml

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from server import Server

NS = "judge"
HERE = os.path.dirname(os.path.abspath(__file__))


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
# What strings are where everything is filled, by the field's name or its last word.
USUAL = {"expression": "true", "valueExpression": "'a'", "messageExpression": "'a'", "apiVersion": "v1", "kind": "Pod", "path": "a", "mountPath": "/a", "ip": "10.1.2.3", "podIP": "10.1.2.3", "hostIP": "10.1.2.4", "url": "https://a.example.com/a", "image": "i", "driver": "a.example.com", "operator": "Exists", "effect": "NoSchedule", "status": "True",
         "signerName": "a.example.com/a", "keyType": "ED25519", "type": "A", "fsType": "ext4", "cidr": "10.0.0.0/24", "resource": "cpu", "fieldPath": "metadata.name", "apiGroup": "example.com", "namespace": "judge", "topologyKey": "kubernetes.io/hostname", "domain": "example.com"}


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

    def full(self, schema, name="", depth=0, above=()):
        """A value with everything in it; of alternatives (types that end in the same word) the first."""
        s = self.schemas.resolve(schema)
        if s.get("name") in above or depth > 7:
            return None
        if s.get("type") == "array":
            item = self.full(s["items"], name, depth + 1, above)
            return [] if item is None else [item]
        if "properties" in s and not s.get("name", "").endswith(("Quantity", "IntOrString", "Time", "RawExtension", "FieldsV1")):
            out, words = {}, set()
            for p, sub in s["properties"].items():
                word = self.word(sub)
                if word in words:
                    continue
                value = self.full(sub, p, depth + 1, above + ((s["name"],) if "name" in s else ()))
                if value is not None:
                    out[p] = value
                    words.update({word} - {None})
            return out
        if s.get("type") == "object" and isinstance(s.get("additionalProperties"), dict):
            value = self.full(s["additionalProperties"], name, depth + 1, above)
            return {} if value is None else {"cpu" if self.schemas.resolve(s["additionalProperties"]).get("name", "").endswith("Quantity") else "a": value}
        if s.get("type") == "string" and not s.get("enum") and s.get("format") != "byte":
            return USUAL.get(name, USUAL.get(re.sub(r".*[a-z](?=[A-Z])", "", name).lower(), "a"))
        return self.sample(schema)

    def word(self, schema):
        """The last word of the type of an alternative: Source, Action, Projection; None of other types."""
        s = self.schemas.resolve(schema)
        found = re.search(r"(Source|Action|Projection|MetricStatus)$", s.get("name", "")) if "properties" in s else None
        return found and found[0]

    def depths(self, schema, o, only=None):
        """(path, value, siblings to take away) of what is not there, with everything in it, and then with one change inside."""
        seen = set()
        for path, sub, current in self.places(schema, o):
            if only and path[0] not in only or path[0] == "status" and not only or current not in (None, {}, []):
                continue
            value = self.full(sub, path[-1])
            if not value or not isinstance(value, (dict, list)):
                continue
            word, away = self.word(sub), []
            if word:
                above = schema
                for p in path[:-1]:
                    s = self.schemas.resolve(above)
                    above = s["items"] if isinstance(p, int) else s.get("properties", {}).get(p) or s.get("additionalProperties")
                away = [p for p, other in self.schemas.resolve(above)["properties"].items() if p != path[-1] and self.word(other) == word]
            yield path, value, away
            # The inside of a type once in the same kind of place.
            where = self.schemas.resolve(sub).get("name") or tuple(p for p in path if isinstance(p, str))[-2:]
            if where in seen:
                continue
            seen.add(where)
            for inner, change in self.mutations({"properties": {"x": sub}}, {"x": value}):
                if inner == ("x",):
                    continue
                changed = {"x": copy.deepcopy(value)}
                put(changed, inner, change)
                yield path + inner[1:], changed["x"], away

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


def put(o, path, value, keep=False):
    """Sets a value; None takes it away, or with `keep` is null."""
    for p in path[:-1]:
        o = o[p]
    if value is None and isinstance(o, dict) and not keep:
        o.pop(path[-1], None)
    else:
        o[path[-1]] = value


def deepen(o, path, value, away):
    """Sets a value whose path may go on inside of it, without its alternatives."""
    for p in path:
        if not (isinstance(o, dict) and p in o and o[p] not in (None, {}, [])) and not (isinstance(o, list) and isinstance(p, int)):
            break
        o = o[p]
    else:
        return
    o[p] = value
    for other in away:
        o.pop(other, None)


EMPTY = "an empty list or map and none are the same here, as they are in the store"
# Differences with a reason: an expression for "MODE KIND PATH: WHAT", one for the stock server's part, one for ours, and the reason.
EXPLAINED = [
    (r"CustomResourceDefinition .*: no answer", r"", r"", "the stock server panics and drops the connection (nil dereference in cel.ValidFieldPath)"),
    (r"[eE]xpression|messageExpression|\.cel\b|selectors|\.rule\b|x-kubernetes-validations", r"Syntax error", r"Syntax error", "the texts of cel-go's generated parser for what does not parse at all"),
    (r"(update|status) HorizontalPodAutoscaler .*managedFields", r"", r"", "whose the annotations are that v1 keeps the rest of a status in: a status written through v1 does not take them over"),
    (r'request body .*"yaml"', r"yaml: ", r"yaml: ", "the texts of Go's YAML parser"),
    (r'request body .*"accept"', r"406: Not Acceptable", r"", "go-restful's own answer to a media type it does not know"),
    (r'request body .*"accept".*details', r"", r"", "go-restful's own answer to a media type it does not know"),
    (r'request body .*"twice inside"', r"", r"", "of a map that is there twice ours takes the last, Go both together"),
    (r'(request|patch) .*: (missing|extra) cause', r"Invalid value: \\+\"\{", r"Invalid value: \\+\"\{", "the patched document in the text: Go has the order of structs"),
    (r'request list "(limit=1&)?continue=', r"illegal base64", r"", "the texts of Go's base64 decoder, and which option is looked at first"),
    (r"patch ControllerRevision", r"data: |\"data\"|accepted|\[\]", r"", "upstream takes the data of a patched revision for other data: it compares the text, which a patch sorts"),
    (r"patch ResourceClaim", r"spec: Invalid value: null|\"spec\"", r"", "upstream takes the parameters of a patched claim for other parameters: it compares the text, which a patch sorts"),
    (r"(patch|update) Pod .*: (missing|extra) cause", r"", r"kube-api-access-R", "a volume whose name each server chooses"),
    (r"(PersistentVolume|request) .*lastPhaseTransitionTime", r"", r"", "when each server found the volume"),
    (r"(update|table|patch) APIService .*lastTransitionTime", r"", r"", "when each server found the service"),
    (r"emptylist( empty)?: code", r"", r"accepted|already exists", EMPTY),
    (r"emptylist( empty)?: (missing cause|code)", r"cannot be set|may not be|must be|must not|only one of|Forbidden", r"", EMPTY),
    (r"request (ControllerRevision|ResourceClaim|DeviceClass) body .*patch", r"immutable|^2$", r"", "upstream takes the data or parameters of a patched object for others: it compares the text, which a patch sorts"),
    (r"request (ControllerRevision|ResourceClaim|DeviceClass) patch", r"immutable|^2$", r"", "upstream takes the data or parameters of a patched object for others: it compares the text, which a patch sorts"),
    (r"request ResourceClaim patch", r"Invalid value: null: field is immutable", r"", "upstream takes the parameters of a patched claim for other parameters: it compares the text, which a patch sorts"),
    (r"patch DeviceClass .*generation", r"", r"", "upstream takes the parameters of a patched class for other parameters: it compares the text, which a patch sorts"),
    (r"spec.capacity: (missing|extra) cause", r"", r"supported values", "an empty map and none are the same here"),
    (r"template.metadata.labels.*: (missing|extra) cause", r"selector. does not match", r"selector. does not match", "an empty map and none are the same here"),
    (r"CustomResourceDefinition .*cause", r"Invalid value: \\*\[?\{", r"", "JSON schemas printed whole, as Go's internal type"),
    (r"Secret .*[dD]ata", r"invalid character|unexpected end", r"", "the texts of Go's JSON parser for a Secret that is not JSON"),
    (r": no answer", r'^"stock [^;]*"$', r"", "the stock server panics and drops the connection"),
    (r"empty(list)?: .*(managedFields|generation)", r"", r"", EMPTY),
    (r"policies empty: code", r"must specify at least one Policy", r"accepted", EMPTY),
    (r"^decode ", r"of type map\[|TypeMeta", r"of type ", "Go's names of types in a decoder's text"),
    (r"(create|request) TokenReview .*status", r"", r"", "what a review's sender says of its status"),
    (r"typeChecking.*fieldRef", r"invalid JSONPath", r"", "paths of type checking's warnings, which ours does not parse"),
    (r"(request|decode) Event", r"", r"", "the order in which an event's metadata is looked at, and owners in the version of the other group"),
    (r"overhead: code", r"Pod Overhead set without corresponding", r"accepted", EMPTY),
    (r"table IPAddress .*cells", r"AGE", r"", "upstream's rows have an age that no column names: nobody shows it"),
    (r"table Service .*cells", r"\d+:\d{4,5}/TCP", r"", "ports that each server chooses"),
]
EXPLAINED = [(re.compile(a), re.compile(b), re.compile(c), why) for a, b, c, why in EXPLAINED]


def explanation(where, a, b):
    if empties(a, b):
        return EMPTY
    a, b = json.dumps(a), json.dumps(b)
    # Of requests the kind does not always matter.
    places = (where, re.sub(r"^request \w+ ", "request ", where))
    return next((why for place, stock, ours, why in EXPLAINED if any(map(place.search, places)) and stock.search(a) and ours.search(b)), None)


def empties(a, b):
    """Whether two texts, or a cause and those of the other side, differ in nothing but empty lists and maps printed as null."""
    plain = lambda v: re.sub(r'(: ?)(\[\]|\{\}|null)', r"\1null", v if isinstance(v, str) else json.dumps(v))
    texts = lambda v: [c[2] for c in v] if isinstance(v, list) and all(isinstance(c, list) and len(c) == 3 for c in v) else [v[2]] if isinstance(v, list) and len(v) == 3 else [v] if isinstance(v, str) else []
    x, y = texts(listed(a)), texts(listed(b))
    return any(re.search("(Invalid value|Unsupported value|Forbidden): ", t) for t in x + y if isinstance(t, str)) and any(plain(s) == plain(t) and s != t for s in x for t in y)


def listed(value):
    return [listed(v) for v in value] if isinstance(value, (list, tuple)) else value


# What the servers choose for themselves.
TOKEN = re.compile(r"kube-api-access-[a-z0-9]{5}")
SCHEME = re.compile(r'in scheme "[^"]*"')
CERTIFICATE = re.compile(r"X509SHA256=[0-9a-f]{64}")
NOW = re.compile(r'20[2-9]\d-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z')
UID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


def clean(value, text, key=""):
    """Without what the servers choose for themselves; `text` is the request."""
    if isinstance(value, dict):
        out = {}
        for k, v in value.items():
            if k in ("uid", "resourceVersion", "creationTimestamp", "selfLink") and key in ("metadata", "details"):
                # That they are there is told.
                given = isinstance(v, str) and (k == "creationTimestamp" and v or k == "uid" and UID.fullmatch(v) or k == "resourceVersion" and v.isdigit())
                out[k] = "GIVEN" if given else v
                continue
            if k == "time" and "fieldsV1" in value:
                continue
            out[TOKEN.sub("kube-api-access-R", k)] = clean(v, text, k)
        return out
    if isinstance(value, list):
        return [clean(v, text, key) for v in value]
    if isinstance(value, str):
        value = CERTIFICATE.sub("X509SHA256=X", UID.sub("UID", TOKEN.sub("kube-api-access-R", value)))
        # Where the scheme was made is a matter of the build; generated names are chosen.
        value = SCHEME.sub('in scheme "S"', value)
        if "generateName" in text:
            value = re.sub(r"\b((?:A|a-|a/|x{50,}))[bcdfghjklmnpqrstvwxz2456789]{5}\b", r"\1RANDOM", value)
        value = re.sub(r"in record \(\d+\)", "in record (N)", value)
        if key == "message":
            value = NOW.sub(lambda found: found[0] if found[0] in text else "TIME", value)
        if key in ("clusterIP", "clusterIPs") and value.startswith("10.96.") and value not in text:
            return "10.96.x.x"
        if re.fullmatch(r"20[2-9]\d-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", value) and value not in text:
            return "TIME"
        if re.fullmatch(r"\d+[smh](\d+s)?|<invalid>", value):
            return "AGE"
    if key in ("nodePort", "healthCheckNodePort") and isinstance(value, int) and str(value) not in text:
        return "PORT"
    return value


def canonical(answer):
    """Without an order that upstream leaves to chance: that of rules found in bindings."""
    if isinstance(answer, dict) and answer.get("kind") == "SelfSubjectRulesReview":
        for rules in ("resourceRules", "nonResourceRules"):
            answer.get("status", {}).get(rules, []).sort(key=lambda rule: json.dumps(rule, sort_keys=True))
    return answer


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
    a, b = canonical(clean(a, text)), canonical(clean(b, text))
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

    def learn(self, objects):
        """Waits for the stock server to serve and describe these kinds."""
        for _ in range(50):
            self.schemas = self.generator.schemas = Schemas(self.stock)
            if all(gvk_of(o) in self.schemas.kinds and gvk_of(o) in self.schemas.places for o in objects):
                return
            time.sleep(0.2)

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
        if mode == "request":
            yield from self.requests(schema, body, where, name)
            return
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
        if mode == "deep":
            for path, value, away in self.generator.depths(schema, body):
                changed = copy.deepcopy(body)
                if "name" in changed.get("metadata", {}):
                    changed["metadata"]["name"] = self.fresh(o)
                deepen(changed, path, value, away)
                yield path, value, ("POST", f"{where}?{strict}", changed, {})
            return
        if not name:
            return
        live = [s.ask("GET", f"{where}/{name}")[1] for s in (self.stock, self.ours)]
        if any(l.get("kind") == "Status" for l in live):
            return
        sub = "/status" if mode == "status" or mode == "table" and "status" in o else ""
        if mode == "deepstatus":
            for path, value, away in self.generator.depths(schema, dict(live[0], status=live[0].get("status") or {}), ("status",)):
                bodies = []
                for l in live:
                    changed = copy.deepcopy(l)
                    changed.setdefault("status", {})
                    changed["metadata"].pop("managedFields", None)
                    deepen(changed, path, value, away)
                    bodies.append(changed)
                yield path, value, ("PUT", f"{where}/{name}/status?{strict}", tuple(bodies), {})
            return
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

    def requests(self, schema, o, where, name):
        """What is wrong with the request rather than with a value: its body, names, versions, preconditions, options."""
        dry = "dryRun=All&fieldManager=judge"
        fresh = copy.deepcopy(o)
        if name:
            fresh["metadata"]["name"] = self.fresh(o)
        text = json.dumps(fresh)

        def post(label, body, query=dry, **more):
            return ("body",), label, ("POST", f"{where}?{query}", body if isinstance(body, (bytes, dict, list)) else str(body).encode(), more)

        def changed(path, value, of=fresh):
            out = copy.deepcopy(of)
            place = out
            for p in path[:-1]:
                place = place.setdefault(p, {})
            if value is None:
                place.pop(path[-1], None)
            else:
                place[path[-1]] = value
            return out

        inner = next((k for k, v in fresh.items() if isinstance(v, dict) and k != "metadata"), "metadata")
        for how in ("Strict", "Warn", "Ignore", "", "Bogus"):
            query = f"{dry}&fieldValidation={how}"
            yield post(["unknown", how], changed(["bogusField"], 1), query)
            yield post(["unknown inside", how], changed([inner, "bogusField"], {"a": 1}), query)
            yield post(["unknown in metadata", how], changed(["metadata", "bogusField"], "x"), query)
            yield post(["twice", how], text[:-1] + ', "metadata": ' + json.dumps(fresh.get("metadata", {})) + "}", query)
            yield post(["twice inside", how], text.replace('"metadata": {', '"metadata": {"labels": {"a": "b", "a": "c"}, "labels": {}, ', 1), query)
            yield post(["other case", how], text.replace('"metadata"', '"Metadata"', 1), query)
            if name:
                yield ("body",), ["patch unknown", how], ("PATCH", f"{where}/{name}?{query}", {inner: {"bogusField": 1}, "otherField": 2}, {"kind": "application/merge-patch+json"})
                yield ("body",), ["patch twice", how], ("PATCH", f"{where}/{name}?{query}", b'{"metadata": {"labels": {"a": "b"}}, "metadata": {"labels": {"a": "c"}}}', {"kind": "application/merge-patch+json"})
        for label, body in (("empty", ""), ("null", "null"), ("list", "[]"), ("text", '"x"'), ("number", "5"), ("cut", text[:-5]), ("trailing", text + "x"), ("object behind", text + "{}"), ("no object", "{}"), ("garbage", "\x00\x01"), ("comment", "/*" + text)):
            yield post(label, body)
            yield post([label, "yaml"], body, kind="application/yaml")
        for kind in ("text/plain", "application/xml", "", "application/json; charset=utf-8", "application/vnd.kubernetes.protobuf", "application/merge-patch+json"):
            yield post(["content type", kind], fresh, kind=kind)
        for accept in ("text/plain", "application/xml", "*/*", "application/yaml", "application/json;as=Table;v=v2;g=meta.k8s.io", "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io", "application/json;stream=watch"):
            if accept != "application/yaml":
                yield post(["accept", accept], fresh, accept=accept)
        for path, values in {
            ("apiVersion",): ["v2", "apps/v9", "", 5, None, "a/b/c"],
            ("kind",): ["Bogus", "", 5, None, "Pod", "ConfigMap"],
            ("metadata", "name"): ["", 5, None, "A", "x" * 64, "x" * 254, "a/b", "..", "%", "a b", "-a", "a."],
            ("metadata", "generateName"): ["a-", "x" * 250, "A", "a/", 5],
            ("metadata", "namespace"): ["other", "", 5, "A b"],
            ("metadata", "uid"): ["u", "x" * 300],
            ("metadata", "resourceVersion"): ["0", "5", "abc", ""],
            ("metadata", "generation"): [5, -1, "a"],
            ("metadata", "creationTimestamp"): ["2020-01-01T00:00:00Z", "yesterday", 5, ""],
            ("metadata", "deletionTimestamp"): ["2020-01-01T00:00:00Z"],
            ("metadata", "deletionGracePeriodSeconds"): [5, "a"],
            ("metadata", "selfLink"): ["/x"],
            ("metadata", "labels"): [{"a": 1}, {"a": None}, {"a": True}, [], "a", {"a": {}}, {"k" * 70: "v"}, {"a/b/c": "v"}, {"A.b/c": "v"}, {"a": "v" * 64}, {"a": "-"}],
            ("metadata", "annotations"): [{"a": 1}, {"a": "x" * 262145}, {"A/b": "x"}, {"a b": "x"}, []],
            ("metadata", "finalizers"): [["a"], ["a/b", "a/b"], ["a b/c"], [5], "a", ["kubernetes"], ["x" * 64 + "/a"]],
            ("metadata", "ownerReferences"): [[{}], [{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u"}] * 2, [{"apiVersion": "a/b/c", "kind": "K", "name": "n", "uid": "u"}], [{"apiVersion": "v1", "kind": "Event", "name": "n", "uid": "u"}], [{"apiVersion": "v1", "kind": "A", "name": "n", "uid": "u", "controller": True}, {"apiVersion": "v1", "kind": "B", "name": "n", "uid": "v", "controller": True}], [{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u", "blockOwnerDeletion": "yes"}]],
            ("metadata", "managedFields"): [[{}], [{"manager": "a"}], [{"manager": "a", "operation": "Update", "apiVersion": "v1", "fieldsType": "FieldsV1", "fieldsV1": {"f:x": {}}}], [{"manager": "a", "operation": "Bogus", "apiVersion": "v1", "fieldsType": "FieldsV1", "fieldsV1": {}}], []],
            ("status",): [{}, "a", 5, [], {"bogusField": 1}],
        }.items():
            for value in values:
                body = changed(path, value)
                if path == ("metadata", "generateName"):
                    body["metadata"].pop("name", None)
                yield post([".".join(path), value if len(json.dumps(value)) < 300 else "long"], body, dry + "&fieldValidation=Strict")
        for query in ("dryRun=Bogus", "dryRun=All&dryRun=All", "dryRun=All&fieldManager=" + "x" * 129, "dryRun=All&fieldManager=%07", "dryRun=All&fieldManager=", "dryRun=All&pretty=true", "dryRun=All&timeout=bogus", "dryRun=All&timeout=-1s", "dryRun=All&unknown=1"):
            yield post(["query", query[:60]], fresh, query)
        if not name:
            return
        url = f"{where}/{name}"
        live = [s.ask("GET", url)[1] for s in (self.stock, self.ours)]
        if any(l.get("kind") == "Status" for l in live):
            return

        def put_(label, change, target=url, query=dry, **more):
            bodies = []
            for l in live:
                body = copy.deepcopy(l)
                body["metadata"].pop("managedFields", None)
                bodies.append(change(body) or body)
            return ("update",), label, ("PUT", f"{target}?{query}", tuple(bodies), more)

        def meta(key, value):
            def change(body):
                if value is None:
                    body["metadata"].pop(key, None)
                else:
                    body["metadata"][key] = value
            return change

        for key, values in {"name": ["other", "", None], "namespace": ["other", "", None], "uid": ["00000000-0000-0000-0000-000000000000", "", None], "resourceVersion": ["1", "0", "abc", "", None, "99999999"], "generation": [99, 0, None], "creationTimestamp": ["2020-01-01T00:00:00Z", None], "deletionTimestamp": ["2020-01-01T00:00:00Z"], "deletionGracePeriodSeconds": [5], "selfLink": ["/x"]}.items():
            for value in values:
                yield put_([key, value], meta(key, value))
        for key, values in {"apiVersion": ["v9", "", "apps/v9"], "kind": ["Bogus", ""]}.items():
            for value in values:
                yield put_([key, value], lambda body, key=key, value=value: body.update({key: value}))
        yield put_(["no object of this name"], lambda body: body["metadata"].update(name="absent"), f"{where}/absent")
        yield put_(["unknown subresource"], lambda body: None, f"{url}/bogus")
        yield put_(["same"], lambda body: None)
        yield put_(["unknown", "Strict"], lambda body: body.update(bogusField=1), query=dry + "&fieldValidation=Strict")
        yield put_(["unknown", "Warn"], lambda body: body.update(bogusField=1), query=dry + "&fieldValidation=Warn")
        if "status" in live[0]:
            yield put_(["status", "spec changes"], lambda body: body["metadata"].setdefault("labels", {}).update(x="y"), f"{url}/status")
            yield put_(["status", "wrong name"], meta("name", "other"), f"{url}/status")
        options = {"apiVersion": "v1", "kind": "DeleteOptions", "dryRun": ["All"]}
        for label, more in {
            "plain": {}, "uid": {"preconditions": {"uid": "u"}}, "version": {"preconditions": {"resourceVersion": "1"}}, "policy": {"propagationPolicy": "Bogus"},
            "both": {"propagationPolicy": "Orphan", "orphanDependents": True}, "grace": {"gracePeriodSeconds": -1}, "grace text": {"gracePeriodSeconds": "a"}, "unknown": {"bogus": 1},
            "kind": {"kind": "Bogus"}, "version of options": {"apiVersion": "v9"}, "dryRun": {"dryRun": ["Bogus"]}, "unsafe": {"ignoreStoreReadErrorWithClusterBreakingPotential": True},
        }.items():
            yield ("delete",), label, ("DELETE", f"{url}?dryRun=All", dict(options, **more), {})
        yield ("delete",), "absent", ("DELETE", f"{where}/absent?dryRun=All", None, {})
        yield ("delete",), "text", ("DELETE", f"{url}?dryRun=All", b"x", {})
        for query in ("labelSelector=a+b", "labelSelector=a%20in%20(", "fieldSelector=a", "fieldSelector=bogus.field%3Dx", "limit=-1", "limit=a", "continue=bogus", "resourceVersion=abc", "resourceVersion=-1", "resourceVersionMatch=Exact", "resourceVersionMatch=Bogus&resourceVersion=1", "resourceVersionMatch=NotOlderThan", "timeoutSeconds=a", "allowWatchBookmarks=x", "sendInitialEvents=true", "sendInitialEvents=true&watch=true&timeoutSeconds=1", "watch=bogus&timeoutSeconds=1&fieldSelector=metadata.name%3Dabsent", "limit=1&continue=a&resourceVersion=1", "includeObject=Bogus"):
            yield ("list",), query, ("GET", f"{where}?{query}&fieldSelector=metadata.name%3Dabsent" if "fieldSelector" not in query and "watch=true" not in query else f"{where}?{query}", None, {})
        yield ("get",), "absent", ("GET", f"{where}/absent", None, {})
        yield ("get",), "bogus subresource", ("GET", f"{url}/bogus", None, {})
        for verb in ("POST", "PUT", "PATCH", "DELETE"):
            yield ("verb",), [verb, "wrong place"], (verb, f"{url}?dryRun=All" if verb == "POST" else f"{where}?dryRun=All&fieldSelector=metadata.name%3Dabsent", {}, {"kind": "application/merge-patch+json"} if verb == "PATCH" else {})
        for kind in ("application/json", "text/plain", "", "application/merge-patch+json; a=b"):
            yield ("patch",), ["content type", kind], ("PATCH", f"{url}?{dry}", b"{}", {"kind": kind})
        for kind, bodies in {"application/merge-patch+json": [b"", b"null", b"[]", b"x", b'{"metadata": null}', b'{"metadata": {"name": "other"}}', b'{"kind": "Bogus"}', b'{"apiVersion": "v9"}', b'{"metadata": {"resourceVersion": "1"}}', b'{"metadata": {"uid": "u"}}', b'{"metadata": {"labels": 5}}'],
                             "application/json-patch+json": [b"", b"{}", b"[]", b"x", b"[5]", b'[{"op": "add"}]', b'[{"op": "add", "path": "a"}]', b'[{"op": "remove", "path": "/absent"}]', b'[{"op": "test", "path": "/kind", "value": "x"}]', b'[{"op": "copy", "path": "/x"}]', b'[{"op": "move", "from": "/absent", "path": "/x"}]', b'[{"op": "replace", "path": "", "value": {}}]'],
                             "application/strategic-merge-patch+json": [b"", b"null", b"[]", b"x", b'{"metadata": {"$patch": "bogus"}}', b'{"$patch": "delete"}', b'{"metadata": {"labels": 5}}'],
                             "application/apply-patch+yaml": [b"", b"x", b"{}", b"kind: Bogus", b"- a"]}.items():
            for body in bodies:
                yield ("patch",), [kind, body.decode()], ("PATCH", f"{url}?{dry}", body, {"kind": kind})

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
            for value in (None, "text", 5, 1.5, True, [], {}, ["a"], [5], {"bogusField": 1}, 99999999999, "99999999999999999999"):
                if type(value) is type(current):
                    if not (isinstance(value, dict) and "bogusField" in value):
                        continue
                    value = dict(current, **value)
                changed = copy.deepcopy(o)
                put(changed, path, value, keep=True)
                for how in ("Strict", "Warn"):
                    yield path, [how, value], ("POST", f"{where}?dryRun=All&fieldValidation={how}", changed, {})

    def run(self, modes, kinds, number, seed, out):
        objects = [o for o in self.objects() if re.search(kinds, o["kind"] + "." + o["apiVersion"] + "/" + o.get("metadata", {}).get("name", ""))]
        # A second network makes the stock server's dry runs of Services take one network or the other by chance.
        # Custom resources come after their definition.
        last = [o for o in objects if o["kind"] in ("ServiceCIDR", "Judge")]
        objects = [o for o in objects if o not in last] + last
        made = self.prepare([o for o in objects if o not in last])
        total, different, places, examples = collections.Counter(), collections.Counter(), collections.Counter(), {}
        known, reasons = collections.Counter(), collections.Counter()
        sink = open(out, "w") if out else None

        def one(case):
            mode, o, path, value, (method, url, body, more) = case
            text = json.dumps(body) if not isinstance(body, bytes) else body.decode()
            bodies = body if isinstance(body, tuple) else (body, body)
            answers, dead = [], []
            for server, sent, who in ((self.stock, bodies[0], "stock"), (self.ours, bodies[1], "ours")):
                try:
                    answers.append(server.ask(method, url, sent, **more))
                except Exception as e:  # a dead connection is a difference too
                    dead.append(f"{who} {e!r}")
            return case, [("no answer", "; ".join(dead), "")] if dead else compare(*answers, text)

        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            turns = [(mode, objects[: len(objects) - len(last)] if mode in ("create", "decode", "request", "deep") else made) for mode in modes]
            turns += [(mode, last) for mode in modes]
            for turn, (mode, some) in enumerate(turns):
                if last and turn == len(modes):
                    self.learn(last)
                    self.prepare(last)
                for o in some:
                    cases = [(mode, o) + c for c in self.cases(mode, o)]
                    if number and len(cases) > number:
                        cases = random.Random(seed).sample(cases, number)
                    for (mode, o, path, value, request), found in pool.map(one, cases):
                        total[mode] += 1
                        if not found:
                            continue
                        where = re.sub(r"\.\d+", "[]", ".".join(map(str, path)))
                        if mode == "request":
                            where = f"{path[0]} {json.dumps(value)[:90]}"
                        sent = value[1] if isinstance(value, list) and len(value) == 2 else value
                        sent = sent.get("value", sent) if isinstance(sent, dict) else sent
                        bare = sent in ([], {}) or isinstance(sent, (dict, list)) and '": []' in json.dumps(sent)
                        mark = " empty" if sent in ([], {}, "") or isinstance(sent, dict) and re.search(r": (\[\]|\{\}|\"\")\}*$", json.dumps(sent)) else ""
                        if bare:
                            mark = " emptylist" + mark
                        reason = [explanation(f"{mode} {o['kind']} {where}{mark}: {what}", a, b) for what, a, b in found]
                        if all(reason):
                            known[mode] += 1
                            reasons.update(set(reason))
                            continue
                        different[mode] += 1
                        for what, a, b in found:
                            inside = re.sub(r"\[\d+\]", "[]", what)
                            signature = f"{mode} {where}: {what}" if mode == "request" else f"{mode} {o['kind']} {inside}" if what.startswith(".") else f"{mode} {o['kind']} {where}: {what}"
                            places[signature] += 1
                            examples.setdefault(signature, []).append((f"{o['kind']} {o['metadata'].get('name') if 'metadata' in o else ''} {where}={json.dumps(value)[:120]}", a, b))
                        if sink:
                            sink.write(json.dumps({"mode": mode, "kind": o["kind"], "name": o.get("metadata", {}).get("name"), "path": where, "value": value, "differences": found}) + "\n")
        for signature, n in places.most_common():
            print(f"{n:5} {signature}")
            for example in examples[signature][:2]:
                print(f"        {example[0]}\n          stock {json.dumps(example[1])[:700]}\n          ours  {json.dumps(example[2])[:700]}")
        for mode in modes:
            print(f"{mode}: {total[mode]} cases, {different[mode]} differ, {known[mode]} more for known reasons")
        for reason, n in reasons.most_common():
            print(f"{n:5} known: {reason}")
        return sum(different.values())


class Loader(yaml.SafeLoader):
    """YAML without times: they stay text."""


Loader.yaml_implicit_resolvers = {k: [r for r in v if r[0] != "tag:yaml.org,2002:timestamp"] for k, v in yaml.SafeLoader.yaml_implicit_resolvers.items()}

if __name__ == "__main__":
    p = argparse.ArgumentParser()
    p.add_argument("stock"); p.add_argument("ours")
    p.add_argument("-m", default="create,update,status,request,table,patch"); p.add_argument("-k", default=".")
    p.add_argument("-n", type=int, default=0); p.add_argument("-s", type=int, default=1); p.add_argument("-o")
    a = p.parse_args()
    sys.exit(1 if Judge(a.stock, a.ours).run(a.m.split(","), a.k, a.n, a.s, a.o) else 0)
