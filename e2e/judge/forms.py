#!/usr/bin/env python3
"""forms.py STOCK-KUBECONFIG OUR-KUBECONFIG [-m written,read,selected,collected,applied] [-k REGEX] [-n CASES-A-KIND] [-s SEED] [-v]

compare.py's objects in the other forms that clients use. `written`: its cases of creates, updates and statuses with protobuf bodies and answers, which
upstream's Go types (translate.go) make of JSON and read again. `read`: each object, its list and its watch as JSON, YAML, protobuf, tables and metadata.
`selected`: lists by every field of each kind, supported or not. `collected`: dry runs of deletions of collections. `applied`: each object applied whole, and
with items without their keys, items that are there twice, members that are unknown and values of another type. Answers are compared field by field.
Ends with 1 if there are differences without a reason."""
import argparse, base64, collections, concurrent.futures, copy, json, os, random, re, subprocess, sys, tempfile, threading, urllib.parse
import yaml

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from compare import HERE, Judge, Loader, canonical, compare, explanation, gvk_of
from server import document

PROTO = "application/vnd.kubernetes.protobuf"
FORMS = ["application/json", "application/yaml", PROTO]
SHAPES = [";as=Table;v=v1;g=meta.k8s.io", ";as=Table;v=v1beta1;g=meta.k8s.io", ";as=PartialObjectMetadata;v=v1;g=meta.k8s.io", ";as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"]
# Differences with a reason, as in compare.py.
EXPLAINED = [
    (r"^read (Node|Lease|ServiceAccount|Namespace) .*list.*items", r"", r"", "objects of each server's own"),
    (r"^read IPAddress .*cells", r"AGE", r"", "upstream's rows have an age that no column names: nobody shows it"),
    (r"^read APIService .*lastTransitionTime", r"", r"", "when each server found the service"),
    (r"^read \w+ .*watch.*as=PartialObjectMetadataList", r"", r"", "upstream ends a watch without a word when it cannot make a list of an object"),
    (r"^collected CustomResourceDefinition .*preconditions", r"CustomResourceDefinition", r"customresourcedefinitions", "definitions have a check and words of their own for preconditions upstream"),
    (r"^collected Event .*preconditions", r"Event|absent", r"events\.k8s\.io", "events of both groups are one type upstream, which this text names without its group"),
    (r"^applied ", r"ControllerRevision.*data: Invalid value.*immutable", r"accepted", "upstream compares the text of a revision's data, from which applying takes the spaces"),
    (r"^applied .*message", r"\[[a-zA-Z]+=\w+=", r"\[[a-zA-Z]+=\{", "a key that is a map, in a text about that very fault"),
]
EXPLAINED = [(re.compile(a), re.compile(b), re.compile(c), why) for a, b, c, why in EXPLAINED]


class Translator:
    """JSON to protobuf and back, as Go's types have it."""

    def __init__(self):
        self.directory = tempfile.TemporaryDirectory()
        program = os.path.join(self.directory.name, "judge")
        subprocess.run(["go", "build", "-o", program, "."], cwd=HERE, check=True)
        self.process = subprocess.Popen([program, "translate"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.lock = threading.Lock()

    def ask(self, **what):
        with self.lock:
            self.process.stdin.write(json.dumps(what).encode() + b"\n")
            self.process.stdin.flush()
            return json.loads(self.process.stdout.readline())

    def encode(self, value):
        """Protobuf, or None if the Go type cannot hold it."""
        text = self.ask(json=value).get("protobuf")
        return base64.b64decode(text) if text else None

    def decode(self, data, watch=False):
        if not data:
            return "nothing" if not watch else []
        told = self.ask(**{"frames" if watch else "protobuf": base64.b64encode(data).decode()})
        return told.get("json", told)


class Forms(Judge):
    def __init__(self, stock, ours):
        super().__init__(stock, ours)
        self.translator = Translator()

    def send(self, server, method, path, body=None, kind="application/json", accept="application/json", **_):
        """As Server.ask; forms are read by the answer's content type."""
        headers = [("Accept", accept), ("User-Agent", "judge/1")] + ([("Content-Type", kind)] if body is not None else [])
        code, got, data = server.raw(method, path, headers, body)
        told = got.get("Content-Type", "")
        if "protobuf" in told:
            answer = self.translator.decode(data, "stream=watch" in told)
        elif "yaml" in told:
            try:
                answer = json.loads(json.dumps(yaml.load(data, Loader), default=str))
            except yaml.YAMLError as e:
                answer = str(e)
        elif "watch=" in path and "json" in told and code == 200:
            answer = [document(line) for line in data.splitlines()]
        else:
            answer = document(data)
        return code, {"type": told, "body": canonical(answer)} if code < 300 else answer, got.get_all("Warning") or []

    def forms(self, mode, o):
        """(name of the case, the requests of both)"""
        schema, where, name = self.schemas.kinds[gvk_of(o)], self.place(o), o.get("metadata", {}).get("name")
        if mode == "written":
            for how in ("create", "update", "status"):
                for path, value, (method, url, body, _) in self.cases(how, o):
                    bodies = body if isinstance(body, tuple) else (body, body)
                    yield [how, ".".join(map(str, path)), value], method, url, bodies, {"kind": PROTO, "accept": PROTO}
        elif mode == "read" and name:
            only = f"fieldSelector=metadata.name%3D{name}"
            for form in FORMS:
                for shape in [""] + SHAPES:
                    for include in [""] + (["&includeObject=Object", "&includeObject=None"] if "Table" in shape else []):
                        accept = {"accept": form + shape}
                        yield ["get", form + shape, include], "GET", f"{where}/{name}?{include}", (None, None), accept
                        yield ["list", form + shape, include], "GET", f"{where}?{only}{include}", (None, None), accept
                        if form != "application/yaml":
                            yield ["watch", form + shape, include], "GET", f"{where}?{only}&watch=1&timeoutSeconds=1&resourceVersion=0{include}", (None, None), accept
            yield ["get", "absent"], "GET", f"{where}/absent", (None, None), {"accept": PROTO}
        elif mode == "selected" and name:
            live = self.stock.ask("GET", f"{where}/{name}")[1]
            for path in ["name", "metadata.uid", "metadata.generation", "metadata.labels.app"] + [".".join(p) for p in scalars(self.schemas, schema)]:
                found = live
                for p in path.split("."):
                    found = found.get(p) if isinstance(found, dict) else None
                for value in [found if isinstance(found, str) else json.dumps(found)] + ["zzz", ""]:
                    yield ["list", path, value], "GET", f"{where}?limit=500&fieldSelector={path}%3D{urllib.parse.quote(str(value))}", (None, None), {"accept": "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"}
        elif mode == "applied" and name:
            body = {k: v for k, v in o.items() if k != "status"}
            for what, changed in self.applied(schema, body):
                for query in ("", "&force=true&fieldValidation=Strict"):
                    text = json.dumps(changed).encode()
                    yield [what, query], "PATCH", f"{where}/{name}?dryRun=All&fieldManager=forms{query}", (text, text), {"kind": "application/apply-patch+yaml"}
        elif mode == "collected" and name:
            some = f"{where}?dryRun=All&fieldSelector=metadata.name%3D"
            for options in ({}, {"gracePeriodSeconds": 0}, {"gracePeriodSeconds": 5}, {"propagationPolicy": "Foreground"}, {"propagationPolicy": "Orphan"}, {"propagationPolicy": "Bogus"}, {"preconditions": {"uid": "x"}}, {"orphanDependents": True}):
                body = json.dumps(dict(options, apiVersion="v1", kind="DeleteOptions", dryRun=["All"])).encode()
                yield ["one", options], "DELETE", some + name, (body, body), {}
                yield ["none", options], "DELETE", some + "absent", (body, body), {}
            yield ["as table"], "DELETE", some + name, (None, None), {"accept": "application/json" + SHAPES[0]}
            proto = self.translator.encode({"apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 1, "dryRun": ["All"]})
            yield ["protobuf"], "DELETE", some + name, (proto, proto), {"kind": PROTO, "accept": PROTO}

    def applied(self, schema, o):
        """(what was done, the object to apply)"""
        yield "whole", o
        for path, sub, current in self.schemas_places(schema, o):
            s = self.schemas.resolve(sub)
            variants = [("text", "a"), ("number", 5), ("list", ["a"]), ("map", {"bogusMember": {"a": 1}}), ("null", None)]
            if isinstance(current, list) and current:
                variants += [("twice", current + [copy.deepcopy(current[0])]), ("null item", current + [None]), ("none", [])]
                for key in s.get("x-kubernetes-list-map-keys", []) if isinstance(current[0], dict) else []:
                    variants += [("without " + key, [{k: v for k, v in current[0].items() if k != key}] + current[1:]), ("null " + key, [dict(current[0], **{key: None})] + current[1:])]
            elif isinstance(current, dict):
                variants += [("unknown", dict(current, bogusMember=1)), ("none", {})]
            for what, value in variants:
                changed = copy.deepcopy(o)
                place = changed
                for p in path[:-1]:
                    place = place[p]
                place[path[-1]] = value
                yield ".".join(map(str, path)) + " " + what, changed

    def schemas_places(self, schema, o):
        return (place for place in self.generator.places(schema, o) if place[2] is not None and place[0] != ("metadata", "name"))

    def run(self, modes, kinds, number, seed, verbose):
        objects = [o for o in self.objects() if re.search(kinds, o["kind"] + "." + o["apiVersion"]) and o["kind"] not in ("ServiceCIDR", "Judge")]
        made = self.prepare(objects)
        total, different, known = collections.Counter(), collections.Counter(), collections.Counter()
        places, examples = collections.Counter(), {}

        def one(case):
            mode, o, label, method, url, bodies, more = case
            if mode == "written":
                bodies = tuple(self.translator.encode(b) for b in bodies)
                if None in bodies:
                    return case, None
            try:
                answers = [self.send(server, method, url, body, **more) for server, body in zip((self.stock, self.ours), bodies)]
            except Exception as e:
                return case, [("no answer", repr(e), "")]
            return case, compare(*answers, json.dumps(label) + url)

        with concurrent.futures.ThreadPoolExecutor(6) as pool:
            for mode in modes:
                for o in made if mode != "written" else objects:
                    cases = [(mode, o) + c for c in self.forms(mode, o)]
                    if number and mode in ("written", "applied") and len(cases) > number:
                        cases = random.Random(seed).sample(cases, number)
                    for (mode, o, label, *_), found in pool.map(one, cases):
                        if found is None:
                            continue
                        total[mode] += 1
                        where = f"{mode} {o['kind']} {json.dumps(label)[:160]}"
                        reasons = [reason(f"{where}: {what}", a, b) or explanation(f"{label[0]} {o['kind']} {label[1] if len(label) > 1 else ''}{' empty' if label[-1] in ([], {}, '') else ''}: {what.removeprefix('.body')}", a, b) for what, a, b in found]
                        if found and all(reasons):
                            known[mode] += 1
                            continue
                        different[mode] += bool(found)
                        for what, a, b in found:
                            signature = f"{mode} {label[0]} {re.sub(r'[0-9]+', 'N', what)} {str(a)[:60]} / {str(b)[:60]}"
                            places[signature] += 1
                            examples.setdefault(signature, []).append((f"{o['kind']} {json.dumps(label)[:200]}: {what}", a, b))
        for signature, n in places.most_common():
            print(f"{n:5} {signature}")
            for place, a, b in examples[signature][: None if verbose else 2]:
                print(f"        {place}\n          stock {json.dumps(a)[:600]}\n          ours  {json.dumps(b)[:600]}")
        for mode in modes:
            print(f"{mode}: {total[mode]} cases, {different[mode]} differ, {known[mode]} more for known reasons")
        return sum(different.values())


def scalars(schemas, schema):
    """Paths of fields that hold one value, two levels below spec and status."""
    for top in ("spec", "status"):
        s = schemas.resolve(schemas.resolve(schema).get("properties", {}).get(top))
        for name, sub in s.get("properties", {}).items():
            if schemas.resolve(sub).get("type") in ("string", "integer", "boolean"):
                yield [top, name]
    for name, sub in schemas.resolve(schema).get("properties", {}).items():
        inner = schemas.resolve(sub)
        if inner.get("type") in ("string", "integer", "boolean") and name not in ("apiVersion", "kind"):
            yield [name]
        elif name not in ("metadata", "spec", "status") and "properties" in inner:
            yield from ([name, member] for member, leaf in inner["properties"].items() if schemas.resolve(leaf).get("type") == "string")


def reason(where, a, b):
    a, b = json.dumps(a), json.dumps(b)
    return next((why for place, stock, ours, why in EXPLAINED if place.search(where) and stock.search(a) and ours.search(b)), None)


if __name__ == "__main__":
    p = argparse.ArgumentParser()
    p.add_argument("stock"); p.add_argument("ours")
    p.add_argument("-m", default="written,read,selected,collected,applied"); p.add_argument("-k", default="."); p.add_argument("-v", action="store_true")
    p.add_argument("-n", type=int, default=12); p.add_argument("-s", type=int, default=1)
    a = p.parse_args()
    sys.exit(1 if Forms(a.stock, a.ours).run(a.m.split(","), a.k, a.n, a.s, a.v) else 0)
