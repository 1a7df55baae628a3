#!/usr/bin/env python3
"""identities.py [STOCK-KUBECONFIG OUR-KUBECONFIG]: certificates that pods ask for (PodCertificateRequest) by their nodes, what is refused of them, their statuses, and trust bundles as nodes see
them; tokens of service accounts: what they are bound to, audiences, reviews, what ends them. Without kubeconfigs it starts fresh servers."""
from walk import *
import datetime, hashlib
from cryptography import x509
from cryptography.x509.oid import NameOID
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa, ed25519, padding
w = start(__file__)
w.known(r"refused POST .*podcertificaterequests", r"^201 ", r"invalid signature", "a stub of a P-521 key that is signed with SHA-256 is not taken here")
V1, MERGE = "/api/v1", "application/merge-patch+json"; N = V1 + "/namespaces/pid"; DRY = "?dryRun=All"
NODE, OTHER = "user:system:node:n1,system:nodes,system:authenticated", "user:system:node:n2,system:nodes,system:authenticated"
raw = w.one(w.sides[0], "GET", "/apis/certificates.k8s.io/v1")[2]
P = "/apis/certificates.k8s.io/v1/namespaces/pid/podcertificaterequests"
w.begin("places")
w.known(r"resources|storageVersionHash", r"Hash", r"Hash", "hashes of storage versions") if False else None
for v in ("v1", "v1beta1", "v1alpha1"): w("GET", f"/apis/certificates.k8s.io/{v}", norm=lambda d: sorted((r["name"], r["verbs"], r.get("shortNames")) for r in d["resources"]) if "resources" in d else d)
w("GET", P); w("GET", "/apis/certificates.k8s.io/v1/podcertificaterequests"); w("GET", P + "/x")
w("POST", V1 + "/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "pid"}}); w("POST", N + "/serviceaccounts", {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}}, check=False); w("POST", N + "/serviceaccounts", {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "sa"}}, check=False)
for n in ("n1", "n2"): w("POST", V1 + "/nodes", {"apiVersion": "v1", "kind": "Node", "metadata": {"name": n}}, check=False)
pod = lambda name, node="n1", **s: {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": dict({"nodeName": node, "serviceAccountName": "sa", "containers": [{"name": "c", "image": "i"}], "volumes": [{"name": "v", "projected": {"sources": [{"podCertificate": {"signerName": "example.com/s", "keyType": "ECDSAP256", "credentialBundlePath": "b.pem"}}, {"clusterTrustBundle": {"name": "root", "path": "r.pem"}}]}}]}, **s)}
for n, node in (("p", "n1"), ("q", "n2")): w("POST", N + "/pods", pod(n, node), norm=lambda d: d.get("message") or d.get("kind"))
for path, name in ((N + "/pods/p", "pod"), (N + "/serviceaccounts/sa", "sa"), (V1 + "/nodes/n1", "node"), (V1 + "/nodes/n2", "node2")):
    for s in w.sides: s.vars[name] = w.one(s, "GET", path)[2].get("metadata", {}).get("uid", "none")
time.sleep(1)
key = ec.generate_private_key(ec.SECP256R1())
def der(k): return base64.b64encode(k.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)).decode()
def proof(side, k=key):
    data = side.vars["pod"].encode()
    if isinstance(k, ec.EllipticCurvePrivateKey): sig = k.sign(data, ec.ECDSA(hashes.SHA256()))
    elif isinstance(k, rsa.RSAPrivateKey): sig = k.sign(data, padding.PKCS1v15(), hashes.SHA256())
    else: sig = k.sign(data)
    return base64.b64encode(sig).decode()
def req(side, k=key, cn=""):
    b = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, cn)] if cn else []))
    return base64.b64encode(b.sign(k, None if isinstance(k, ed25519.Ed25519PrivateKey) else hashes.SHA256()).public_bytes(serialization.Encoding.DER)).decode()
stub = req(None)
def pcr(name="r", **k): return {"apiVersion": "certificates.k8s.io/v1", "kind": "PodCertificateRequest", "metadata": {"name": name, "namespace": "pid"}, "spec": {a: b for a, b in dict({"signerName": "example.com/s", "podName": "p", "podUID": "{{pod}}", "serviceAccountName": "sa", "serviceAccountUID": "{{sa}}", "nodeName": "n1", "nodeUID": "{{node}}", "maxExpirationSeconds": 86400, "stubPKCS10Request": stub}, **k).items() if b != "absent"}}
w.begin("refused")
for k in ({}, {"signerName": "absent"}, {"signerName": "bad"}, {"signerName": "kubernetes.io/kube-apiserver-client-pod"}, {"signerName": "kubernetes.io/bogus"}, {"podName": "absent"}, {"podName": "Bad_"}, {"podName": "none"}, {"podName": "q"}, {"podUID": "wrong"}, {"podUID": "absent"}, {"podUID": "x" * 200}, {"serviceAccountName": "absent"}, {"serviceAccountName": "default"}, {"serviceAccountUID": "wrong"}, {"serviceAccountUID": "absent"}, {"nodeName": "n2"}, {"nodeName": "n2", "nodeUID": "{{node2}}"}, {"nodeName": "absent"}, {"nodeName": "none"}, {"nodeUID": "wrong"}, {"nodeUID": "absent"}, {"maxExpirationSeconds": "absent"}, {"maxExpirationSeconds": 3599}, {"maxExpirationSeconds": 3600}, {"maxExpirationSeconds": 7862400}, {"maxExpirationSeconds": 7862401}, {"maxExpirationSeconds": 0}, {"stubPKCS10Request": "absent"}, {"stubPKCS10Request": "eHg="}, {"stubPKCS10Request": req(None, rsa.generate_private_key(65537, 2048))}, {"stubPKCS10Request": req(None, rsa.generate_private_key(65537, 3072))}, {"stubPKCS10Request": req(None, ed25519.Ed25519PrivateKey.generate())}, {"stubPKCS10Request": req(None, ec.generate_private_key(ec.SECP384R1()))}, {"stubPKCS10Request": req(None, ec.generate_private_key(ec.SECP521R1()))}, {"stubPKCS10Request": req(None, cn="named")},
          {"unverifiedUserAnnotations": {"example.com/a": "b"}}, {"unverifiedUserAnnotations": {"a": "b"}}, {"unverifiedUserAnnotations": {"Bad Key": "b"}}, {"pkixPublicKey": der(key)}, {"bogus": 1}):
    for who in ("admin", NODE, OTHER): w("POST", P + DRY, pcr(**k), who=who)
w("POST", P, pcr(), who="user:nobody"); w("POST", P, pcr(), who=OTHER); w("POST", P, pcr(), who=NODE); w("POST", P, pcr("second"), who=NODE)
w("POST", P.replace("/pid/", "/default/"), dict(pcr(), metadata={"name": "r", "namespace": "default"}), who=NODE)
w.begin("lives")
for who in ("admin", NODE, OTHER):
    w("GET", P + "/r", who=who); w("GET", P, who=who); w("GET", P + "?fieldSelector=spec.nodeName%3Dn1", who=who); w("GET", P + "?fieldSelector=spec.nodeName%3Dn2", who=who, norm=lambda d: d.get("message") or d.get("items")); w("GET", P + "?fieldSelector=spec.signerName%3Dexample.com%2Fs", who=who)
w("GET", P + "?fieldSelector=spec.bogus%3Dx"); w("GET", P, accept="application/json;as=Table;v=v1;g=meta.k8s.io", norm=lambda d: [d.get("columnDefinitions"), [r["cells"][:-1] for r in d.get("rows", [])]] if "rows" in d else d)
w("PATCH", P + "/r", {"spec": {"podName": "q"}}, kind=MERGE); w("PATCH", P + "/r", {"spec": {"maxExpirationSeconds": 7200}}, kind=MERGE); w("PATCH", P + "/r", {"metadata": {"labels": {"a": "b"}}}, kind=MERGE, who=NODE); w("PATCH", P + "/r", {"metadata": {"labels": {"a": "b"}}}, kind=MERGE)
now = datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0)
def cert(k=key, hours=20, before=0, ca=False):
    n = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x")])
    b = x509.CertificateBuilder().subject_name(n).issuer_name(n).public_key(k.public_key()).serial_number(9).not_valid_before(now + datetime.timedelta(hours=before)).not_valid_after(now + datetime.timedelta(hours=before + hours))
    return b.sign(k, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()
def iso(h, s=0): return (now + datetime.timedelta(hours=h, seconds=s)).strftime("%Y-%m-%dT%H:%M:%SZ")
cond = lambda type, status="True", **k: dict({"type": type, "status": status, "reason": "R", "message": "M", "lastTransitionTime": iso(0)}, **k)
GOOD = dict(conditions=[cond("Issued")], certificateChain=cert(), notBefore=iso(0), notAfter=iso(20), beginRefreshAt=iso(10))
for st in ({"conditions": [cond("Bogus")]}, {"conditions": [cond("Issued", "False")]}, {"conditions": [cond("Issued"), cond("Denied")]}, {"conditions": [cond("Issued")]}, {"certificateChain": cert()}, dict(GOOD, certificateChain="junk"), dict(GOOD, certificateChain=cert(ec.generate_private_key(ec.SECP256R1()))), dict(GOOD, notAfter=iso(21)), dict(GOOD, notBefore=iso(1)), dict(GOOD, beginRefreshAt=iso(30)), dict(GOOD, beginRefreshAt=iso(-1)), dict(GOOD, beginRefreshAt=iso(0, 60)), dict(GOOD, notAfter=None), dict(GOOD, certificateChain=cert(hours=30), notAfter=iso(30)), dict(GOOD, certificateChain=cert(hours=0.5), notAfter=iso(0, 1800), beginRefreshAt=iso(0, 900)), {"conditions": [cond("Denied")], "certificateChain": cert()}, {"conditions": [cond("Failed", reason="")]}):
    for who in ("admin", "user:signer"): w("PATCH", P + "/r/status" + DRY, {"status": st}, kind=MERGE, who=who)
R = "/apis/rbac.authorization.k8s.io/v1"
w("POST", R + "/clusterroles", {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "psign"}, "rules": [{"apiGroups": ["certificates.k8s.io"], "resources": ["*"], "verbs": ["*"]}]}, check=False); w("POST", R + "/clusterrolebindings", {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "psign"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "psign"}, "subjects": [{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": "signer"}]}, check=False); time.sleep(1)
w("PATCH", P + "/r/status", {"status": GOOD}, kind=MERGE, who="user:signer"); w("PATCH", P + "/r/status", {"status": GOOD}, kind=MERGE); w("PATCH", P + "/r/status", {"status": {"conditions": [cond("Denied")]}}, kind=MERGE); w("PATCH", P + "/r/status", {"status": {"notAfter": iso(19)}}, kind=MERGE); w("PATCH", P + "/second/status", {"status": {"conditions": [cond("Denied", reason="UnsupportedKeyType")]}}, kind=MERGE); w("GET", P + "/second/status"); w("DELETE", P + "/r", who=NODE); w("DELETE", P + "/r")
w.begin("bundles")
T = "/apis/certificates.k8s.io/v1/clustertrustbundles"
for who in ("admin", NODE, "user:nobody", "user:u,system:authenticated", "user:system:serviceaccount:pid:sa,system:serviceaccounts,system:authenticated"): w("GET", T, who=who, norm=lambda d: d.get("message") or d.get("kind")); w("GET", T + "/x", who=who); w("POST", T + DRY, {"apiVersion": "certificates.k8s.io/v1", "kind": "ClusterTrustBundle", "metadata": {"name": "x"}, "spec": {"trustBundle": cert()}}, who=who)
w.begin("tokens")
TR = N + "/serviceaccounts/sa/token"; A = "/apis/authentication.k8s.io/v1"
def want(**s): return {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": s}
def hidden(d):
    d = copy.deepcopy(d)
    if isinstance(d, dict) and "token" in d.get("status", {}): 
        body = d["status"]["token"].split(".")[1]; c = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
        for k in ("exp", "iat", "nbf", "jti"): c[k] = bool(c.get(k)) if k != "exp" else c["exp"] - c["iat"]
        d["status"] = {"claims": json.loads(re.sub(r'"(uid|warnafter)": ("[^"]*"|\d+)', r'"\1": "X"', json.dumps(c)))}
    return d
POD, SEC, NOD = {"kind": "Pod", "apiVersion": "v1", "name": "p"}, {"kind": "Secret", "apiVersion": "v1", "name": "s"}, {"kind": "Node", "apiVersion": "v1", "name": "n1"}
w("POST", N + "/secrets", {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}})
for s in ({}, {"audiences": ["a"]}, {"audiences": ["a", "b"]}, {"audiences": []}, {"audiences": ["", "a"]}, {"audiences": ["https://kubernetes.default.svc.cluster.local", "other"]}, {"expirationSeconds": 600}, {"expirationSeconds": 599}, {"expirationSeconds": 0}, {"expirationSeconds": -1}, {"expirationSeconds": 4294967297}, {"expirationSeconds": 100000}, {"boundObjectRef": POD}, {"boundObjectRef": SEC}, {"boundObjectRef": NOD}, {"boundObjectRef": dict(POD, uid="{{pod}}")}, {"boundObjectRef": dict(POD, uid="wrong")}, {"boundObjectRef": dict(POD, name="none")}, {"boundObjectRef": dict(POD, name="q")}, {"boundObjectRef": {"kind": "ConfigMap", "apiVersion": "v1", "name": "x"}}, {"boundObjectRef": {"kind": "Pod", "apiVersion": "v2", "name": "x"}}, {"boundObjectRef": {"kind": "Pod", "name": "x"}}, {"boundObjectRef": {}}, {"boundObjectRef": {"kind": "Pod", "apiVersion": "v1"}}):
    w("POST", TR, want(**s), norm=hidden); w("POST", TR + DRY, want(**s), norm=hidden)
w("POST", N + "/serviceaccounts/none/token", want()); w("POST", TR, dict(want(), metadata={"name": "other"})); w("POST", TR, dict(want(), metadata={"namespace": "other"})); w("GET", TR); w("PUT", TR, want()); w("POST", TR, {"apiVersion": "v1", "kind": "Pod"}); w("POST", TR, want(), who=NODE); w("POST", TR, want(boundObjectRef=POD), who=NODE, norm=hidden); w("POST", TR, want(boundObjectRef=POD), who=OTHER)
bound = {"plain": {}, "pod": {"boundObjectRef": POD}, "sec": {"boundObjectRef": SEC}, "nod": {"boundObjectRef": NOD}, "aud": {"audiences": ["x", "y"]}}
for n, s in bound.items(): w("POST", TR, want(**s), norm=hidden, save={"t_" + n: lambda d: d["status"]["token"]})
def review(**s): return {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": s}
def jti(d): return json.loads(re.sub(r'JTI=[0-9a-f-]+', "JTI", re.sub(r'"(pod|node)-uid": \["[^"]*"\]', r'"\1-uid": ["U"]', json.dumps(d))))
def ask(label):
    for n in bound:
        w("POST", A + "/tokenreviews", review(token="{{t_%s}}" % n), norm=jti, label=label)
        for a in (["x"], ["y", "z"], ["z"], ["https://kubernetes.default.svc.cluster.local"], []): w("POST", A + "/tokenreviews", review(token="{{t_%s}}" % n, audiences=a), norm=jti, label=label)
        w("POST", A + "/selfsubjectreviews", {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}, who="token:{{t_%s}}" % n, norm=jti, label=label); w("GET", N + "/configmaps", who="token:{{t_%s}}" % n, label=label, norm=lambda d: d.get("message"))
ask("fresh")
for t in ("", "x", "a.b.c", "{{t_plain}}x", "Bearer {{t_plain}}"): w("POST", A + "/tokenreviews", review(token=t), norm=jti)
w("DELETE", N + "/secrets/s", norm=lambda d: ""); w("DELETE", N + "/pods/p?gracePeriodSeconds=0", norm=lambda d: ""); time.sleep(1.5); ask("objects gone")
w("DELETE", V1 + "/nodes/n1", norm=lambda d: ""); time.sleep(1.5); ask("node gone")
w("DELETE", N + "/serviceaccounts/sa", norm=lambda d: ""); time.sleep(1.5); ask("account gone")
w("POST", N + "/serviceaccounts", {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "sa"}}, norm=lambda d: ""); time.sleep(1.5); ask("account anew")
w.end()
