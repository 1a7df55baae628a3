"""What the judges and walks share: one API server, by its kubeconfig, asked over a connection for each thread and certificate."""
import base64, http.client, json, ssl, tempfile, threading
import yaml


class Server:
    """`user` False: without the kubeconfig's certificate."""

    def __init__(self, kubeconfig, user=True, timeout=60):
        config = yaml.safe_load(open(kubeconfig))
        cluster, admin = config["clusters"][0]["cluster"], config["users"][0]["user"]
        self.host = cluster["server"].split("://")[1]
        self.authority = base64.b64decode(cluster["certificate-authority-data"]).decode()
        self.admin = base64.b64decode(admin["client-certificate-data"]) + b"\n" + base64.b64decode(admin["client-key-data"]) if user else None
        self.timeout, self.local, self.contexts = timeout, threading.local(), {}

    def tls(self, pem):
        """The context for a certificate with its key; None: nobody's."""
        if pem not in self.contexts:
            context = ssl.create_default_context(cadata=self.authority)
            context.check_hostname = False
            if pem:
                with tempfile.NamedTemporaryFile() as f:
                    f.write(pem)
                    f.flush()
                    context.load_cert_chain(f.name)
            self.contexts[pem] = context
        return self.contexts[pem]

    def raw(self, method, path, headers, body, pem="own"):
        """Code, headers and bytes of the answer; a dead connection is tried once more."""
        pem = self.admin if pem == "own" else pem
        connections = self.local.__dict__.setdefault("connections", {})
        for again in (True, False):
            if connections.get(pem) is None:
                connections[pem] = http.client.HTTPSConnection(self.host, context=self.tls(pem), timeout=self.timeout)
            try:
                c = connections[pem]
                c.putrequest(method, path, skip_accept_encoding=True)
                if body is not None:
                    c.putheader("Content-Length", str(len(body)))
                for k, v in headers:
                    c.putheader(k, v)
                c.endheaders(body)
                answer = c.getresponse()
                return answer.status, answer.headers, answer.read()
            except (http.client.HTTPException, OSError):
                connections[pem] = None
                if not again:
                    raise

    def ask(self, method, path, body=None, kind="application/json", accept="application/json"):
        """Code, the body (parsed if it is JSON) and the warnings."""
        data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = [("Accept", accept), ("User-Agent", "judge/1")] + ([("Content-Type", kind)] if data is not None else [])
        code, got, text = self.raw(method, path, headers, data)
        return code, document(text), got.get_all("Warning") or []


def document(text):
    """Bytes as JSON, or as text if they are none."""
    try:
        return json.loads(text)
    except ValueError:
        return text.decode(errors="replace")
