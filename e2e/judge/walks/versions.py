#!/usr/bin/env python3
"""versions.py [STOCK-KUBECONFIG OUR-KUBECONFIG]: custom resources of several versions: without conversion and with a webhook that converts, which fails in every way there is; stored versions,
what may be taken away; schemas that change at once, while objects are watched. The webhook is a hook of this program. Without kubeconfigs it starts fresh servers."""
from walk import *
import hooks as H, threading
w = start(__file__)
w.known(r"stored GET .*v2/namespaces/ver/plains ", r"^429", r"^200", "a kind is served throughout a change of its definition")
w.known(r"failing GET", r"corrupt object", r"^200|conversion webhook", "upstream calls what its webhook does not convert a corrupt object of its storage; what was converted once is kept here")
w.known(r"failing GET .*(labels|wrong types|no spec) ", r"", r"", "what was converted once is kept here")
w.known(r"failing (POST|PATCH) .*(details|message|reason|cause )", r"conversion webhook|absent|StorageError", r"conversion webhook|InternalError|causes", "the words in which Go's client, decoders and storage tell of an answer that is none")
w.known(r"schemas PATCH .*managedFields", r"absent", r"f:labels", "a value that the schema no longer allows keeps upstream from telling owners apart")
w.known(r"none POST .*Warning", r"unknown field", r"absent|deprecated", "a body of another version than the path's is read by that version's schema before it is refused")
w.known(r"failing PATCH .*no spec .*managedFields", r"", r"absent", "what was converted once is kept here, so the patch finds the spec that it changes")
h = H.Hooks()
CRDS, G, MERGE, APPLY = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", "versions.example.com", "application/merge-patch+json", "application/apply-patch+yaml"
w("POST", "/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "ver"}})
def conditions(d): return json.loads(re.sub(r'"lastTransitionTime": "[^"]*"', '"lastTransitionTime": "T"', json.dumps(d)))
INT, STR = {"type": "integer"}, {"type": "string"}
def O(**p): return {"type": "object", "properties": p}
def version(name, storage=False, served=True, spec=None, **k): return dict({"name": name, "served": served, "storage": storage, "schema": {"openAPIV3Schema": O(spec=spec or O(a=INT, b=STR), status=O(x=STR))}, "subresources": {"status": {}}}, **k)
def crd(plural, *versions, conversion=None, **k):
    kind = plural[:-1].capitalize()
    return {"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": f"{plural}.{G}"}, "spec": dict({"group": G, "scope": "Namespaced", "names": {"plural": plural, "singular": plural[:-1], "kind": kind, "listKind": kind + "List"}, "versions": list(versions)}, **({"conversion": conversion} if conversion else {}), **k)}
def at(plural, v, name=None, sub=""): return f"/apis/{G}/{v}/namespaces/ver/{plural}" + (f"/{name}" if name else "") + sub
def thing(plural, v, name="a", spec=None, **m): return {"apiVersion": f"{G}/{v}", "kind": plural[:-1].capitalize(), "metadata": dict({"name": name}, **m), "spec": spec if spec is not None else {"a": 1, "b": "x"}}
def update(plural, *versions, label="", **k):
    o = crd(plural, *versions, **k)
    for s in w.sides: s.vars["rv"] = w.one(s, "GET", f"{CRDS}/{plural}.{G}")[2]["metadata"]["resourceVersion"]
    o["metadata"]["resourceVersion"] = "{{rv}}"
    w("PUT", f"{CRDS}/{plural}.{G}", o, norm=conditions, label=label); time.sleep(1.5)
def rvless(d): return json.loads(re.sub(r'"(resourceVersion|uid|continue)": "[^"]*"', r'"\1": "G"', json.dumps(d)))
def lines(text):
    """Watch events, or the text if they are none."""
    try: return [rvless(clean(json.loads(l), "")) for l in text.splitlines()]
    except ValueError: return text[:300]
w.begin("refused")
HOOK = {"strategy": "Webhook", "webhook": {"conversionReviewVersions": ["v1"], "clientConfig": {"url": h.at + "/convert", "caBundle": h.ca}}}
def hook(**k): return {"strategy": "Webhook", "webhook": {a: b for a, b in dict(HOOK["webhook"], **k).items() if b != "absent"}}
for c in ({"strategy": "Bogus"}, {"strategy": ""}, {}, {"strategy": "None", "webhook": HOOK["webhook"]}, {"strategy": "Webhook"}, hook(conversionReviewVersions=[]), hook(conversionReviewVersions="absent"), hook(conversionReviewVersions=["v1", "v1"]), hook(conversionReviewVersions=["v2"]), hook(conversionReviewVersions=["v1beta1"]), hook(conversionReviewVersions=["Bad V"]), hook(clientConfig="absent"), hook(clientConfig={}), hook(clientConfig={"url": "http://a.b/c"}), hook(clientConfig={"url": "https://u:p@a.b/c?x=y#f"}), hook(clientConfig={"url": "https://a.b", "service": {"name": "s", "namespace": "n"}}), hook(clientConfig={"service": {"name": "s"}}), hook(clientConfig={"service": {"name": "s", "namespace": "n", "port": 0, "path": "x//y"}}), hook(clientConfig={"url": "https://a.b", "caBundle": "eHg="}), HOOK):
    w("POST", CRDS + "?dryRun=All", crd("bads", version("v1", True), version("v2"), conversion=c), norm=conditions)
for vs in ([version("v1")], [version("v1", True), version("v2", True)], [version("v1", True), version("v1")], [version("v1", True, served=False)], [version("V 1", True)], [version("v1", True, deprecated=True, deprecationWarning="use v2"), version("v2")], [version("v1", True, deprecationWarning="use v2")], [version("v1", True, deprecated=True, deprecationWarning="x" * 257)], [version("v1", True, deprecated=True, deprecationWarning="a\nb")], [version("v1", True), version("v2", schema=None)], [version("v10", True), version("v2"), version("v1beta1"), version("foo1")]): w("POST", CRDS + "?dryRun=All", crd("bads", *vs), norm=conditions)
w.begin("none")
w("POST", CRDS, crd("plains", version("v1", True, deprecated=True), version("v2", spec=O(a=INT, c=dict(STR, default="d"))), version("v3", served=False)), norm=conditions); time.sleep(2)
for v in ("v1", "v2"): w("POST", at("plains", v), thing("plains", v, v, {"a": 1, "b": "x", "c": "y"})); w("POST", at("plains", v), thing("plains", "v1" if v == "v2" else "v2", "w"))
for v in ("v1", "v2", "v3"):
    for n in ("v1", "v2"): w("GET", at("plains", v, n)); w("PATCH", at("plains", v, n), {"spec": {"a": 2}}, kind=MERGE); w("PATCH", at("plains", v, n, "/status"), {"status": {"x": "s"}}, kind=MERGE); w("PATCH", at("plains", v, n) + "?fieldManager=ap&force=true", thing("plains", v, n, {"a": 3}), kind=APPLY)
    w("GET", at("plains", v), norm=rvless); w("GET", at("plains", v) + "?watch=true&timeoutSeconds=1", norm=lambda d: [e["object"].get("apiVersion") if isinstance(e, dict) else e for e in lines(d)] if isinstance(d, str) else d)
w("GET", f"{CRDS}/plains.{G}", norm=conditions); w("GET", "/apis/" + G); w("GET", f"/apis/{G}/v2", norm=lambda d: [{k: v for k, v in r.items() if k != "storageVersionHash"} for r in d["resources"]])
w.begin("stored")
update("plains", version("v1"), version("v2", True), label="the storage moves")
w("GET", f"{CRDS}/plains.{G}", norm=lambda d: d["status"]["storedVersions"]); w("GET", at("plains", "v1", "v1")); w("PATCH", at("plains", "v1", "v1"), {"metadata": {"labels": {"m": "n"}}}, kind=MERGE)
update("plains", version("v2", True), label="v1 is still stored"); w("PATCH", f"{CRDS}/plains.{G}/status", {"status": {"storedVersions": []}}, kind=MERGE); w("PATCH", f"{CRDS}/plains.{G}/status", {"status": {"storedVersions": ["v1"]}}, kind=MERGE); w("PATCH", f"{CRDS}/plains.{G}/status", {"status": {"storedVersions": ["v2", "v9"]}}, kind=MERGE); w("PATCH", f"{CRDS}/plains.{G}/status", {"status": {"storedVersions": ["v2"]}}, kind=MERGE, norm=conditions)
update("plains", version("v2", True), label="v1 goes"); w("GET", at("plains", "v1")); w("GET", at("plains", "v2"), norm=rvless); w("GET", at("plains", "v2", "v1"))
w.begin("converted")
seen, lock, S = [], threading.Lock(), {}
def good(review):
    want, out = review["request"]["desiredAPIVersion"], []
    for o in review["request"]["objects"]:
        o = copy.deepcopy(o)
        if o["apiVersion"] != want:
            spec = o.get("spec") or {}
            if want.endswith("/v2"): o["spec"] = {"a": str(spec.get("a", 0)), "both": f"{spec.get('b', '')}!"} 
            else: o["spec"] = {"a": int(spec.get("a") or 0), "b": (spec.get("both") or "!")[:-1]}
            o["apiVersion"] = want
        out.append(o)
    return {"kind": "ConversionReview", "apiVersion": review["apiVersion"], "response": {"uid": review["request"]["uid"], "result": {"status": "Success"}, "convertedObjects": out}}
@h.on("convert")
def convert(q, r):
    with lock: seen.append((r.path, q))
    return S["answer"](q)
S["answer"] = lambda q: (200, good(q))
w("POST", CRDS, crd("turns", version("v1", True, spec=O(a=INT, b=STR)), version("v2", spec=O(a=STR, both=STR), selectableFields=[{"jsonPath": ".spec.both"}], additionalPrinterColumns=[{"name": "Both", "type": "string", "jsonPath": ".spec.both"}]), conversion=HOOK), norm=conditions); time.sleep(2.5)
def asked(label, *a, **k):
    """A step, and what the webhook got for it of each server: how often it is asked is a matter of caches, not what it gets."""
    got = []
    for side in w.sides:
        with lock: seen.clear()
        code, hdr, doc = w.one(side, *a, **k)
        with lock: mine = [q for _, q in seen]
        got.append({"code": code, "answer": rvless(clean(doc, "")) if not isinstance(doc, str) else lines(doc), "warnings": hdr.get_all("Warning") if hdr else None, "reviews": sorted({(q["apiVersion"], q["kind"], " ".join(sorted(q["request"]))) for q in mine})})
    if not (got[0]["reviews"] and got[1]["reviews"]): got[0]["reviews"] = got[1]["reviews"] = None
    w.same(f"{label} {a[0]} {a[1]}", *got)
for v, s in (("v1", {"a": 1, "b": "x"}), ("v2", {"a": "2", "both": "y!"})): asked("create", "POST", at("turns", v), thing("turns", v, v, s))
for v in ("v1", "v2"):
    for n in ("v1", "v2"): asked("get", "GET", at("turns", v, n)); asked("patch", "PATCH", at("turns", v, n), {"metadata": {"labels": {v: n}}}, kind=MERGE); asked("status", "PATCH", at("turns", v, n, "/status"), {"status": {"x": v}}, kind=MERGE); asked("apply", "PATCH", at("turns", v, n) + "?fieldManager=ap&force=true", thing("turns", v, n, {"a": 7 if v == "v1" else "8"}), kind=APPLY)
    asked("list", "GET", at("turns", v)); asked("table", "GET", at("turns", v), accept="application/json;as=Table;v=v1;g=meta.k8s.io") if v == "v1" else w("GET", at("turns", v), accept="application/json;as=Table;v=v1;g=meta.k8s.io", norm=lambda d: [r["cells"] for r in d.get("rows", [])]); asked("watch", "GET", at("turns", v) + "?watch=true&timeoutSeconds=1"); asked("metadata", "GET", at("turns", v, "v1"), accept="application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io")
asked("selected", "GET", at("turns", "v2") + "?fieldSelector=spec.both%3Dy!"); asked("not selectable", "GET", at("turns", "v1") + "?fieldSelector=spec.b%3Dy"); asked("dry run", "POST", at("turns", "v2") + "?dryRun=All", thing("turns", "v2", "dry", {"a": "9", "both": "z!"})); asked("put", "PUT", at("turns", "v2", "v1"), thing("turns", "v2", "v1", {"a": "5", "both": "p!"}))
w.begin("failing")
def response(**k):
    def f(q):
        g = good(q); g["response"].update(k); g["response"] = {a: b for a, b in g["response"].items() if b != "absent"}; return 200, g
    return f
def changed(f):
    def g(q):
        a = good(q)
        for o in a["response"]["convertedObjects"]: f(o)
        return 200, a
    return g
answers = {"500": lambda q: (500, "boom"), "404": lambda q: (404, {"kind": "Status", "apiVersion": "v1", "code": 404, "message": "no"}), "text": lambda q: (200, "hello"), "empty": lambda q: (200, ""), "null": lambda q: (200, None), "other kind": lambda q: (200, {"kind": "Pod", "apiVersion": "v1"}), "other version": lambda q: (200, dict(good(q), apiVersion="apiextensions.k8s.io/v1beta1")), "no response": lambda q: (200, {"kind": "ConversionReview", "apiVersion": "apiextensions.k8s.io/v1"}), "wrong uid": response(uid="other"), "no uid": response(uid="absent"), "failure": response(result={"status": "Failure", "message": "cannot"}), "failure without text": response(result={"status": "Failure"}), "no result": response(result="absent"), "status of none": response(result={"status": ""}), "no objects": response(convertedObjects=[]), "too many": lambda q: (200, (lambda g: (g["response"]["convertedObjects"].append({"apiVersion": "v1", "kind": "Pod"}), g)[1])(good(q))),
           "not converted": lambda q: (200, {"kind": "ConversionReview", "apiVersion": q["apiVersion"], "response": {"uid": q["request"]["uid"], "result": {"status": "Success"}, "convertedObjects": q["request"]["objects"]}}), "other kind of object": changed(lambda o: o.update(kind="Other")), "other group": changed(lambda o: o.update(apiVersion="x.example.com/v2")), "other name": changed(lambda o: o["metadata"].update(name="z")), "other namespace": changed(lambda o: o["metadata"].update(namespace="z")), "other uid": changed(lambda o: o["metadata"].update(uid="z")), "labels": changed(lambda o: o["metadata"].update(labels={"new": "label"}, annotations={"new": "ann"})), "bad labels": changed(lambda o: o["metadata"].update(labels={"bad key!": "v"})), "labels of numbers": changed(lambda o: o["metadata"].update(labels={"n": 5})), "finalizers": changed(lambda o: o["metadata"].update(finalizers=["a.b/c"])), "owner": changed(lambda o: o["metadata"].update(ownerReferences=[])), "generation": changed(lambda o: o["metadata"].update(generation=99, resourceVersion="1")), "no metadata": changed(lambda o: o.pop("metadata")), "unknown fields": changed(lambda o: o["spec"].update(bogus=1)), "wrong types": changed(lambda o: o.update(spec={"a": {"not": "it"}})), "no spec": changed(lambda o: o.pop("spec"))}
for label, f in answers.items():
    S["answer"] = f
    w("GET", at("turns", "v2", "v1"), label=label, norm=rvless); w("GET", at("turns", "v2"), label=label, norm=rvless); w("POST", at("turns", "v2") + "?dryRun=All", thing("turns", "v2", "f", {"a": "9", "both": "z!"}), label=label, norm=rvless); w("PATCH", at("turns", "v2", "v1") + "?dryRun=All", {"spec": {"both": "q!"}}, kind=MERGE, label=label, norm=rvless); w("GET", at("turns", "v2") + "?watch=true&timeoutSeconds=1", label=label, norm=lambda d: lines(d) if isinstance(d, str) else rvless(d)); w("GET", at("turns", "v1", "v1"), label=label, norm=lambda d: d.get("kind"))
S["answer"] = lambda q: (200, good(q))
update("turns", version("v1", True, spec=O(a=INT, b=STR)), version("v2", spec=O(a=STR, both=STR)), conversion=hook(clientConfig={"url": f"https://127.0.0.1:{H.closed_port()}/x", "caBundle": h.ca}), label="closed")
w("GET", at("turns", "v2", "v1"), label="closed", norm=lambda d: re.sub(r":\d+", ":P", d.get("message", ""))); w("GET", at("turns", "v1", "v1"), label="closed", norm=rvless)
w.begin("schemas")
w("POST", CRDS, crd("shapes", version("v1", True, spec=O(a=INT))), norm=conditions); time.sleep(2)
w("POST", at("shapes", "v1"), thing("shapes", "v1", "a", {"a": 1, "gone": 2}))
got = [None, None]
def watch(i):
    doc = w.one(w.sides[i], "GET", at("shapes", "v1") + "?watch=true&timeoutSeconds=9")[2]
    got[i] = [(e["type"], e["object"].get("spec")) for e in lines(doc if isinstance(doc, str) else json.dumps(doc)) if isinstance(e, dict)]
threads = [threading.Thread(target=watch, args=(i,)) for i in (0, 1)]
for t in threads: t.start()
time.sleep(0.7)
update("shapes", version("v1", True, spec=O(a=INT, gone=INT, d=dict(STR, default="new")))); w("GET", at("shapes", "v1", "a")); w("PATCH", at("shapes", "v1", "a"), {"spec": {"gone": 3}}, kind=MERGE); w("PATCH", at("shapes", "v1", "a"), {"spec": {"a": "text"}}, kind=MERGE)
update("shapes", version("v1", True, spec=O(a=STR))); w("GET", at("shapes", "v1", "a")); w("PATCH", at("shapes", "v1", "a"), {"metadata": {"labels": {"x": "y"}}}, kind=MERGE); w("PATCH", at("shapes", "v1", "a"), {"spec": {"a": "text"}}, kind=MERGE)
for t in threads: t.join()
w.same("a watch while the schema changes", *got)
w("DELETE", f"{CRDS}/shapes.{G}", norm=lambda d: ""); time.sleep(1.5); w("GET", at("shapes", "v1")); w("GET", f"{CRDS}/shapes.{G}")
w.end()
