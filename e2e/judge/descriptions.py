#!/usr/bin/env python3
"""descriptions.py STOCK-KUBECONFIG OUR-KUBECONFIG > src/descriptions/more.txt: what a stock kube-apiserver's OpenAPI says of types and properties beyond
what k8s-openapi says: of lists, of options of requests, and of the values of enums. Ours is asked for what is known already, so run it on a server
that was built with an empty more.txt. A line `=DEFINITION`, then `PROPERTY<tab>TEXT`, the type's own text with no property; line breaks as `\\n`; a text
that begins with `+` is put behind the known one."""
import os, sys
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from compare import Server

META = "io.k8s.apimachinery.pkg.apis.meta.v1."
# Where the parameters of operations come from.
OPTIONS = {"list": "ListOptions", "post": "CreateOptions", "put": "UpdateOptions", "patch": "PatchOptions", "delete": "DeleteOptions"}


def texts(server):
    found, parameters = {}, {}
    for path, entry in server.ask("GET", "/openapi/v3")[1]["paths"].items():
        document = server.ask("GET", "/openapi/v3/" + path)[1]
        if not isinstance(document, dict):
            continue
        for name, schema in document.get("components", {}).get("schemas", {}).items():
            of = found.setdefault(name, {})
            of[""] = schema.get("description", "")
            for p, s in schema.get("properties", {}).items():
                of[p] = s.get("description", "")
        for item in document.get("paths", {}).values():
            shared = item.get("parameters", [])
            for method, operation in item.items():
                if method == "parameters":
                    continue
                action = operation.get("x-kubernetes-action")
                kind = operation.get("x-kubernetes-group-version-kind", {}).get("kind", "")
                owner = META + OPTIONS[action] if action in OPTIONS else "io.k8s.api.core.v1." + kind if action == "connect" else "io.k8s.api.core.v1.PodLogOptions" if operation["operationId"].endswith("PodLog") else None
                for p in shared + operation.get("parameters", []) if owner else []:
                    if p["in"] == "query" and p["name"] != "pretty" and p.get("description"):
                        parameters.setdefault(owner, {})[p["name"]] = p["description"]
    return found, parameters


def main():
    stock, options = texts(Server(sys.argv[1]))
    ours, _ = texts(Server(sys.argv[2]))
    known = stock[META + "Status"]
    print("# Written by e2e/judge/descriptions.py: what the OpenAPI of kube-apiserver v1.37 says beyond k8s-openapi's descriptions.")
    for name, of in sorted({**stock, **options}.items()):
        lines = []
        for p, text in sorted({**of, **options.get(name, {})}.items()):
            before = ours.get(name, {}).get(p, "")
            if text == before or p in ("apiVersion", "kind") and text == known[p]:
                continue
            if before and text.startswith(before):
                text = "+" + text[len(before):]
            lines.append(p + "\t" + text.replace("\\", "\\\\").replace("\n", "\\n"))
        if lines:
            print("\n".join(["=" + name] + lines))


main()
