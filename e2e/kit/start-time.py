#!/usr/bin/env python3
"""start-time.py LABEL INSTANCE.SH DIR: stops the instance if it runs, starts it and prints the seconds until /readyz and until the node is Ready
by an answer of this very start (a heartbeat after it)."""
import base64, json, os, re, ssl, subprocess, sys, time, urllib.request
label, script, folder = sys.argv[1:]
subprocess.run([script, 'stop', folder], check=True)
port, node = os.environ['PORT'], os.environ['NAME']
kubeconfig = f'{folder}/data/admin.kubeconfig'
begin = time.time()
starter = subprocess.Popen([script, 'launch', folder])
def get(path, context):
    try: return urllib.request.urlopen(f'https://127.0.0.1:{port}{path}', context=context, timeout=2).read()
    except OSError: return None
anyone = ssl._create_unverified_context()
deadline = begin + 60
while time.time() < deadline and get('/readyz', anyone) is None: time.sleep(0.005)
ready = time.time() - begin
while time.time() < deadline and not os.path.exists(kubeconfig): time.sleep(0.005)
text = open(kubeconfig).read(); pair = f'{folder}/admin.pem'
with open(os.open(pair, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), 'wb') as f:
    for key in ('client-certificate-data', 'client-key-data'): f.write(base64.b64decode(re.search(key + r': *"?([^"\s]+)', text)[1]))
admin = ssl._create_unverified_context(); admin.load_cert_chain(pair)
stamp = time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(begin))
while time.time() < deadline:
    answer = get(f'/api/v1/nodes/{node}', admin)
    if answer and any(c['type'] == 'Ready' and c['status'] == 'True' and c['lastHeartbeatTime'] >= stamp for c in json.loads(answer).get('status', {}).get('conditions', [])): break
    time.sleep(0.005)
os.unlink(pair); starter.wait()
print(f'{label}: readyz {ready:.2f} s, node Ready {time.time() - begin:.2f} s')
