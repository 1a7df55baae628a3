#!/usr/bin/env python3
"""watches.py [STOCK-KUBECONFIG OUR-KUBECONFIG]: watches: what they begin with, selectors that objects come under and leave, bookmarks, initial lists, old and future revisions, timeouts, the
forms of events (tables, metadata alone, protobuf, YAML), the old paths; lists in pages and at revisions. Without kubeconfigs it starts fresh servers."""
from walk import *
import threading
w = start(__file__)
w.known(r"revisions GET .*resourceVersion=1 ", r"ADDED", r"Expired", "how far back a server that has just begun remembers")
w.known(r"PartialObjectMetadataList", r"^\[\]$", r"ADDED", "upstream ends a watch that asks for lists at its first event")
w.known(r"changes .*allowWatchBookmarks.*events", r"", r"", "when a bookmark comes is each server's own")
w.known(r"pages GET .*continue=.*resourceVersion=0", r"", r"", "a page that is continued at any revision may come from the snapshot or from now")
V1, MERGE = "/api/v1", "application/merge-patch+json"; N = V1 + "/namespaces/seen"; CM = N + "/configmaps"
TABLE, META = "application/json;as=Table;v=v1;g=meta.k8s.io", "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io"
cm = lambda name, data=None, **labels: {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": labels}, "data": data or {}}
def numbers(d):
    """Revisions in texts are each server's own."""
    return json.loads(re.sub(r"(Too large resource version: |current: |too old resource version: )\d+( \(\d+\))?", r"\1N", re.sub(r'"(resourceVersion|continue)": "[^"]+"', r'"\1": "GIVEN"', json.dumps(d))))
def events(text):
    if isinstance(text, dict): text = json.dumps(text)
    out = []
    for line in text.splitlines():
        try: out.append(numbers(clean(json.loads(line), "")))
        except ValueError: out.append(line)
    return out
def revision(path=CM, name="rv"):
    for s in w.sides: s.vars[name] = w.one(s, "GET", path)[2]["metadata"]["resourceVersion"]
def during(label, path, changes, norm=events, **k):
    """What a watch tells while changes are made."""
    got = [None, None]
    def ask(i):
        code, hdr, doc = w.one(w.sides[i], "GET", path, **k)
        got[i] = {"code": code, "type": hdr.get("Content-Type") if hdr else None, "events": norm(doc)}
    threads = [threading.Thread(target=ask, args=(i,)) for i in (0, 1)]
    for t in threads: t.start()
    time.sleep(0.7)
    for c in changes: w(*c[:3], norm=lambda d: d.get("kind") if isinstance(d, dict) else d, **(c[3] if len(c) > 3 else {}))
    for t in threads: t.join()
    w.same(f"{label} {path} {k}", *got)
w.begin("begin")
w("POST", V1 + "/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "seen"}}); time.sleep(0.5)
revision(name="first")
for n in "ab": w("POST", CM, cm(n, {"k": n}, app=n))
revision()
Q = CM + "?labelSelector=app&watch=true&timeoutSeconds=2"
for q in ("", "&resourceVersion=0", "&resourceVersion={{rv}}", "&resourceVersion={{first}}", "&resourceVersion=", "&allowWatchBookmarks=true", "&allowWatchBookmarks=true&resourceVersion={{rv}}", "&fieldSelector=metadata.name%3Da", "&fieldSelector=metadata.name%3Da&resourceVersion=0", "&fieldSelector=metadata.namespace%3Dseen", "&fieldSelector=data.k%3Da", "&labelSelector=app%3Db"):
    w("GET", Q + q, norm=events)
w.begin("initial")
for q in ("sendInitialEvents=true", "sendInitialEvents=false", "sendInitialEvents=true&resourceVersionMatch=NotOlderThan", "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true", "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&resourceVersion=0", "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&resourceVersion={{rv}}", "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&resourceVersion={{first}}",
          "sendInitialEvents=true&resourceVersionMatch=Exact&allowWatchBookmarks=true&resourceVersion={{rv}}", "sendInitialEvents=false&resourceVersionMatch=NotOlderThan", "sendInitialEvents=false&resourceVersionMatch=NotOlderThan&resourceVersion={{rv}}", "resourceVersionMatch=NotOlderThan&resourceVersion={{rv}}", "resourceVersionMatch=Exact", "resourceVersionMatch=Bogus", "sendInitialEvents=bogus", "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&fieldSelector=metadata.name%3Da", "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&labelSelector=app%3Dzz", "limit=1", "continue=x", "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&limit=1"):
    w("GET", Q + "&" + q, norm=events)
    w("GET", CM + "?labelSelector=app&" + q, norm=lambda d: numbers(d))
for a in (TABLE, META, "application/yaml"):
    w("GET", Q + "&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true", norm=events, accept=a, label=a)
w.begin("revisions")
for r in ("1", "99999999", "-1", "x", "18446744073709551615", "18446744073709551616", "1.5", "0x1", "7 "):
    w("GET", CM + "?watch=true&timeoutSeconds=2&labelSelector=app&resourceVersion=" + r.replace(" ", "%20"), norm=events); w("GET", f"{CM}/a?resourceVersion=" + r.replace(" ", "%20"), norm=numbers)
    for m in ("", "&resourceVersionMatch=Exact", "&resourceVersionMatch=NotOlderThan"): w("GET", CM + f"?labelSelector=app{m}&resourceVersion=" + r.replace(" ", "%20"), norm=numbers)
w.begin("timeouts")
for t in ("1", "0", "-1", "x", "1.5", "99999999999999999999"): 
    if t not in ("0", "-1"): w("GET", CM + f"?watch=true&labelSelector=app%3Dzz&timeoutSeconds={t}" if t != "99999999999999999999" else CM + f"?timeoutSeconds={t}", norm=events)
for v in ("1", "0", "t", "True", "yes", "", "false&timeoutSeconds=1"): w("GET", CM + f"?labelSelector=app%3Dzz&timeoutSeconds=1&watch={v}", norm=lambda d: numbers(d) if isinstance(d, dict) else events(d))
w.begin("changes")
set_ = lambda n, **labels: ("PATCH", f"{CM}/{n}", {"metadata": {"labels": labels}}, {"kind": MERGE})
life = [("POST", CM, cm("c", {"x": "1"}, app="c")), ("PATCH", f"{CM}/c", {"data": {"x": "2"}}, {"kind": MERGE}), ("PATCH", f"{CM}/c", {"data": {"x": "2"}}, {"kind": MERGE}), set_("c", tier="front"), set_("c", tier=None), ("DELETE", f"{CM}/c", None), ("POST", CM, dict(cm("d", app="d"), metadata={"name": "d", "labels": {"app": "d"}, "finalizers": ["a.b/c"]})), ("DELETE", f"{CM}/d", None), ("PATCH", f"{CM}/d", {"metadata": {"finalizers": None}}, {"kind": MERGE})]
T4 = "watch=true&timeoutSeconds=4&resourceVersion={{rv}}"
for q in ("labelSelector=app", "labelSelector=tier%3Dfront", "labelSelector=tier%20notin%20(front),app", "fieldSelector=metadata.name%3Dc", "labelSelector=app&allowWatchBookmarks=true"):
    revision(); during(q, f"{CM}?{q}&{T4}", life)
for a in (TABLE, META, TABLE + ",application/json", "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io", "application/json;as=Table;v=v1beta1;g=meta.k8s.io", "application/json;stream=watch", "application/json;stream=bogus", "text/html", "application/cbor", "application/cbor-seq", "application/yaml"):
    revision(); during(a, f"{CM}?labelSelector=app&{T4}", life[:2] + life[5:6], accept=a)
for q in ("&includeObject=None", "&includeObject=Object", "&includeObject=Metadata", "&includeObject=Bogus"):
    revision(); during(q, f"{CM}?labelSelector=app&{T4}{q}", life[:2] + life[5:6], accept=TABLE)
def frames(text):
    """How many frames and of what type: what they hold are other revisions and times."""
    data = text.encode("utf-8", "surrogateescape") if isinstance(text, str) else b""
    return re.findall(r"(ADDED|MODIFIED|DELETED|BOOKMARK|ERROR)\x12", text) if isinstance(text, str) else text
for a in ("application/vnd.kubernetes.protobuf", "application/vnd.kubernetes.protobuf;stream=watch", "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;v=v1;g=meta.k8s.io", "application/vnd.kubernetes.protobuf;as=Table;v=v1;g=meta.k8s.io"):
    revision(); during(a, f"{CM}?labelSelector=app&{T4}", life[:2] + life[5:6], norm=frames, accept=a)
w.begin("places")
for p in (V1 + "/watch/configmaps", V1 + "/watch/namespaces/seen/configmaps", V1 + "/watch/namespaces/seen/configmaps/a", V1 + "/watch/namespaces/seen", V1 + "/watch/namespaces/seen/configmaps/a/b", V1 + "/watch", V1 + "/watch/bogus"):
    w("GET", p + "?timeoutSeconds=1&resourceVersion={{rv}}", norm=events); w("POST", p, {}, norm=events)
w("GET", f"{CM}/a?watch=true&timeoutSeconds=1", norm=numbers); w("GET", f"{CM}/a?watch=true&timeoutSeconds=1&fieldSelector=metadata.name%3Db", norm=numbers)
w("GET", CM + "?watch=true&timeoutSeconds=1", who="user:nobody", norm=events); w("GET", V1 + "/namespaces?watch=true&timeoutSeconds=1&fieldSelector=metadata.name%3Dseen", norm=events); w("HEAD", CM + "?watch=true&timeoutSeconds=1")
for p in ("/apis/authorization.k8s.io/v1/subjectaccessreviews", N + "/bindings", V1 + "/componentstatuses"): w("GET", p + "?watch=true&timeoutSeconds=1", norm=events)
w.begin("pages")
for n in "efghij": w("POST", CM, cm(n, app="page"), norm=lambda d: d.get("kind"))
def token(name): return {name: lambda d: d["metadata"].get("continue", "none")}
P = CM + "?labelSelector=app%3Dpage"
w("GET", P + "&limit=2", norm=numbers, save=token("c1")); w("GET", P + "&limit=2&continue={{c1}}", norm=numbers, save=token("c2")); w("DELETE", f"{CM}/i", norm=lambda d: ""); w("GET", P + "&limit=2&continue={{c2}}", norm=numbers, save=token("c3")); w("GET", P + "&continue={{c1}}", norm=numbers); w("GET", P + "&limit=2&continue={{c1}}&resourceVersion=0", norm=numbers); w("GET", P + "&limit=2&continue={{c1}}&resourceVersion={{rv}}", norm=numbers); w("GET", P + "&limit=2&continue={{c1}}&resourceVersionMatch=Exact", norm=numbers)
for a in (TABLE, META.replace("Metadata;", "MetadataList;")): w("GET", P + "&limit=2", accept=a, norm=numbers, save=token("t")); w("GET", P + "&limit=2&continue={{t}}", accept=a, norm=numbers)
for q in ("&limit=0", "&limit=-1", "&limit=x", "&limit=1&resourceVersion=0", "&limit=100", "&continue=e30", "&continue=eyJ2IjoiYm9ndXMifQ", "&continue=%%", "&limit=3&fieldSelector=metadata.name!%3Df"): w("GET", P + q, norm=numbers)
w("GET", V1 + "/namespaces/other/configmaps?limit=2&continue={{c1}}", norm=numbers)
w.end()
