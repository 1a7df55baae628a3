#!/usr/bin/env python3
"""verbs.py STOCK-KUBECONFIG OUR-KUBECONFIG [-k REGEX] [-v]: sequences of requests that change things, step by step to both servers: deletion with grace,
finalizers, propagation and preconditions, deletecollection, subresources (binding, eviction, ephemeralcontainers, resize, token, approval, finalize,
scale, status), quota, limits, priorities, Pod Security, roles and their escalation, node restriction, policies, definitions and conversions. Every answer
is compared: code, warnings, body. In bodies and paths `{uid PATH}`, `{rv PATH}` and `{now}` are each server's own. Ends with 1 if there are
differences without a reason (EXPLAINED)."""
import argparse, base64, collections, concurrent.futures, datetime, http.client, json, os, re, subprocess, sys, tempfile, time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from compare import UID, canonical, clean, differences
from wire import token
from server import Server, document

MERGE, STRATEGIC, JSONP, APPLY = (f"application/{k}" for k in ("merge-patch+json", "strategic-merge-patch+json", "json-patch+json", "apply-patch+yaml"))
# Differences with a reason: expressions for "SEQUENCE STEP: WHAT", the stock server's part and ours.
EXPLAINED = [
    (r"^pods PATCH \S*/resize", r"not found|QOS|400m|generation|resources|labels", r"", "NodeDeclaredFeatures: upstream refuses resizes on nodes that do not declare them; nodes here declare nothing, and ours asks the pod's status alone"),
    (r"^pods (PATCH|GET) \S*/pods/r\b", r"", r"", "what follows from a resize that upstream refuses (NodeDeclaredFeatures)"),
    (r"^versions \w+ \S*/events", r"", r"managedFields|apiVersion", "upstream loses the owners of events that are written in both versions: its converter does not know the other's names"),
    (r"^policies .*(causes|message)", r"Syntax error|variables\.", r"", "the texts of cel-go's generated parser, and what it goes on to say of a variable that does not compile"),
    (r"^nodes GET /api/v1/services", r"", r"", "the kubernetes service of each server"),
    (r"^pod_security .*\.spec\.(preemptionPolicy|priority)", r"", r"", "the default priority class of another sequence, which each server learns of in its own time"),
    (r"^definitions PATCH .*(causes|message)", r"json: cannot unmarshal|Invalid value: ..?\{", r"", "the patched document in the text: Go has the order of structs"),
]
SCENARIOS = {}


def scenario(f):
    SCENARIOS[f.__name__] = f
    return f


def meta(name, **more):
    return dict({"name": name}, **more)


def cm(name, **more):
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta(name, **more), "data": {"k": "v"}}


def pod(name, spec=None, container=None, **more):
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta(name, **more), "spec": dict({"containers": [dict({"name": "c", "image": "i"}, **(container or {}))]}, **(spec or {}))}


def options(**more):
    return dict({"apiVersion": "v1", "kind": "DeleteOptions"}, **more)


def node(name, **more):
    return {"apiVersion": "v1", "kind": "Node", "metadata": meta(name, **more)}


@scenario
def deletions(ns):
    at = f"/api/v1/namespaces/{ns}/configmaps"
    for i, o in enumerate([{}, {"propagationPolicy": "Foreground"}, {"propagationPolicy": "Orphan"}, {"propagationPolicy": "Background"}, {"orphanDependents": True}, {"orphanDependents": False}, {"gracePeriodSeconds": 0}, {"gracePeriodSeconds": 30},
                           {"preconditions": {"uid": "{uid PATH}"}}, {"preconditions": {"resourceVersion": "{rv PATH}"}}, {"preconditions": {"uid": "{uid PATH}", "resourceVersion": "{rv PATH}"}}, {"preconditions": {"uid": "x"}}, {"preconditions": {"resourceVersion": "1"}}]):
        for finalizers in ([], ["example.com/a"], ["orphan"], ["foregroundDeletion"]):
            name = f"d{i}-{len(finalizers) and finalizers[0].replace('/', '-').lower() or 'none'}"
            body = json.loads(json.dumps(options(**o)).replace("PATH", f"{at}/{name}"))
            yield "POST", at, cm(name, **({"finalizers": finalizers} if finalizers else {}))
            yield "DELETE", f"{at}/{name}", body
            yield "GET", f"{at}/{name}"
            yield "DELETE", f"{at}/{name}", body
            yield "PATCH", f"{at}/{name}", {"metadata": {"finalizers": ["example.com/b"]}}, MERGE
            yield "PATCH", f"{at}/{name}", {"metadata": {"labels": {"late": "yes"}}}, MERGE
            yield "PATCH", f"{at}/{name}", {"metadata": {"finalizers": None}}, MERGE
            yield "GET", f"{at}/{name}"
    for q in ("propagationPolicy=Foreground", "propagationPolicy=Orphan", "orphanDependents=true", "gracePeriodSeconds=0", "gracePeriodSeconds=5", "uid={uid PATH}", "uid=x", "resourceVersion={rv PATH}", "resourceVersion=5"):
        yield "POST", at, cm("q")
        yield "DELETE", f"{at}/q?" + q.replace("PATH", f"{at}/q")
        yield "DELETE", f"{at}/q", options(gracePeriodSeconds=0)
        yield "PATCH", f"{at}/q", {"metadata": {"finalizers": None}}, MERGE


@scenario
def collections_(ns):
    at = f"/api/v1/namespaces/{ns}/configmaps"
    for query, body in [("labelSelector=a%3Db", None), ("fieldSelector=metadata.name%3Dx1", None), ("limit=1", None), ("labelSelector=a%3Db&dryRun=All", None), ("", options(dryRun=["All"])), ("labelSelector=a", options(propagationPolicy="Foreground")),
                        ("labelSelector=a", options(gracePeriodSeconds=0)), ("labelSelector=a", options(preconditions={"uid": "x"})), ("resourceVersion=0&labelSelector=a", None), ("labelSelector=a&resourceVersion=1&resourceVersionMatch=Exact", None), ("watch=true&labelSelector=a", None), ("labelSelector=none", None),
                        ("labelSelector=a", options(propagationPolicy="Bogus")), ("labelSelector=a", {"kind": "Bogus", "apiVersion": "v1"}), ("labelSelector=a&propagationPolicy=Orphan", None), ("fieldSelector=metadata.name%3Dabsent", None)]:
        for name, labels in (("x1", {"a": "b"}), ("x2", {"a": "b"}), ("x3", {"a": "c"})):
            yield "POST", at, cm(name, labels=labels, **({"finalizers": ["example.com/a"]} if name == "x2" else {}))
        yield "DELETE", f"{at}?{query}", body
        yield "GET", f"{at}?labelSelector=a"
        for name in ("x1", "x2", "x3"):
            yield "PATCH", f"{at}/{name}", {"metadata": {"finalizers": None}}, MERGE
            yield "DELETE", f"{at}/{name}"
    pods = f"/api/v1/namespaces/{ns}/pods"
    for name in ("a", "b"):
        yield "POST", pods, pod(name, {"nodeName": "n1"} if name == "b" else {}, labels={"x": "y"})
    yield "DELETE", f"{pods}?labelSelector=x", options(gracePeriodSeconds=7)
    yield "DELETE", f"{pods}?labelSelector=x", options(gracePeriodSeconds=0)
    yield "DELETE", f"/api/v1/namespaces/{ns}/services?labelSelector=x"
    yield "DELETE", f"/api/v1/configmaps?labelSelector=a"
    yield "DELETE", "/api/v1/namespaces?labelSelector=nothing"


@scenario
def pods(ns):
    at = f"/api/v1/namespaces/{ns}/pods"
    binding = lambda name, target="n1", **more: {"apiVersion": "v1", "kind": "Binding", "metadata": meta(name, **more), "target": {"kind": "Node", "name": target}}
    yield "POST", at, pod("p", labels={"app": "x"})
    for body in ({}, {"metadata": {"name": "p"}}, binding("q"), binding("p", ""), dict(binding("p"), target={"name": "n1", "kind": "Pod"}), binding("p", uid="wrong"), binding("p", namespace="other"), binding("p", annotations={"a": "b"}, labels={"l": "m"}), binding("p"), binding("p", "n2")):
        yield "POST", f"{at}/p/binding?dryRun=All", body
    yield "POST", f"{at}/absent/binding", binding("absent")
    yield "POST", f"{at}/p/binding", binding("p", annotations={"a": "b"})
    yield "POST", f"{at}/p/binding", binding("p")
    yield "POST", f"{at}/p/binding", binding("p", "n2")
    yield "POST", f"/api/v1/namespaces/{ns}/bindings", binding("p")
    yield "POST", f"/api/v1/namespaces/{ns}/bindings", binding("absent")
    yield "GET", f"{at}/p"
    for patch in ({"status": {"phase": "Running"}}, {"status": {"podIP": "10.1.2.3"}}, {"status": {"phase": "Bogus"}}, {"spec": {"nodeName": "n3"}}, {"metadata": {"labels": {"s": "t"}}}, {"status": {"conditions": [{"type": "Ready", "status": "True"}]}}, {"status": {"podIPs": [{"ip": "10.1.2.4"}, {"ip": "10.1.2.5"}]}},
                  {"status": {"containerStatuses": [{"name": "c", "image": "i", "imageID": "", "ready": True, "restartCount": 0, "state": {"running": {}}}]}}, {"status": {"observedGeneration": 1}}, {"status": {"qosClass": "Guaranteed"}}):
        yield "PATCH", f"{at}/p/status", patch, STRATEGIC
    for image in ("j", "", " k"):
        yield "PATCH", f"{at}/p", {"spec": {"containers": [{"name": "c", "image": image}]}}, STRATEGIC
    for spec in ({"activeDeadlineSeconds": 100}, {"activeDeadlineSeconds": 50}, {"activeDeadlineSeconds": 200}, {"activeDeadlineSeconds": 0}, {"activeDeadlineSeconds": None}, {"tolerations": [{"key": "k", "operator": "Exists"}]}, {"tolerations": []}, {"terminationGracePeriodSeconds": 1}, {"priority": 5}, {"nodeName": ""}, {"schedulerName": "x"}, {"hostNetwork": True}, {"schedulingGates": [{"name": "g"}]}):
        yield "PATCH", f"{at}/p", {"spec": spec}, MERGE
    for containers in ([{"name": "d", "image": "i"}], [{"name": "d", "image": "i", "targetContainerName": "c"}], [{"name": "c", "image": "i"}], [{"name": "e", "image": ""}], [{"name": "f", "image": "i", "ports": [{"containerPort": 5}]}], [{"name": "g", "image": "i", "resources": {"limits": {"cpu": "1"}}}], [{"name": "h", "image": "i", "targetContainerName": "z"}], [{"name": "d", "image": "other"}]):
        yield "PATCH", f"{at}/p/ephemeralcontainers", {"spec": {"ephemeralContainers": containers}}, STRATEGIC
    yield "PATCH", f"{at}/p/ephemeralcontainers", {"spec": {"containers": [{"name": "c", "image": "x"}]}}, STRATEGIC
    yield "PATCH", f"{at}/p/ephemeralcontainers", {"spec": {"ephemeralContainers": None}}, MERGE
    yield "GET", f"{at}/p/ephemeralcontainers"
    for resources in ({"requests": {"cpu": "100m"}}, {"limits": {"cpu": "1"}}, {"limits": {"memory": "1Gi"}, "requests": {"memory": "2Gi"}}, {"requests": {"ephemeral-storage": "1Gi"}}, {"limits": {"example.com/x": "1"}}, {}):
        yield "PATCH", f"{at}/p/resize", {"spec": {"containers": [{"name": "c", "resources": resources}]}}, STRATEGIC
    yield "POST", at, pod("r", {"nodeName": "n1"}, {"resources": {"requests": {"cpu": "100m", "memory": "1Mi"}, "limits": {"cpu": "200m", "memory": "2Mi"}}, "resizePolicy": [{"resourceName": "cpu", "restartPolicy": "NotRequired"}]})
    for resources in ({"requests": {"cpu": "150m"}}, {"limits": {"cpu": "300m"}}, {"limits": {"memory": "1Mi"}}, {"limits": {"memory": "3Mi"}}, {"limits": {"cpu": None}}, {"requests": {"cpu": "400m"}}, {"limits": {"cpu": "150m"}, "requests": {"cpu": "150m", "memory": "2Mi"}}):
        yield "PATCH", f"{at}/r/resize", {"spec": {"containers": [{"name": "c", "resources": resources}]}}, STRATEGIC
    yield "PATCH", f"{at}/r/resize", {"spec": {"containers": [{"name": "c", "image": "z"}]}}, STRATEGIC
    yield "PATCH", f"{at}/r/resize", {"metadata": {"labels": {"a": "b"}}}, STRATEGIC
    yield "PATCH", f"{at}/r", {"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "1m"}}}]}}, STRATEGIC
    yield "GET", f"{at}/r/resize"
    eviction = lambda name, **more: dict({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": meta(name)}, **more)
    yield "POST", f"{at}/p/eviction?dryRun=All", eviction("p")
    yield "POST", f"{at}/p/eviction", eviction("q")
    yield "POST", f"{at}/p/eviction", {}
    yield "POST", f"{at}/p/eviction", eviction("p", deleteOptions={"preconditions": {"uid": "x"}})
    yield "POST", f"{at}/p/eviction", eviction("p", deleteOptions={"dryRun": ["All"]})
    yield "POST", f"{at}/p/eviction", dict(eviction("p"), apiVersion="policy/v1beta1")
    yield "POST", f"/apis/policy/v1/namespaces/{ns}/poddisruptionbudgets", {"metadata": meta("b"), "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "x"}}}}
    yield "POST", f"{at}/p/eviction", eviction("p")
    yield "PATCH", f"/apis/policy/v1/namespaces/{ns}/poddisruptionbudgets/b/status", {"status": {"observedGeneration": 1, "disruptionsAllowed": 0, "expectedPods": 1, "desiredHealthy": 1, "currentHealthy": 1}}, MERGE
    yield "POST", f"{at}/p/eviction", eviction("p")
    yield "PATCH", f"/apis/policy/v1/namespaces/{ns}/poddisruptionbudgets/b/status", {"status": {"disruptionsAllowed": 1, "currentHealthy": 2}}, MERGE
    yield "POST", f"{at}/p/eviction", eviction("p", deleteOptions={"gracePeriodSeconds": 3})
    yield "GET", f"/apis/policy/v1/namespaces/{ns}/poddisruptionbudgets/b"
    yield "POST", f"{at}/absent/eviction", eviction("absent")
    yield "GET", f"{at}/p"
    for seconds in (30, 10, -1, 5):
        yield "DELETE", f"{at}/p", options(gracePeriodSeconds=seconds)
    yield "DELETE", f"{at}/p"
    yield "DELETE", f"{at}/p", options(gracePeriodSeconds=0)
    yield "GET", f"{at}/p"
    for i, (spec, o) in enumerate([({}, {}), ({}, {"gracePeriodSeconds": 5}), ({"nodeName": "n1"}, {}), ({"nodeName": "n1", "terminationGracePeriodSeconds": 0}, {}), ({"nodeName": "n1"}, {"gracePeriodSeconds": 0}), ({"nodeName": "n1"}, {"propagationPolicy": "Foreground"}), ({}, {"propagationPolicy": "Foreground"}), ({"nodeName": "n1"}, {"dryRun": ["All"]}), ({}, {"dryRun": ["All"]})]):
        yield "POST", at, pod(f"g{i}", spec)
        yield "DELETE", f"{at}/g{i}", options(**o)
        yield "GET", f"{at}/g{i}"
        yield "DELETE", f"{at}/g{i}", options(gracePeriodSeconds=0)
    for path in ("log", "log?container=z", "log?tailLines=-1", "log?limitBytes=0", "log?sinceSeconds=-5", "log?sinceSeconds=1&sinceTime=2020-01-01T00:00:00Z", "log?stream=Bogus", "log?previous=maybe", "exec", "exec?command=x&container=zz", "attach", "portforward", "proxy", "status", "bogus"):
        yield "GET", f"{at}/r/{path}" if path not in ("attach", "portforward", "proxy") else f"{at}/absent/{path}"
    for body in (pod("u", {"nodeName": "n1", "schedulingGates": [{"name": "g"}]}), pod("u", {"serviceAccountName": "absent"}), pod("u", {"automountServiceAccountToken": False}), pod("u", {"priorityClassName": "absent"}), pod("u", {"priorityClassName": "system-node-critical"}), pod("u", {"priority": 5}), pod("u", {"runtimeClassName": "absent"}),
                 pod("u", {"tolerations": [{"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 5}]}), pod("u", {"volumes": [{"name": "v", "secret": {"secretName": "s"}}]}, {"volumeMounts": [{"name": "v", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"}]}), pod("u", annotations={"kubernetes.io/config.mirror": "x"})):
        yield "POST", f"{at}?dryRun=All", body


@scenario
def tokens(ns):
    at = f"/api/v1/namespaces/{ns}/serviceaccounts"
    request = lambda **spec: {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
    yield "POST", at, {"metadata": meta("t")}
    yield "POST", f"/api/v1/namespaces/{ns}/pods", pod("t", {"serviceAccountName": "t"})
    yield "POST", f"/api/v1/namespaces/{ns}/secrets", {"metadata": meta("t")}
    ref = lambda kind, version="v1", **more: dict({"kind": kind, "apiVersion": version, "name": "t"}, **more)
    for body in (request(), request(expirationSeconds=600), request(expirationSeconds=599), request(expirationSeconds=0), request(expirationSeconds=2**32 + 1), request(audiences=["a", "b"]), request(audiences=[""]), request(boundObjectRef=ref("Pod")), request(boundObjectRef=ref("Pod", uid="x")), request(boundObjectRef=ref("Pod", uid=f"{{uid /api/v1/namespaces/{ns}/pods/t}}")),
                 request(boundObjectRef=ref("Secret")), request(boundObjectRef=ref("ConfigMap")), request(boundObjectRef=ref("Pod", "apps/v1")), request(boundObjectRef={"kind": "Pod", "apiVersion": "v1", "name": "absent"}), request(boundObjectRef={"kind": "Node", "apiVersion": "v1", "name": "absent"}), request(boundObjectRef={"kind": "Secret", "apiVersion": "v1"}), {}, {"spec": None},
                 dict(request(), metadata={"name": "t"}), dict(request(), metadata={"name": "other"}), dict(request(), metadata={"namespace": "other"}), dict(request(), status={"token": "x"}), dict(request(), apiVersion="v1"), dict(request(), kind="Bogus")):
        yield "POST", f"{at}/t/token", body
        yield "POST", f"{at}/t/token?dryRun=All", body
    yield "POST", f"{at}/absent/token", request()
    yield "GET", f"{at}/t/token"
    yield "POST", f"/api/v1/namespaces/{ns}/secrets", {"metadata": meta("legacy", annotations={"kubernetes.io/service-account.name": "t"}), "type": "kubernetes.io/service-account-token"}
    yield "POST", f"/api/v1/namespaces/{ns}/secrets", {"metadata": meta("legacy2"), "type": "kubernetes.io/service-account-token"}


@scenario
def requests_(ns):
    at = "/apis/certificates.k8s.io/v1/certificatesigningrequests"
    with tempfile.TemporaryDirectory() as d:
        def make(*more):
            subprocess.run(["openssl", "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", d + "/k", "-out", d + "/r", *more], check=True, capture_output=True)
            return base64.b64encode(open(d + "/r", "rb").read()).decode()
        plain, masters, kubelet = make("-subj", "/CN=judged"), make("-subj", "/O=system:masters/CN=x"), make("-subj", "/O=system:nodes/CN=system:node:x")
    csr = lambda name, request=plain, signer="example.com/s", **spec: {"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest", "metadata": meta(name), "spec": dict({"request": request, "signerName": signer, "usages": ["client auth"]}, **spec)}
    for i, o in enumerate([csr("c"), csr("c", masters, "kubernetes.io/kube-apiserver-client"), csr("c", kubelet, "kubernetes.io/kube-apiserver-client-kubelet"), csr("c", kubelet, "kubernetes.io/kube-apiserver-client-kubelet", usages=["client auth", "digital signature"]), csr("c", plain, "kubernetes.io/kubelet-serving"), csr("c", plain, "kubernetes.io/legacy-unknown"), csr("c", plain, "kubernetes.io/bogus"), csr("c", plain, "x"), csr("c", usages=[]), csr("c", usages=["bogus"]), csr("c", usages=["client auth", "client auth"]), csr("c", expirationSeconds=5), csr("c", expirationSeconds=600), csr("c", username="bob", groups=["g"], uid="u", extra={"a": ["b"]}), csr("c", "Ym9ndXM=")]):
        yield "POST", at + "?dryRun=All", o
    yield "POST", at, csr("judge-a")
    yield "POST", at, csr("judge-d")
    condition = lambda kind, **more: dict({"type": kind, "status": "True", "reason": "r", "message": "m"}, **more)
    for name, conditions in (("a", []), ("a", [condition("Bogus")]), ("a", [condition("")]), ("a", [condition("Approved", status="False")]), ("a", [condition("Approved"), condition("Denied")]), ("a", [condition("Approved"), condition("Approved")]), ("a", [condition("Approved")]), ("a", []), ("a", [condition("Denied")]), ("d", [condition("Denied")]), ("d", [condition("Denied", reason="other")]), ("d", [condition("Approved"), condition("Denied")])):
        yield "PATCH", f"{at}/judge-{name}/approval", {"status": {"conditions": conditions}}, MERGE
    for certificate in ("Ym9ndXM=", "", base64.b64encode(b"-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n").decode()):
        for name in ("a", "d"):
            yield "PATCH", f"{at}/judge-{name}/status", {"status": {"certificate": certificate}}, MERGE
    yield "PATCH", f"{at}/judge-a/status", {"status": {"conditions": [condition("Approved"), condition("Failed")]}}, MERGE
    yield "PATCH", f"{at}/judge-a", {"spec": {"usages": ["server auth"]}}, MERGE
    yield "PATCH", f"{at}/judge-a", {"metadata": {"labels": {"a": "b"}}, "status": {"conditions": []}}, MERGE
    yield "GET", f"{at}/judge-a/approval"
    for name in "ad":
        yield "DELETE", f"{at}/judge-{name}"


@scenario
def namespaces(ns):
    at = "/api/v1/namespaces"
    name = ns + "-inner"
    yield "POST", at, {"metadata": meta(name, labels={"kubernetes.io/metadata.name": "other"})}
    yield "PATCH", f"{at}/{name}", {"metadata": {"labels": {"kubernetes.io/metadata.name": None}}}, MERGE
    yield "POST", f"{at}/{name}/configmaps", cm("a", finalizers=["example.com/x"])
    yield "PATCH", f"{at}/{name}/status", {"status": {"phase": "Terminating"}}, MERGE
    yield "PUT", f"{at}/{name}/finalize", {"metadata": meta(name), "spec": {"finalizers": ["kubernetes", "example.com/x"]}}
    yield "PUT", f"{at}/{name}/finalize", {"metadata": meta(name), "spec": {"finalizers": ["bogus"]}}
    yield "PATCH", f"{at}/{name}", {"spec": {"finalizers": []}}, MERGE
    yield "DELETE", f"{at}/{name}?dryRun=All"
    yield "DELETE", f"{at}/{name}", options(preconditions={"uid": "x"})
    yield "DELETE", f"{at}/{name}", options(preconditions={"resourceVersion": "1"})
    yield "DELETE", f"{at}/{name}", options(propagationPolicy="Foreground")
    yield "DELETE", f"{at}/{name}"
    yield "GET", f"{at}/{name}"
    yield "POST", f"{at}/{name}/configmaps", cm("b")
    yield "POST", f"{at}/{name}/pods", pod("b")
    yield "PATCH", f"{at}/{name}/configmaps/a", {"data": {"x": "y"}}, MERGE
    yield "PATCH", f"{at}/{name}/status", {"status": {"phase": "Active"}}, MERGE
    yield "PUT", f"{at}/{name}/finalize", {"metadata": meta(name), "spec": {"finalizers": ["example.com/x"]}}
    yield "PATCH", f"{at}/{name}", {"metadata": {"finalizers": None}}, MERGE
    yield "PATCH", f"{at}/{name}/configmaps/a", {"metadata": {"finalizers": None}}, MERGE
    yield "PUT", f"{at}/{name}/finalize", {"metadata": meta(name), "spec": {"finalizers": []}}
    yield "GET", f"{at}/{name}"
    yield "POST", f"{at}/{name}/configmaps", cm("b")
    for system in ("default", "kube-system", "kube-public"):
        yield "DELETE", f"{at}/{system}?dryRun=All"


@scenario
def scales(ns):
    for base, plural, kind in (("/apis/apps/v1", "deployments", "Deployment"), ("/apis/apps/v1", "statefulsets", "StatefulSet"), ("/apis/apps/v1", "replicasets", "ReplicaSet"), ("/api/v1", "replicationcontrollers", "ReplicationController")):
        at = f"{base}/namespaces/{ns}/{plural}"
        template = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
        selector = {"a": "b"} if plural == "replicationcontrollers" else {"matchLabels": {"a": "b"}}
        yield "POST", at, {"apiVersion": base.split("/", 2)[2] if "apis" in base else "v1", "kind": kind, "metadata": meta("s"), "spec": {"selector": selector, "template": template}}
        yield "GET", f"{at}/s/scale"
        scale = lambda replicas, **more: {"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": dict({"name": "s", "namespace": ns}, **more), "spec": {"replicas": replicas}}
        for body in (scale(2), scale(-1), scale(3, resourceVersion="1"), scale(3, resourceVersion=f"{{rv {at}/s}}"), scale(4, uid="x"), scale(4, namespace="other"), scale(4, name="other"), scale(2**31), {}, dict(scale(1), apiVersion="apps/v1"), dict(scale(1), kind="Bogus"), dict(scale(1), status={"replicas": 9}), dict(scale(1), spec={"replicas": "a"}), dict(scale(1), spec={}), dict(scale(1), bogus=1)):
            yield "PUT", f"{at}/s/scale", body
            yield "PUT", f"{at}/s/scale?dryRun=All&fieldValidation=Strict", body
        for patch in ({"spec": {"replicas": 7}}, {"spec": {"replicas": -7}}, {"spec": None}, {"metadata": {"labels": {"x": "y"}}}, {"status": {"replicas": 5}}, {"spec": {"bogus": 1}}, {"metadata": {"resourceVersion": "1"}}):
            yield "PATCH", f"{at}/s/scale", patch, MERGE
            yield "PATCH", f"{at}/s/scale", patch, STRATEGIC
        yield "PATCH", f"{at}/s/scale", [{"op": "replace", "path": "/spec/replicas", "value": 1}, {"op": "test", "path": "/spec/replicas", "value": 1}], JSONP
        yield "PATCH", f"{at}/s/scale", [{"op": "test", "path": "/spec/replicas", "value": 9}], JSONP
        yield "GET", f"{at}/s"
        yield "PUT", f"{at}/absent/scale", dict(scale(1), metadata=meta("absent"))
        yield "DELETE", f"{at}/s/scale"
        yield "PATCH", f"{at}/s/status", {"status": {"replicas": 3}, "spec": {"replicas": 99}, "metadata": {"labels": {"from": "status"}}}, MERGE
        yield "DELETE", f"{at}/s", options(propagationPolicy="Foreground")
        yield "PATCH", f"{at}/s", {"metadata": {"finalizers": None}}, MERGE


@scenario
def services(ns):
    at = f"/api/v1/namespaces/{ns}/services"
    for i, spec in enumerate(({}, {"clusterIP": "None"}, {"type": "NodePort"}, {"type": "LoadBalancer"}, {"type": "ExternalName", "externalName": "example.com"}, {"type": "LoadBalancer", "allocateLoadBalancerNodePorts": False}, {"type": "LoadBalancer", "externalTrafficPolicy": "Local"}, {"ipFamilyPolicy": "RequireDualStack"}, {"ipFamilyPolicy": "PreferDualStack"}, {"ipFamilies": ["IPv6"]}, {"clusterIP": "1.2.3.4"}, {"type": "NodePort", "ports": [{"port": 80, "nodePort": 5}]})):
        name = f"s{i}"
        yield "POST", at, {"metadata": meta(name), "spec": dict({"ports": [{"port": 80}], "selector": {"a": "b"}}, **spec)}
        for change in ({"type": "NodePort"}, {"type": "LoadBalancer"}, {"type": "ClusterIP"}, {"type": "ExternalName", "externalName": "x.example.com"}, {"type": "ExternalName", "externalName": "y.example.com", "clusterIP": None, "clusterIPs": None}, {"type": "ClusterIP"}, {"clusterIP": "None"}, {"clusterIP": ""}, {"ports": [{"port": 81}]}, {"ports": []}, {"sessionAffinity": "ClientIP"}, {"sessionAffinity": "None"}, {"externalTrafficPolicy": "Local"}, {"internalTrafficPolicy": "Local"}, {"loadBalancerClass": "example.com/x"}):
            yield "PATCH", f"{at}/{name}", {"spec": change}, MERGE
        yield "PATCH", f"{at}/{name}/status", {"status": {"loadBalancer": {"ingress": [{"ip": "1.2.3.4"}]}}}, MERGE
        yield "DELETE", f"{at}/{name}"


@scenario
def quotas(ns):
    at = f"/api/v1/namespaces/{ns}"
    yield "POST", f"{at}/limitranges", {"metadata": meta("l"), "spec": {"limits": [{"type": "Container", "default": {"cpu": "200m"}, "defaultRequest": {"cpu": "100m"}, "max": {"cpu": "500m", "memory": "1Gi"}, "min": {"cpu": "50m"}, "maxLimitRequestRatio": {"cpu": "3"}}, {"type": "Pod", "max": {"cpu": "700m"}}, {"type": "PersistentVolumeClaim", "max": {"storage": "5Gi"}, "min": {"storage": "1Gi"}}]}}
    for resources in ({}, {"requests": {"cpu": "10m"}}, {"limits": {"cpu": "600m"}}, {"limits": {"cpu": "400m"}, "requests": {"cpu": "100m"}}, {"limits": {"memory": "2Gi"}}, {"requests": {"cpu": "300m"}}, {"limits": {"cpu": "300m"}}):
        yield "POST", f"{at}/pods?dryRun=All", pod("l", container={"resources": resources})
        yield "POST", f"{at}/pods?dryRun=All", pod("l", {"containers": [{"name": n, "image": "i", "resources": resources} for n in "abcd"]})
    for size in ("1Gi", "500Mi", "6Gi"):
        yield "POST", f"{at}/persistentvolumeclaims?dryRun=All", {"metadata": meta("v"), "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}}}}
    yield "DELETE", f"{at}/limitranges/l"
    quota = lambda name, hard, **spec: {"metadata": meta(name), "spec": dict({"hard": hard}, **spec)}
    yield "POST", f"{at}/resourcequotas", quota("q", {"pods": "1", "configmaps": "2", "requests.cpu": "1", "count/secrets": "1", "services.nodeports": "0", "requests.storage": "1Gi", "limits.memory": "1Gi"})
    yield "POST", f"{at}/configmaps", cm("early")
    yield "PATCH", f"{at}/resourcequotas/q/status", {"status": {"hard": {"pods": "1", "configmaps": "2", "requests.cpu": "1", "count/secrets": "1", "services.nodeports": "0", "requests.storage": "1Gi", "limits.memory": "1Gi"}, "used": {"pods": "0", "configmaps": "1", "requests.cpu": "0", "count/secrets": "0", "services.nodeports": "0", "requests.storage": "0", "limits.memory": "0"}}}, MERGE
    yield "POST", f"{at}/pods", pod("a")
    yield "POST", f"{at}/pods", pod("a", container={"resources": {"requests": {"cpu": "2"}, "limits": {"memory": "1Mi"}}})
    yield "POST", f"{at}/pods", pod("a", container={"resources": {"requests": {"cpu": "1"}, "limits": {"memory": "1Mi"}}})
    yield "POST", f"{at}/pods", pod("b", container={"resources": {"requests": {"cpu": "1"}, "limits": {"memory": "1Mi"}}})
    yield "POST", f"{at}/configmaps?dryRun=All", cm("c1")
    yield "POST", f"{at}/configmaps", cm("c1")
    yield "POST", f"{at}/configmaps", cm("c2")
    yield "POST", f"{at}/secrets", {"metadata": meta("s1")}
    yield "POST", f"{at}/secrets", {"metadata": meta("s2")}
    yield "POST", f"{at}/services", {"metadata": meta("n"), "spec": {"type": "NodePort", "ports": [{"port": 80}]}}
    yield "POST", f"{at}/persistentvolumeclaims", {"metadata": meta("v"), "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "2Gi"}}}}
    yield "GET", f"{at}/resourcequotas/q"
    for body in (quota("bad", {"bogus": "1"}), quota("bad", {"pods": "-1"}), quota("bad", {"pods": "1.5"}), quota("bad", {"pods": "1"}, scopes=["Bogus"]), quota("bad", {"configmaps": "1"}, scopes=["BestEffort"]), quota("bad", {"pods": "1"}, scopes=["BestEffort", "NotBestEffort"]), quota("bad", {"pods": "1"}, scopeSelector={"matchExpressions": [{"scopeName": "PriorityClass", "operator": "In", "values": ["x"]}]}), quota("bad", {"requests.hugepages-2Mi": "1"})):
        yield "POST", f"{at}/resourcequotas?dryRun=All", body
    yield "DELETE", f"{at}/resourcequotas/q"
    yield "DELETE", f"{at}/pods/a", options(gracePeriodSeconds=0)


@scenario
def pod_security(ns):
    for level in ("baseline", "restricted", "privileged"):
        for version in ("latest", "v1.20", "bogus"):
            name = f"{ns}-{level}-{version.replace('.', '')}"
            labels = {f"pod-security.kubernetes.io/{mode}{suffix}": value for mode in ("enforce", "warn", "audit") for suffix, value in (("", level), ("-version", version))}
            yield "POST", "/api/v1/namespaces", {"metadata": meta(name, labels=labels)}
            if version == "bogus":
                continue
            yield "POST", f"/api/v1/namespaces/{name}/serviceaccounts", {"metadata": meta("default")}
            for spec, container in (({}, {}), ({"hostNetwork": True}, {}), ({"hostPID": True, "hostIPC": True}, {}), ({"volumes": [{"name": "h", "hostPath": {"path": "/"}}]}, {}), ({}, {"securityContext": {"privileged": True}}), ({}, {"securityContext": {"capabilities": {"add": ["NET_ADMIN", "CHOWN"]}}}), ({}, {"ports": [{"containerPort": 80, "hostPort": 80}]}), ({"securityContext": {"sysctls": [{"name": "kernel.msgmax", "value": "1"}]}}, {}), ({"securityContext": {"seccompProfile": {"type": "Unconfined"}}}, {}),
                                    ({"securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}}, {"securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}}), ({"securityContext": {"runAsUser": 0}}, {}), ({}, {"securityContext": {"procMount": "Unmasked"}}), ({"securityContext": {"seLinuxOptions": {"user": "x", "type": "y"}}}, {}), ({}, {"livenessProbe": {"httpGet": {"port": 80, "host": "1.2.3.4"}}}), ({"securityContext": {"appArmorProfile": {"type": "Unconfined"}}}, {})):
                yield "POST", f"/api/v1/namespaces/{name}/pods?dryRun=All", pod("p", spec, container)
                yield "POST", f"/apis/apps/v1/namespaces/{name}/deployments?dryRun=All", {"metadata": meta("d"), "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": dict(pod("x", spec, container), metadata={"labels": {"a": "b"}}, apiVersion=None, kind=None)}}
    name = f"{ns}-privileged-latest"
    yield "POST", f"/api/v1/namespaces/{name}/pods", pod("bad", {"hostNetwork": True})
    yield "POST", f"/api/v1/namespaces/{name}/pods", pod("bad2", {"hostPID": True})
    for level in ("baseline", "restricted", "bogus", ""):
        yield "PATCH", f"/api/v1/namespaces/{name}?dryRun=All", {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": level}}}, MERGE


@scenario
def roles(ns):
    rbac = "/apis/rbac.authorization.k8s.io/v1"
    rule = lambda **more: dict({"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get"]}, **more)
    yield "POST", f"{rbac}/namespaces/{ns}/roles", {"metadata": meta("r"), "rules": [rule(), {"apiGroups": ["rbac.authorization.k8s.io"], "resources": ["roles", "rolebindings"], "verbs": ["*"]}]}
    yield "POST", f"{rbac}/namespaces/{ns}/rolebindings", {"metadata": meta("r"), "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "r"}, "subjects": [{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": "bob"}]}
    bob = [("Impersonate-User", "bob")]
    at = f"/api/v1/namespaces/{ns}"
    for method, path, body in (("GET", f"{at}/configmaps/a", None), ("GET", f"{at}/configmaps", None), ("GET", f"{at}/configmaps?watch=1", None), ("GET", f"{at}/secrets/s", None), ("POST", f"{at}/configmaps", cm("x")), ("DELETE", f"{at}/configmaps/a", None), ("DELETE", f"{at}/configmaps", None), ("GET", "/api/v1/nodes", None), ("GET", "/api/v1/nodes/n1", None), ("POST", f"{at}/pods/p/exec", None), ("GET", f"{at}/pods/p/log", None), ("PUT", f"{at}/pods/p/status", {}), ("GET", "/metrics", None), ("GET", "/healthz", None), ("GET", "/apis", None), ("POST", f"{at}/serviceaccounts/default/token", {}),
                               ("GET", "/apis/bogus.example.com/v1/things", None), ("PATCH", f"/apis/apps/v1/namespaces/{ns}/deployments/d/scale", {}), ("GET", f"{at}/configmaps?fieldSelector=metadata.name%3Da", None), ("GET", f"{at}/configmaps?labelSelector=a%3Db", None)):
        yield method, path, body, MERGE if method == "PATCH" else "application/json", bob
    for rules in ([rule()], [rule(verbs=["get", "list"])], [rule(resources=["secrets"])], [rule(resourceNames=["x"])], [{"nonResourceURLs": ["/x"], "verbs": ["get"]}], [rule(apiGroups=["*"])], []):
        yield "POST", f"{rbac}/namespaces/{ns}/roles", {"metadata": meta("mine"), "rules": rules}, "application/json", bob
        yield "PUT", f"{rbac}/namespaces/{ns}/roles/mine", {"metadata": meta("mine"), "rules": rules + [rule(verbs=["delete"])]}, "application/json", bob
        yield "PATCH", f"{rbac}/namespaces/{ns}/roles/mine", {"rules": rules}, MERGE, bob
        yield "DELETE", f"{rbac}/namespaces/{ns}/roles/mine", None, "application/json", bob
    for ref in ({"kind": "Role", "name": "r"}, {"kind": "ClusterRole", "name": "view"}, {"kind": "ClusterRole", "name": "absent"}, {"kind": "Role", "name": "absent"}, {"kind": "Bogus", "name": "r"}):
        body = {"metadata": meta("mine"), "roleRef": dict({"apiGroup": "rbac.authorization.k8s.io"}, **ref), "subjects": [{"kind": "ServiceAccount", "name": "default", "namespace": ns}]}
        yield "POST", f"{rbac}/namespaces/{ns}/rolebindings", body, "application/json", bob
        yield "PATCH", f"{rbac}/namespaces/{ns}/rolebindings/mine", {"roleRef": {"name": "other"}}, MERGE, bob
        yield "DELETE", f"{rbac}/namespaces/{ns}/rolebindings/mine", None, "application/json", bob
    yield "POST", f"{rbac}/clusterroles", {"metadata": meta(f"{ns}-aggregate"), "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"x": "y"}}]}}, "application/json", bob
    yield "POST", f"{rbac}/clusterroles?dryRun=All", {"metadata": meta(f"{ns}-aggregate"), "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"x": "y"}}]}, "rules": [rule()]}
    reviews = "/apis/authorization.k8s.io/v1"
    attributes = {"namespace": ns, "verb": "get", "resource": "configmaps"}
    for spec in ({"resourceAttributes": attributes}, {"resourceAttributes": dict(attributes, verb="list")}, {"resourceAttributes": dict(attributes, resource="*")}, {"resourceAttributes": dict(attributes, fieldSelector={"rawSelector": "a=b"})}, {"resourceAttributes": dict(attributes, labelSelector={"requirements": [{"key": "a", "operator": "In", "values": ["b"]}]})}, {"resourceAttributes": dict(attributes, labelSelector={"requirements": [{"key": "a", "operator": "Bogus"}]})}, {"nonResourceAttributes": {"path": "/metrics", "verb": "get"}}, {}, {"resourceAttributes": attributes, "nonResourceAttributes": {"path": "/"}}, {"resourceAttributes": {}}):
        yield "POST", f"{reviews}/selfsubjectaccessreviews", {"spec": spec}, "application/json", bob
        for who in ({"user": "bob"}, {"groups": ["system:masters"]}, {"user": "bob", "uid": "u", "extra": {"a": ["b"]}}, {}):
            yield "POST", f"{reviews}/subjectaccessreviews", {"spec": dict(spec, **who)}
        yield "POST", f"{reviews}/namespaces/{ns}/localsubjectaccessreviews", {"metadata": {"namespace": ns}, "spec": dict(spec, user="bob")}
        yield "POST", f"{reviews}/namespaces/default/localsubjectaccessreviews", {"spec": dict(spec, user="bob")}
    for namespace in (ns, "", "absent"):
        yield "POST", f"{reviews}/selfsubjectrulesreviews", {"spec": {"namespace": namespace}}, "application/json", bob
    for headers in (bob, bob + [("Impersonate-Group", "g1"), ("Impersonate-Group", "g2"), ("Impersonate-Extra-Scopes", "s"), ("Impersonate-Uid", "u")], []):
        yield "POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", {}, "application/json", headers
    for spec in ({"token": "bogus"}, {"token": ""}, {"token": "a.b.c"}, {"token": "x", "audiences": ["a"]}, {}):
        yield "POST", "/apis/authentication.k8s.io/v1/tokenreviews", {"spec": spec}


@scenario
def nodes(ns):
    at = "/api/v1/nodes"
    me = f"system:node:{ns}"
    kubelet = [("Impersonate-User", me), ("Impersonate-Group", "system:nodes"), ("Impersonate-Group", "system:authenticated")]
    plain = "application/json"
    yield "POST", at, node("other"), plain, kubelet
    yield "POST", at, node(ns, labels={"node-restriction.kubernetes.io/x": "y"}), plain, kubelet
    yield "POST", at, node(ns, labels={"foo.kubernetes.io/x": "y"}), plain, kubelet
    yield "POST", at, dict(node(ns), spec={"taints": [{"key": "k", "effect": "NoSchedule"}]}), plain, kubelet
    yield "GET", f"{at}/{ns}", None, plain, kubelet
    yield "GET", f"{at}/other", None, plain, kubelet
    yield "GET", at, None, plain, kubelet
    for patch in ({"metadata": {"labels": {"a": "b"}}}, {"metadata": {"labels": {"kubernetes.io/x": "y"}}}, {"metadata": {"labels": {"node-restriction.kubernetes.io/x": "y"}}}, {"spec": {"taints": []}}, {"spec": {"unschedulable": True}}, {"metadata": {"ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u"}]}}, {"spec": {"configSource": {"configMap": {"name": "x", "namespace": "y", "kubeletConfigKey": "z"}}}}):
        yield "PATCH", f"{at}/{ns}", patch, STRATEGIC, kubelet
        yield "PATCH", f"{at}/{ns}/status", patch, STRATEGIC, kubelet
    yield "PATCH", f"{at}/{ns}/status", {"status": {"conditions": [{"type": "Ready", "status": "True"}], "capacity": {"cpu": "4"}}}, STRATEGIC, kubelet
    yield "PATCH", f"{at}/n1/status", {"status": {}}, STRATEGIC, kubelet
    yield "DELETE", f"{at}/{ns}", None, plain, kubelet
    pods = f"/api/v1/namespaces/{ns}/pods"
    mirror = {"kubernetes.io/config.mirror": "x", "kubernetes.io/config.source": "file"}
    owner = [{"apiVersion": "v1", "kind": "Node", "name": ns, "uid": f"{{uid {at}/{ns}}}", "controller": True}]
    for body in (pod("m", {"nodeName": ns}), pod("m", {"nodeName": ns}, annotations=mirror), pod("m", {"nodeName": ns}, annotations=mirror, ownerReferences=owner), pod("m2", {"nodeName": "other"}, annotations=mirror, ownerReferences=owner), pod("m3", {"nodeName": ns, "serviceAccountName": "default"}, annotations=mirror, ownerReferences=owner), pod("m4", {"nodeName": ns, "volumes": [{"name": "s", "secret": {"secretName": "x"}}]}, annotations=mirror, ownerReferences=owner)):
        yield "POST", pods, body, plain, kubelet
    yield "POST", pods, pod("normal", {"nodeName": "n1"})
    yield "POST", pods, pod("own", {"nodeName": ns, "volumes": [{"name": "s", "secret": {"secretName": "mounted"}}]})
    for name in ("m", "normal", "own"):
        yield "GET", f"{pods}/{name}", None, plain, kubelet
        yield "PATCH", f"{pods}/{name}/status", {"status": {"phase": "Running"}}, STRATEGIC, kubelet
        yield "PATCH", f"{pods}/{name}", {"metadata": {"labels": {"a": "b"}}}, STRATEGIC, kubelet
        yield "PATCH", f"{pods}/{name}/status", {"metadata": {"labels": {"a": "b"}}}, STRATEGIC, kubelet
        yield "POST", f"{pods}/{name}/eviction", {"metadata": meta(name)}, plain, kubelet
        yield "DELETE", f"{pods}/{name}", options(gracePeriodSeconds=0), plain, kubelet
    for path in (f"/api/v1/namespaces/{ns}/secrets/mounted", f"/api/v1/namespaces/{ns}/secrets/other", f"/api/v1/namespaces/{ns}/secrets", f"/api/v1/namespaces/{ns}/configmaps/x", "/api/v1/services", f"/api/v1/namespaces/{ns}/persistentvolumeclaims/x", "/apis/storage.k8s.io/v1/csidrivers", f"/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{ns}", "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/other", f"/api/v1/nodes/{ns}/proxy/x", "/apis/resource.k8s.io/v1/resourceslices"):
        yield "GET", path, None, plain, kubelet
    lease = lambda name: {"metadata": meta(name), "spec": {"holderIdentity": name}}
    for name in (ns, "other"):
        yield "POST", "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases", lease(name), plain, kubelet
    yield "POST", "/apis/storage.k8s.io/v1/csinodes", {"metadata": meta("other"), "spec": {"drivers": []}}, plain, kubelet
    yield "POST", f"/api/v1/namespaces/{ns}/serviceaccounts/default/token", {"spec": {}}, plain, kubelet
    yield "DELETE", f"{at}/{ns}"
    yield "POST", at, node(ns + "-t")
    yield "PATCH", f"{at}/{ns}-t", {"spec": {"podCIDR": "10.0.0.0/24"}}, MERGE
    yield "PATCH", f"{at}/{ns}-t", {"spec": {"podCIDR": "10.0.1.0/24"}}, MERGE
    yield "PATCH", f"{at}/{ns}-t", {"spec": {"providerID": "a"}}, MERGE
    yield "PATCH", f"{at}/{ns}-t", {"spec": {"providerID": "b"}}, MERGE
    yield "PATCH", f"{at}/{ns}-t", {"spec": {"taints": [{"key": "a", "effect": "NoExecute"}, {"key": "a", "effect": "NoExecute"}]}}, MERGE
    yield "DELETE", f"{at}/{ns}-t"


@scenario
def storage(ns):
    classes, at = "/apis/storage.k8s.io/v1/storageclasses", f"/api/v1/namespaces/{ns}/persistentvolumeclaims"
    claim = lambda name, **spec: {"metadata": meta(name), "spec": dict({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}, **spec)}
    yield "POST", classes, {"metadata": meta(ns, annotations={"storageclass.kubernetes.io/is-default-class": "true"}), "provisioner": "example.com/p", "allowVolumeExpansion": False}
    yield "POST", at, claim("a")
    yield "POST", at, claim("b", storageClassName="")
    yield "POST", at, claim("c", storageClassName=ns)
    yield "DELETE", f"{at}/b"
    yield "GET", f"{at}/b"
    yield "PATCH", f"{at}/c/status", {"status": {"phase": "Bound", "capacity": {"storage": "1Gi"}}}, MERGE
    for size in ("2Gi", "500Mi", "1Gi"):
        yield "PATCH", f"{at}/c", {"spec": {"resources": {"requests": {"storage": size}}}}, MERGE
    yield "PATCH", f"{classes}/{ns}", {"allowVolumeExpansion": True}, MERGE
    for size in ("2Gi", "500Mi", "1Gi"):
        yield "PATCH", f"{at}/c", {"spec": {"resources": {"requests": {"storage": size}}}}, MERGE
    yield "PATCH", f"{at}/c", {"spec": {"volumeName": "v"}}, MERGE
    yield "PATCH", f"{at}/c", {"spec": {"volumeName": "w"}}, MERGE
    yield "PATCH", f"{classes}/{ns}", {"provisioner": "x"}, MERGE
    yield "PATCH", f"{classes}/{ns}", {"parameters": {"a": "b"}}, MERGE
    yield "POST", "/api/v1/persistentvolumes", {"metadata": meta(ns), "spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/x"}}}
    yield "DELETE", f"/api/v1/persistentvolumes/{ns}"
    yield "GET", f"/api/v1/persistentvolumes/{ns}"
    yield "PATCH", f"/api/v1/persistentvolumes/{ns}", {"metadata": {"finalizers": None}}, MERGE
    for name in "abc":
        yield "DELETE", f"{at}/{name}"
        yield "PATCH", f"{at}/{name}", {"metadata": {"finalizers": None}}, MERGE
    yield "DELETE", f"{classes}/{ns}"
    ingress, net = f"/apis/networking.k8s.io/v1/namespaces/{ns}/ingresses", "/apis/networking.k8s.io/v1/ingressclasses"
    made = {"metadata": meta("i"), "spec": {"defaultBackend": {"service": {"name": "s", "port": {"number": 80}}}}}
    yield "POST", net, {"metadata": meta(ns, annotations={"ingressclass.kubernetes.io/is-default-class": "true"}), "spec": {"controller": "example.com/c"}}
    yield "POST", ingress, made
    yield "POST", ingress, {"metadata": meta("j", annotations={"kubernetes.io/ingress.class": "x"}), "spec": dict(made["spec"], ingressClassName="y")}
    yield "DELETE", f"{net}/{ns}"
    priorities = "/apis/scheduling.k8s.io/v1/priorityclasses"
    yield "POST", priorities, {"metadata": meta(ns), "value": 7, "globalDefault": True, "preemptionPolicy": "Never"}
    yield "POST", f"/api/v1/namespaces/{ns}/pods?dryRun=All", pod("x")
    yield "POST", priorities, {"metadata": meta(ns + "2"), "value": 8, "globalDefault": True}
    yield "POST", priorities, {"metadata": meta("system-mine"), "value": 8}
    yield "POST", priorities, {"metadata": meta(ns + "3"), "value": 2000000000}
    yield "PATCH", f"{priorities}/{ns}", {"value": 9}, MERGE
    yield "PATCH", f"{priorities}/{ns}", {"description": "d"}, MERGE
    yield "DELETE", f"{priorities}/system-node-critical?dryRun=All"
    yield "DELETE", f"{priorities}/{ns}"
    yield "DELETE", f"{priorities}/{ns}2"
    runtime = "/apis/node.k8s.io/v1/runtimeclasses"
    yield "POST", runtime, {"metadata": meta(ns), "handler": "h", "overhead": {"podFixed": {"cpu": "10m"}}, "scheduling": {"nodeSelector": {"a": "b"}, "tolerations": [{"key": "k", "operator": "Exists"}]}}
    for spec in ({}, {"nodeSelector": {"a": "c"}}, {"nodeSelector": {"d": "e"}}, {"overhead": {"cpu": "20m"}}):
        yield "POST", f"/api/v1/namespaces/{ns}/pods?dryRun=All", pod("x", dict(spec, runtimeClassName=ns))
    yield "PATCH", f"{runtime}/{ns}", {"handler": "x"}, MERGE
    yield "DELETE", f"{runtime}/{ns}"


@scenario
def versions(ns):
    """What is written in one version, read in another."""
    scaler = f"/namespaces/{ns}/horizontalpodautoscalers"
    v1, v2 = "/apis/autoscaling/v1", "/apis/autoscaling/v2"
    target = {"scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"}, "maxReplicas": 5}
    bodies = [({"targetCPUUtilizationPercentage": 50}, v1), ({}, v1), ({"metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 60}}}, {"type": "Resource", "resource": {"name": "memory", "target": {"type": "AverageValue", "averageValue": "1Gi"}}}]}, v2), ({"behavior": {"scaleDown": {"stabilizationWindowSeconds": 5, "policies": [{"type": "Pods", "value": 1, "periodSeconds": 15}]}}}, v2),
              ({"metrics": [{"type": "External", "external": {"metric": {"name": "m", "selector": {"matchLabels": {"a": "b"}}}, "target": {"type": "Value", "value": "5"}}}]}, v2), ({"metrics": [{"type": "ContainerResource", "containerResource": {"name": "cpu", "container": "c", "target": {"type": "Utilization", "averageUtilization": 60}}}]}, v2)]
    for i, (spec, base) in enumerate(bodies):
        yield "POST", base + scaler, {"metadata": meta(f"h{i}"), "spec": dict(target, **spec)}
        for version in (v1, v2):
            yield "GET", f"{version}{scaler}/h{i}"
        yield "PATCH", f"{v1}{scaler}/h{i}", {"spec": {"targetCPUUtilizationPercentage": 77}}, MERGE
        yield "GET", f"{v2}{scaler}/h{i}"
        yield "PATCH", f"{v2}{scaler}/h{i}", {"spec": {"metrics": None}}, MERGE
        yield "GET", f"{v1}{scaler}/h{i}"
        yield "PATCH", f"{v2}{scaler}/h{i}/status", {"status": {"currentReplicas": 1, "desiredReplicas": 2, "conditions": [{"type": "AbleToScale", "status": "True"}], "currentMetrics": [{"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": 5, "averageValue": "1"}}}]}}, MERGE
        yield "GET", f"{v1}{scaler}/h{i}"
        yield "PATCH", f"{v1}{scaler}/h{i}", {"metadata": {"annotations": {"autoscaling.alpha.kubernetes.io/metrics": "bogus"}}}, MERGE
        yield "PATCH", f"{v1}{scaler}/h{i}", {"metadata": {"annotations": {"autoscaling.alpha.kubernetes.io/conditions": None}}}, MERGE
        yield "GET", f"{v2}{scaler}/h{i}"
    core, new = f"/api/v1/namespaces/{ns}/events", f"/apis/events.k8s.io/v1/namespaces/{ns}/events"
    about = {"kind": "Pod", "namespace": ns, "name": "p", "apiVersion": "v1"}
    yield "POST", core, {"metadata": meta("old"), "involvedObject": about, "reason": "R", "message": "m", "type": "Normal", "count": 2, "firstTimestamp": "2001-01-01T00:00:00Z", "lastTimestamp": "2001-01-01T00:00:00Z", "source": {"component": "c", "host": "h"}}
    yield "POST", new, {"metadata": meta("new"), "regarding": about, "reason": "R", "note": "m", "type": "Warning", "action": "A", "eventTime": "2001-01-01T00:00:00.000000Z", "reportingController": "example.com/c", "reportingInstance": "i", "series": {"count": 2, "lastObservedTime": "2001-01-01T00:00:00.000000Z"}}
    for name in ("old", "new"):
        for at in (core, new):
            yield "GET", f"{at}/{name}"
            yield "PATCH", f"{at}/{name}", {"reason": "S"}, MERGE
            yield "PATCH", f"{at}/{name}", {"series": {"count": 3, "lastObservedTime": "2001-01-02T00:00:00.000000Z"}}, MERGE
            yield "PATCH", f"{at}/{name}", {"metadata": {"labels": {"a": "b"}}}, MERGE


@scenario
def policies(ns):
    admission = "/apis/admissionregistration.k8s.io/v1"
    match = {"resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE", "UPDATE", "DELETE"], "resources": ["configmaps"]}], "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": ns}}}
    policy = lambda name, **spec: {"metadata": meta(f"{ns}-{name}"), "spec": dict({"matchConstraints": match}, **spec)}
    bind = lambda name, actions=("Deny",), **spec: {"metadata": meta(f"{ns}-{name}"), "spec": dict({"policyName": f"{ns}-{name}", "validationActions": list(actions)}, **spec)}
    configmaps = f"/api/v1/namespaces/{ns}/configmaps"
    for name, spec, actions in (("deny", {"validations": [{"expression": "request.operation == 'DELETE' || !('no' in object.data)", "message": "no is not allowed", "reason": "Invalid"}, {"expression": "request.operation == 'DELETE' || object.metadata.name != 'bad'", "messageExpression": "'bad name: ' + object.metadata.name"}]}, ("Deny",)), ("warn", {"validations": [{"expression": "request.operation == 'DELETE' || object.metadata.name.startsWith('ok')"}]}, ("Warn", "Audit")), ("fails", {"validations": [{"expression": "object.data.absent == 'x'"}], "matchConditions": [{"name": "m", "expression": "request.operation == 'CREATE' && object.metadata.name == 'fails'"}]}, ("Deny",))):
        yield "POST", f"{admission}/validatingadmissionpolicies", policy(name, **spec)
        yield "POST", f"{admission}/validatingadmissionpolicybindings", bind(name, actions)
    yield "WAIT", f"{configmaps}?dryRun=All", dict(cm("wait-for-it"), data={"no": "x"}), 422
    yield "POST", f"{configmaps}?dryRun=All", dict(cm("ok"), data={"no": "x"})
    yield "POST", f"{configmaps}?dryRun=All", cm("bad")
    yield "POST", f"{configmaps}?dryRun=All", dict(cm("bad"), data={"no": "x"})
    yield "POST", f"{configmaps}?dryRun=All", cm("fails")
    yield "POST", f"{configmaps}?dryRun=All", cm("okay")
    yield "POST", f"{configmaps}?dryRun=All", cm("other")
    for bad in ({"validations": [{"expression": "object.x ++ 1"}]}, {"validations": [{"expression": "1"}]}, {"validations": []}, {"validations": [{"expression": "true", "messageExpression": "5"}]}, {"validations": [{"expression": "params.x == 1"}]}, {"variables": [{"name": "v", "expression": "variables.w"}], "validations": [{"expression": "variables.v"}]}, {"auditAnnotations": [{"key": "a", "valueExpression": "1"}]}, {"matchConditions": [{"name": "", "expression": "true"}], "validations": [{"expression": "true"}]}, {"failurePolicy": "Bogus", "validations": [{"expression": "true"}]}, {"paramKind": {"apiVersion": "bogus/a/b", "kind": "K"}, "validations": [{"expression": "true"}]}):
        yield "POST", f"{admission}/validatingadmissionpolicies?dryRun=All", policy("bad", **bad)
    yield "POST", f"{admission}/mutatingadmissionpolicies", policy("mutate", reinvocationPolicy="Never", mutations=[{"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": "Object{metadata: Object.metadata{labels: {'set': 'by-policy'}}}"}}], matchConstraints=dict(match, resourceRules=[dict(match["resourceRules"][0], operations=["CREATE"])]))
    yield "POST", f"{admission}/mutatingadmissionpolicybindings", {"metadata": meta(f"{ns}-mutate"), "spec": {"policyName": f"{ns}-mutate"}}
    time.sleep(2)
    yield "POST", f"{configmaps}?dryRun=All", cm("okay")
    for kind, names in (("validatingadmissionpolicies", ("deny", "warn", "fails")), ("validatingadmissionpolicybindings", ("deny", "warn", "fails")), ("mutatingadmissionpolicies", ("mutate",)), ("mutatingadmissionpolicybindings", ("mutate",))):
        for name in names:
            yield "GET", f"{admission}/{kind}/{ns}-{name}"
            yield "DELETE", f"{admission}/{kind}/{ns}-{name}"
    hook = lambda **more: dict({"name": "a.example.com", "clientConfig": {"url": "https://127.0.0.1:1/x"}, "rules": [dict(match["resourceRules"][0], operations=["CREATE"])], "namespaceSelector": match["namespaceSelector"], "sideEffects": "None", "admissionReviewVersions": ["v1"], "timeoutSeconds": 1}, **more)
    for kind in ("validatingwebhookconfigurations", "mutatingwebhookconfigurations"):
        yield "POST", f"{admission}/{kind}", {"metadata": meta(f"{ns}-h"), "webhooks": [hook()]}
        yield "WAIT", f"{configmaps}?dryRun=All", cm("wait-for-hook"), 500
        yield "POST", f"{configmaps}?dryRun=All", cm("hooked")
        yield "PATCH", f"{admission}/{kind}/{ns}-h", {"webhooks": [hook(sideEffects="Some")]}, MERGE
        yield "PATCH", f"{admission}/{kind}/{ns}-h", {"webhooks": [hook(sideEffects="NoneOnDryRun", failurePolicy="Ignore")]}, MERGE
        time.sleep(1)
        yield "POST", f"{configmaps}?dryRun=All", cm("ignored")
        yield "DELETE", f"{admission}/{kind}/{ns}-h"


@scenario
def definitions(ns):
    at, group = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", f"{ns}.example.com"
    schema = {"type": "object", "properties": {"spec": {"type": "object", "properties": {"n": {"type": "integer", "minimum": 1, "default": 3}, "s": {"type": "string", "maxLength": 5, "enum": ["a", "b", "toolong"]}, "l": {"type": "array", "maxItems": 2, "items": {"type": "string", "pattern": "^[a-z]+$"}}, "q": {"x-kubernetes-int-or-string": True}, "m": {"type": "object", "additionalProperties": {"type": "integer"}}, "nul": {"type": "string", "nullable": True}, "d": {"type": "string", "format": "date-time"}},
              "required": ["s"], "x-kubernetes-validations": [{"rule": "self.n < 10", "message": "n is too large"}, {"rule": "!has(oldSelf.s) || self.s == oldSelf.s", "messageExpression": "'s was ' + oldSelf.s", "fieldPath": ".s", "reason": "FieldValueForbidden"}]}, "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}}
    version = lambda name, storage, **more: dict({"name": name, "served": True, "storage": storage, "schema": {"openAPIV3Schema": schema}, "subresources": {"status": {}}}, **more)
    crd = lambda plural="gadgets", **more: {"metadata": meta(f"{plural}.{group}"), "spec": dict({"group": group, "scope": "Namespaced", "names": {"plural": plural, "kind": plural[:-1].title()}, "versions": [version("v1", True), version("v1alpha1", False, deprecated=True, deprecationWarning="do not use this")]}, **more)}
    yield "POST", at, crd()
    yield "WAIT-GET", f"/apis/{group}/v1/gadgets", None, 200
    time.sleep(6)
    yield "GET", f"{at}/gadgets.{group}"
    yield "POST", at, crd("widgets", names={"plural": "widgets", "kind": "Gadget"})
    yield "POST", at, crd("gizmos", names={"plural": "gizmos", "kind": "Gizmo", "shortNames": ["gadgets", "gz"]})
    time.sleep(2)
    yield "GET", f"{at}/widgets.{group}"
    yield "GET", f"{at}/gizmos.{group}"
    objects = f"/apis/{group}/v1/namespaces/{ns}/gadgets"
    gadget = lambda name="g", version="v1", **more: dict({"apiVersion": f"{group}/{version}", "kind": "Gadget", "metadata": meta(name), "spec": {"s": "a"}}, **more)
    for spec in ({"s": "a"}, {}, {"s": "a", "n": 0}, {"s": "a", "n": "x"}, {"s": "a", "n": 11}, {"s": "toolong"}, {"s": "c"}, {"s": "a", "l": ["a", "b", "c"]}, {"s": "a", "l": ["A", 5]}, {"s": "a", "q": 1.5}, {"s": "a", "q": "50%"}, {"s": "a", "m": {"x": "y"}}, {"s": None}, {"s": "a", "nul": None}, {"s": "a", "d": "yesterday"}, {"s": "a", "unknown": {"x": 1}}, [], None):
        for how in ("", "&fieldValidation=Strict"):
            yield "POST", f"{objects}?dryRun=All{how}", gadget(spec=spec)
    yield "POST", objects, gadget()
    yield "POST", f"/apis/{group}/v1alpha1/namespaces/{ns}/gadgets", gadget("old", "v1alpha1")
    yield "GET", f"/apis/{group}/v1alpha1/namespaces/{ns}/gadgets/g"
    for patch in ({"spec": {"s": "b"}}, {"spec": {"n": 20}}, {"spec": {"n": None}}, {"spec": {"unknown": 1}}, {"status": {"a": 1}}, {"metadata": {"generation": 99}}, {"metadata": {"uid": "x"}}, {"metadata": {"name": "x"}}, {"metadata": {"labels": {"A b": "c"}}}, {"metadata": {"annotations": {"A b": "c"}}}, {"metadata": {"finalizers": ["x"]}}, {"metadata": {"ownerReferences": [{}]}}, {"metadata": {"creationTimestamp": "2001-01-01T00:00:00Z"}}, {"metadata": {"deletionTimestamp": "2001-01-01T00:00:00Z"}}, {"spec": 5}, {"metadata": 5}, {"metadata": {"labels": 5}}):
        yield "PATCH", f"{objects}/g", patch, MERGE
        yield "PATCH", f"{objects}/g/status", patch, MERGE
        yield "PATCH", f"{objects}/g?fieldManager=f&force=true", gadget(**{k: v for k, v in patch.items() if k != "metadata"}), APPLY
    for change in ({"scope": "Cluster"}, {"group": "x.example.com"}, {"names": {"kind": "Other"}}, {"versions": [version("v1", False), version("v2", True)]}, {"versions": [version("v1", True, served=False)]}, {"versions": [version("v1", False), version("v1alpha1", True)]}, {"versions": [version("v1", True, subresources={})]}, {"versions": [version("v1", True, schema={"openAPIV3Schema": {"type": "string"}})]}, {"preserveUnknownFields": True}, {"conversion": {"strategy": "Webhook"}}, {"versions": []}):
        yield "PATCH", f"{at}/gadgets.{group}?dryRun=All", {"spec": change}, MERGE
    yield "PATCH", f"{at}/gadgets.{group}/status", {"status": {"storedVersions": []}}, MERGE
    yield "PATCH", f"{at}/gadgets.{group}/status", {"status": {"storedVersions": ["v9"]}}, MERGE
    yield "PATCH", f"{objects}/g", {"metadata": {"finalizers": ["example.com/x"]}}, MERGE
    yield "DELETE", f"{at}/gadgets.{group}"
    time.sleep(2)
    yield "GET", f"{at}/gadgets.{group}"
    yield "POST", objects, gadget("late")
    yield "PATCH", f"{objects}/g", {"metadata": {"labels": {"a": "b"}}}, MERGE
    yield "PATCH", f"{objects}/g", {"metadata": {"finalizers": None}}, MERGE
    time.sleep(8)
    yield "GET", f"{at}/gadgets.{group}"
    for name in ("widgets", "gizmos"):
        yield "DELETE", f"{at}/{name}.{group}"


class Both:
    def __init__(self, stock, ours, tag):
        self.servers, self.tag = [Server(stock), Server(ours)], tag

    def filled(self, server, value):
        def found(m):
            what, path = m[1], m[2]
            answer = server.ask("GET", path)[1]
            metadata = answer.get("metadata", {}) if isinstance(answer, dict) else {}
            return metadata.get("uid" if what == "uid" else "resourceVersion", "none")

        if value is None:
            return None
        return json.loads(re.sub(r"\{(uid|rv) ([^ }]+)\}", found, json.dumps(value)))

    def ask(self, server, method, path, body, kind, headers):
        path, body = self.filled(server, path), self.filled(server, body)
        data = None if body is None else json.dumps(body).encode()
        sent = [("Accept", "application/json"), ("User-Agent", "judge/1")] + ([("Content-Type", kind)] if data is not None else []) + list(headers)
        code, got, text = server.raw(method, path, sent, data)
        return {"code": code, "warnings": got.get_all("Warning") or [], "body": document(text)}

    def run(self, name):
        ns = f"{name.strip('_').replace('_', '-')}-{self.tag}"
        for server in self.servers:
            server.ask("POST", "/api/v1/namespaces", {"metadata": meta(ns)})
            server.ask("POST", f"/api/v1/namespaces/{ns}/serviceaccounts", {"metadata": meta("default")})
        found, steps = [], 0
        for step, one in enumerate(SCENARIOS[name](ns)):
            method, path, body, kind, headers = (list(one) + [None, "application/json", []][len(one) - 2:])[:5]
            steps += 1
            if method.startswith("WAIT"):
                for server in self.servers:
                    for _ in range(100):
                        if self.ask(server, "GET" if method == "WAIT-GET" else "POST", path, body, "application/json", [])["code"] == kind:
                            break
                        time.sleep(0.1)
                continue
            try:
                a, b = (self.ask(server, method, path, body, kind, headers) for server in self.servers)
            except Exception as e:
                found.append((step, one, [("no answer", "", repr(e))]))
                continue
            text = json.dumps(one)
            for x in (a, b):
                canonical(x["body"])
            different = list(differences(*(stripped(clean(x, text)) for x in (a, b))))
            code = [d for d in different if d[0] == ".code"]
            if code:
                told = [x["body"].get("message", "accepted") if isinstance(x["body"], dict) else x["body"] for x in (a, b)]
                different = [("code", f"{a['code']} {told[0]}"[:700], f"{b['code']} {told[1]}"[:700])]
            if different:
                found.append((step, one, different))
        return name, steps, found


def stripped(value, key=""):
    """Without tokens, and numbers that are versions."""
    if isinstance(value, dict):
        # Owners are keyed by their uids, which are each server's own.
        out = {re.sub(UID, "UID", k): stripped(v, k) for k, v in value.items()}
        if key == "status" and "token" in out:
            out["token"], out["expirationTimestamp"] = bool(out["token"]), bool(out.get("expirationTimestamp"))
        if isinstance(out.get("managedFields"), list):
            # Their order is that of times, which are each server's own.
            out["managedFields"] = {" ".join(str(e.get(k, "")) for k in ("manager", "operation", "apiVersion", "subresource")): e for e in out["managedFields"]}
        return out
    if isinstance(value, list):
        return [stripped(v, key) for v in value]
    if key == "continue" and isinstance(value, str) and value:
        return token(value)
    if isinstance(value, str) and key in ("message", "warnings"):
        value = re.sub(r"port \d+|port\(s\) \d+", "port N", re.sub(r"10\.96\.\d+\.\d+", "10.96.x.x", value))
        return re.sub(r"\b(in record|resourceVersion:?|ResourceVersion in object meta:) \(?\d+\)?", r"\1 N", value)
    return value


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("stock"); p.add_argument("ours"); p.add_argument("-k", default="."); p.add_argument("-v", action="store_true", help="every difference"); p.add_argument("-j", type=int, default=3)
    a = p.parse_args()
    both = Both(a.stock, a.ours, format(int(time.time()) % 1000000, "x"))
    total = different = known = 0
    with concurrent.futures.ThreadPoolExecutor(a.j) as pool:
        for name, steps, found in pool.map(both.run, [n for n in SCENARIOS if re.search(a.k, n)]):
            total += steps
            print(f"{name}: {steps} steps, {len(found)} differ")
            for step, one, listed in found:
                where = f"{name} {one[0]} {one[1]}"
                reasons = [next((why for place, stock, ours, why in EXPLAINED if re.search(place, f"{where}: {d[0]}") and re.search(stock, json.dumps(d[1])) and re.search(ours, json.dumps(d[2]))), None) for d in listed]
                if all(reasons):
                    known += 1
                    continue
                different += 1
                print(f"  {step} {one[0]} {one[1]} {json.dumps(one[2:])[:300]}")
                for what, x, y in listed[: None if a.v else 4]:
                    print(f"      {what}\n        stock {json.dumps(x)[:500]}\n        ours  {json.dumps(y)[:500]}")
    print(f"{total} steps, {different} differ, {known} more for known reasons")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
