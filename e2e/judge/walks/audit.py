#!/usr/bin/env python3
"""audit.py STOCK-LOG OUR-LOG [LINES]: the audit events of the walks' steps compared: each step has an Audit-ID of its own. Start the servers with an audit
policy and log each (STOCK_ARGS, SKIFF_ARGS of servers.sh)."""
import collections, json, os, re, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from compare import differences
def load(p):
    out = collections.defaultdict(list)
    for l in open(p):
        e = json.loads(l)
        if e["auditID"].startswith("step-"):
            out[e["auditID"]].append(e)
    return out
a, b = load(sys.argv[1]), load(sys.argv[2])
def norm(e):
    e = json.loads(json.dumps(e))
    for k in ("requestReceivedTimestamp", "stageTimestamp", "sourceIPs"): e.pop(k, None)
    t = json.dumps(e)
    t = re.sub(r"JTI=[0-9a-f-]+", "JTI", t); t = re.sub(r"X509SHA256=[0-9a-f]+", "X5", t); t = re.sub(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", "UID", t)
    t = re.sub(r"20\d\d-\d\d-\d\dT[\d:.]+Z", "TIME", t); t = re.sub(r'"resourceVersion": "\d+"', '"resourceVersion": "RV"', t)
    t = re.sub(r'"token": "[^"]*"', '"token": "T"', t); t = re.sub(r"127.0.0.1:\d+", "HOST", t)
    return json.loads(t)
seen = collections.Counter(); ex = {}
n = 0
for k in sorted(set(a) & set(b)):
    n += 1
    x, y = [norm(e) for e in a[k]], [norm(e) for e in b[k]]
    sx, sy = [(e["stage"], e["level"]) for e in x], [(e["stage"], e["level"]) for e in y]
    if sx != sy:
        seen[f"stages {sx} / {sy}"] += 1; ex.setdefault(f"stages {sx} / {sy}", (k, x[-1]["requestURI"])); continue
    for e, f in zip(x, y):
        for p, s, o in differences(e, f):
            if re.match(r"\.(responseObject|requestObject)\.", p) : 
                key = re.sub(r"\[\d+\]", "[]", p)
            else:
                key = p + " " + str(s)[:110] + " / " + str(o)[:110]
            seen[key] += 1; ex.setdefault(key, (k, e["verb"], e["requestURI"], e["stage"], str(s)[:400], str(o)[:400]))
only = sorted(set(a) ^ set(b))
print(n, "ids compared; only one side:", len(only))
for k in only[:10]: print("  only", "stock" if k in a else "ours", k, (a.get(k) or b.get(k))[0]["requestURI"])
for k, c in seen.most_common(int(sys.argv[3]) if len(sys.argv) > 3 else 60):
    print(c, k[:300]); print("      ", ex[k])
