#!/usr/bin/env python3
"""columns.py STOCK-KUBECONFIG > src/kinds/facts/columns.txt: what a stock kube-apiserver says of the columns of its tables, beyond the name and the
age, which are the same for all kinds. A line `=PLURAL[.GROUP]` for each resource, then `COLUMN<tab>TEXT` for each column, line breaks as `\\n`."""
import os, sys
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from compare import Server

TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io"


def main():
    stock = Server(sys.argv[1])
    places = ["api/v1"] + ["apis/" + v["groupVersion"] for g in stock.ask("GET", "/apis")[1]["groups"] for v in g["versions"]]
    done = set()
    print("# Written by e2e/judge/columns.py: what kube-apiserver v1.37 says of its tables' columns.")
    for place in places:
        group = place.split("/")[1] if place.startswith("apis/") else ""
        for resource in stock.ask("GET", "/" + place)[1]["resources"]:
            name = resource["name"] + ("." + group if group else "")
            if "/" in name or "list" not in resource["verbs"] or name in done:
                continue
            done.add(name)
            columns = stock.ask("GET", f"/{place}/{resource['name']}", accept=TABLE)[1]["columnDefinitions"]
            told = [c for c in columns if c["name"] not in ("Name", "Age", "Created At") and c["description"]]
            if told:
                print("=" + name)
            for c in told:
                print(c["name"] + "\t" + c["description"].replace("\\", "\\\\").replace("\n", "\\n"))


main()
