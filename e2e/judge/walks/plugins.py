#!/usr/bin/env python3
"""plugins.py [STOCK-KUBECONFIG OUR-KUBECONFIG]: the admission plugins that are off unless asked for, and what the configuration file (plugins.yaml) says of others. Without
kubeconfigs it starts fresh servers with them."""
from walk import *
FLAGS = ("--enable-admission-plugins=ExtendedResourceToleration,EventRateLimit,AlwaysPullImages,NodeRestriction,DenyServiceExternalIPs,LimitPodHardAntiAffinityTopology,NamespaceAutoProvision,NamespaceExists,OwnerReferencesPermissionEnforcement,PodNodeSelector,PodTolerationRestriction",
         "--admission-control-config-file={dir}/plugins.yaml")
w = start(__file__, stock=FLAGS, ours=FLAGS, prepare=lambda at: shutil.copy(os.path.join(os.path.dirname(os.path.abspath(__file__)), "plugins.yaml"), at))
V1 = "/api/v1"; DRY = "?dryRun=All"
SECURE = {"securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, "runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}}
def ns(name, labels=None, annotations=None): return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels or {}, "annotations": annotations or {}}}
def pod(name="p", spec=None, ctr=None, **meta):
    return {"apiVersion": "v1", "kind": "Pod", "metadata": dict({"name": name}, **meta), "spec": dict({"containers": [dict(dict({"name": "c", "image": "i"}, **SECURE), **(ctr or {}))]}, **(spec or {}))}
cm = lambda name="c", **meta: {"apiVersion": "v1", "kind": "ConfigMap", "metadata": dict({"name": name}, **meta)}
account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}}
def made(name, **k):
    w("POST", V1 + "/namespaces", ns(name, **k))
    w("POST", f"{V1}/namespaces/{name}/serviceaccounts", account, check=False)
made("pl"); made("sel"); made("free"); P = V1 + "/namespaces/pl"; time.sleep(1)

w.begin("autoprovision")
w("POST", V1 + "/namespaces/dry/configmaps" + DRY, cm()); w("GET", V1 + "/namespaces/dry")
w("POST", V1 + "/namespaces/new/configmaps", cm()); w("GET", V1 + "/namespaces/new"); w("POST", V1 + "/namespaces/Bad_Name/configmaps", cm())
w.begin("exists")
w("PUT", V1 + "/namespaces/none/configmaps/c", cm()); w("DELETE", V1 + "/namespaces/none/configmaps/c"); w("PATCH", V1 + "/namespaces/none/configmaps/c", {"data": {"a": "b"}}, kind="application/merge-patch+json")
w("DELETE", V1 + "/namespaces/none/configmaps")

w.begin("alwayspullimages")
w("POST", P + "/pods" + DRY, pod(ctr={"imagePullPolicy": "Never"}, spec={"initContainers": [dict({"name": "i", "image": "j:1"}, **SECURE)], "volumes": [{"name": "v", "image": {"reference": "r", "pullPolicy": "Never"}}]}))
w("POST", P + "/pods", pod("pull", ctr={"imagePullPolicy": "IfNotPresent"})); w("PATCH", P + "/pods/pull", {"metadata": {"labels": {"a": "b"}}}, kind="application/merge-patch+json")
w("PATCH", P + "/pods/pull", {"spec": {"containers": [{"name": "c", "image": "k"}]}}, kind="application/strategic-merge-patch+json")

w.begin("externalips")
svc = lambda name="s", **s: {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": dict({"ports": [{"port": 80}], "clusterIP": "None"}, **s)}
w("POST", P + "/services", svc(externalIPs=["1.2.3.4"])); w("POST", P + "/services", svc()); w("PATCH", P + "/services/s", {"spec": {"externalIPs": ["1.2.3.4"]}}, kind="application/merge-patch+json")
w("PATCH", P + "/services/s", {"spec": {"externalIPs": []}}, kind="application/merge-patch+json")

w.begin("antiaffinity")
def anti(*keys): return {"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": k, "labelSelector": {"matchLabels": {"a": "b"}}} for k in keys]}}}
for keys in (["kubernetes.io/hostname"], ["kubernetes.io/hostname", "zone"], ["topology.kubernetes.io/zone"]): w("POST", P + "/pods" + DRY, pod(spec=anti(*keys)))
w("POST", P + "/pods" + DRY, dict(pod(spec=anti("zone")), metadata={"generateName": "g-"}), norm=lambda d: d.get("code"))

w.begin("extendedresources")
gpu = lambda name, n="1": {"resources": {"requests": {name: n}, "limits": {name: n}}}
for name in ("example.com/gpu", "kubernetes.io/x", "requests.example.com/x"): w("POST", P + "/pods" + DRY, pod(ctr=gpu(name)))
w("POST", P + "/pods" + DRY, pod(ctr=gpu("example.com/gpu"), spec={"tolerations": [{"key": "example.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]}))
w("POST", P + "/pods" + DRY, pod(ctr=gpu("example.com/gpu"), spec={"tolerations": [{"key": "example.com/gpu", "operator": "Exists"}]}))

w.begin("podnodeselector")
for s in ({}, {"nodeSelector": {"d": "1"}}, {"nodeSelector": {"d": "2"}}, {"nodeSelector": {"x": "y"}}, {"nodeSelector": {"a": "b"}}):
    w("POST", P + "/pods" + DRY, pod(spec=s)); w("POST", V1 + "/namespaces/sel/pods" + DRY, pod(spec=s))
for n, text in enumerate(("e=f", "e", "e==f", "e=f,", "-=x", "e=-", "", "d=1,d=2")):
    made(f"ann{n}", annotations={"scheduler.alpha.kubernetes.io/node-selector": text}); time.sleep(0.3)
    w("POST", f"{V1}/namespaces/ann{n}/pods" + DRY, pod(), label=text)

w.begin("podtolerations")
T = lambda key, **k: dict({"key": key, "operator": "Exists"}, **k)
for ts in ([], [T("d")], [T("d", effect="NoSchedule")], [T("x")], [{"operator": "Exists"}], [{"key": "d", "operator": "Equal", "value": "v"}], [{"key": "d", "value": "v"}], [T("d", effect="NoExecute", tolerationSeconds=5)]):
    w("POST", P + "/pods" + DRY, pod(spec={"tolerations": ts})); w("POST", P + "/pods" + DRY, pod(spec={"tolerations": ts}, ctr={"resources": {"requests": {"cpu": "1"}}}))
for n, (default, allowed) in enumerate((("", ""), (None, '[{"key":"x","operator":"Exists"}]'), ('[{"key":"x","operator":"Exists","effect":"NoExecute","tolerationSeconds":60}]', ""), ("[]", None))):
    keys = {"defaultTolerations": default, "tolerationsWhitelist": allowed}
    made(f"tol{n}", annotations={"scheduler.alpha.kubernetes.io/" + k: v for k, v in keys.items() if v is not None}); time.sleep(0.3)
    for ts in ([], [T("x")], [T("y")]): w("POST", f"{V1}/namespaces/tol{n}/pods" + DRY, pod(spec={"tolerations": ts}), label=str((default, allowed)))

w.begin("eventratelimit")
made("ev"); E = V1 + "/namespaces/ev/events"
event = lambda n: {"apiVersion": "v1", "kind": "Event", "metadata": {"name": f"e{n}"}, "involvedObject": {"namespace": "ev", "name": "x", "kind": "Pod"}, "reason": "R", "type": "Normal"}
for n in range(5): w("POST", E, event(n), norm=lambda d: (d.get("kind"), d.get("message"), d.get("details")))
w("POST", E + DRY, event(9), norm=lambda d: d.get("kind"))

w.begin("ownerreferences")
role = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "own"}, "rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "create", "update", "patch"]}, {"apiGroups": ["apps"], "resources": ["deployments/finalizers"], "verbs": ["update"]}]}
w("POST", "/apis/rbac.authorization.k8s.io/v1/namespaces/pl/roles", role)
w("POST", "/apis/rbac.authorization.k8s.io/v1/namespaces/pl/rolebindings", {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "own"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "own"}, "subjects": [{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": "jane"}]})
time.sleep(1)
owner = lambda kind="Deployment", api="apps/v1", **k: dict({"apiVersion": api, "kind": kind, "name": "o", "uid": "u1"}, **k)
J = dict(who="user:jane")
for o in (owner(), owner(blockOwnerDeletion=True), owner("ReplicaSet", blockOwnerDeletion=True), owner("Nothing", blockOwnerDeletion=True), owner("Node", "v1", blockOwnerDeletion=True), owner("Thing", "x.y/v1", blockOwnerDeletion=True)):
    w("POST", P + "/configmaps" + DRY, cm("o", ownerReferences=[o]), **J)
w("POST", P + "/configmaps", cm("o"), **J); w("PUT", P + "/configmaps/o", cm("o", ownerReferences=[owner()]), **J); w("PUT", P + "/configmaps/o", cm("o", ownerReferences=[owner()]))
w("PATCH", P + "/configmaps/o", {"data": {"a": "b"}}, kind="application/merge-patch+json", **J); w("PATCH", P + "/configmaps/o", {"metadata": {"ownerReferences": []}}, kind="application/merge-patch+json", **J)

w.begin("podsecurity")
bad = pod(spec={"hostNetwork": True}); made("lab", labels={"pod-security.kubernetes.io/enforce": "privileged"}); time.sleep(0.5)
for n in ("pl", "free", "lab"):
    for who in ("admin", "user:root,system:masters"): w("POST", f"{V1}/namespaces/{n}/pods" + DRY, bad, who=who); w("POST", f"{V1}/namespaces/{n}/pods" + DRY, pod(ctr={"securityContext": {}}), who=who)
w("POST", P + "/podtemplates" + DRY, {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "t"}, "template": {"metadata": {"labels": {"a": "b"}}, "spec": bad["spec"]}})
for labels in ({"enforce": "restricted"}, {"enforce": "baseline", "warn": "restricted"}, {"enforce-version": "v1.30"}, {"enforce": "privileged"}, {"enforce": "x"}, {"warn-version": "y"}):
    labels = {"pod-security.kubernetes.io/" + k: v for k, v in labels.items()}
    w("PATCH", V1 + "/namespaces/free" + DRY, {"metadata": {"labels": labels}}, kind="application/merge-patch+json"); w("PATCH", V1 + "/namespaces/pl" + DRY, {"metadata": {"labels": labels}}, kind="application/merge-patch+json")

w.begin("limitedresources")
pvc = lambda **k: {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "v"}, "spec": dict({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}, **k)}
w("POST", P + "/persistentvolumeclaims" + DRY, pvc(storageClassName="silver")); w("POST", P + "/persistentvolumeclaims" + DRY, pvc(storageClassName="gold"))
w("POST", "/apis/scheduling.k8s.io/v1/priorityclasses", {"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": "high"}, "value": 1000}); time.sleep(0.5)
w("POST", P + "/pods" + DRY, pod(spec={"priorityClassName": "high"}))
def quota(name, hard, **spec):
    w("POST", P + "/resourcequotas", {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": name}, "spec": dict({"hard": hard}, **spec)})
    w("PATCH", P + f"/resourcequotas/{name}/status", {"status": {"hard": hard, "used": {k: "0" for k in hard}}}, kind="application/merge-patch+json"); time.sleep(1)
quota("gold", {"gold.storageclass.storage.k8s.io/persistentvolumeclaims": "1"}); w("POST", P + "/persistentvolumeclaims" + DRY, pvc(storageClassName="gold"))
quota("gold2", {"gold.storageclass.storage.k8s.io/requests.storage": "1Gi"}); w("POST", P + "/persistentvolumeclaims" + DRY, pvc(storageClassName="gold"))
quota("prio", {"pods": "1"}, scopeSelector={"matchExpressions": [{"scopeName": "PriorityClass", "operator": "In", "values": ["high"]}]}); w("POST", P + "/pods" + DRY, pod(spec={"priorityClassName": "high"}))
quota("devices", {"gpu.deviceclass.resource.k8s.io/devices": "3", "count/resourceclaims.resource.k8s.io": "2"})
request = lambda n, **k: {"name": n, "exactly": dict({"deviceClassName": "gpu"}, **k)}
claim = lambda *rs: {"apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim", "metadata": {"name": "c"}, "spec": {"devices": {"requests": list(rs)}}}
C = "/apis/resource.k8s.io/v1/namespaces/pl/resourceclaims" + DRY
for rs in ([request("a")], [request("a", count=3)], [request("a", count=2), request("b", count=2)], [request("a", allocationMode="All")], [{"name": "a", "firstAvailable": [{"name": "x", "deviceClassName": "gpu", "count": 4}, {"name": "y", "deviceClassName": "cpu"}]}]): w("POST", C, claim(*rs))

w.begin("trustbundles")
ctb = lambda name, signer: {"apiVersion": "certificates.k8s.io/v1", "kind": "ClusterTrustBundle", "metadata": {"name": name}, "spec": dict({"trustBundle": "x"}, **({"signerName": signer} if signer else {}))}
w("POST", "/apis/rbac.authorization.k8s.io/v1/clusterroles", {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "ctb"}, "rules": [{"apiGroups": ["certificates.k8s.io"], "resources": ["clustertrustbundles"], "verbs": ["*"]}]})
w("POST", "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "ctb"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "ctb"}, "subjects": [{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": "jane"}]})
time.sleep(1)
for b in (ctb("a.b:c:d", "a.b/c"), ctb("plain", None)): w("POST", "/apis/certificates.k8s.io/v1/clustertrustbundles" + DRY, b, **J)

w.begin("resize")
w("POST", V1 + "/nodes", {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n", "labels": {"kubernetes.io/os": "linux"}}})
w("PATCH", V1 + "/nodes/n/status", {"status": {"allocatable": {"cpu": "2", "memory": "1Gi"}, "capacity": {"cpu": "2", "memory": "1Gi"}}}, kind="application/merge-patch+json")
cpu = lambda n, m="10Mi": {"resources": {"requests": {"cpu": n, "memory": m}}}
w("POST", P + "/pods", pod("r", ctr=cpu("1"), spec={"nodeName": "n", "initContainers": [dict({"name": "i", "image": "i"}, **SECURE, **cpu("1"))]})); time.sleep(0.5)
resize = lambda **k: w("PATCH", P + "/pods/r/resize" + DRY, {"spec": k}, kind="application/strategic-merge-patch+json")
for n, m in (("2", "10Mi"), ("2500m", "10Mi"), ("3", "2Gi"), ("1", "2Gi")): resize(containers=[dict({"name": "c"}, **cpu(n, m))])
resize(initContainers=[dict({"name": "i"}, **cpu("2"))])
w("PATCH", V1 + "/nodes/n/status", {"status": {"declaredFeatures": ["InPlacePodVerticalScalingInitContainers"]}}, kind="application/merge-patch+json"); time.sleep(0.5)
resize(initContainers=[dict({"name": "i"}, **cpu("2"))])
w("PATCH", V1 + "/nodes/n", {"metadata": {"labels": {"kubernetes.io/os": "windows"}}}, kind="application/merge-patch+json"); time.sleep(0.5)
resize(containers=[dict({"name": "c"}, **cpu("2"))])
w.end()
