#!/usr/bin/env python3
"""What the walks share: each step is asked of a stock kube-apiserver and of ours, as a user of the walk's choice (the administrator, an impersonated
user, a token, nobody), and code, headers and body are compared. Steps may keep values of each server's own answers for later steps ({{name}})."""
import base64, copy, http.client, json, os, re, shutil, ssl, subprocess, sys, tempfile, time
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import yaml
from compare import clean, differences, canonical
from server import Server

KEEP = ("Content-Type", "Warning", "Retry-After", "Allow", "Location", "WWW-Authenticate", "Cache-Control", "X-Content-Type-Options", "Audit-Id", "X-Kubernetes-Pf-Flowschema-Uid", "X-Kubernetes-Pf-Prioritylevel-Uid")


class Side(Server):
    """One of the two servers, with the values that steps keep."""

    def __init__(self, kubeconfig, label):
        super().__init__(kubeconfig, timeout=40)
        self.label, self.vars = label, {}

    def ask(self, method, path, body, headers, pem):
        try:
            return self.raw(method, path, headers, body, pem)
        except (http.client.HTTPException, OSError) as e:
            return 0, {}, repr(type(e).__name__).encode()


class Walk:
    def __init__(self, stock, ours):
        self.sides = [Side(stock, "stock"), Side(ours, "ours")]
        self.n = self.bad = self.listed = 0
        self.section = ""
        self.reasons = []
        self.stop = None

    def known(self, place, stock, ours, why):
        """Lists differences with a reason: expressions for "SECTION METHOD PATH LABEL .FIELD", for the stock server's part and for ours."""
        self.reasons.append((re.compile(place), re.compile(stock), re.compile(ours), why))

    def unlisted(self, what, found, shown=None):
        """Those of the differences found that no reason was given for."""
        def reason(path, a, b):
            # Of other codes the messages say why.
            if path == ".code" and shown:
                a, b = (f"{s['code']} {s['body'].get('message') if isinstance(s['body'], dict) else s['body']}" for s in shown)
            a, b = (x if isinstance(x, str) else json.dumps(x) for x in (a, b))
            return any(p.search(f"{self.section} {what} {path}") and s.search(a) and o.search(b) for p, s, o, _ in self.reasons)
        if shown and shown[0]["code"] != shown[1]["code"]:
            return [] if reason(".code", None, None) else found
        return [f for f in found if not reason(*f)]

    def sub(self, side, v):
        if isinstance(v, str):
            def r(m):
                return str(side.vars.get(m[1], m[0]))
            return re.sub(r"\{\{(\w+)\}\}", r, v)
        if isinstance(v, dict):
            return {self.sub(side, k): self.sub(side, x) for k, x in v.items()}
        if isinstance(v, list):
            return [self.sub(side, x) for x in v]
        return v

    def one(self, side, method, path, body=None, who="admin", kind="application/json", accept="application/json", headers=(), audit=None):
        path = self.sub(side, path)
        data = None
        if body is not None:
            body = self.sub(side, body)
            data = body if isinstance(body, bytes) else (body.encode() if isinstance(body, str) else json.dumps(body).encode())
        hs = [("Accept", accept), ("User-Agent", "walk/1")] + [(k, self.sub(side, v)) for k, v in headers]
        if data is not None:
            hs.append(("Content-Type", kind))
        if audit:
            hs.append(("Audit-ID", audit))
        pem = side.admin
        who = self.sub(side, who)
        if who.startswith("user:"):
            u, *g = who[5:].split(",")
            hs.append(("Impersonate-User", u))
            for x in g:
                hs.append(("Impersonate-Group", x))
        elif who.startswith("token:"):
            pem = None; hs.append(("Authorization", "Bearer " + who[6:]))
        elif who == "anon":
            pem = None
        elif who.startswith("cert:"):
            pem = side.vars[who[5:]]
        code, got, data = side.ask(method, path, data, hs, pem)
        text = data.decode(errors="replace")
        try:
            doc = json.loads(text)
        except ValueError:
            doc = text
        return code, got, doc

    def __call__(self, method, path, body=None, until=0, save=None, norm=None, label="", codes=None, check=True, **kw):
        """One step on both; compared. until: seconds in which they may become equal. save: {var: function(doc)}"""
        self.n += 1
        audit = f"step-{self.section}-{self.n:04}"
        kw.setdefault("audit", audit)
        deadline = time.time() + until
        text = json.dumps(body) if not isinstance(body, (bytes, str)) else str(body)
        while True:
            raw = [self.one(s, method, path, body, **kw) for s in self.sides]
            shown = []
            for s, (code, got, doc) in zip(self.sides, raw):
                d = canonical(clean(copy.deepcopy(doc), text + path)) if not isinstance(doc, str) else doc
                for var, value in s.vars.items():
                    if isinstance(value, str) and len(value) > 5:
                        d = json.loads(json.dumps(d).replace(json.dumps(value)[1:-1], "{{" + var + "}}"))
                # A clock's nanoseconds are in the name.
                d = json.loads(re.sub(r"selfType\d+", "selfType", json.dumps(d)))
                if norm:
                    d = norm(d)
                h = {k: got.get_all(k) for k in KEEP if got and got.get_all(k)}
                for k in ("X-Kubernetes-Pf-Flowschema-Uid", "X-Kubernetes-Pf-Prioritylevel-Uid"):
                    if k in h:
                        h[k] = True
                shown.append({"code": code, "headers": h, "body": d})
            found = by_cause(list(differences(*shown)), shown) if check else []
            if not found or time.time() > deadline:
                break
            time.sleep(0.3)
        if save:
            for s, (code, got, doc) in zip(self.sides, raw):
                for var, f in save.items():
                    try:
                        s.vars[var] = f(doc)
                    except Exception as e:
                        s.vars[var] = f"none-{e}"
        if codes is not None and raw[0][0] not in ([codes] if isinstance(codes, int) else codes):
            print(f"?? {self.section} step {self.n} {label} {method} {path}: stock answered {raw[0][0]}: {str(raw[0][2])[:300]}")
        if found:
            what = f"{method} {path} [{kw.get('who','admin')}] {label}"
            left = self.unlisted(what, found, shown)
            if left:
                self.bad += 1
                self.report(what, text, left, shown)
            else:
                self.listed += 1
        return raw

    def report(self, what, text, found, shown=None):
        out = [f"## {self.section} {self.n} {what}"]
        if text and text != "null":
            out.append("   " + (text if len(text) < 560 else text[:100] + " ... " + text[-450:]))
        if shown and shown[0]["code"] != shown[1]["code"]:
            for l, s in zip(("stock", "ours "), shown):
                b = s["body"]
                out.append(f"   {l} {s['code']} {(b.get('message') if isinstance(b, dict) and b.get('kind') == 'Status' else json.dumps(b))!s:.500}")
        else:
            for p, a, b in found[:12]:
                out.append(f"   {p}\n      stock {json.dumps(a)[:700]}\n      ours  {json.dumps(b)[:700]}")
        print("\n".join(out), flush=True)

    def same(self, what, a, b):
        self.n += 1
        found = list(differences(a, b))
        left = self.unlisted(what, found)
        if left:
            self.bad += 1
            self.report(what, "", left)
        elif found:
            self.listed += 1

    def begin(self, name):
        self.section = name

    def end(self):
        """One line of figures; ends the servers that `start` began, and the program."""
        print(f"{self.n} steps, {self.bad} differ, {self.listed} differ for a listed reason")
        if self.stop:
            self.stop()
        sys.exit(1 if self.bad else 0)


def by_cause(found, shown):
    """The same with the causes of two refusals told one by one: the message is made of them."""
    bodies = [s["body"] for s in shown]
    if not all(isinstance(b, dict) and b.get("kind") == "Status" and (b.get("details") or {}).get("causes") for b in bodies):
        return found
    lists = [[(c.get("field", ""), c.get("reason", ""), c.get("message", "")) for c in b["details"]["causes"]] for b in bodies]
    left = [[c for c in mine if c not in others] for mine, others in (lists, lists[::-1])]
    if not left[0] and not left[1]:
        if sorted(lists[0]) == sorted(lists[1]) and lists[0] != lists[1]:
            order = [".".join(c[0] for c in l) for l in lists]
            return [f for f in found if not f[0].startswith((".body.details.causes", ".body.message"))] + [(".order of causes", *order)]
        return found
    out = [f for f in found if not f[0].startswith((".body.details.causes", ".body.message"))]
    for c in left[0]:
        like = next((o for o in left[1] if o[:2] == c[:2]), None) or next((o for o in left[1] if o[0] == c[0]), None)
        if like:
            left[1].remove(like)
        out.append((f".cause {c[0]}", f"{c[1]} {c[2]}", f"{like[1]} {like[2]}" if like else "<absent>"))
    return out + [(f".cause {c[0]}", "<absent>", f"{c[1]} {c[2]}") for c in left[1]]


def start(walk, stock=(), ours=(), prepare=None):
    """A walk between the servers of two kubeconfigs in the arguments, or of servers made for it: `stock` and `ours` are more flags of each;
    `prepare` is called with the directory before and may put files there for them (`{dir}` in flags). WALK_DIR names the directory, WALK_KEEP keeps it."""
    if len(sys.argv) > 2:
        return Walk(sys.argv[1], sys.argv[2])
    name = os.path.splitext(os.path.basename(walk))[0]
    at = os.path.join(os.environ.get("WALK_DIR", tempfile.gettempdir()), "walk-" + name)
    servers = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "servers.sh")
    subprocess.run([servers, "stop", at], stdout=subprocess.DEVNULL)
    shutil.rmtree(at, ignore_errors=True)
    os.makedirs(at)
    if prepare:
        prepare(at)
    flags = {"STOCK_ARGS": " ".join(stock).replace("{dir}", at), "SKIFF_ARGS": " ".join((() if any("authentication-config=" in flag for flag in ours) else ("--anonymous-auth=true",)) + tuple(ours)).replace("{dir}", at)}
    # The servers keep their standard error: a pipe would never end.
    with open(os.path.join(at, "kubeconfigs"), "w") as out:
        begun = subprocess.run([servers, "start", at], stdout=out, env=dict(os.environ, **flags))
    def stop():
        subprocess.run([servers, "stop", at])
        if "WALK_KEEP" not in os.environ:
            shutil.rmtree(at, ignore_errors=True)
    files = open(os.path.join(at, "kubeconfigs")).read().split()
    if begun.returncode or len(files) != 2:
        for log in ("kube-apiserver.log", "skiff.log"):
            print("".join(open(os.path.join(at, log)).readlines()[-4:])[-1500:] if os.path.exists(os.path.join(at, log)) else "")
        stop()
        sys.exit(f"{name}: the servers did not begin")
    w = Walk(*files)
    w.dir, w.stop = at, stop
    return w


def obj(text):
    return yaml.safe_load(text)
