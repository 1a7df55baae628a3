#!/usr/bin/env python3
"""corpus.py STOCK-KUBECONFIG OUR-KUBECONFIG FOLDER...: manifests that people wrote, on both servers. First every definition found below the folders is
made; then every object that has a kind of the servers is created and applied by server, both dry, and the answers and warnings are compared. Objects
of kinds that nobody defines are counted. Ends with 1 if there are differences."""
import argparse, collections, json, os, re, sys, time
import yaml
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from compare import compare
from server import Server

AGGREGATED = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
# Differences with a reason: an expression for "MODE KIND WHAT", and the reason.
EXPLAINED = [
    (r"^apply CustomResourceDefinition .status.conditions", "the conditions are in the order in which upstream's controllers happened to set them"),
    (r" order of causes$", "upstream looks through maps in no order"),
    (r"^create DeviceTaintRule .*f:timeAdded$", "upstream fills in the time before it looks whose fields there are, ours afterwards"),
]
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def manifests(folders, most):
    """(file, object) of every object in the YAML and JSON files, each text once."""
    seen = set()
    for folder in folders:
        for at, names, files in os.walk(folder, followlinks=False):
            names.sort()
            for name in sorted(files):
                path = os.path.join(at, name)
                if not name.endswith((".yaml", ".yml", ".json")) or os.path.getsize(path) > most:
                    continue
                try:
                    with open(path) as file:
                        found = list(yaml.load_all(file, LOADER))
                except (yaml.YAMLError, UnicodeDecodeError, ValueError):
                    continue
                for item in found:
                    for one in item["items"] if isinstance(item, dict) and isinstance(item.get("items"), list) and str(item.get("kind")).endswith("List") else [item]:
                        if not isinstance(one, dict) or not isinstance(one.get("apiVersion"), str) or not isinstance(one.get("kind"), str) or not isinstance(one.get("metadata"), dict):
                            continue
                        text = json.dumps(one, sort_keys=True, default=str)
                        if text not in seen:
                            seen.add(text)
                            yield path, json.loads(text)


def resources(server):
    """(apiVersion, kind) to (path with NAMESPACE in it)."""
    out = {}
    for base in ("/api", "/apis"):
        for group in server.ask("GET", base, accept=AGGREGATED)[1]["items"]:
            name = group["metadata"].get("name", "")
            for version in group["versions"]:
                gv = f"{name}/{version['version']}" if name else version["version"]
                for r in version.get("resources", []):
                    kind = r.get("responseKind", {}).get("kind")
                    out[gv, kind] = f"{base}/{gv}/{'namespaces/default/' if r['scope'] == 'Namespaced' else ''}{r['resource']}"
    return out


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("stock"); p.add_argument("ours"); p.add_argument("folders", nargs="+")
    p.add_argument("-n", type=int, default=40, help="differences shown"); p.add_argument("--most", type=int, default=300_000, help="bytes of a file")
    a = p.parse_args()
    stock, ours = Server(a.stock), Server(a.ours)
    wide = list(manifests(a.folders, 20_000_000))
    defined = set()
    for path, item in wide:
        if item["kind"] == "CustomResourceDefinition" and item["apiVersion"] == "apiextensions.k8s.io/v1" and item["metadata"].get("name") not in defined:
            codes = [server.ask("POST", DEFINITIONS, item)[0] for server in (stock, ours)]
            if codes[0] == 201:
                defined.add(item["metadata"]["name"])
    # Without one both servers wait a second for every pod, and refuse it.
    for server in (stock, ours):
        server.ask("POST", "/api/v1/namespaces/default/serviceaccounts", {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}})
    for _ in range(200):
        known = [resources(server) for server in (stock, ours)]
        if known[0] == known[1]:
            break
        time.sleep(0.3)
    kinds, found, tried, unknown, reasons = known[0], 0, collections.Counter(), collections.Counter(), collections.Counter()

    def both(mode, path, method, url, body, kind="application/json"):
        nonlocal found
        x, y = (server.ask(method, url, body, kind) for server in (stock, ours))
        tried[mode, x[0] < 300] += 1
        listed = []
        for d in compare(x, y, json.dumps(body)):
            why = next((why for what, why in EXPLAINED if re.search(what, f"{mode} {body['kind']} {d[0]}")), None)
            if why:
                reasons[why] += 1
            else:
                listed.append(d)
        if listed:
            found += 1
            if found <= a.n:
                print(f"{mode} {body['kind']} of {path}")
                for where, s, o in listed[:4]:
                    print(f"  {where}\n    stock {str(s)[:400]}\n    ours  {str(o)[:400]}")

    for path, item in wide:
        url = kinds.get((item["apiVersion"], item["kind"]))
        if not url:
            unknown[item["kind"]] += 1
            continue
        if len(json.dumps(item)) > a.most:
            continue
        if "/namespaces/default/" in url:
            item["metadata"]["namespace"] = "default"
        if item["metadata"].pop("generateName", None):
            item["metadata"].setdefault("name", "generated")
        both("create", path, "POST", url + "?dryRun=All&fieldValidation=Warn", item)
        name = item["metadata"].get("name")
        if isinstance(name, str) and re.fullmatch(r"[\w.:@=,+-]+", name, re.ASCII):
            both("apply", path, "PATCH", f"{url}/{name}?dryRun=All&fieldManager=judge&fieldValidation=Strict", item, "application/apply-patch+yaml")
    print(f"{len(defined)} definitions, {unknown.total()} objects of kinds that nobody defines")
    for mode in ("create", "apply"):
        print(f"{mode}: {tried[mode, True] + tried[mode, False]} objects, {tried[mode, False]} refused")
    for why, n in reasons.most_common():
        print(f"{n:5} known: {why}")
    print(f"{found} differences, {reasons.total()} more for known reasons")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
