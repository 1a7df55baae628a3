#!/usr/bin/env python3
"""load.py KUBECONFIG OUT SECONDS URL...: writes ConfigMaps to every server, watches them on every server, and says whether
anything acknowledged was lost and whether any watch missed or repeated an event. Exit code 0 if all is well."""

import base64, http.client, json, re, ssl, sys, tempfile, threading, time, urllib.parse

config, out, seconds, urls = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4:]
text = open(config).read()


def context():
    made = ssl.create_default_context()
    made.check_hostname = False
    field = lambda name: base64.b64decode(re.search(name + r": ([A-Za-z0-9+/=]+)", text).group(1)).decode()
    made.load_verify_locations(cadata=field("certificate-authority-data"))
    with tempfile.NamedTemporaryFile("w", suffix=".pem") as pem:
        pem.write(field("client-certificate-data") + field("client-key-data"))
        pem.flush()
        made.load_cert_chain(pem.name)
    return made


tls = context()
PATH = "/api/v1/namespaces/default/configmaps"
stop_writing, stop = threading.Event(), threading.Event()
lock = threading.Lock()
acknowledged, doubtful, refused = {}, set(), {}


def connect(url, timeout):
    place = urllib.parse.urlparse(url)
    return http.client.HTTPSConnection(place.hostname, place.port, timeout=timeout, context=tls)


def write(number, url):
    count, connection = 0, None
    while not stop_writing.is_set():
        name = f"w{number}-{count}"
        count += 1
        body = json.dumps({"metadata": {"name": name, "labels": {"load": "yes"}}, "data": {"n": str(count)}})
        try:
            connection = connection or connect(url, 20)
            connection.request("POST", PATH, body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            read = answer.read()
            if answer.status == 201:
                with lock:
                    acknowledged[name] = int(json.loads(read)["metadata"]["resourceVersion"])
                continue
            with lock:
                doubtful.add(name)
                refused[answer.status] = refused.get(answer.status, 0) + 1
        except (OSError, http.client.HTTPException):
            with lock:
                doubtful.add(name)
                refused["broken"] = refused.get("broken", 0) + 1
            connection = None
        time.sleep(0.2)


class Watch:
    """One client's view: a list, then a watch that is begun again after the last event seen."""

    def __init__(self, url):
        self.url, self.seen, self.version, self.relists, self.problems = url, {}, 0, 0, []

    def run(self):
        while not stop.is_set():
            try:
                if self.version == 0:
                    self.list()
                self.follow()
            except (OSError, http.client.HTTPException, ValueError):
                time.sleep(0.2)

    def list(self):
        connection = connect(self.url, 20)
        connection.request("GET", PATH + "?labelSelector=load%3Dyes")
        answer = connection.getresponse()
        body = json.loads(answer.read())
        if answer.status != 200:
            raise ValueError(answer.status)
        self.relists += 1
        for item in body["items"]:
            self.seen.setdefault(item["metadata"]["name"], int(item["metadata"]["resourceVersion"]))
        self.version = int(body["metadata"]["resourceVersion"])

    def follow(self):
        connection = connect(self.url, 15)
        query = f"?watch=1&allowWatchBookmarks=true&timeoutSeconds=60&labelSelector=load%3Dyes&resourceVersion={self.version}"
        connection.request("GET", PATH + query)
        answer = connection.getresponse()
        if answer.status == 410:
            self.version = 0
        if answer.status != 200:
            raise ValueError(answer.status)
        while not stop.is_set():
            line = answer.readline()
            if not line:
                return
            event = json.loads(line)
            if event["type"] == "ERROR":
                if event["object"].get("code") == 410:
                    self.version = 0
                return
            metadata = event["object"]["metadata"]
            version = int(metadata["resourceVersion"])
            if event["type"] == "BOOKMARK":
                self.version = max(self.version, version)
                continue
            name = metadata["name"]
            if version <= self.version:
                self.problems.append(f"{name}: event {version} after {self.version}")
            if name in self.seen:
                self.problems.append(f"{name}: told twice")
            self.seen[name] = version
            self.version = version


def everything(url):
    for _ in range(120):
        try:
            connection = connect(url, 30)
            connection.request("GET", PATH + "?labelSelector=load%3Dyes")
            answer = connection.getresponse()
            body = json.loads(answer.read())
            if answer.status == 200:
                return {i["metadata"]["name"]: int(i["metadata"]["resourceVersion"]) for i in body["items"]}
        except (OSError, http.client.HTTPException, ValueError):
            pass
        time.sleep(0.5)
    sys.exit(f"{url} did not come back")


watches = [Watch(url) for url in urls]
threads = [threading.Thread(target=w.run, daemon=True) for w in watches]
writers = [threading.Thread(target=write, args=(n, urls[n % len(urls)]), daemon=True) for n in range(2 * len(urls))]
for thread in threads + writers:
    thread.start()
time.sleep(seconds)
stop_writing.set()
for thread in writers:
    thread.join(30)
states = [everything(url) for url in urls]
deadline = time.time() + 60
while time.time() < deadline and not all(set(w.seen) >= set(states[0]) for w in watches):
    time.sleep(0.2)
stop.set()
lost = [name for name, version in acknowledged.items() if any(state.get(name) != version for state in states)]
problems = [f"{w.url}: {p}" for w in watches for p in w.problems]
for w in watches:
    missing = set(states[0]) - set(w.seen)
    if missing:
        problems.append(f"{w.url}: the watch never told of {len(missing)}: {sorted(missing)[:5]}")
if any(state != states[0] for state in states):
    problems.append("the servers' states differ")
summary = {
    "acknowledged": len(acknowledged), "doubtful": len(doubtful), "refused": {str(k): v for k, v in refused.items()},
    "lost": len(lost), "lists per watch": [w.relists for w in watches], "problems": problems[:10],
}
json.dump(summary, open(out, "w"), indent=1)
print(json.dumps(summary))
sys.exit(1 if lost or problems or not acknowledged else 0)
