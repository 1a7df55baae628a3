#!/usr/bin/env python3
"""certs.py [STOCK-KUBECONFIG OUR-KUBECONFIG]: certificate signing requests with approval and status, signers, trust bundles. Without kubeconfigs it starts fresh servers."""
from walk import *
from cryptography import x509
from cryptography.x509.oid import NameOID, ExtendedKeyUsageOID
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa, ed25519
import datetime, ipaddress
w = start(__file__)
w.known(r"spec\.request", r"asn1: structure error", r"asn1: structure error", "the texts of Go's ASN.1 parser")
C = "/apis/certificates.k8s.io/v1/certificatesigningrequests"
key = ec.generate_private_key(ec.SECP256R1())
def csr(cn="u", orgs=(), dns=(), ips=(), emails=(), uris=(), key=key, hash=hashes.SHA256(), ou=None):
    names = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, o) for o in orgs] + ([x509.NameAttribute(NameOID.COMMON_NAME, cn)] if cn else []) + ([x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, ou)] if ou else [])
    b = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(names))
    san = [x509.DNSName(d) for d in dns] + [x509.IPAddress(ipaddress.ip_address(i)) for i in ips] + [x509.RFC822Name(e) for e in emails] + [x509.UniformResourceIdentifier(u) for u in uris]
    if san:
        b = b.add_extension(x509.SubjectAlternativeName(san), False)
    return base64.b64encode(b.sign(key, hash).public_bytes(serialization.Encoding.PEM)).decode()
def cert(days=1, cn="x", ca=False, k=key, sans=(), nb=0):
    now = datetime.datetime(2026, 11, 21)
    n = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, cn)])
    b = x509.CertificateBuilder().subject_name(n).issuer_name(n).public_key(k.public_key()).serial_number(7).not_valid_before(now).not_valid_after(now + datetime.timedelta(days=days))
    b = b.add_extension(x509.BasicConstraints(ca, None), True)
    return b.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()
def body(name, signer="example.com/s", usages=("client auth",), req=None, **more):
    return {"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest", "metadata": {"name": name}, "spec": dict({"request": req or csr(), "signerName": signer, "usages": list(usages)}, **more)}
w.begin("csr")
R = "/apis/rbac.authorization.k8s.io/v1"
w("POST", R + "/clusterroles", {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "csr"}, "rules": [{"apiGroups": ["certificates.k8s.io"], "resources": ["*"], "verbs": ["*"]}]}, check=False)
w("POST", R + "/clusterrolebindings", {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "csr"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "csr"}, "subjects": [{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": n} for n in ("cara", "dan")]}, check=False)
w("POST", R + "/clusterroles", {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "signer"}, "rules": [{"apiGroups": ["certificates.k8s.io"], "resources": ["signers"], "resourceNames": ["example.com/s", "other.example.com/*"], "verbs": ["approve", "sign", "attest"]}]}, check=False)
w("POST", R + "/clusterrolebindings", {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "signer"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "signer"}, "subjects": [{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": "dan"}]}, check=False)
time.sleep(1)
KC, KS, KA, LU = "kubernetes.io/kube-apiserver-client-kubelet", "kubernetes.io/kubelet-serving", "kubernetes.io/kube-apiserver-client", "kubernetes.io/legacy-unknown"
i = 0
for signer in ("example.com/s", KC, KS, KA, LU, "kubernetes.io/bogus", "bad", "a/b/c", "UPPER.com/x", "example.com/", "x" * 300 + ".com/y", ""):
    for req, usages in ((csr(), ["client auth"]), (csr("u", ["system:masters"]), ["client auth", "digital signature"]), (csr("system:node:n1", ["system:nodes"]), ["key encipherment", "digital signature", "client auth"]), (csr("system:node:n1", ["system:nodes"], dns=["n1"], ips=["10.0.0.1"]), ["key encipherment", "digital signature", "server auth"]),
                        (csr("system:node:n1", ["system:nodes"], dns=["n1"]), ["digital signature", "client auth"]), (csr("x", ["system:nodes"]), ["digital signature", "server auth"]), (csr("system:node:n1", ["other"]), ["digital signature", "server auth"]), (csr(""), ["any"]), (csr("u", uris=["spiffe://x"]), ["server auth"]), (csr("u", emails=["a@b.c"]), ["server auth"])):
        i += 1
        w("POST", C + "?dryRun=All", body(f"d{i}", signer, usages, req))
for more in ({"usages": []}, {"usages": ["bogus"]}, {"usages": ["client auth", "client auth"]}, {"expirationSeconds": 600}, {"expirationSeconds": 599}, {"expirationSeconds": 0}, {"expirationSeconds": -1}, {"request": ""}, {"request": "eHg="}, {"request": base64.b64encode(b"-----BEGIN CERTIFICATE REQUEST-----\neHg=\n-----END CERTIFICATE REQUEST-----\n").decode()}, {"request": base64.b64encode(cert().encode()).decode()}, {"username": "other", "groups": ["x"], "uid": "7", "extra": {"a": ["b"]}},
             {"request": csr(key=rsa.generate_private_key(65537, 2048))}, {"request": csr(key=ed25519.Ed25519PrivateKey.generate(), hash=None)}, {"request": csr(key=ec.generate_private_key(ec.SECP521R1()), hash=hashes.SHA512())}, {"request": csr(key=ec.generate_private_key(ec.SECP384R1()))}, {"request": csr(key=rsa.generate_private_key(65537, 1024))}):
    w("POST", C + "?dryRun=All", body("m", **more), who="user:cara,g1,g2")
bad = base64.b64decode(csr()); der = bytearray(base64.b64decode(b"".join(bad.split(b"\n")[1:-2]))); der[-5] ^= 1
w("POST", C + "?dryRun=All", body("m", req=base64.b64encode(b"-----BEGIN CERTIFICATE REQUEST-----\n" + base64.b64encode(bytes(der)) + b"\n-----END CERTIFICATE REQUEST-----\n").decode()))
w("POST", C + "?dryRun=All", dict(body("m"), status={"certificate": "eHg=", "conditions": [{"type": "Approved", "status": "True"}]}))
w("POST", C + "?dryRun=All", dict(body("m"), metadata={"generateName": "a-"}))
for n, signer in (("one", "example.com/s"), ("two", "other.example.com/t"), ("three", KA), ("four", "third.com/x"), ("five", "five.com/x")):
    w("POST", C, body(n, signer, ["client auth", "digital signature"], csr(n)), who="user:cara,system:authenticated", codes=201)
    w("GET", f"{C}/{n}", accept="application/json;as=Table;v=v1;g=meta.k8s.io")
def approve(n, conds, sub="approval", who="admin", status=None, **kw):
    raw = [w.one(s, "GET", f"{C}/{n}") for s in w.sides]
    for s, r in zip(w.sides, raw):
        s.vars["rv"] = r[2]["metadata"]["resourceVersion"]
    b = copy.deepcopy(raw[0][2]); b["metadata"] = {"name": n, "resourceVersion": "{{rv}}"}
    b["status"] = dict(b.get("status") or {}, **(status or {}))
    if conds is not None:
        b["status"]["conditions"] = conds
    w("PUT", f"{C}/{n}/{sub}" if sub else f"{C}/{n}", b, who=who, **kw)
ok = {"type": "Approved", "status": "True", "reason": "R", "message": "M"}
for n in ("one", "two", "three", "four"):
    for who in ("user:cara", "user:dan"):
        approve(n, [ok], who=who)
for conds in ([dict(ok, type="Denied")], [ok, dict(ok, type="Denied")], [dict(ok, status="False")], [dict(ok, type="")], [dict(ok, type="Other")], [ok, ok], [dict(ok, reason="")], [dict(ok, status="Bogus")], [dict(ok, status="")], [], [dict(ok, type="Failed")], [dict(ok, type="Other", status="Unknown"), ok]):
    approve("five", conds); approve("one", conds)
approve("five", [dict(ok, type="Denied")]); approve("five", [ok])
good = base64.b64encode(cert().encode()).decode()
for st in ({"certificate": good}, {"certificate": base64.b64encode(("junk before\n" + cert() + "\nafter\n").encode()).decode()}, {"certificate": "eHg="}, {"certificate": ""}, {"certificate": base64.b64encode(cert().replace("CERTIFICATE", "PRIVATE KEY").encode()).decode()}, {"certificate": base64.b64encode((cert() + cert(cn="z")).encode()).decode()}, {"certificate": base64.b64encode(cert().replace("-----\n", "-----\nh: v\n\n", 1).encode()).decode()}, {"certificate": base64.b64encode(b"-----BEGIN CERTIFICATE-----\neHg=\n-----END CERTIFICATE-----\n").decode()}):
    for n in ("one", "three", "five"):
        for who in ("user:cara", "user:dan", "admin"):
            approve(n, None, "status", who, st)
approve("one", None, "status", "admin", {"certificate": base64.b64encode(cert(cn="z").encode()).decode()})
approve("two", [ok, dict(ok, type="Failed")], "status", "admin"); approve("two", [dict(ok, type="Denied")], "status", "admin")
approve("one", None, ""); approve("one", [], "")
for n in ("one", "two", "three", "four", "five"):
    w("GET", f"{C}/{n}/status"); w("GET", f"{C}/{n}", accept="application/json;as=Table;v=v1;g=meta.k8s.io")
w("PATCH", f"{C}/four/approval", {"status": {"conditions": [{"type": "Denied", "status": "True", "reason": "x"}]}}, kind="application/merge-patch+json", who="user:dan")
w("PATCH", f"{C}/four", {"spec": {"signerName": "a.b/c"}}, kind="application/merge-patch+json"); w("PATCH", f"{C}/four", {"metadata": {"labels": {"a": "b"}}}, kind="application/merge-patch+json")
w("GET", C + "?fieldSelector=spec.signerName%3Dexample.com/s"); w("GET", C + "?fieldSelector=spec.bogus%3Dx")
w.begin("ctb")
T = "/apis/certificates.k8s.io/v1/clustertrustbundles"
raw = w("GET", T)
if raw[0][0] != 200:
    T = "/apis/certificates.k8s.io/v1beta1/clustertrustbundles"; w("GET", T)
def tb(name, bundle, signer=None, **m):
    return {"apiVersion": T.split("/apis/")[1].rsplit("/", 1)[0], "kind": "ClusterTrustBundle", "metadata": dict({"name": name}, **m), "spec": dict({"trustBundle": bundle}, **({"signerName": signer} if signer is not None else {}))}
for name, bundle, signer in (("plain", cert(ca=True), None), ("plain2", cert(ca=True) + cert(ca=True, cn="two"), None), ("notca", cert(), None), ("dup", cert(ca=True) * 2, None), ("empty", "", None), ("junk", "junk", None), ("pre", "text\n" + cert(ca=True), None), ("hdr", cert(ca=True).replace("-----\n", "-----\nh: v\n\n", 1), None), ("key", cert(ca=True).replace("CERTIFICATE", "PUBLIC KEY"), None), ("bad", "-----BEGIN CERTIFICATE-----\neHg=\n-----END CERTIFICATE-----\n", None), ("a:b", cert(ca=True), None),
                             ("example.com:s:x", cert(ca=True), "example.com/s"), ("example.com:other", cert(ca=True), "example.com/s"), ("nope", cert(ca=True), "example.com/s"), ("example.com:s:", cert(ca=True), "example.com/s"), ("example.com:s:UP", cert(ca=True), "example.com/s"), ("bad:x", cert(ca=True), "bad"), ("plain3", cert(ca=True), ""), ("big", cert(ca=True) * 3000, None), ("kubernetes.io:x:y", cert(ca=True), "kubernetes.io/x")):
    for who in ("admin", "user:cara", "user:dan"):
        w("POST", T + "?dryRun=All", tb(name, bundle, signer), who=who)
w("POST", T, tb("example.com:s:x", cert(ca=True), "example.com/s"), who="user:dan"); w("PUT", T + "/example.com:s:x", tb("example.com:s:x", cert(ca=True, cn="new"), "example.com/s"), who="user:cara"); w("PUT", T + "/example.com:s:x", tb("example.com:s:x", cert(ca=True, cn="new"), "example.com/t"), who="user:dan")
w("PUT", T + "/example.com:s:x", tb("example.com:s:x", cert(ca=True, cn="new"), "example.com/s"), who="user:dan"); w("GET", T + "?fieldSelector=spec.signerName%3Dexample.com/s"); w("DELETE", T + "/example.com:s:x", who="user:cara"); w("DELETE", T + "/example.com:s:x", who="user:dan")
w.begin("pcr")
for P in ("/apis/certificates.k8s.io/v1", "/apis/certificates.k8s.io/v1beta1"):
    w("GET", P + "/podcertificaterequests")
w.end()
