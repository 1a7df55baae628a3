#!/usr/bin/env python3
"""discovery.py STOCK-KUBECONFIG OUR-KUBECONFIG: what the two servers say of themselves and of the definitions of definitions.yaml, which are made on both,
compared: discovery in both forms with every group, version, resource, verb, name, category and storage version hash, versions' order, the paths, operations and schemas of OpenAPI v3 and v2, what both make at
their start (roles, flow schemas, priority classes, namespaces) and the names of admission plugins' checks. Ends with 1 if there are differences."""
import argparse, collections, json, os, re, sys, time
import yaml
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from compare import clean, differences
from server import Server

# Differences with a reason: an expression for "PATH WHAT", and the reason.
EXPLAINED = [
    (r"^/apis/apiextensions.k8s.io/v1 .resources.customresourcedefinitions.storageVersionHash", "upstream stores definitions in v1beta1, ours in v1"),
    (r"^/ .paths", "the hooks and controllers that upstream names among its checks are Go's: ours has other parts"),
    (r"^/version .gitVersion", "each server's own version"),
    (r"^/openapi/v2 .*(DeleteOptions|WatchEvent).x-kubernetes-group-version-kind", "upstream lists versions here that it knows and does not serve (admission.k8s.io/v1, apps/v1beta1 and the like)"),
    (r"^/openapi/v3/apis/.*example/.* .*DeleteOptions.x-kubernetes-group-version-kind", "upstream lists the versions that its client knows here, never the definition's own"),
    (r"kubeadm:|kube-public/cluster-info", "what kubeadm makes in a stock cluster, so that nodes can join, ours makes itself"),
    (r"^/api/v1/services .default/kubernetes", "the kubernetes service of each server: its port, and fields that ours fills in at once"),
    (r"extension-apiserver-authentication", "the certificates and headers with which each server was configured"),
]
AGGREGATED = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"


def by_name(value):
    """Lists of named things as maps, so that what differs has a name."""
    if isinstance(value, dict):
        return {k: by_name(v) for k, v in value.items()}
    if isinstance(value, list):
        keys = [v.get("metadata", {}).get("name") or v.get("name") or v.get("version") or v.get("resource") or v.get("subresource") if isinstance(v, dict) else None for v in value]
        if value and all(keys) and len(set(keys)) == len(keys):
            return dict({k: by_name(v) for k, v in zip(keys, value)}, **{"(order)": keys})
        return [by_name(v) for v in value]
    return value


def define(server):
    """Makes the definitions, and waits until the server tells their documents."""
    with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "definitions.yaml")) as file:
        definitions = list(yaml.safe_load_all(file))
    for definition in definitions:
        code, answer, _ = server.ask("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", definition)
        if code not in (201, 409):
            raise SystemExit(f"{definition['metadata']['name']}: {answer}")
    kinds = {(d["spec"]["group"], v["name"], d["spec"]["names"]["kind"]) for d in definitions for v in d["spec"]["versions"] if v["served"]}
    for _ in range(300):
        shown = server.ask("GET", "/openapi/v2")[1]["definitions"].values()
        if kinds <= {(g["group"], g["version"], g["kind"]) for d in shown for g in d.get("x-kubernetes-group-version-kind", [])}:
            return
        time.sleep(0.2)
    raise SystemExit("the definitions are not in the documents")


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("stock"); p.add_argument("ours"); p.add_argument("-n", type=int, default=15, help="differences shown of each document")
    a = p.parse_args()
    stock, ours = Server(a.stock), Server(a.ours)
    found, known = 0, collections.Counter()
    define(stock)
    define(ours)

    def compare(path, accept="application/json", change=lambda v: v):
        nonlocal found
        (code, x, _), (our_code, y, _) = stock.ask("GET", path, accept=accept), ours.ask("GET", path, accept=accept)
        listed = [("code", code, our_code)] if code != our_code else list(differences(change(x), change(y)))
        reasons = [next((why for place, why in EXPLAINED if re.search(place, f"{path} {d[0]}")), None) for d in listed]
        known.update(why for why in reasons if why)
        listed = [d for d, why in zip(listed, reasons) if not why]
        found += len(listed)
        if listed:
            print(f"{path}: {len(listed)} differences")
            for where, s, o in listed[:a.n]:
                print(f"  {where}\n    stock {json.dumps(s)[:300]}\n    ours  {json.dumps(o)[:300]}")
        return x

    def plain(v):
        return clean(by_name(v), "") if isinstance(v, dict) else v

    compare("/api", change=lambda v: {k: w for k, w in v.items() if k != "serverAddressByClientCIDRs"})
    compare("/apis", change=plain)
    for path in ("/api", "/apis"):
        compare(path, AGGREGATED, plain)
    groups = stock.ask("GET", "/apis")[1]["groups"]
    for base in ["/api/v1"] + [f"/apis/{v['groupVersion']}" for g in groups for v in g["versions"]]:
        compare(base, change=plain)
    for g in groups:
        compare("/apis/" + g["name"])
    compare("/", change=lambda v: v)
    compare("/version", change=lambda v: {k: v.get(k) for k in ("major", "minor", "gitVersion", "emulationMajor", "emulationMinor", "minCompatibilityMajor", "minCompatibilityMinor")})
    documents = compare("/openapi/v3", change=lambda v: sorted(v["paths"]))
    for path in sorted(documents["paths"]):
        compare("/openapi/v3/" + path)
    compare("/openapi/v2")
    named = lambda v: {f"{i['metadata'].get('namespace', '')}/{i['metadata']['name']}": {k: w for k, w in clean(dict(i, status=None), "").items()} for i in v["items"]}
    for path in ("/api/v1/namespaces", "/apis/rbac.authorization.k8s.io/v1/clusterroles", "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", "/apis/rbac.authorization.k8s.io/v1/roles",
                 "/apis/rbac.authorization.k8s.io/v1/rolebindings", "/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas", "/apis/flowcontrol.apiserver.k8s.io/v1/prioritylevelconfigurations",
                 "/apis/scheduling.k8s.io/v1/priorityclasses", "/api/v1/services", "/api/v1/configmaps", "/apis/apiregistration.k8s.io/v1/apiservices", "/apis/networking.k8s.io/v1/servicecidrs"):
        compare(path, change=named)
    for why, n in known.most_common():
        print(f"{n:5} known: {why}")
    print(f"{found} differences, {known.total()} more for known reasons")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
