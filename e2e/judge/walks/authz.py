#!/usr/bin/env python3
"""authz.py [STOCK-KUBECONFIG OUR-KUBECONFIG]: what every cluster begins with, RBAC with its escalation checks, reviews, impersonation, tokens and what they die with. Without kubeconfigs it starts fresh servers."""
from walk import *
w = start(__file__)
R = "/apis/rbac.authorization.k8s.io/v1"
A = "/apis/authorization.k8s.io/v1"
U = "/apis/authentication.k8s.io/v1"
w.known(r"bootstrap .*(kubeadm:|cluster-info)", r"absent", r"kubeadm|cluster-info", "a cluster here has what kubeadm would add: bootstrap tokens and the public cluster information")
w.known(r"bootstrap .*extension-apiserver-authentication", r"", r"", "the authorities and header names of each server's own flags")
w.known(r"status\.reason", r"system:public-info-viewer", r"system:discovery", "which of several bindings that allow it is named is chance upstream")
w.known(r"resourceRules", r"", r"selfnodeclient", "kubeadm's bindings for the renewal of nodes' certificates")
w.known(r"openid", r"406", r"200", "go-restful's own answer to a media type it does not know")
w.known(r"id_token_signing_alg", r"RS256", r"ES256", "the key that each server signs with")
w.begin("bootstrap")
def listed(doc):
    if isinstance(doc, dict) and "items" in doc:
        doc["items"] = sorted((i for i in doc["items"]), key=lambda i: i["metadata"]["name"])
        for i in doc["items"]:
            i["metadata"].pop("managedFields", None)
    return doc
def names(doc):
    if isinstance(doc, dict) and "items" in doc:
        return sorted(i["metadata"].get("namespace", "") + "/" + i["metadata"]["name"] for i in doc["items"])
    return doc
for p in (R + "/clusterroles", R + "/clusterrolebindings", R + "/roles", R + "/rolebindings", "/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas", "/apis/flowcontrol.apiserver.k8s.io/v1/prioritylevelconfigurations", "/apis/scheduling.k8s.io/v1/priorityclasses", "/api/v1/namespaces", "/api/v1/configmaps", "/apis/networking.k8s.io/v1/servicecidrs", "/apis/apiregistration.k8s.io/v1/apiservices"):
    a, b = [listed(x[2]) for x in w("GET", p, check=False)]
    ia, ib = [{i["metadata"].get("namespace", "") + "/" + i["metadata"]["name"]: clean(i, "") for i in x["items"]} for x in (a, b)]
    for k in sorted(set(ia) | set(ib)):
        if k not in ia or k not in ib:
            w.same(f"{p} {k}", ia.get(k, "<absent>"), ib.get(k, "<absent>"))
        else:
            w.same(f"{p} {k}", ia[k], ib[k])
w.begin("rbac")
w("POST", "/api/v1/namespaces", obj("{apiVersion: v1, kind: Namespace, metadata: {name: walk}}"))
role = lambda name, rules, kind="Role", **more: dict({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": {"name": name}, "rules": rules}, **more)
bind = lambda name, ref, subjects, kind="RoleBinding", refkind="Role": {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": {"name": name}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": refkind, "name": ref}, "subjects": subjects}
user = lambda n: {"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": n}
group = lambda n: {"kind": "Group", "apiGroup": "rbac.authorization.k8s.io", "name": n}
N = R + "/namespaces/walk"
cms = [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "list"]}]
w("POST", N + "/roles", role("reader", cms))
w("POST", N + "/roles", role("rolemaker", [{"apiGroups": ["rbac.authorization.k8s.io"], "resources": ["roles", "rolebindings", "clusterroles", "clusterrolebindings"], "verbs": ["create", "update", "patch", "get", "delete"]}]))
w("POST", N + "/rolebindings", bind("ann", "rolemaker", [user("ann")]))
w("POST", N + "/rolebindings", bind("ben", "reader", [user("ben"), group("readers")]))
w("POST", N + "/rolebindings", bind("sa", "reader", [{"kind": "ServiceAccount", "name": "default", "namespace": "walk"}]))
for p in ("/configmaps", "/secrets", "/configmaps/x", "/pods?watch=1&timeoutSeconds=1", "/configmaps?fieldSelector=metadata.name%3Dx&labelSelector=a%3Db"):
    for who in ("user:ben", "user:ann", "user:x,readers", "user:system:serviceaccount:walk:default,system:serviceaccounts,system:serviceaccounts:walk"):
        w("GET", "/api/v1/namespaces/walk" + p, who=who, norm=lambda d: d if not (isinstance(d, dict) and d.get("kind", "").endswith("List")) else "list")
rules = [
    cms, [{"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}], [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}],
    [{"apiGroups": [""], "resources": ["secrets", "pods"], "resourceNames": ["a", "b"], "verbs": ["get", "delete"]}, {"apiGroups": ["apps"], "resources": ["deployments/scale"], "verbs": ["update"]}],
    [{"nonResourceURLs": ["/x", "/y/*"], "verbs": ["get"]}], [{"apiGroups": ["rbac.authorization.k8s.io"], "resources": ["roles"], "verbs": ["create", "bogus"]}],
    [{"verbs": ["get"]}], [{"apiGroups": [""], "resources": ["x"], "verbs": []}], [{"apiGroups": [""], "resources": ["*/status"], "verbs": ["get"]}], [],
    [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get"], "resourceNames": ["x"]}],
]
for i, r in enumerate(rules):
    for who in ("user:ann", "admin", "user:ann,g1,g2"):
        w("POST", N + "/roles?dryRun=All", role(f"r{i}", r), who=who)
        w("POST", R + "/clusterroles?dryRun=All", role(f"r{i}", r, "ClusterRole"), who=who)
    w("POST", N + "/roles", role(f"own{i}", r))
    w("POST", N + "/rolebindings?dryRun=All", bind(f"own{i}", f"own{i}", [user("ann")]), who="user:ann")
    w("PUT", N + f"/roles/own{i}?dryRun=All", role(f"own{i}", cms), who="user:ann")
    w("PUT", N + f"/roles/own{i}?dryRun=All", role(f"own{i}", r + [{"apiGroups": ["batch"], "resources": ["jobs"], "verbs": ["list"]}]), who="user:ann")
    w("PUT", N + f"/roles/own{i}?dryRun=All", role(f"own{i}", r, metadata={"name": f"own{i}", "labels": {"a": "b"}}), who="user:ann")
w("POST", N + "/rolebindings?dryRun=All", bind("x", "absent", [user("ann")]), who="user:ann")
w("POST", N + "/rolebindings?dryRun=All", bind("x", "view", [user("ann")], refkind="ClusterRole"), who="user:ann")
w("POST", N + "/rolebindings?dryRun=All", bind("x", "view", [user("ann")], refkind="Clusterrole"), who="user:ann")
w("POST", R + "/clusterrolebindings?dryRun=All", bind("x", "view", [user("ann")], kind="ClusterRoleBinding", refkind="ClusterRole"), who="user:ann")
w("POST", N + "/roles", role("binder", [{"apiGroups": ["rbac.authorization.k8s.io"], "resources": ["clusterroles"], "resourceNames": ["view"], "verbs": ["bind"]}, {"apiGroups": ["rbac.authorization.k8s.io"], "resources": ["roles"], "verbs": ["escalate"]}]))
w("POST", N + "/rolebindings", bind("binder", "binder", [user("ann")]))
time.sleep(1)
w("POST", N + "/rolebindings?dryRun=All", bind("x", "view", [user("ann")], refkind="ClusterRole"), who="user:ann")
w("POST", N + "/rolebindings?dryRun=All", bind("x", "edit", [user("ann")], refkind="ClusterRole"), who="user:ann")
w("POST", N + "/roles?dryRun=All", role("any", rules[2]), who="user:ann")
w("PUT", N + "/rolebindings/ben", bind("ben", "other", [user("ben")]))
w("PUT", N + "/rolebindings/ben", bind("ben", "reader", [user("ben"), user("carl"), group("readers")]), who="user:ann")
agg = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "agg"}, "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"a": "b"}}]}, "rules": []}
w("POST", R + "/clusterroles?dryRun=All", agg)
w("POST", R + "/clusterroles?dryRun=All", agg, who="user:ann")
w("POST", R + "/clusterroles?dryRun=All", dict(agg, aggregationRule={}))
w("POST", R + "/clusterroles?dryRun=All", dict(agg, aggregationRule={"clusterRoleSelectors": [{"matchLabels": {"a b": "c"}}]}))
w.begin("reviews")
def sar(kind="SubjectAccessReview", **spec):
    return {"apiVersion": "authorization.k8s.io/v1", "kind": kind, "spec": spec}
ra = lambda **m: {"resourceAttributes": m}
cases = [
    dict(user="ben", **ra(namespace="walk", verb="get", resource="configmaps")), dict(user="ben", **ra(namespace="walk", verb="get", resource="configmaps", name="x", group="", version="v1")),
    dict(user="ben", **ra(namespace="other", verb="get", resource="configmaps")), dict(user="ben", **ra(verb="get", resource="configmaps")), dict(groups=["readers"], **ra(namespace="walk", verb="list", resource="configmaps")),
    dict(user="x", groups=["readers"], extra={"a": ["b"]}, uid="7", **ra(namespace="walk", verb="list", resource="configmaps")), dict(user="ben"), dict(), dict(user="ben", nonResourceAttributes={"path": "/healthz", "verb": "get"}),
    dict(user="ben", groups=["system:authenticated"], nonResourceAttributes={"path": "/healthz", "verb": "get"}), dict(user="ben", groups=["system:authenticated"], nonResourceAttributes={"path": "/metrics", "verb": "get"}),
    dict(user="ben", nonResourceAttributes={"path": "/x", "verb": "get"}, **ra(verb="get", resource="pods")), dict(user="x", groups=["system:masters"], **ra(verb="*", resource="*", group="*")),
    dict(user="system:node:n1", groups=["system:nodes"], **ra(verb="get", resource="secrets", namespace="walk", name="s")), dict(user="system:node:n1", groups=["system:nodes"], **ra(verb="list", resource="pods")),
    dict(user="system:node:n1", groups=["system:nodes"], **ra(verb="get", resource="nodes", name="n1")), dict(user="system:node:n1", groups=["system:nodes"], **ra(verb="list", resource="secrets")),
    dict(user="system:node:n1", groups=["system:nodes"], **ra(verb="create", resource="serviceaccounts", subresource="token", namespace="walk", name="default")), dict(user="system:node:n1", groups=["system:nodes"], **ra(verb="get", resource="leases", group="coordination.k8s.io", namespace="kube-node-lease", name="n1")),
    dict(user="system:node:n1", groups=["system:nodes"], **ra(verb="get", resource="leases", group="coordination.k8s.io", namespace="kube-node-lease", name="n2")), dict(user="system:node:n1", groups=["system:nodes"], **ra(verb="get", resource="persistentvolumes", name="pv")),
    dict(user="system:node:n1", groups=["system:nodes"], **ra(verb="get", resource="csinodes", group="storage.k8s.io", name="n2")), dict(user="system:node:n1", groups=["system:nodes"], **ra(verb="list", resource="resourceslices", group="resource.k8s.io")),
    dict(user="system:node:n1", groups=["system:nodes"], **ra(verb="list", resource="resourceslices", group="resource.k8s.io", fieldSelector={"requirements": [{"key": "spec.nodeName", "operator": "In", "values": ["n1"]}]})),
    dict(user="system:node:n1", groups=["system:nodes"], **ra(verb="list", resource="pods", fieldSelector={"requirements": [{"key": "spec.nodeName", "operator": "In", "values": ["n1"]}]})),
    dict(user="system:node:n1", groups=["system:nodes"], **ra(verb="list", resource="pods", fieldSelector={"rawSelector": "spec.nodeName=n1"})), dict(user="system:node:n1", groups=["system:nodes"], **ra(verb="watch", resource="pods", fieldSelector={"rawSelector": "spec.nodeName=n2"})),
    dict(user="system:node:n1", groups=["system:nodes"], **ra(verb="get", resource="podcertificaterequests", group="certificates.k8s.io", namespace="walk", name="x")), dict(user="system:node:n1", groups=["system:nodes"], **ra(verb="list", resource="clustertrustbundles", group="certificates.k8s.io")),
    dict(user="system:node:n1", groups=["system:nodes"], **ra(verb="create", resource="pods", subresource="eviction", namespace="walk", name="x")), dict(user="system:node:n1", groups=["system:nodes"], **ra(verb="bogus", resource="volumeattachments", group="storage.k8s.io", name="x")),
    dict(user="system:node:n1", groups=["system:nodes"], **ra(verb="get", resource="resourceclaims", group="resource.k8s.io", namespace="walk", name="x")), dict(user="system:node:", groups=["system:nodes"], **ra(verb="get", resource="nodes", name="n1")),
    dict(user="system:node:n1", groups=["system:nodes"], **ra(verb="patch", resource="persistentvolumeclaims", subresource="status", namespace="walk", name="x")), dict(user="system:node:n1", groups=["system:nodes"], **ra(verb="update", resource="persistentvolumeclaims", subresource="status", namespace="walk", name="x")),
    dict(user="system:node:n1", groups=["system:nodes"], **ra(verb="get", resource="configmaps", namespace="walk", name="x", subresource="y")), dict(user="system:node:n1", groups=["system:nodes"], **ra(verb="get", resource="configmaps", namespace="", name="x")),
    dict(user="system:node:n1", groups=["system:nodes"], **ra(verb="get", resource="configmaps", namespace="walk", name="")), dict(user="system:node:n1", groups=["system:nodes"], **ra(verb="create", resource="leases", group="coordination.k8s.io", namespace="default", name="n1")),
    dict(user="ben", **ra(namespace="walk", verb="list", resource="configmaps", labelSelector={"rawSelector": "a=b"})), dict(user="ben", **ra(namespace="walk", verb="list", resource="configmaps", labelSelector={"rawSelector": "a=b", "requirements": [{"key": "a", "operator": "In", "values": ["b"]}]})),
    dict(user="ben", **ra(namespace="walk", verb="list", resource="configmaps", labelSelector={"requirements": [{"key": "a", "operator": "Bogus", "values": ["b"]}]})), dict(user="ben", **ra(namespace="walk", verb="list", resource="configmaps", fieldSelector={"requirements": [{"key": "a", "operator": "Exists", "values": ["b"]}]})),
    dict(user="ben", **ra(namespace="walk", verb="list", resource="configmaps", fieldSelector={"requirements": []})), dict(user="ben", **ra(namespace="walk", verb="list", resource="configmaps", fieldSelector={"requirements": [{"key": "", "operator": "In", "values": []}]})),
    dict(user="ben", **ra(namespace="walk", verb="list", resource="configmaps", fieldSelector={"rawSelector": "a=b=c=="})), dict(user="ben", **ra(namespace="walk", verb="list", resource="configmaps", labelSelector={})),
]
for c in cases:
    w("POST", A + "/subjectaccessreviews", sar(**c))
    w("POST", A + "/namespaces/walk/localsubjectaccessreviews", dict(sar("LocalSubjectAccessReview", **c), metadata={"namespace": "walk"}))
    self = {k: v for k, v in c.items() if k in ("resourceAttributes", "nonResourceAttributes")}
    for who in ("user:ben", "user:system:node:n1,system:nodes"):
        w("POST", A + "/selfsubjectaccessreviews", sar("SelfSubjectAccessReview", **self), who=who + (",system:authenticated"))
w("POST", A + "/subjectaccessreviews", dict(sar(**cases[0]), metadata={"name": "x"}))
w("POST", A + "/subjectaccessreviews", dict(sar(**cases[0]), metadata={"namespace": "x"}))
w("POST", A + "/subjectaccessreviews", dict(sar(**cases[0]), status={"allowed": True}))
w("POST", A + "/namespaces/walk/localsubjectaccessreviews", dict(sar("LocalSubjectAccessReview", **cases[2])))
w("POST", A + "/namespaces/other/localsubjectaccessreviews", dict(sar("LocalSubjectAccessReview", **cases[0])))
for n in ("walk", "other", "", "kube-system"):
    for who in ("admin", "user:ben", "user:x,readers,system:authenticated", "user:system:node:n1,system:nodes,system:authenticated", "user:system:serviceaccount:walk:default,system:serviceaccounts,system:authenticated"):
        w("POST", A + "/selfsubjectrulesreviews", sar("SelfSubjectRulesReview", namespace=n), who=who)
for who in ("admin", "user:ben", "user:x,a,b", "anon"):
    for k in ("v1",):
        w("POST", f"/apis/authentication.k8s.io/{k}/selfsubjectreviews", {"apiVersion": f"authentication.k8s.io/{k}", "kind": "SelfSubjectReview"}, who=who)
w("POST", U + "/selfsubjectreviews", {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview", "metadata": {"name": "x"}})
w("POST", U + "/selfsubjectreviews?dryRun=All&pretty=true", {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"})
w.begin("impersonation")
w("POST", R + "/clusterroles", role("imp", [{"apiGroups": [""], "resources": ["users", "groups", "serviceaccounts"], "verbs": ["impersonate"], "resourceNames": ["ben", "readers", "default", "bob"]}, {"apiGroups": ["authentication.k8s.io"], "resources": ["userextras/scopes", "uids"], "verbs": ["impersonate"], "resourceNames": ["one", "u-1"]}], "ClusterRole"))
w("POST", R + "/clusterrolebindings", bind("imp", "imp", [user("imp")], kind="ClusterRoleBinding", refkind="ClusterRole"))
w("POST", "/api/v1/namespaces/walk/serviceaccounts", {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "imp"}}, codes=201)
w("POST", R + "/clusterrolebindings", bind("imp2", "imp", [{"kind": "ServiceAccount", "name": "imp", "namespace": "walk"}], kind="ClusterRoleBinding", refkind="ClusterRole"))
w("POST", "/api/v1/namespaces/walk/serviceaccounts/imp/token", {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}, save={"imptok": lambda d: d["status"]["token"]}, norm=lambda d: "x")
time.sleep(1)
for hs in ([("Impersonate-User", "ben")], [("Impersonate-User", "zed")], [("Impersonate-User", "ben"), ("Impersonate-Group", "readers")], [("Impersonate-User", "ben"), ("Impersonate-Group", "nope")], [("Impersonate-Group", "readers")], [("Impersonate-Uid", "u-1")], [("Impersonate-User", "ben"), ("Impersonate-Uid", "u-1")], [("Impersonate-User", "ben"), ("Impersonate-Uid", "u-2")],
           [("Impersonate-User", "ben"), ("Impersonate-Extra-Scopes", "one")], [("Impersonate-User", "ben"), ("Impersonate-Extra-Scopes", "two")], [("Impersonate-User", "ben"), ("Impersonate-Extra-Other", "one")], [("Impersonate-Extra-Scopes", "one")], [("Impersonate-User", "system:serviceaccount:walk:default")], [("Impersonate-User", "system:serviceaccount:walk:none")],
           [("Impersonate-User", "system:serviceaccount:walk:default"), ("Impersonate-Group", "readers")], [("Impersonate-User", "")], [("Impersonate-User", "ben"), ("Impersonate-Extra-a%2fb", "one")], [("Impersonate-User", "system:node:n1")], [("Impersonate-User", "system:anonymous")], [("Impersonate-User", "ben"), ("Impersonate-Group", "system:masters")]):
    for who in ("token:{{imptok}}", "admin"):
        w("POST", U + "/selfsubjectreviews", {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}, who=who, headers=hs)
w.begin("tokens")
TR = lambda **spec: {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
def claims(tok):
    p = tok.split(".")[1]; return json.loads(base64.urlsafe_b64decode(p + "=" * (-len(p) % 4)))
def head(tok):
    p = tok.split(".")[0]; return json.loads(base64.urlsafe_b64decode(p + "=" * (-len(p) % 4)))
w("POST", "/api/v1/namespaces/walk/secrets", {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "bound"}}, norm=lambda d: "")
w("POST", "/api/v1/namespaces/walk/pods", {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "bp"}, "spec": {"serviceAccountName": "imp", "containers": [{"name": "c", "image": "i"}]}}, save={"poduid": lambda d: d["metadata"]["uid"]})
w("POST", "/api/v1/nodes", {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "bn"}}, save={"nodeuid": lambda d: d["metadata"]["uid"]}, norm=lambda d: "")
def normtok(d):
    if isinstance(d, dict) and isinstance(d.get("status"), dict) and "token" in d["status"]:
        t = d["status"]["token"]; 
        d["status"]["token"] = "T"; d["status"].pop("expirationTimestamp", None)
    return d
toks = []
for i, spec in enumerate([{}, {"audiences": ["a", "b"]}, {"expirationSeconds": 600}, {"expirationSeconds": 599}, {"expirationSeconds": 1 << 32}, {"expirationSeconds": (1 << 32) + 1}, {"audiences": []}, {"audiences": [""]},
             {"boundObjectRef": {"kind": "Secret", "apiVersion": "v1", "name": "bound"}}, {"boundObjectRef": {"kind": "Secret", "apiVersion": "v1", "name": "absent"}}, {"boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "bp"}}, {"boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "bp", "uid": "{{poduid}}"}},
             {"boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "bp", "uid": "wrong"}}, {"boundObjectRef": {"kind": "Node", "apiVersion": "v1", "name": "bn", "uid": "{{nodeuid}}"}}, {"boundObjectRef": {"kind": "Node", "apiVersion": "v1", "name": "absent"}}, {"boundObjectRef": {"kind": "ConfigMap", "apiVersion": "v1", "name": "bp"}},
             {"boundObjectRef": {"kind": "Pod", "apiVersion": "v2", "name": "bp"}}, {"boundObjectRef": {"kind": "Pod", "name": "bp"}}, {"boundObjectRef": {"name": "bp"}}, {"boundObjectRef": {"kind": "Pod", "apiVersion": "v1"}}]):
    raw = w("POST", "/api/v1/namespaces/walk/serviceaccounts/imp/token", TR(**spec), norm=normtok, save={f"tok{i}": lambda d: d["status"]["token"]})
    if raw[0][0] == 201 and raw[1][0] == 201:
        cs = [claims(x[2]["status"]["token"]) for x in raw]
        for c, x in zip(cs, raw):
            c["life"] = c.pop("exp") - c.pop("iat"); c["nbf"] = 0; c["jti"] = bool(c["jti"])
            k = c["kubernetes.io"]
            for o in ("serviceaccount", "pod", "secret", "node"):
                if o in k and "uid" in k[o]: k[o]["uid"] = "U"
            if "warnafter" in k: k["warnafter"] = "W"
        w.same(f"claims {spec}", cs[0], cs[1])
        w.same("head", sorted(head(raw[0][2]["status"]["token"])), sorted(head(raw[1][2]["status"]["token"])))
        toks.append(i)
w("POST", "/api/v1/namespaces/walk/serviceaccounts/absent/token", TR())
w("POST", "/api/v1/namespaces/walk/serviceaccounts/imp/token", dict(TR(), metadata={"name": "other"}))
w("POST", "/api/v1/namespaces/walk/serviceaccounts/imp/token?dryRun=All", TR(), norm=normtok)
w("POST", "/api/v1/namespaces/walk/serviceaccounts/imp/token", TR(), who="user:ann", norm=normtok)
w("POST", "/api/v1/namespaces/walk/serviceaccounts/imp/token", TR(), who="user:system:node:bn,system:nodes,system:authenticated", norm=normtok)
w("POST", "/api/v1/namespaces/walk/serviceaccounts/imp/token", TR(boundObjectRef={"kind": "Pod", "apiVersion": "v1", "name": "bp", "uid": "{{poduid}}"}), who="user:system:node:bn,system:nodes,system:authenticated", norm=normtok)
def trv(**s): return {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": s}
def normrev(d):
    t = json.dumps(d)
    t = re.sub(r'JTI=[^"]*', "JTI", t); t = re.sub(r'"token": "[^"]*"', '"token": "T"', t)
    t = re.sub(r"service account token has expired[^\"]*", "expired", t)
    return json.loads(t)
def reviews(which):
    for i in which:
        for auds in (None, ["a"], ["b", "c"], ["https://kubernetes.default.svc.cluster.local"], ["x"]):
            w("POST", U + "/tokenreviews", trv(token="{{tok%d}}" % i, **({"audiences": auds} if auds else {})), norm=normrev)
        w("POST", U + "/selfsubjectreviews", {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}, who="token:{{tok%d}}" % i, norm=normrev)
        w("GET", "/api/v1/namespaces/walk/pods", who="token:{{tok%d}}" % i)
reviews(toks)
w("DELETE", "/api/v1/namespaces/walk/secrets/bound", norm=lambda d: "")
w("DELETE", "/api/v1/namespaces/walk/pods/bp?gracePeriodSeconds=0", norm=lambda d: "")
w("DELETE", "/api/v1/nodes/bn", norm=lambda d: "")
time.sleep(11)
reviews([t for t in toks if t >= 8])
w("DELETE", "/api/v1/namespaces/walk/serviceaccounts/imp", norm=lambda d: "")
time.sleep(11)
reviews([0, 8])
for spec in (dict(token=""), dict(), dict(token="abc"), dict(token="a.b.c"), dict(token="{{tok0}}x"), dict(token="eyJhbGciOiJub25lIn0.e30."), dict(token="x", audiences=["z"])):
    w("POST", U + "/tokenreviews", trv(**spec), norm=normrev)
w("POST", U + "/tokenreviews", dict(trv(token="x"), metadata={"name": "y", "namespace": "z"}), norm=normrev)
w("GET", "/api/v1/namespaces", who="token:bogus")
w("GET", "/openid/v1/jwks", who="admin", norm=lambda d: sorted(d["keys"][0]) if isinstance(d, dict) and "keys" in d else d)
w("GET", "/.well-known/openid-configuration", who="admin", norm=lambda d: {k: v if "uri" not in k else "U" for k, v in d.items()} if isinstance(d, dict) else d)
for h in ([("Authorization", "Basic YTpi")], [("Authorization", "Bearer")], [("Authorization", "Bearer  ")], [("Authorization", "")], [("Authorization", "bearer {{imptok}}")], [("Authorization", "BEARER {{tok2}}")]):
    for p in ("/api/v1/namespaces", "/healthz", "/version"):
        w("GET", p, who="anon", headers=h, norm=lambda d: d if not isinstance(d, dict) or "gitVersion" not in d else "v")
w.end()
