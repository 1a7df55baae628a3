#!/usr/bin/env python3
"""admit.py [STOCK-KUBECONFIG OUR-KUBECONFIG]: the admission plugins one after the other, with dry runs. Without kubeconfigs it starts fresh servers."""
from walk import *
w = start(__file__)
w.known(r"quota .*message", r"exceeded quota", r"exceeded quota", "which of several quotas that refuse is named is the order of a map of Go's")
V1 = "/api/v1"; N = V1 + "/namespaces/adm"
def ns(name, **labels): return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}
def pod(name="p", spec=None, ctr=None, **meta):
    return {"apiVersion": "v1", "kind": "Pod", "metadata": dict({"name": name}, **meta), "spec": dict({"containers": [dict({"name": "c", "image": "i"}, **(ctr or {}))]}, **(spec or {}))}
DRY = "?dryRun=All"
w.begin("namespacelifecycle")
for n in ("adm", "quota", "limits", "term"):
    w("POST", V1 + "/namespaces", ns(n))
    w("POST", f"{V1}/namespaces/{n}/serviceaccounts", {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}}, check=False)
cm = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}}
w("POST", V1 + "/namespaces/absent/configmaps", cm); w("POST", V1 + "/namespaces/absent/configmaps" + DRY, cm)
w("PUT", V1 + "/namespaces/absent/configmaps/c", cm); w("PATCH", V1 + "/namespaces/absent/configmaps/c", {"data": {"a": "b"}}, kind="application/merge-patch+json")
w("PATCH", V1 + "/namespaces/absent/configmaps/c?fieldManager=x", {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}}, kind="application/apply-patch+yaml")
for n in ("default", "kube-system", "kube-public", "kube-node-lease"): w("DELETE", V1 + "/namespaces/" + n)
w("POST", V1 + "/namespaces/term/configmaps", dict(cm, metadata={"name": "c", "finalizers": ["a.b/c"]}), codes=201)
w("DELETE", V1 + "/namespaces/term"); time.sleep(0.5)
w("POST", V1 + "/namespaces/term/configmaps", dict(cm, metadata={"name": "d"})); w("PUT", V1 + "/namespaces/term/configmaps/c", dict(cm, data={"x": "y"}, metadata={"name": "c", "finalizers": ["a.b/c"]}))
w("POST", V1 + "/namespaces/term/serviceaccounts/default/token", {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}})
w("POST", "/apis/authorization.k8s.io/v1/namespaces/term/localsubjectaccessreviews", {"apiVersion": "authorization.k8s.io/v1", "kind": "LocalSubjectAccessReview", "metadata": {"namespace": "term"}, "spec": {"user": "x", "resourceAttributes": {"namespace": "term", "verb": "get", "resource": "pods"}}})
w.begin("limitranger")
def lr(name, *limits): return {"apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": name}, "spec": {"limits": list(limits)}}
L = V1 + "/namespaces/limits"
w("POST", L + "/limitranges", lr("ctr", {"type": "Container", "default": {"cpu": "500m", "memory": "100Mi"}, "defaultRequest": {"cpu": "100m"}, "max": {"cpu": "2", "memory": "1Gi"}, "min": {"cpu": "50m", "memory": "10Mi"}, "maxLimitRequestRatio": {"cpu": "10"}}, {"type": "Pod", "max": {"cpu": "3", "ephemeral-storage": "1Gi"}, "min": {"memory": "20Mi"}}, {"type": "PersistentVolumeClaim", "max": {"storage": "10Gi"}, "min": {"storage": "1Gi"}}), codes=201)
time.sleep(0.5)
R = lambda req=None, lim=None: {"resources": {k: v for k, v in (("requests", req), ("limits", lim)) if v}}
for c in ({}, R({"cpu": "10m"}), R({"cpu": "1"}), R(None, {"cpu": "3"}), R({"memory": "2Gi"}, {"memory": "3Gi"}), R({"cpu": "100m"}, {"cpu": "2"}), R({"cpu": "100m", "memory": "5Mi"}, {"cpu": "1", "memory": "5Mi"}), R({"cpu": "600m"}), R({"ephemeral-storage": "2Gi"}, {"ephemeral-storage": "2Gi"}), R({"hugepages-2Mi": "2Mi"}, {"hugepages-2Mi": "2Mi"})):
    w("POST", L + "/pods" + DRY, pod(ctr=c)); w("POST", L + "/pods" + DRY, pod(ctr=c, spec={"initContainers": [{"name": "i", "image": "i", "resources": {"requests": {"cpu": "1"}}}]})); w("POST", L + "/pods" + DRY, pod(ctr=c, spec={"resources": {"limits": {"cpu": "1"}, "requests": {"memory": "50Mi"}}}))
for s in ("500Mi", "1Gi", "11Gi"):
    w("POST", L + "/persistentvolumeclaims" + DRY, {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "x"}, "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": s}}}})
w.begin("quota")
Q = V1 + "/namespaces/quota"
def rq(name, hard, **spec): return {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": name}, "spec": dict({"hard": hard}, **spec)}
w("POST", Q + "/resourcequotas", rq("main", {"pods": "1", "requests.cpu": "1", "limits.memory": "1Gi", "configmaps": "2", "services": "1", "services.nodeports": "0", "services.loadbalancers": "0", "count/deployments.apps": "1", "persistentvolumeclaims": "1", "requests.storage": "5Gi", "gold.storageclass.storage.k8s.io/requests.storage": "1Gi", "secrets": "0", "count/widgets.example.com": "1"}), codes=201)
w("POST", Q + "/resourcequotas", rq("scoped", {"pods": "1"}, scopes=["BestEffort"])); w("POST", Q + "/resourcequotas", rq("prio", {"pods": "0"}, scopeSelector={"matchExpressions": [{"scopeName": "PriorityClass", "operator": "In", "values": ["system-node-critical"]}]}))
for x in (rq("a", {"pods": "1"}, scopes=["BestEffort", "NotBestEffort"]), rq("a", {"pods": "-1"}), rq("a", {"bogus": "1"}), rq("a", {"requests.cpu": "1"}, scopes=["BestEffort"]), rq("a", {"pods": "1"}, scopes=["Bogus"]), rq("a", {"services": "1"}, scopes=["Terminating"])):
    w("POST", Q + "/resourcequotas" + DRY, x)
for n, hard in (("main", {"pods": "1", "requests.cpu": "1", "limits.memory": "1Gi", "configmaps": "2", "services": "1", "services.nodeports": "0", "services.loadbalancers": "0", "count/deployments.apps": "1", "persistentvolumeclaims": "1", "requests.storage": "5Gi", "gold.storageclass.storage.k8s.io/requests.storage": "1Gi", "secrets": "0", "count/widgets.example.com": "1"}), ("scoped", {"pods": "1"}), ("prio", {"pods": "0"})):
    w("PATCH", Q + f"/resourcequotas/{n}/status", {"status": {"hard": hard, "used": {k: "0" for k in hard}}}, kind="application/merge-patch+json")
time.sleep(1)
w("POST", Q + "/pods", pod("a")); w("POST", Q + "/pods", pod("a", ctr=R({"cpu": "2"}, {"memory": "1Gi"}))); w("POST", Q + "/pods", pod("a", ctr=R({"cpu": "500m"}, {"memory": "1Gi", "cpu": "1"}))); w("POST", Q + "/pods", pod("b", ctr=R({"cpu": "600m"}, {"memory": "1Mi"})))
w("POST", Q + "/pods", pod("b", spec={"priorityClassName": "system-node-critical"}, ctr=R({"cpu": "100m"}, {"memory": "1Mi"})))
w("POST", Q + "/configmaps", dict(cm, metadata={"name": "a"})); w("POST", Q + "/configmaps", dict(cm, metadata={"name": "b"})); w("POST", Q + "/configmaps", dict(cm, metadata={"name": "cc"})); w("POST", Q + "/secrets", {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}})
svc = lambda name, **s: {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": dict({"ports": [{"port": 80}]}, **s)}
w("POST", Q + "/services", svc("a", type="NodePort")); w("POST", Q + "/services", svc("a", type="LoadBalancer")); w("POST", Q + "/services", svc("a"), norm=lambda d: d.get("kind")); w("POST", Q + "/services", svc("b")); w("PATCH", Q + "/services/a", {"spec": {"type": "NodePort"}}, kind="application/merge-patch+json", norm=lambda d: d.get("message"))
dep = lambda n: {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": n}, "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}}
w("POST", "/apis/apps/v1/namespaces/quota/deployments", dep("a")); w("POST", "/apis/apps/v1/namespaces/quota/deployments", dep("b"))
pvc = lambda n, s, **k: {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": n}, "spec": dict({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": s}}}, **k)}
w("POST", Q + "/persistentvolumeclaims", pvc("a", "6Gi")); w("POST", Q + "/persistentvolumeclaims", pvc("a", "2Gi", storageClassName="gold")); w("POST", Q + "/persistentvolumeclaims", pvc("a", "2Gi")); w("POST", Q + "/persistentvolumeclaims", pvc("b", "1Gi"))
w("GET", Q + "/resourcequotas/main", until=3); w("DELETE", Q + "/configmaps/a", norm=lambda d: ""); w("POST", Q + "/configmaps", dict(cm, metadata={"name": "cc"}))
w.begin("priority")
P = "/apis/scheduling.k8s.io/v1/priorityclasses"
pc = lambda n, v, **k: dict({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": n}, "value": v}, **k)
w("POST", P, pc("high", 1000)); w("POST", P, pc("low", -5, preemptionPolicy="Never")); w("POST", P, pc("dflt", 7, globalDefault=True)); w("POST", P, pc("dflt2", 9, globalDefault=True)); w("POST", P, pc("toohigh", 1000000001)); w("POST", P, pc("system-x", 1)); w("POST", P, pc("system-node-critical", 2000001000)); w("PUT", P + "/high", pc("high", 1001)); w("PUT", P + "/high", pc("high", 1000, description="x")); w("PUT", P + "/high", pc("high", 1000, globalDefault=True)); w("DELETE", P + "/system-node-critical"); w("PUT", P + "/system-cluster-critical", pc("system-cluster-critical", 5))
time.sleep(0.5)
for s in ({}, {"priorityClassName": "high"}, {"priorityClassName": "low"}, {"priorityClassName": "none"}, {"priority": 5}, {"priorityClassName": "high", "priority": 1000}, {"priorityClassName": "high", "priority": 1}, {"preemptionPolicy": "Never"}, {"priorityClassName": "low", "preemptionPolicy": "PreemptLowerPriority"}, {"priorityClassName": "system-cluster-critical"}):
    w("POST", N + "/pods" + DRY, pod(spec=s)); w("POST", V1 + "/namespaces/kube-system/pods" + DRY, pod(spec=s))
w("DELETE", P + "/dflt", norm=lambda d: "")
w.begin("serviceaccount")
w("POST", N + "/serviceaccounts", {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "noauto"}, "automountServiceAccountToken": False, "imagePullSecrets": [{"name": "ps"}]}); w("POST", N + "/serviceaccounts", {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "enf", "annotations": {"kubernetes.io/enforce-mountable-secrets": "true"}}, "secrets": [{"name": "ok"}]})
time.sleep(0.5)
for s in ({}, {"serviceAccountName": "absent"}, {"serviceAccountName": "noauto"}, {"serviceAccountName": "noauto", "automountServiceAccountToken": True}, {"automountServiceAccountToken": False}, {"serviceAccount": "noauto"}, {"serviceAccountName": "noauto", "imagePullSecrets": [{"name": "own"}]}, {"serviceAccountName": "enf", "volumes": [{"name": "v", "secret": {"secretName": "bad"}}]}, {"serviceAccountName": "enf", "volumes": [{"name": "v", "secret": {"secretName": "ok"}}]}, {"serviceAccountName": "enf", "containers": [{"name": "c", "image": "i", "env": [{"name": "E", "valueFrom": {"secretKeyRef": {"name": "bad", "key": "k"}}}]}]}, {"serviceAccountName": "enf", "imagePullSecrets": [{"name": "bad"}]}, {"volumes": [{"name": "kube-api-access-x", "emptyDir": {}}], "containers": [{"name": "c", "image": "i", "volumeMounts": [{"name": "kube-api-access-x", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"}]}]}):
    w("POST", N + "/pods" + DRY, pod(spec=s))
mirror = {"annotations": {"kubernetes.io/config.mirror": "x"}}
for s in ({}, {"serviceAccountName": "default"}, {"volumes": [{"name": "v", "secret": {"secretName": "bad"}}]}, {"volumes": [{"name": "v", "configMap": {"name": "bad"}}]}, {"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "bad"}}]}, {"volumes": [{"name": "v", "projected": {"sources": [{"serviceAccountToken": {"path": "x"}}]}}]}, {"nodeName": "n1"}):
    for who in ("admin", "user:system:node:n1,system:nodes"):
        w("POST", N + "/pods" + DRY, dict(pod(spec=s), metadata={"name": "m", "annotations": {"kubernetes.io/config.mirror": "x"}, "ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": "u", "controller": True}]}), who=who)
w.begin("misc")
SC = "/apis/storage.k8s.io/v1/storageclasses"
sc = lambda n, **k: dict({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": n, "annotations": k.pop("ann", {})}, "provisioner": "x.y/z"}, **k)
w("POST", N + "/persistentvolumeclaims" + DRY, pvc("a", "1Gi")); w("POST", SC, sc("d1", ann={"storageclass.kubernetes.io/is-default-class": "true"})); w("POST", SC, sc("exp", allowVolumeExpansion=True)); time.sleep(1.1); w("POST", SC, sc("d2", ann={"storageclass.beta.kubernetes.io/is-default-class": "true"})); time.sleep(0.5)
w("POST", N + "/persistentvolumeclaims" + DRY, pvc("a", "1Gi")); w("POST", N + "/persistentvolumeclaims" + DRY, pvc("a", "1Gi", storageClassName="")); w("POST", N + "/persistentvolumeclaims" + DRY, dict(pvc("a", "1Gi"), metadata={"name": "a", "annotations": {"volume.beta.kubernetes.io/storage-class": "x"}}))
for n, c in (("e1", "exp"), ("e2", "d1"), ("e3", "")):
    w("POST", N + "/persistentvolumeclaims", pvc(n, "1Gi", storageClassName=c))
    w("PATCH", N + f"/persistentvolumeclaims/{n}", {"spec": {"resources": {"requests": {"storage": "2Gi"}}}}, kind="application/merge-patch+json")
    w("PATCH", N + f"/persistentvolumeclaims/{n}/status", {"status": {"phase": "Bound", "capacity": {"storage": "1Gi"}}}, kind="application/merge-patch+json")
    w("PATCH", N + f"/persistentvolumeclaims/{n}", {"spec": {"volumeName": "v" + n}}, kind="application/merge-patch+json")
    w("PATCH", N + f"/persistentvolumeclaims/{n}", {"spec": {"resources": {"requests": {"storage": "2Gi"}}}}, kind="application/merge-patch+json"); w("PATCH", N + f"/persistentvolumeclaims/{n}", {"spec": {"resources": {"requests": {"storage": "500Mi"}}}}, kind="application/merge-patch+json")
IC = "/apis/networking.k8s.io/v1/ingressclasses"
ing = {"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"name": "i"}, "spec": {"defaultBackend": {"service": {"name": "s", "port": {"number": 80}}}}}
w("POST", "/apis/networking.k8s.io/v1/namespaces/adm/ingresses" + DRY, ing)
w("POST", IC, {"apiVersion": "networking.k8s.io/v1", "kind": "IngressClass", "metadata": {"name": "ic1", "annotations": {"ingressclass.kubernetes.io/is-default-class": "true"}}, "spec": {"controller": "a.b/c"}}); time.sleep(0.5); w("POST", "/apis/networking.k8s.io/v1/namespaces/adm/ingresses" + DRY, ing)
w("POST", IC, {"apiVersion": "networking.k8s.io/v1", "kind": "IngressClass", "metadata": {"name": "ic2", "annotations": {"ingressclass.kubernetes.io/is-default-class": "true"}}, "spec": {"controller": "a.b/c"}}); time.sleep(0.5); w("POST", "/apis/networking.k8s.io/v1/namespaces/adm/ingresses" + DRY, ing); w("POST", "/apis/networking.k8s.io/v1/namespaces/adm/ingresses" + DRY, dict(ing, metadata={"name": "i", "annotations": {"kubernetes.io/ingress.class": "old"}}))
RC = "/apis/node.k8s.io/v1/runtimeclasses"
w("POST", RC, {"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": "rc"}, "handler": "h", "overhead": {"podFixed": {"cpu": "100m"}}, "scheduling": {"nodeSelector": {"a": "b"}, "tolerations": [{"key": "k", "operator": "Exists"}]}}); w("POST", RC, {"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": "rc0"}, "handler": "h"}); time.sleep(0.5)
for s in ({"runtimeClassName": "rc"}, {"runtimeClassName": "none"}, {"runtimeClassName": "rc", "nodeSelector": {"a": "c"}}, {"runtimeClassName": "rc", "nodeSelector": {"x": "y"}, "tolerations": [{"key": "k", "operator": "Exists"}]}, {"runtimeClassName": "rc", "overhead": {"cpu": "100m"}}, {"runtimeClassName": "rc", "overhead": {"cpu": "200m"}}, {"overhead": {"cpu": "1"}}, {"runtimeClassName": "rc0", "overhead": {"cpu": "1"}}, {"runtimeClassName": "rc0"}):
    w("POST", N + "/pods" + DRY, pod(spec=s))
for s in ({"tolerations": [{"key": "node.kubernetes.io/not-ready", "operator": "Exists"}]}, {"tolerations": [{"operator": "Exists"}]}, {"tolerations": [{"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 5}]}):
    w("POST", N + "/pods" + DRY, pod(spec=s))
w("POST", V1 + "/nodes", {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1", "labels": {"topology.kubernetes.io/zone": "z"}}}); w("POST", V1 + "/nodes" + DRY, {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n9"}, "spec": {"taints": [{"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}]}})
w("POST", V1 + "/persistentvolumes" + DRY, {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "pv"}, "spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/x"}}})
w.begin("noderestriction")
NODE = "user:system:node:n1,system:nodes,system:authenticated"
def node(name="n1", labels=None, taints=None, ann=None, **m): return {"apiVersion": "v1", "kind": "Node", "metadata": dict({"name": name, "labels": labels or {}, "annotations": ann or {}}, **m), "spec": {"taints": taints} if taints else {}}
for n in (node(), node("n2"), node(labels={"node-restriction.kubernetes.io/x": "y"}), node(labels={"kubernetes.io/hostname": "n1"}), node(labels={"a.kubernetes.io/b": "c"}), node(labels={"node.kubernetes.io/x": "y", "kubelet.kubernetes.io/z": "w"}), node(labels={"my/own": "x"}), node(taints=[{"key": "a", "effect": "NoSchedule"}]), node(ownerReferences=[{"apiVersion": "v1", "kind": "Pod", "name": "x", "uid": "u"}]), node(labels={"foo.k8s.io/b": "c", "topology.kubernetes.io/zone": "q"})):
    w("POST", V1 + "/nodes" + DRY, n, who="user:system:node:" + n["metadata"]["name"].replace("n1", "n7") + ",system:nodes" if False else NODE)
    w("PUT", V1 + "/nodes/" + n["metadata"]["name"] + DRY, n, who=NODE); w("PATCH", V1 + "/nodes/" + n["metadata"]["name"] + DRY, {"metadata": {"labels": n["metadata"]["labels"]}, "spec": n["spec"]}, kind="application/strategic-merge-patch+json", who=NODE)
    w("PATCH", V1 + "/nodes/" + n["metadata"]["name"] + "/status" + DRY, {"metadata": {"labels": n["metadata"]["labels"]}, "status": {"phase": "Running"}}, kind="application/strategic-merge-patch+json", who=NODE)
w("DELETE", V1 + "/nodes/n1" + DRY, who=NODE); w("PATCH", V1 + "/nodes/n1" + DRY, {"spec": {"configSource": {"configMap": {"namespace": "a", "name": "b", "uid": "u", "kubeletConfigKey": "k"}}}}, kind="application/strategic-merge-patch+json", who=NODE)
w("POST", N + "/pods", pod("bound", spec={"nodeName": "n1"})); w("POST", N + "/pods", pod("other", spec={"nodeName": "n2"})); w("POST", N + "/pods" + DRY, pod("x", spec={"nodeName": "n1"}), who=NODE)
for p in ("bound", "other", "absent"):
    w("PATCH", N + f"/pods/{p}/status" + DRY, {"status": {"phase": "Running"}}, kind="application/strategic-merge-patch+json", who=NODE); w("PATCH", N + f"/pods/{p}/status" + DRY, {"metadata": {"labels": {"x": "y"}}}, kind="application/strategic-merge-patch+json", who=NODE); w("PATCH", N + f"/pods/{p}" + DRY, {"metadata": {"labels": {"x": "y"}}}, kind="application/strategic-merge-patch+json", who=NODE)
    w("DELETE", N + f"/pods/{p}" + DRY, who=NODE, norm=lambda d: d.get("message")); w("POST", N + f"/pods/{p}/eviction" + DRY, {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": p}}, who=NODE); w("POST", N + f"/pods/{p}/eviction" + DRY, {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "zzz"}}, who=NODE); w("GET", N + f"/pods/{p}", who=NODE, norm=lambda d: d.get("message"))
    w("POST", N + "/serviceaccounts/default/token", {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": p}}}, who=NODE, norm=lambda d: d.get("message")); w("POST", N + "/serviceaccounts/default/token", {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"audiences": ["q"], "boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": p, "uid": "u"}}}, who=NODE, norm=lambda d: d.get("message"))
w("POST", N + "/serviceaccounts/default/token", {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}, who=NODE, norm=lambda d: d.get("message")); w("POST", N + "/serviceaccounts/default/token", {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"boundObjectRef": {"kind": "Node", "apiVersion": "v1", "name": "n1"}}}, who=NODE, norm=lambda d: d.get("message"))
lease = lambda n: {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": n, "namespace": "kube-node-lease"}, "spec": {}}
for n in ("n1", "n2"):
    w("POST", "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases" + DRY, lease(n), who=NODE); w("POST", "/apis/storage.k8s.io/v1/csinodes" + DRY, {"apiVersion": "storage.k8s.io/v1", "kind": "CSINode", "metadata": {"name": n}, "spec": {"drivers": []}}, who=NODE)
    w("POST", "/apis/resource.k8s.io/v1/resourceslices" + DRY, {"apiVersion": "resource.k8s.io/v1", "kind": "ResourceSlice", "metadata": {"name": "s" + n}, "spec": {"driver": "a.b", "nodeName": n, "pool": {"name": "p", "generation": 1, "resourceSliceCount": 1}}}, who=NODE)
w("POST", "/apis/coordination.k8s.io/v1/namespaces/default/leases" + DRY, dict(lease("n1"), metadata={"name": "n1"}), who=NODE)
w("PATCH", N + "/persistentvolumeclaims/e1/status" + DRY, {"status": {"capacity": {"storage": "3Gi"}}}, kind="application/merge-patch+json", who=NODE)
w.begin("podsecurity")
psp = [{}, {"hostNetwork": True}, {"hostPID": True}, {"hostIPC": True}, {"volumes": [{"name": "v", "hostPath": {"path": "/"}}]}, {"volumes": [{"name": "v", "nfs": {"server": "s", "path": "/"}}]}, {"securityContext": {"sysctls": [{"name": "net.core.somaxconn", "value": "1"}]}}, {"securityContext": {"sysctls": [{"name": "kernel.shm_rmid_forced", "value": "1"}]}}, {"securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}}, {"securityContext": {"runAsUser": 0}}, {"securityContext": {"seccompProfile": {"type": "Unconfined"}}}, {"securityContext": {"seLinuxOptions": {"type": "bad", "user": "u"}}}, {"securityContext": {"appArmorProfile": {"type": "Unconfined"}}}, {"hostUsers": False, "securityContext": {"runAsUser": 0}}, {"securityContext": {"windowsOptions": {"hostProcess": True}}, "hostNetwork": True}]
psc = [{}, {"securityContext": {"privileged": True}}, {"securityContext": {"capabilities": {"add": ["SYS_ADMIN", "NET_BIND_SERVICE"]}}}, {"securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, "runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}}, {"securityContext": {"procMount": "Unmasked"}}, {"ports": [{"containerPort": 80, "hostPort": 80}]}, {"securityContext": {"runAsUser": 0, "runAsNonRoot": False}}, {"livenessProbe": {"httpGet": {"port": 80, "host": "1.2.3.4"}}}, {"lifecycle": {"postStart": {"tcpSocket": {"port": 1, "host": "x"}}}}]
for lvl in ("privileged", "baseline", "restricted"):
    n = "ps-" + lvl
    w("POST", V1 + "/namespaces", ns(n, **{"pod-security.kubernetes.io/enforce": lvl, "pod-security.kubernetes.io/warn": "restricted", "pod-security.kubernetes.io/audit": "baseline"})); w("POST", f"{V1}/namespaces/{n}/serviceaccounts", {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}}, check=False)
    for s in psp:
        w("POST", f"{V1}/namespaces/{n}/pods" + DRY, pod(spec=s))
    for c in psc:
        w("POST", f"{V1}/namespaces/{n}/pods" + DRY, pod(ctr=c)); d = dep("d"); d["spec"]["template"]["spec"]["containers"][0].update(c); w("POST", f"/apis/apps/v1/namespaces/{n}/deployments" + DRY, d)
for lab in ({"pod-security.kubernetes.io/enforce": "bogus"}, {"pod-security.kubernetes.io/enforce-version": "v1.99"}, {"pod-security.kubernetes.io/enforce-version": "bogus"}, {"pod-security.kubernetes.io/warn": "baseline", "pod-security.kubernetes.io/warn-version": "v1.5"}, {"pod-security.kubernetes.io/other": "x"}):
    w("POST", V1 + "/namespaces" + DRY, ns("psx", **lab)); w("PATCH", V1 + "/namespaces/adm" + DRY, {"metadata": {"labels": lab}}, kind="application/merge-patch+json")
w("PATCH", V1 + "/namespaces/adm" + DRY, {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}}, kind="application/merge-patch+json")
w("POST", V1 + "/namespaces", ns("ps-v125", **{"pod-security.kubernetes.io/enforce": "restricted", "pod-security.kubernetes.io/enforce-version": "v1.5"})); w("POST", f"{V1}/namespaces/ps-v125/serviceaccounts", {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}}, check=False); w("POST", f"{V1}/namespaces/ps-v125/pods" + DRY, pod())
w.begin("topology")
w("POST", N + "/pods/unbound/binding", {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "unbound"}, "target": {"kind": "Node", "name": "n1"}}); w("POST", N + "/pods", pod("unbound"), norm=lambda d: d.get("kind")); w("POST", N + "/pods/unbound/binding", {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "unbound"}, "target": {"kind": "Node", "name": "n1"}}); w("GET", N + "/pods/unbound")
w.end()
