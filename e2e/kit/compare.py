#!/usr/bin/env python3
"""compare.py DIR: the table of bench.sh. Each figure is the median over the rounds, with the ratio skiff : peer."""
import glob, json, statistics, sys
d = sys.argv[1]
def rounds(name): return [json.load(open(f)) for f in sorted(glob.glob(f'{d}/{name}-[0-9]*.json'))]
def row(name, peer, skiff, unit=''):
    p, s = statistics.median(peer), statistics.median(skiff)
    print(f'{name:44s} {p:12.2f} {s:12.2f} {unit:6s} {s / p if p else float("nan"):6.2f}   {" ".join(f"{x:g}" for x in skiff)}')
for f in ('peer-start.txt', 'skiff-start.txt'): print(f.split('-')[0] + ':', '; '.join(l.strip() for l in open(f'{d}/{f}') if 'start' in l or 'Ready' in l))
idle = json.load(open(f'{d}/idle.json')); after = json.load(open(f'{d}/after.json'))
peers = [v for k, v in idle.items() if k.startswith('peer')]; secs = idle['secs']
print(f'{"":44s} {"peer":>12s} {"skiff":>12s} {"":6s} {"ratio":>6s}   skiff by round')
for key, unit, scale in (('Pss', 'MiB', 1), ('Pss_Anon', 'MiB', 1), ('cpu_s', '%', 100 / secs), ('wrote', 'bytes', 1)):
    row(f'idle {secs:.0f} s: {key}', [sum(p[key] for p in peers) * scale], [idle['skiff'][key] * scale], unit)
print(f'{"after the load: Pss":44s} {"":12s} {after["skiff"]["Pss"]:12.2f} MiB')
P, S = rounds('peer-pods'), rounds('skiff-pods')
for k in ('pod_create_to_scheduled', 'pod_create_to_running', 'pod_delete_to_gone'):
    for q in ('p50_ms', 'p95_ms'):
        if q in P[0][k]: row(f'{k} {q[:-3]}', [r[k][q] for r in P], [r[k][q] for r in S], 'ms')
P, S = rounds('peer-api'), rounds('skiff-api')
for k in ('create', 'get', 'update'):
    for i, x in enumerate(P[0][k]):
        for q, unit in (('per_s', '/s'), ('p99_ms', 'ms'), ('server_cpu_ms_per_op', 'ms')):
            row(f'{k}, {x["conns"]} connections: {q.removesuffix("_ms")}', [r[k][i][q] for r in P], [r[k][i][q] for r in S], unit)
        bad = sum(r[k][i]['errors'] for r in S)
        if bad: print(f'  errors of skiff: {bad}')
for k in sorted(k for k in P[0] if k.startswith('list_')):
    for q in ('p50_ms', 'server_cpu_ms_per_op'): row(f'{k}: {q.removesuffix("_ms")}', [r[k][q] for r in P], [r[k][q] for r in S], 'ms')
for k in sorted((k for k in P[0] if k.startswith('deletecollection')), key=len): row(k, [r[k] for r in P], [r[k] for r in S], 'ms')
for k in sorted((k for k in P[0] if k.startswith('watch_')), key=len):
    for q in ('p50_ms', 'p99_ms'): row(f'{k} send to event {q[:-3]}', [r[k]['send_to_event'][q] for r in P], [r[k]['send_to_event'][q] for r in S], 'ms')
