#!/usr/bin/env python3
"""What the walks share: each step is asked of a stock kube-apiserver and of ours, as a user of the walk's choice (the administrator, an impersonated
user, a token, nobody), and code, headers and body are compared. Steps may keep values of each server's own answers for later steps ({{name}})."""
import base64, copy, http.client, json, os, re, sys, tempfile, time
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
        self.n = self.bad = 0
        self.section = ""

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
                if norm:
                    d = norm(d)
                h = {k: got.get_all(k) for k in KEEP if got and got.get_all(k)}
                for k in ("X-Kubernetes-Pf-Flowschema-Uid", "X-Kubernetes-Pf-Prioritylevel-Uid"):
                    if k in h:
                        h[k] = True
                shown.append({"code": code, "headers": h, "body": d})
            found = list(differences(*shown)) if check else []
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
            self.bad += 1
            self.report(f"{method} {path} [{kw.get('who','admin')}] {label}", text, found, shown)
        return raw

    def report(self, what, text, found, shown=None):
        out = [f"## {self.section} {self.n} {what}"]
        if text and text != "null":
            out.append("   " + text[:300])
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
        if found:
            self.bad += 1
            self.report(what, "", found)

    def begin(self, name):
        self.section = name

    def end(self):
        print(f"{self.n} steps, {self.bad} differ")
        sys.exit(1 if self.bad else 0)


def obj(text):
    return yaml.safe_load(text)
