"""metrics.py STOCK OURS LIST: compares two expositions by names, types and names of labels; see metrics.sh."""
import re
import sys

LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="(?:[^"\\]|\\.)*"')


def read(path):
    """{family: (type, {names of labels})}; families without samples too."""
    families = {}
    current = None
    for line in open(path):
        line = line.rstrip("\n")
        if line.startswith("# TYPE "):
            _, _, current, kind = line.split(" ", 3)
            families[current] = (kind, set())
        elif line and not line.startswith("#"):
            name, _, rest = line.partition("{") if "{" in line else (line.split(" ")[0], "", "")
            family = next((name[: -len(s)] for s in ("_bucket", "_sum", "_count") if name.endswith(s) and name[: -len(s)] in families), name)
            kind, labels = families.setdefault(family, ("untyped", set()))
            labels.update(label for label in LABEL.findall(rest) if label != "le")
    return families


def main():
    stock, ours = read(sys.argv[1]), read(sys.argv[2])
    listed, reason = {}, ""
    for line in open(sys.argv[3]):
        line = line.strip()
        if line.startswith("#"):
            reason = line[1:].strip()
        elif line:
            listed[line] = reason
    used, failed, same = set(), [], 0

    def excused(name):
        for entry in listed:
            if entry == name or (entry.endswith("*") and name.startswith(entry[:-1])):
                used.add(entry)
                return True
        return False

    for name, (kind, labels) in sorted(stock.items()):
        if name not in ours:
            if not excused(name):
                failed.append(f"MISSING {kind} {name}{{{','.join(sorted(labels))}}}")
            continue
        same += 1
        if ours[name][0] != kind:
            failed.append(f"TYPE {name}: {kind}, ours {ours[name][0]}")
        if labels and ours[name][1] != labels and not excused(f"{name}{{}}"):
            failed.append(f"LABELS {name}: {','.join(sorted(labels))}; ours {','.join(sorted(ours[name][1]))}")
    failed += [f"LISTED but there: {entry}" for entry in listed if entry not in used]
    print("\n".join(failed))
    print(f"{len(stock)} families of stock's: {same} are there, {len(stock) - same} are not; ours has {len(ours)}; {len(failed)} differences that are not listed")
    sys.exit(1 if failed else 0)


main()
