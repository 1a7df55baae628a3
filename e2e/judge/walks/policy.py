#!/usr/bin/env python3
"""policy.py [STOCK-KUBECONFIG OUR-KUBECONFIG]: validating and mutating admission policies: expressions, validation, bindings, parameters, type checking. Without kubeconfigs it starts fresh servers."""
from walk import *
w = start(__file__)
w.known(r"", r"expected type 'int' but found 'list\(int\)'", r"expected type 'int' but found 'list\(int\)'", "an expression with two faults has both told")
w.known(r"vap .*(cause|Warning)", r"'(vars|err|param|cond)", r"'(vars|err|param|cond)", "the order of policies, bindings and parameters is that of a map of Go's")
V1 = "/api/v1"; N = V1 + "/namespaces/pol"; AR = "/apis/admissionregistration.k8s.io/v1"
w.begin("vap")
w("POST", V1 + "/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "pol", "labels": {"env": "test"}}})
w("POST", N + "/serviceaccounts", {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}}, check=False)
G = {"apiVersion": "admissionregistration.k8s.io/v1"}
def pol(name, **spec):
    return dict(G, kind="ValidatingAdmissionPolicy", metadata={"name": name}, spec=dict({"failurePolicy": "Fail", "matchConstraints": {"resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE", "UPDATE"], "resources": ["configmaps"]}]}}, **spec))
def bnd(name, policy, actions=("Deny",), **spec):
    return dict(G, kind="ValidatingAdmissionPolicyBinding", metadata={"name": name}, spec=dict({"policyName": policy, "validationActions": list(actions), "matchResources": {"namespaceSelector": {"matchLabels": {"env": "test"}}}}, **spec))
P, B = AR + "/validatingadmissionpolicies", AR + "/validatingadmissionpolicybindings"
cm = lambda name="c", **k: dict({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": k.pop("labels", {})}}, **k)
# validation of policies
exprs = ["true", "object.data.x == 'y'", "object.bogus == 1", "1", "'a'", "", "object.data.x ==", "foo(1)", "object.metadata.name.size() > 3", "oldObject == null || object.data == oldObject.data", "request.userInfo.username == 'a'", "request.bogus", "namespaceObject.metadata.labels.env == 'test'", "params.data.max == '1'", "authorizer.group('').resource('pods').namespace('x').check('get').allowed()", "authorizer.requestResource.check('get').allowed()", "variables.v == 1", "object.data.all(k, object.data[k] != '')", "object.data.all(k, object.data.all(j, object.data.all(l, object.data[k] != object.data[l])))", "has(object.data) && 'a' in object.data", "quantity('1Gi').isGreaterThan(quantity('1Mi'))", "ip('1.2.3.4').family() == 4", "cidr('10.0.0.0/8').containsIP('10.1.1.1')", "url('https://a.b/c').getHost() == 'a.b'", "'a,b'.split(',').size() == 2", "[1,2,3].sum() == 6", "sets.contains([1,2],[1])", "!format.dns1123Label().validate('A').hasValue()", "'abc'.find('b') == 'b'", "isSemver('1.2.3')", "semver('1.2.3').major() == 1", "jsonpatch.escapeKey('a/b') == 'a~1b'", "JSONPatch{op: 'add'}", "Object{}.x", "timestamp('2020-01-01T00:00:00Z') < timestamp(request.x)", "object.metadata.creationTimestamp", "dyn(object).spec.x == 1", "type(object) == map", "optional.of(1).hasValue()", "object.?data.x.orValue('z') == 'z'", "'%d' == '%s'.format([1])", "'aXb'.lowerAscii() == 'axb'", "math.greatest(1,2) == 2", "lists.range(3) == [0,1,2]", "object.data.map(k, k).isSorted()", "isQuantity('x')", "1 == 1.0", "[1,2].exists_one(x, x == 1)", "object.data['x'].matches('[')", "string(1) + 'a' == '1a'", "duration('1h') > duration('1m')", "bytes('a') == b'a'", "cel.bind(x, 1, x == 1)", "{'a': 1}.transformList(k, v, v) == [1]", "[1, [2]].flatten() == [1, 2]", "'a'.charAt(0) == 'a'", "base64.encode(b'a') == 'YQ=='", "strings.quote('a') == '\"a\"'", "sort([3,1])", "[3,1].sort() == [1,3]", "[1,1].distinct() == [1]", "'x'.reverse() == 'x'"]
for i, e in enumerate(exprs):
    w("POST", P + "?dryRun=All", pol("d", validations=[{"expression": e}]))
    w("POST", P + "?dryRun=All", pol("d", validations=[{"expression": "true", "messageExpression": e}], paramKind={"apiVersion": "v1", "kind": "ConfigMap"}, variables=[{"name": "v", "expression": "1"}]))
for spec in ({}, {"validations": []}, {"validations": [{"expression": "true", "reason": "Bogus"}]}, {"validations": [{"expression": "true", "message": "a\nb"}]}, {"validations": [{"expression": "true", "message": " "}]}, {"validations": [{"expression": "true", "reason": "Forbidden"}]}, {"failurePolicy": "Bogus", "validations": [{"expression": "true"}]}, {"matchConstraints": None, "validations": [{"expression": "true"}]}, {"matchConstraints": {}, "validations": [{"expression": "true"}]},
             {"matchConstraints": {"resourceRules": [{"apiGroups": [], "apiVersions": [], "operations": [], "resources": []}]}, "validations": [{"expression": "true"}]}, {"matchConstraints": {"resourceRules": [{"apiGroups": ["*", "x"], "apiVersions": ["*"], "operations": ["*", "CREATE"], "resources": ["*", "pods"]}]}, "validations": [{"expression": "true"}]}, {"matchConstraints": {"matchPolicy": "Bogus", "resourceRules": [{"apiGroups": ["a"], "apiVersions": ["v1"], "operations": ["BOGUS"], "resources": ["pods/", "*/status", "pods/status"], "scope": "X", "resourceNames": ["a", "a", "B C"]}]}, "validations": [{"expression": "true"}]},
             {"matchConditions": [{"name": "a", "expression": "true"}, {"name": "a", "expression": "1"}], "validations": [{"expression": "true"}]}, {"matchConditions": [{"name": "", "expression": ""}], "validations": [{"expression": "true"}]}, {"matchConditions": [{"name": f"n{i}", "expression": "true"} for i in range(65)], "validations": [{"expression": "true"}]}, {"variables": [{"name": "a-b", "expression": "1"}, {"name": "x", "expression": "variables.y"}, {"name": "x", "expression": "1"}], "validations": [{"expression": "variables.x == 1"}]},
             {"auditAnnotations": [{"key": "k", "valueExpression": "'x'"}]}, {"auditAnnotations": [{"key": "k", "valueExpression": "1"}, {"key": "k", "valueExpression": "null"}, {"key": "", "valueExpression": ""}]}, {"paramKind": {"apiVersion": "", "kind": ""}, "validations": [{"expression": "params.x == 1"}]}, {"paramKind": {"apiVersion": "a/b/c", "kind": "X"}, "validations": [{"expression": "params.x == 1"}]}, {"paramKind": {"apiVersion": "v1", "kind": "ConfigMap"}, "validations": [{"expression": "params.data.x == object.data.x"}], "matchConditions": [{"name": "p", "expression": "params != null"}]}):
    w("POST", P + "?dryRun=All", pol("d", **spec))
for spec in ({"validationActions": []}, {"validationActions": ["Deny", "Warn"]}, {"validationActions": ["Bogus"]}, {"validationActions": ["Audit", "Audit"]}, {"policyName": ""}, {"policyName": "A b"}, {"paramRef": {}}, {"paramRef": {"name": "x"}}, {"paramRef": {"name": "x", "selector": {}, "parameterNotFoundAction": "Allow"}}, {"paramRef": {"name": "x", "namespace": "B c", "parameterNotFoundAction": "Bogus"}}, {"matchResources": {"resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"]}]}}):
    x = bnd("d", "p"); x["spec"].update(spec); w("POST", B + "?dryRun=All", x)
# behaviour
pols = {
 "basic": dict(validations=[{"expression": "!has(object.data) || !('bad' in object.data)", "message": "no bad"}, {"expression": "object.metadata.name != 'denied'", "reason": "Unauthorized"}, {"expression": "object.metadata.name != 'msg'", "messageExpression": "'name ' + object.metadata.name + ' in ' + namespaceObject.metadata.name"}, {"expression": "object.metadata.name != 'fallback'", "message": "static", "messageExpression": "object.data.nope"}]),
 "vars": dict(variables=[{"name": "n", "expression": "object.metadata.name"}, {"name": "len", "expression": "variables.n.size()"}], validations=[{"expression": "variables.len < 20", "messageExpression": "'too long: ' + string(variables.len)"}], auditAnnotations=[{"key": "len", "valueExpression": "string(variables.len)"}, {"key": "skip", "valueExpression": "null"}]),
 "cond": dict(matchConditions=[{"name": "labelled", "expression": "has(object.metadata.labels) && object.metadata.labels.?check.orValue('') == 'yes'"}], validations=[{"expression": "object.data.required == 'x'"}]),
 "err": dict(matchConditions=[{"name": "e", "expression": "object.metadata.labels.err == 'yes'"}], failurePolicy="Fail", validations=[{"expression": "true"}]),
 "ign": dict(matchConditions=[{"name": "e", "expression": "has(object.metadata.labels) && 'ign' in object.metadata.labels"}], failurePolicy="Ignore", validations=[{"expression": "object.data.nope == 'x'"}]),
 "authz": dict(matchConditions=[{"name": "e", "expression": "has(object.metadata.labels) && 'authz' in object.metadata.labels"}], validations=[{"expression": "authorizer.group('').resource('secrets').namespace('pol').check('list').allowed()", "messageExpression": "authorizer.group('').resource('secrets').namespace('pol').check('list').reason()"}]),
 "param": dict(paramKind={"apiVersion": "v1", "kind": "ConfigMap"}, matchConditions=[{"name": "e", "expression": "has(object.metadata.labels) && 'param' in object.metadata.labels"}], validations=[{"expression": "object.data.n == params.data.n", "messageExpression": "'want ' + params.data.n"}]),
}
w("POST", N + "/configmaps", cm("params", data={"n": "5"}, labels={"is": "param"})); w("POST", N + "/configmaps", cm("params2", data={"n": "6"}, labels={"is": "param"}))
for n, s in pols.items():
    w("POST", P, pol(n, **s)); 
    if n == "param":
        w("POST", B, bnd("param-name", n, paramRef={"name": "params", "namespace": "pol", "parameterNotFoundAction": "Deny"})); w("POST", B, bnd("param-sel", n, ("Warn", "Audit"), paramRef={"selector": {"matchLabels": {"is": "param"}}, "parameterNotFoundAction": "Deny"})); w("POST", B, bnd("param-none", n, ("Warn",), paramRef={"name": "absent", "parameterNotFoundAction": "Deny"}))
    else:
        w("POST", B, bnd(n + "-deny", n)); w("POST", B, bnd(n + "-warn", n, ("Warn", "Audit")))
time.sleep(2.5)
for n in pols: w("GET", P + "/" + n, until=3)
D = "?dryRun=All"
for o in (cm("good"), cm("x", data={"bad": "1"}), cm("denied"), cm("msg"), cm("fallback"), cm("averyveryverylongname"), cm("c", labels={"check": "yes"}), cm("c", labels={"check": "yes"}, data={"required": "y"}), cm("c", labels={"check": "yes"}, data={"required": "x"}), cm("c", labels={"err": "yes"}), cm("c", labels={"ign": "1"}), cm("c", labels={"ign": "1"}, data={"a": "b"}), cm("c", labels={"authz": "1"}), cm("c", labels={"param": "1"}, data={"n": "5"}), cm("c", labels={"param": "1"}, data={"n": "7"}), cm("c", labels={"param": "1"}), cm("denied", data={"bad": "1"})):
    for who in ("admin",):
        w("POST", N + "/configmaps" + D, o, who=who); w("POST", V1 + "/namespaces/default/configmaps" + D, o, who=who)
for n in pols: w("DELETE", P + "/" + n, norm=lambda d: d.get("status"))
w("GET", B, norm=lambda d: sorted(i["metadata"]["name"] for i in d["items"]))
w("DELETE", B, norm=lambda d: d.get("kind"))
# type checking
for n, e in (("tc1", "object.data.x == 1"), ("tc2", "object.spec.replicas > 'a'"), ("tc3", "object.nope"), ("tc4", "params.foo == 1")):
    w("POST", P, pol(n, matchConstraints={"resourceRules": [{"apiGroups": ["apps", ""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["deployments", "configmaps"]}]}, paramKind={"apiVersion": "v1", "kind": "ConfigMap"}, validations=[{"expression": e, "messageExpression": "object.kindx"}]))
time.sleep(2)
for n in ("tc1", "tc2", "tc3", "tc4"): w("GET", P + "/" + n, until=4); w("DELETE", P + "/" + n, norm=lambda d: "")
w.begin("map")
M, MB = AR + "/mutatingadmissionpolicies", AR + "/mutatingadmissionpolicybindings"
def mp(name, muts, **spec):
    return dict(G, kind="MutatingAdmissionPolicy", metadata={"name": name}, spec=dict({"failurePolicy": "Fail", "reinvocationPolicy": "Never", "matchConstraints": {"resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps", "pods"]}]}, "mutations": muts}, **spec))
AC = lambda e: {"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": e}}
JP = lambda e: {"patchType": "JSONPatch", "jsonPatch": {"expression": e}}
muts = {"a": [AC("Object{metadata: Object.metadata{labels: {'added': 'yes'}}}")], "b": [JP("[JSONPatch{op: 'add', path: '/data', value: {'k': object.metadata.name}}]")], "c": [JP("[JSONPatch{op: 'test', path: '/metadata/name', value: 'zzz'}, JSONPatch{op: 'add', path: '/data', value: {}}]")], "d": [AC("Object{data: {'x': string(1)}}"), JP("[JSONPatch{op: 'replace', path: '/data/x', value: '2'}, JSONPatch{op: 'add', path: '/metadata/annotations', value: {jsonpatch.escapeKey('a/b'): 'c'}}]")],
        "e": [AC("Object{spec: Object.spec{containers: [Object.spec.containers{name: 'side', image: 'x'}]}}")], "f": [AC("Object{bogus: 1}")], "g": [JP("[JSONPatch{op: 'remove', path: '/nope'}]")], "h": [AC("Object{metadata: Object.metadata{name: 'other'}}")], "i": [AC("1")], "j": [JP("1")], "k": [JP("[JSONPatch{op: 'bogus', path: 'x'}]")], "l": [], "m": [{"patchType": "Bogus"}], "n": [{"patchType": "JSONPatch"}], "o": [AC("object.metadata.name == 'x' ? Object{} : Object{metadata: Object.metadata{annotations: {'t': string(1 + 1)}}}")], "p": [AC("Object{metadata: Object.metadata{labels: {'v': variables.lab}}}")], "q": [AC("Object{data: {'n': object.data.nope}}")]}
for n, m in muts.items():
    w("POST", M + D, mp(n, m)); more = {"variables": [{"name": "lab", "expression": "object.metadata.name + '-l'"}]}
    raw = w("POST", M, mp(n, m, matchConditions=[{"name": "x", "expression": f"has(object.metadata.labels) && object.metadata.labels.?m.orValue('') == '{n}'"}], **more))
    if raw[0][0] == 201:
        w("POST", MB, dict(G, kind="MutatingAdmissionPolicyBinding", metadata={"name": n}, spec={"policyName": n}))
time.sleep(2.5)
for n in muts:
    w("POST", N + "/configmaps" + D, cm("c", labels={"m": n})); w("POST", N + "/pods" + D, {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "labels": {"m": n}}, "spec": {"containers": [{"name": "c", "image": "i"}]}})
w("DELETE", M, norm=lambda d: ""); w("DELETE", MB, norm=lambda d: "")
w.end()
