#!/usr/bin/env python3
"""authn.py [STOCK-KUBECONFIG OUR-KUBECONFIG]: authentication and authorisation by configuration files: JSON web tokens of several issuers with CEL rules, a webhook for tokens, a chain of
webhooks for access, anonymous requests by path, impersonation, bootstrap tokens, reviews in every shape. The issuer and the webhooks are hooks of this program. Starts fresh servers."""
from walk import *
import hooks as H, hashlib
from cryptography.hazmat.primitives.asymmetric import ec, rsa, padding, utils
from cryptography.hazmat.primitives import hashes, serialization
if len(sys.argv) > 2: sys.exit("authn.py configures its servers itself")
h = H.Hooks()
RSA, EC, OTHER = rsa.generate_private_key(65537, 2048), ec.generate_private_key(ec.SECP256R1()), rsa.generate_private_key(65537, 2048)
def b64(b): return base64.urlsafe_b64encode(b).rstrip(b"=").decode()
def num(n): return b64(n.to_bytes((n.bit_length() + 7) // 8, "big"))
JWKS = {"keys": [{"kty": "RSA", "kid": "r", "alg": "RS256", "use": "sig", "n": num(RSA.public_key().public_numbers().n), "e": "AQAB"}, {"kty": "EC", "kid": "e", "alg": "ES256", "use": "sig", "crv": "P-256", "x": b64(EC.public_key().public_numbers().x.to_bytes(32, "big")), "y": b64(EC.public_key().public_numbers().y.to_bytes(32, "big"))}]}
for name in ("one", "two"):
    h.on(f"{name}/.well-known/openid-configuration")(lambda q, r, name=name: (200, {"issuer": f"{h.at}/{name}", "jwks_uri": f"{h.at}/{name}/keys", "response_types_supported": ["id_token"], "subject_types_supported": ["public"], "id_token_signing_alg_values_supported": ["RS256", "ES256"]}))
    h.on(f"{name}/keys")(lambda q, r: (200, JWKS))
def token(claims, key=RSA, kid="r", alg="RS256", **head):
    body = b64(json.dumps(dict({"alg": alg, "kid": kid, "typ": "JWT"}, **head)).encode()) + "." + b64(json.dumps(claims).encode())
    if alg == "none": return body + "."
    if isinstance(key, rsa.RSAPrivateKey): sig = key.sign(body.encode(), padding.PKCS1v15(), hashes.SHA256())
    else:
        r, s = utils.decode_dss_signature(key.sign(body.encode(), ec.ECDSA(hashes.SHA256()))); sig = r.to_bytes(32, "big") + s.to_bytes(32, "big")
    return body + "." + b64(sig)
now = int(time.time())
def claims(issuer="one", **k): return {a: b for a, b in dict({"iss": f"{h.at}/{issuer}", "aud": "kube", "sub": "sam", "exp": now + 3000, "iat": now - 10, "email": "sam@a.b", "email_verified": True, "groups": ["dev"]}, **k).items() if b != "absent"}
AUTHN = {"apiVersion": "apiserver.config.k8s.io/v1", "kind": "AuthenticationConfiguration", "jwt": [
  {"issuer": {"url": f"{h.at}/one", "audiences": ["kube", "second"], "audienceMatchPolicy": "MatchAny", "certificateAuthority": base64.b64decode(h.ca).decode()},
   "claimValidationRules": [{"expression": "claims.?tenant.orValue('a') == 'a'", "message": "wrong tenant"}, {"claim": "hd", "requiredValue": "x.y"}] [:1],
   "claimMappings": {"username": {"expression": "'one:' + claims.sub + (has(claims.email) && claims.?email_verified.orValue(true) ? '' : '?')"}, "groups": {"expression": "type(dyn(claims.?groups.orValue([]))) == list ? dyn(claims.?groups.orValue([])).map(g, 'one:' + g) : ['one:' + claims.groups]"}, "uid": {"expression": "claims.?uid.orValue('')"}, "extra": [{"key": "example.com/tenant", "valueExpression": "claims.?tenant.orValue('')"}, {"key": "example.com/roles", "valueExpression": "claims.?roles.orValue([])"}]},
   "userValidationRules": [{"expression": "!user.username.startsWith('one:system:')", "message": "no system users"}, {"expression": "user.groups.all(g, g != 'one:banned')", "message": "banned"}]},
  {"issuer": {"url": f"{h.at}/two", "audiences": ["kube"], "certificateAuthority": base64.b64decode(h.ca).decode()}, "claimValidationRules": [{"claim": "hd", "requiredValue": "x.y"}], "claimMappings": {"username": {"claim": "email", "prefix": "two:"}, "groups": {"claim": "groups", "prefix": ""}}}],
  "anonymous": {"enabled": True, "conditions": [{"path": "/livez"}, {"path": "/healthz"}, {"path": "/version"}]}}
HOOK = lambda name, side: {"apiVersion": "v1", "kind": "Config", "clusters": [{"name": "c", "cluster": {"server": f"{h.at}/{side}/{name}", "certificate-authority-data": h.ca}}], "users": [{"name": "u", "user": {"token": "secret"}}], "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}], "current-context": "x"}
def authz(side, at):
    hook = lambda name, **k: {"type": "Webhook", "name": name, "webhook": dict({"timeout": "2s", "authorizedTTL": "1s", "unauthorizedTTL": "1s", "subjectAccessReviewVersion": "v1", "matchConditionSubjectAccessReviewVersion": "v1", "failurePolicy": "NoOpinion", "connectionInfo": {"type": "KubeConfigFile", "kubeConfigFile": f"{at}/{side}-{name}.kubeconfig"}}, **k)}
    return {"apiVersion": "apiserver.config.k8s.io/v1", "kind": "AuthorizationConfiguration", "authorizers": [{"type": "Node", "name": "node"}, {"type": "RBAC", "name": "rbac"}, hook("first", matchConditions=[{"expression": "has(request.resourceAttributes) && request.resourceAttributes.namespace == 'hooked'"}]), hook("strict", failurePolicy="Deny", matchConditions=[{"expression": "request.user == 'one:strict'"}, {"expression": "has(request.resourceAttributes)"}])]}
def prepare(at):
    open(f"{at}/authn.yaml", "w").write(json.dumps(AUTHN))
    for side in ("side-a", "side-b"):
        open(f"{at}/{side}-authz.yaml", "w").write(json.dumps(authz(side, at)))
        open(f"{at}/{side}-tokens.kubeconfig", "w").write(json.dumps(HOOK("tokens", side)))
        for n in ("first", "strict"): open(f"{at}/{side}-{n}.kubeconfig", "w").write(json.dumps(HOOK(n, side)))
def flags(side): return ("--authentication-config={dir}/authn.yaml", f"--authorization-config={{dir}}/{side}-authz.yaml", f"--authentication-token-webhook-config-file={{dir}}/{side}-tokens.kubeconfig", "--authentication-token-webhook-version=v1", "--authentication-token-webhook-cache-ttl=1s", "--enable-bootstrap-token-auth=true")
os.environ["WALK_OWN"] = "1"
w = start(__file__, stock=flags("side-a"), ours=flags("side-b"), prepare=prepare)
h.sides(w)
S = "/apis/authentication.k8s.io/v1/selfsubjectreviews"; ME = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}; V1 = "/api/v1"
TR = "/apis/authentication.k8s.io/v1/tokenreviews"; A = "/apis/authorization.k8s.io/v1"
def tr(t, **k): return {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": dict({"token": t}, **k)}
w.known(r"status\.error", r"TIME|Token Expiry|before the nbf", r"", "when it is now")
w.known(r"sub number.*error", r"unmarshal claims", r"", "which step complains first of a subject that is no text")
w.known(r"\.body\.status\.(error|evaluationError)", r"invalid bearer token|an error on the server|EOF|unknown", r"invalid bearer token|deadline|answered", "the texts of client-go for a webhook that does not answer")
w.known(r"(access webhook|tokens).*\.body", r"Internal Server Error", r"Internal Server Error", "the words in which Go's client tells of a webhook that fails")
w.known(r"evaluationError", r"does not support user rule resolution", r"does not support user rule resolution", "each webhook says so here")
w.begin("tokens")
h.on("tokens")(lambda q, r: (200, {"apiVersion": q["apiVersion"], "kind": "TokenReview", "status": {"authenticated": False}}))
time.sleep(3)
cases = {"good": claims(), "ec": None, "expired": claims(exp=now - 100), "later": claims(nbf=now + 1000), "noexp": claims(exp="absent"), "audience": claims(aud="other"), "audiences": claims(aud=["x", "second"]), "noaud": claims(aud="absent"), "issuer": claims(iss="https://elsewhere"), "nosub": claims(sub="absent"), "tenant": claims(tenant="b"), "tenant a": claims(tenant="a", uid="u-1", roles=["r1", "r2"]), "group text": claims(groups="solo"), "banned": claims(groups=["banned"]), "system": claims(sub="system:x"), "unverified": claims(email_verified=False), "no email": claims(email="absent"), "roles number": claims(roles=5), "uid number": claims(uid=5), "sub number": claims(sub=5), "two": claims("two", hd="x.y"), "two no hd": claims("two"), "two wrong hd": claims("two", hd="z"), "two unverified": claims("two", hd="x.y", email_verified=False), "two text": claims("two", hd="x.y", groups="g"), "two no email": claims("two", hd="x.y", email="absent"), "strict": claims(sub="strict", email="s@a.b"), "empty sub": claims(sub="")}
toks = {n: token(c) for n, c in cases.items() if c}
toks.update({"ec": token(claims(sub="eve"), EC, "e", "ES256"), "wrong key": token(claims(), OTHER), "wrong kid": token(claims(), kid="zz"), "no kid": token(claims(), kid=""), "none": token(claims(), alg="none"), "garbage": "garbage", "dots": "a.b.c", "hs": token(claims(), alg="HS256")})
for n, t in toks.items():
    w("POST", S, ME, who="token:" + t, label=n, until=2); w("POST", TR, tr(t), label=n, norm=lambda d: json.loads(re.sub(r'"token": "[^"]*"', '"token": "T"', json.dumps(d)))); w("GET", V1 + "/namespaces", who="token:" + t, label=n)
w("POST", TR, tr(toks["good"], audiences=["kube"]), norm=lambda d: d.get("status")); w("POST", TR, tr(toks["good"], audiences=["nope"]), norm=lambda d: d.get("status"))
for hs in ((("Authorization", "Basic eDp5"),), (("Authorization", "Bearer"),), (("Authorization", "Bearer  x"),), (("Authorization", "bearer " + toks["good"]),), (("Authorization", "Bearer " + toks["good"]), ("Impersonate-User", "x")), (("Authorization", ""),), (("Authorization", "Digest x"),)): w("POST", S, ME, who="anon", headers=hs)
w("POST", S, ME, headers=(("Authorization", "Bearer bogus"),))
w.begin("token webhook")
answers = {"wt-user": {"authenticated": True, "user": {"username": "hooked", "uid": "7", "groups": ["h1"], "extra": {"k": ["v"]}}}, "wt-nouser": {"authenticated": True}, "wt-empty": {"authenticated": True, "user": {"username": ""}}, "wt-error": {"authenticated": False, "error": "not today"}, "wt-aud": {"authenticated": True, "user": {"username": "aud"}, "audiences": ["elsewhere"]}, "wt-sys": {"authenticated": True, "user": {"username": "system:admin", "groups": ["system:masters"]}}}
def tokens(q, r):
    t = q["spec"]["token"]
    if t == "wt-500": return 500, "boom"
    if t == "wt-garbage": return 200, "garbage"
    if t == "wt-drop": return None, ""
    return 200, {"apiVersion": q["apiVersion"], "kind": "TokenReview", "status": answers.get(t, {"authenticated": False})}
h.on("tokens")(tokens); h.taken("tokens")
for t in list(answers) + ["wt-500", "wt-garbage", "wt-drop", "wt-unknown"]:
    w("POST", S, ME, who="token:" + t, label=t); w("GET", V1 + "/nodes", who="token:" + t, label=t); w("POST", TR, tr(t), label=t)
a, b = h.taken("tokens")
w.same("asked of the token webhook", *(sorted({json.dumps(x["body"], sort_keys=True) for x in s}) for s in (a, b)))
w.begin("anonymous")
for p in ("/livez", "/livez/ping", "/healthz", "/version", "/version/", "/readyz", "/api", "/apis", "/openapi/v2", V1 + "/pods", "/metrics", "/"): w("GET", p, who="anon", norm=lambda d: d if not isinstance(d, dict) or d.get("kind") == "Status" else "ok"); w("GET", p, who="anon", headers=(("Authorization", "Bearer nope"),), norm=lambda d: d if not isinstance(d, dict) or d.get("kind") == "Status" else "ok")
w.begin("access webhook")
def first(q, r):
    s = q["spec"]; u = s["user"]; a = s.get("resourceAttributes") or {}
    if u == "one:error": return 500, "boom"
    if u == "one:deny": return 200, dict(q, status={"allowed": False, "denied": True, "reason": "first says no"})
    if u == "one:both": return 200, dict(q, status={"allowed": True, "denied": True})
    if u == "one:evil": return 200, dict(q, status={"allowed": False, "evaluationError": "confused"})
    return 200, dict(q, status={"allowed": a.get("resource") == "configmaps", "reason": "configmaps are free"})
h.on("first")(first); h.on("strict")(lambda q, r: (500, "boom") if (q["spec"].get("resourceAttributes") or {}).get("resource") == "secrets" else (200, dict(q, status={"allowed": True, "reason": "strict allows"})))
w("POST", V1 + "/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "hooked"}}); w("POST", V1 + "/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "other"}})
for u in ("sam", "error", "deny", "both", "evil", "strict"):
    t = "token:" + token(claims(sub=u))
    for n in ("hooked", "other"):
        for r in ("configmaps", "secrets"):
            w("GET", f"{V1}/namespaces/{n}/{r}", who=t, label=u); w("GET", f"{V1}/namespaces/{n}/{r}/x?", who=t, label=u); w("GET", f"{V1}/namespaces/{n}/{r}?labelSelector=a%3Db%2Cc%20in%20(d%2Ce)&fieldSelector=metadata.name%3Dz", who=t, label=u)
            w("POST", f"{A}/subjectaccessreviews", {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": {"user": "one:" + u, "groups": ["g"], "uid": "u", "extra": {"k": ["v"]}, "resourceAttributes": {"namespace": n, "verb": "list", "resource": r}}}, label=u); w("POST", f"{A}/namespaces/{n}/localsubjectaccessreviews", {"apiVersion": "authorization.k8s.io/v1", "kind": "LocalSubjectAccessReview", "metadata": {"namespace": n}, "spec": {"user": "one:" + u, "resourceAttributes": {"namespace": n, "verb": "get", "resource": r, "name": "q"}}}, label=u)
    w("POST", f"{A}/selfsubjectrulesreviews", {"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectRulesReview", "spec": {"namespace": "hooked"}}, who=t); w("POST", f"{A}/selfsubjectaccessreviews", {"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview", "spec": {"nonResourceAttributes": {"path": "/x", "verb": "get"}}}, who=t)
for n in ("first", "strict"):
    a, b = h.taken(n)
    w.same("asked of the access webhook " + n, *(sorted({json.dumps(x["body"], sort_keys=True) for x in s}) for s in (a, b)))
w.begin("impersonation")
t = toks["tenant a"]
w("POST", "/apis/rbac.authorization.k8s.io/v1/clusterroles", {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "imp"}, "rules": [{"apiGroups": [""], "resources": ["users"], "verbs": ["impersonate"], "resourceNames": ["jane"]}, {"apiGroups": [""], "resources": ["groups"], "verbs": ["impersonate"], "resourceNames": ["devs"]}, {"apiGroups": ["authentication.k8s.io"], "resources": ["userextras/scopes"], "verbs": ["impersonate"], "resourceNames": ["view"]}, {"apiGroups": ["authentication.k8s.io"], "resources": ["uids"], "verbs": ["impersonate"], "resourceNames": ["u-2"]}]})
w("POST", "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "imp"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "imp"}, "subjects": [{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": "one:sam"}]}); time.sleep(1)
for hs in ({"User": "jane"}, {"User": "bob"}, {"User": "jane", "Group": "devs"}, {"User": "jane", "Group": "ops"}, {"Group": "devs"}, {"User": "jane", "Uid": "u-2"}, {"User": "jane", "Uid": "u-3"}, {"Uid": "u-2"}, {"User": "jane", "Extra-Scopes": "view"}, {"User": "jane", "Extra-Scopes": "edit"}, {"User": "jane", "Extra-Other": "x"}, {"Extra-Scopes": "view"}, {"User": "system:serviceaccount:default:default"}, {"User": "system:anonymous"}, {"User": "system:node:n1"}, {"User": ""}, {"User": "jane", "Extra-Sco%70es": "view"}, {"User": "jane", "Extra-": "view"}):
    head = tuple(("Impersonate-" + k, v) for k, v in hs.items())
    w("POST", S, ME, who="token:" + t, headers=head, label=str(hs)); w("POST", S, ME, headers=head, label="admin " + str(hs)); w("GET", V1 + "/nodes", who="token:" + t, headers=head, label=str(hs))
w.begin("bootstrap tokens")
def secret(i, s, **d): return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": f"bootstrap-token-{i}", "namespace": "kube-system"}, "type": "bootstrap.kubernetes.io/token", "stringData": dict({"token-id": i, "token-secret": s, "usage-bootstrap-authentication": "true"}, **d)}
for i, d in (("aaaaaa", {}), ("bbbbbb", {"auth-extra-groups": "system:bootstrappers:x,system:bootstrappers:y"}), ("cccccc", {"expiration": "2020-01-01T00:00:00Z"}), ("dddddd", {"usage-bootstrap-authentication": "false"}), ("eeeeee", {"auth-extra-groups": "bad"}), ("ffffff", {"expiration": "bogus"}), ("gggggg", {"token-id": "zzzzzz"})): w("POST", V1 + "/namespaces/kube-system/secrets", secret(i, "0123456789abcdef", **d), norm=lambda d: d.get("type", d.get("message")))
time.sleep(1)
for t in ("aaaaaa.0123456789abcdef", "bbbbbb.0123456789abcdef", "cccccc.0123456789abcdef", "dddddd.0123456789abcdef", "eeeeee.0123456789abcdef", "ffffff.0123456789abcdef", "gggggg.0123456789abcdef", "zzzzzz.0123456789abcdef", "aaaaaa.wrongwrongwrong0", "aaaaaa", "AAAAAA.0123456789abcdef"): w("POST", S, ME, who="token:" + t, label=t); w("POST", TR, tr(t), label=t)
w.end()
