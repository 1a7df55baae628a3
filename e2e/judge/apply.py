#!/usr/bin/env python3
"""apply.py STOCK-KUBECONFIG OUR-KUBECONFIG: sends the same generated sequences of create, update, patch and apply to a stock
kube-apiserver and to ours, and compares every answer field by field: objects with their managedFields, failures with their causes.

What servers choose for themselves (uid, times, resourceVersion) is compared by its role: a time by the round in which it was written,
a version by whether it changed. Rounds start at whole seconds, so that times of different rounds differ.

  --sequences N   sequences in all (300)      --steps K   requests in each (8)
  --kinds a,b     only these                  --seed S    another seed gives other sequences
  --only I        one sequence, everything printed
Exit status 1 if anything differs. Namespace `judge` and the definitions in group `judge.example.com` are made on both."""
import argparse, collections, concurrent.futures, copy, json, os, random, re, sys, time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from compare import EMPTY, empties
from server import Server
from apply_kinds import KINDS, DEFINITIONS, make

NAMESPACE = "judge"
MANAGERS = ["one", "two", "three"]
# Differences with a reason: expressions for "METHOD PATH CONTENT BODY" and for what differs, and the reason.
EXPLAINED = [
    (r"", re.escape(EMPTY), EMPTY),
    (r"json-patch", r"^\.warnings\[\d+\].*unknown field", "the order in which a patch's value names unknown fields: Go keeps the document's"),
    (r"/status\b.*ownerReferences", r"managedFields", "an owner that a write of a status names twice: upstream gives up working out who owns what"),
    (r"patch", r'Invalid value: \\"\{', "the patched document in the text: Go has the order of structs"),
    (r"/pods/", r"status unknown for quota", "which of several quotas is told first"),
    (r"/jobs/.*(json-patch|/status\b.*patch)", r"resourceVersion", "labels that upstream gives a Job when it is read are written with the next change: a change of nothing then writes"),
    (r"/horizontalpodautoscalers.*\"policies\": \[\]", r"", EMPTY),
    (r"/networkpolicies/.*\": \[\]", r"generation", EMPTY),
    (r"/pods.*\"overhead\": \{\}", r"", EMPTY),
    (r"/resourcequotas/", r"used", "how much a server's quota has counted by then"),
    (r"/persistentvolumeclaims/", r"resourceVersion: ", "a phase that upstream fills in when it reads is written with the next change: a change of nothing then writes"),
]


class Judged(Server):
    """One of the two, with what it needs before the sequences."""

    def __init__(self, label, kubeconfig):
        super().__init__(kubeconfig)
        self.label = label

    def call(self, method, path, body=None, content="application/json"):
        return self.ask(method, path, body, content)

    def prepare(self):
        for body in ({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}},):
            self.call("POST", "/api/v1/namespaces", body)
        self.call("POST", f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts", {"metadata": {"name": "default"}})
        for definition in DEFINITIONS:
            code, answer, _ = self.call("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", definition)
            if code not in (201, 409):
                sys.exit(f"{self.label} refuses {definition['metadata']['name']}: {answer}")
        for definition in DEFINITIONS:
            path = f"/apis/judge.example.com/v1/namespaces/{NAMESPACE}/{definition['spec']['names']['plural']}"
            for _ in range(100):
                if self.call("GET", path)[0] == 200:
                    break
                time.sleep(0.1)
            # Creation may be served a moment later than reading.
        time.sleep(1)


class Sequence:
    """The requests about one object, and what each server last said of it."""

    def __init__(self, number, kind, seed):
        self.number, self.kind, self.name = number, kind, f"s{number}"
        self.random = random.Random(f"{seed}/{number}")
        self.last = {}  # label: object
        self.versions = collections.defaultdict(list)

    def path(self, version, subresource=""):
        kind = self.kind
        base = "/api/v1" if kind.group == "" else f"/apis/{kind.group}/{version}"
        middle = f"/namespaces/{NAMESPACE}" if kind.namespaced else ""
        return f"{base}{middle}/{kind.plural}/{self.name}" + (f"/{subresource}" if subresource else "")

    def object(self, version, parts=("metadata", "spec")):
        rng, kind = self.random, self.kind
        out = {"apiVersion": f"{kind.group}/{version}" if kind.group else version, "kind": kind.kind, "metadata": {"name": self.name}}
        made = make(kind.template(version), rng)
        if "metadata" in parts and "metadata" in made:
            out["metadata"].update(made["metadata"])
        for key, value in made.items():
            if key == "metadata" or (key == "status") != ("status" in parts):
                if not (key == "status" and rng.random() < 0.15):
                    continue
            out[key] = value
        return out

    def next(self, step):
        """One request: method, path, content type, body. Bodies hold `$rv` and `$uid` for what differs between servers."""
        rng, kind = self.random, self.kind
        version = rng.choice(kind.versions)
        query = {}
        if rng.random() < 0.9:
            query["fieldManager"] = rng.choice(MANAGERS)
        if rng.random() < 0.05 and step:
            query["dryRun"] = "All"
        if rng.random() < 0.1:
            query["fieldValidation"] = rng.choice(["Strict", "Warn", "Ignore"])
        live = self.last.get("stock")
        choices = ["apply"] * 10
        if live is None:
            choices += ["post"] * 5
        else:
            choices += ["put"] * 4 + ["merge"] * 3 + ["json"] * 3 + ["owners"]
            choices += ["strategic"] * 3 if kind.strategic else []
            choices += ["scale"] * 2 if kind.scale else []
        subresource = "status" if kind.status and live is not None and rng.random() < 0.3 else ""
        parts = ("status",) if subresource else ("metadata", "spec")
        if subresource and rng.random() < 0.15:
            parts = ("metadata", "status")
        what = rng.choice(choices)
        path, content, method = self.path(version, subresource), "application/json", "PATCH"
        if what == "apply":
            query.setdefault("fieldManager", "one")
            if rng.random() < 0.35:
                query["force"] = "true"
            content = "application/apply-patch+yaml"
            body = self.object(version, parts)
            if rng.random() < 0.03:
                body["metadata"]["resourceVersion"] = "$rv" if live else "1"
            if rng.random() < 0.05:
                body["metadata"]["uid"] = "$uid"
        elif what == "post":
            method, path, body = "POST", self.path(version).rsplit("/", 1)[0], self.object(version, ("metadata", "spec"))
        elif what == "put":
            method, body = "PUT", self.object(version, parts)
            if kind.rv_needed or rng.random() < 0.3:
                body["metadata"]["resourceVersion"] = "$rv"
            if rng.random() < 0.05:
                body["metadata"]["managedFields"] = rng.choice([[], [{}]])
        elif what == "merge":
            content, body = "application/merge-patch+json", self.object(version, parts)
            self.sprinkle_nulls(body)
        elif what == "strategic":
            content, body = "application/strategic-merge-patch+json", self.object(version, parts)
            if rng.random() < 0.4:
                self.sprinkle_nulls(body)
        elif what == "json":
            content, body = "application/json-patch+json", self.json_patch(live, parts)
        elif what == "owners":
            content, path = "application/json-patch+json", self.path(version)
            entries = (live.get("metadata") or {}).get("managedFields") or []
            body = [{"op": "remove", "path": f"/metadata/managedFields/{rng.randrange(len(entries))}"}] if entries and rng.random() < 0.6 else [
                {"op": "replace", "path": "/metadata/managedFields", "value": rng.choice([[], [{}]])}]
        else:
            path, query_force = self.path(version, "scale"), rng.random() < 0.5
            scale = {"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": self.name, "namespace": NAMESPACE}, "spec": {"replicas": rng.randrange(4)}}
            form = rng.choice(["put", "merge", "apply"])
            if form == "put":
                method, body = "PUT", scale
            elif form == "merge":
                content, body = "application/merge-patch+json", {"spec": {"replicas": rng.randrange(4)}}
            else:
                content, body = "application/apply-patch+yaml", scale
                query.setdefault("fieldManager", "one")
                if query_force:
                    query["force"] = "true"
        if query:
            path += "?" + "&".join(f"{k}={v}" for k, v in query.items())
        return method, path, content, body

    def sprinkle_nulls(self, value):
        rng = self.random
        for key in list(value):
            if key in ("apiVersion", "kind", "name"):
                continue
            if rng.random() < 0.08 and key not in ("metadata", "spec"):
                value[key] = None
            elif isinstance(value[key], dict):
                self.sprinkle_nulls(value[key])

    def json_patch(self, live, parts):
        """A few operations on places that are there."""
        rng, places = self.random, []

        def walk(value, path):
            if isinstance(value, dict):
                for key, child in value.items():
                    if path == "" and key not in parts or path == "/metadata" and key not in ("labels", "annotations", "finalizers", "ownerReferences"):
                        continue
                    step = f"{path}/" + key.replace("~", "~0").replace("/", "~1")
                    places.append((step, child))
                    walk(child, step)
            elif isinstance(value, list):
                for i, child in enumerate(value):
                    places.append((f"{path}/{i}", child))
                    walk(child, f"{path}/{i}")

        walk(live, "")
        # What a server put into metadata itself is no other server's.
        places = [p for p in places if p[0] != "/metadata" and (p[0].count("/") > 1 or rng.random() < 0.2)]
        out = []
        for _ in range(rng.randrange(1, 3)):
            if not places:
                break
            path, value = rng.choice(places)
            op = rng.choice(["remove", "remove", "replace", "add", "copy", "test", "move"])
            entry = {"op": op, "path": path}
            if op == "test":
                entry["value"] = value
            elif op in ("replace", "add"):
                other = [v for p, v in places if type(v) is type(value)]
                entry["value"] = rng.choice(other)
            elif op in ("copy", "move"):
                entry["from"] = path
                entry["path"] = path.rsplit("/", 1)[0] + ("/-" if path.rsplit("/", 1)[1].isdigit() else "/copied")
            out.append(entry)
        return out


def counterparts(stock, ours, found):
    """What each server chose itself (uids, times), stock's to ours, in two answers of one shape."""
    if isinstance(stock, dict) and isinstance(ours, dict):
        for k in stock.keys() & ours.keys():
            counterparts(stock[k], ours[k], found)
    elif isinstance(stock, list) and isinstance(ours, list):
        for a, b in zip(stock, ours):
            counterparts(a, b, found)
    elif isinstance(stock, str) and isinstance(ours, str) and stock != ours and (UID.fullmatch(stock) or STAMP.fullmatch(stock)):
        found[stock] = ours
    return found


def filled(value, last):
    """The body with this server's own version and uid."""
    if isinstance(value, dict):
        return {k: filled(v, last) for k, v in value.items()}
    if isinstance(value, list):
        return [filled(v, last) for v in value]
    metadata = (last or {}).get("metadata") or {}
    return {"$rv": metadata.get("resourceVersion", "1"), "$uid": metadata.get("uid", "u")}.get(value, value) if isinstance(value, str) else value


class Rounds:
    """When each round ran on a server, to tell in which round a time was written."""

    def __init__(self):
        self.starts = []

    def begin(self):
        now = time.time()
        time.sleep(1.02 - now % 1)
        self.starts.append(int(time.time()))

    def of(self, text):
        seconds = int(time.mktime(time.strptime(text, "%Y-%m-%dT%H:%M:%SZ"))) - time.timezone
        return "round " + str(max([i for i, start in enumerate(self.starts) if start <= seconds], default=-1))


STAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
TOKEN = re.compile(r"kube-api-access-[a-z0-9]{5}")
UID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


def normal(value, rounds, versions):
    if isinstance(value, dict):
        return {k: normal_version(v, versions) if k == "resourceVersion" else normal(v, rounds, versions) for k, v in value.items()}
    if isinstance(value, list):
        return [normal(v, rounds, versions) for v in value]
    if isinstance(value, str):
        if STAMP.fullmatch(value) and not value.startswith("2001"):
            return rounds.of(value)
        return TOKEN.sub("kube-api-access", STAMP.sub("TIME", UID.sub("UID", value)))
    return value


def normal_version(value, versions):
    if value not in versions:
        versions.append(value)
    return f"version {versions.index(value)}"


def keyed(entries):
    """Entries of managedFields by what makes them distinct."""
    name = lambda e: " ".join(str(e.get(k, "")) for k in ("manager", "operation", "apiVersion", "subresource"))
    return {name(e): e for e in entries}


def differences(a, b, path=""):
    if path.endswith(".metadata.managedFields") and isinstance(a, list) and isinstance(b, list):
        x, y = keyed(a), keyed(b)
        if list(x) != list(y) and sorted(x) == sorted(y):
            yield f"{path} order: stock {list(x)}, ours {list(y)}"
        a, b = x, y
    if path.endswith(".details.causes") and isinstance(a, list) and isinstance(b, list):
        # Upstream tells the managers of conflicts in the random order of a Go map.
        order = lambda c: (c["reason"], c["message"], c["field"]) if c["reason"] == "FieldManagerConflict" else ("",)
        a, b = sorted(a, key=order), sorted(b, key=order)
    if isinstance(a, dict) and isinstance(b, dict):
        for key in sorted(set(a) | set(b)):
            if key not in a:
                yield f"{path}.{key}: only ours: {short(b[key])}"
            elif key not in b:
                yield f"{path}.{key}: only stock: {short(a[key])}"
            else:
                yield from differences(a[key], b[key], f"{path}.{key}")
    elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        for i, (x, y) in enumerate(zip(a, b)):
            yield from differences(x, y, f"{path}[{i}]")
    elif isinstance(a, str) and isinstance(b, str) and path.endswith(".message") and same_problems(a, b):
        pass
    elif isinstance(a, str) and isinstance(b, str) and empties(a, b):
        yield f"{path}: {EMPTY}"
    elif a != b or type(a) is not type(b):
        yield f"{path}: stock {short(a)}, ours {short(b)}"


def same_problems(a, b):
    """Upstream tells what is wrong with an applied object in the random order of Go's maps, and stops at unknown fields."""
    if "failed to create typed patch object" not in a or a.split("):")[0] != b.split("):")[0]:
        return False
    x, y = ({line.strip() for line in re.split(r"\n|\): (?:errors:)?", text)[1:] if line.strip()} for text in (a, b))
    return x == y or any("not declared in schema" in line for line in x & y)


def short(value):
    text = json.dumps(value)
    return text if len(text) < 600 else text[:600] + "…"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("stock"), parser.add_argument("ours")
    parser.add_argument("--sequences", type=int, default=300), parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--kinds", default=""), parser.add_argument("--seed", default="1")
    parser.add_argument("--only", type=int), parser.add_argument("--show", type=int, default=100)
    options = parser.parse_args()
    servers = [Judged("stock", options.stock), Judged("ours", options.ours)]
    for server in servers:
        server.prepare()
    kinds = [k for k in KINDS if not options.kinds or k.plural in options.kinds.split(",")]
    stamp = str(int(time.time()))
    sequences = [Sequence(i, kinds[i % len(kinds)], options.seed) for i in range(options.sequences)]
    if options.only is not None:
        sequences = [s for s in sequences if s.number == options.only]
    for sequence in sequences:
        sequence.name += "-" + stamp
    rounds = {server.label: Rounds() for server in servers}
    pool = concurrent.futures.ThreadPoolExecutor(6)
    asked, found, codes, known = 0, [], collections.Counter(), collections.Counter()
    bad = set()
    for step in range(options.steps):
        live = [s for s in sequences if s.number not in bad]
        requests = {s.number: s.next(step) for s in live}
        answers = {}
        for server in servers:
            rounds[server.label].begin()

            def one(sequence):
                method, path, content, body = requests[sequence.number]
                body = filled(body, sequence.last.get(server.label))
                if server.label == "ours" and body is not None:
                    text = json.dumps(body)
                    for a, b in counterparts(sequence.last.get("stock"), sequence.last.get("ours"), {}).items():
                        text = text.replace(a, b)
                    body = json.loads(text)
                return server.call(method, path, body, content)

            answers[server.label] = dict(zip([s.number for s in live], pool.map(one, live)))
        for sequence in live:
            asked += 1
            normals = []
            for server in servers:
                code, answer, warnings = answers[server.label][sequence.number]
                seen = normal(answer, rounds[server.label], sequence.versions[server.label])
                if isinstance(answer, dict) and answer.get("kind") == sequence.kind.kind and "dryRun" not in requests[sequence.number][1]:
                    sequence.last[server.label] = answer
                normals.append({"code": code, "answer": seen, "warnings": warnings})
            codes[normals[0]["code"]] += 1
            different = list(differences(*normals))
            if options.only is not None:
                print(json.dumps({"request": requests[sequence.number], "stock": normals[0], "ours": normals[1]}, indent=1))
            if different:
                asked_for = f"{requests[sequence.number][:3]} {json.dumps(requests[sequence.number][3])}"
                reasons = [next((why for place, what, why in EXPLAINED if re.search(place, asked_for) and re.search(what, d, re.S)), None) for d in different]
                if not all(line.startswith(".warnings") or line.startswith(".answer.message") for line in different):
                    bad.add(sequence.number)  # what follows would differ because of this
                if all(reasons):
                    known.update(set(reasons))
                else:
                    found.append((sequence, step, requests[sequence.number], different))
    classes = collections.defaultdict(list)
    for one in found:
        classes[(one[0].kind.plural, re.sub(r"\d+", "N", re.sub(r'"[^"]*"', "_", one[3][0]))[:80])].append(one)
    for _, members in sorted(classes.items(), key=lambda c: str(c[0]))[: options.show]:
        sequence, step, request, different = members[0]
        print(f"--- {len(members)} times; sequence {sequence.number} step {step} ({sequence.kind.plural}): {request[0]} {request[1]} {request[2]}\n    {json.dumps(request[3])}")
        for line in different[:8]:
            print(f"  {line}")
    for server in servers:
        for sequence in sequences:
            server.call("DELETE", sequence.path(sequence.kind.versions[0]) + "?gracePeriodSeconds=0")
    for why, n in known.most_common():
        print(f"{n:5} known: {why}")
    print(f"{asked} requests in {len(sequences)} sequences, answers {dict(codes)}; {len(found)} sequences differ, {known.total()} more for known reasons (seed {options.seed})")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
