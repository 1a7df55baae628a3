#!/usr/bin/env python3
"""HTTPS servers that walks let API servers call: admission and conversion webhooks, token and access reviews, issuers. Each path has a handler `f(request, path) -> (code, body)`;
what was asked is kept by path. The paths of the two API servers differ in their first step (`side`): `/side-a/x` and `/side-b/x` are one handler `x`."""
import base64, copy, datetime, http.server, json, socket, ssl, tempfile, threading, time
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
import ipaddress


def pem(cert): return cert.public_bytes(serialization.Encoding.PEM)
def key_pem(key): return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def issue(name, signer=None, dns=("localhost",), ips=("127.0.0.1",), days=2):
    """A key and a certificate; without a signer that of an authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.datetime.now(datetime.timezone.utc)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    b = x509.CertificateBuilder().subject_name(subject).public_key(key.public_key()).serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(days=5)).not_valid_after(now + datetime.timedelta(days=days))
    if signer is None:
        b = b.issuer_name(subject).add_extension(x509.BasicConstraints(True, None), True)
        return key, b.sign(key, hashes.SHA256())
    b = b.issuer_name(signer[1].subject).add_extension(x509.SubjectAlternativeName([x509.DNSName(d) for d in dns] + [x509.IPAddress(ipaddress.ip_address(i)) for i in ips]), False).add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), False)
    return key, b.sign(signer[0], hashes.SHA256())


class Hooks:
    """`at`: https://127.0.0.1:PORT; `ca`: the authority as base64 of PEM."""

    def __init__(self, dns=("localhost",), ips=("127.0.0.1",), port=0, bind="127.0.0.1"):
        self.authority = issue("hooks")
        key, cert = issue("hook", self.authority, dns, ips)
        self.handlers, self.asked, self.lock = {}, {}, threading.Lock()
        hooks = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_): pass

            def do_GET(self): self.do_POST()
            do_PUT = do_PATCH = do_DELETE = do_OPTIONS = do_HEAD = do_GET

            def do_POST(self):
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                where = self.path.split("?")[0].lstrip("/").split("/", 1)
                name = where[1] if len(where) > 1 and where[0].startswith("side-") else "/".join(where)
                try:
                    request = json.loads(body) if body else None
                except ValueError:
                    request = body
                with hooks.lock:
                    hooks.asked.setdefault((where[0], name), []).append({"method": self.command, "path": self.path, "headers": dict(self.headers), "body": copy.deepcopy(request)})
                f = hooks.handlers.get(name) or hooks.handlers.get("*")
                try:
                    code, answer = f(request, self) if f else (404, "no such hook")
                except BrokenPipeError:
                    return
                if code is None:
                    self.close_connection = True
                    try: self.connection.shutdown(socket.SHUT_RDWR)
                    except OSError: pass
                    return
                headers = {"Content-Type": "application/json"}
                if isinstance(answer, tuple):
                    answer, more = answer
                    headers.update(more)
                data = answer if isinstance(answer, bytes) else answer.encode() if isinstance(answer, str) else json.dumps(answer).encode()
                self.send_response(code)
                for k, v in headers.items(): self.send_header(k, v)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                if self.command != "HEAD": self.wfile.write(data)

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True
            def handle_error(self, *_): pass

        self.server = Server((bind, port), Handler)
        t = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        with tempfile.NamedTemporaryFile() as f:
            f.write(pem(cert) + key_pem(key)); f.flush(); t.load_cert_chain(f.name)
        self.server.socket = t.wrap_socket(self.server.socket, server_side=True, do_handshake_on_connect=False)
        self.port = self.server.server_address[1]
        self.at = f"https://127.0.0.1:{self.port}"
        self.ca = base64.b64encode(pem(self.authority[1])).decode()
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def sides(self, walk):
        """Gives both sides their variable `hook`."""
        for side, name in zip(walk.sides, ("side-a", "side-b")):
            side.vars["hook"] = f"{self.at}/{name}"
            side.vars["closed"] = f"https://127.0.0.1:{closed_port()}/{name}"
        walk.hooks = self

    def on(self, name):
        def put(f):
            self.handlers[name] = f
            return f
        return put

    def taken(self, name):
        """What both asked of a hook since the last time, the stock server's first."""
        with self.lock:
            return [self.asked.pop((side, name), []) for side in ("side-a", "side-b")]


CLOSED = {}
def closed_port():
    """A port on which nobody listens, the same one in one program."""
    if not CLOSED:
        s = socket.socket(); s.bind(("127.0.0.1", 0)); CLOSED["s"] = s; CLOSED["port"] = s.getsockname()[1]
    return CLOSED["port"]


def review(request, allowed=True, **more):
    """The answer to an AdmissionReview."""
    return 200, {"apiVersion": request["apiVersion"], "kind": "AdmissionReview", "response": dict({"uid": request["request"]["uid"], "allowed": allowed}, **more)}


def patch(*operations):
    return {"patchType": "JSONPatch", "patch": base64.b64encode(json.dumps(list(operations)).encode()).decode()}
