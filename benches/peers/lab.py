"""nginx, HAProxy and Portcullis as mutual TLS proxies with a revocation list, one worker each, before one upstream."""
import os
import pathlib
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import side_by_side as side  # noqa: E402

VICTIM, BYSTANDER, ADMIN = "drill05-test-victim", "bystander", "ops"
CLIENTS = (f"agent/{VICTIM}", f"agent/{BYSTANDER}", f"admin/{ADMIN}")
# A list of a million takes nginx and HAProxy some seconds to read.
PATIENCE = 90

UPSTREAM = """
  map $http_upgrade $passed {{ default upgrade; '' ''; }}
  # Short answers to GET. The body of anything else is read to its end first.
  server {{ listen 127.0.0.1:{port} backlog=4096; client_max_body_size 0; client_body_timeout 600s;
    location / {{
      if ($http_upgrade) {{ rewrite ^ /websocket last; }}
      if ($request_method != GET) {{ rewrite ^ /upload last; }}
      return 200 '{body}'; }}
    location = /upload {{ internal; proxy_pass http://127.0.0.1:{port}/; proxy_method GET;
      proxy_set_header Content-Length ""; proxy_pass_request_body off; proxy_request_buffering on; }}
    location = /websocket {{ internal; proxy_pass http://127.0.0.1:{echo}; proxy_http_version 1.1;
      proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection $passed; proxy_read_timeout 600s; }} }}"""

NGINX = """
  map $http_upgrade $passed {{ default upgrade; '' ''; }}
  upstream u {{ server 127.0.0.1:{up}; keepalive 256; keepalive_requests 100000000; }}
  server {{ listen 127.0.0.1:{port} ssl http2 backlog=4096;
    ssl_certificate server.pem; ssl_certificate_key server.key; ssl_protocols TLSv1.3; ssl_session_cache shared:s:8m;
    ssl_client_certificate ca.pem; ssl_verify_client on; ssl_crl nginx.crl;
    client_max_body_size 0; client_body_timeout 600s;
    location / {{ proxy_pass http://u; proxy_http_version 1.1; proxy_request_buffering off; proxy_read_timeout 600s;
      proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection $passed;
      proxy_set_header Host $host; proxy_set_header Client-Cert $ssl_client_escaped_cert; }} }}"""

HAPROXY = """
global
  nbthread 1
  maxconn 8192
  stats socket {d}/haproxy.sock level admin
  ssl-default-bind-options ssl-min-ver TLSv1.3
defaults
  mode http
  timeout connect 5s
  timeout client 600s
  timeout server 600s
  timeout tunnel 600s
  http-reuse always
frontend f
  bind 127.0.0.1:{port} ssl crt server.both ca-file ca.pem verify required crl-file {d}/haproxy.crl alpn h2,http/1.1
  http-request set-header Client-Cert %[ssl_c_der,base64]
  default_backend b
backend b
  server u 127.0.0.1:{up} pool-max-conn 256
"""

PORTCULLIS = """
[gate]
listen = "127.0.0.1:{port}"
threads = 1
[gate.tls]
cert = "server.pem"
key = "server.key"
client_ca = ["ca.pem"]
[identity]
trust_domains = ["lab.test"]
templates = ["spiffe://{{trust_domain}}/agent/{{agent}}"]
claim = {{ header = "x-agent-id" }}
[[route]]
upstream = ["http://127.0.0.1:{up}"]
[admin]
listen = "127.0.0.1:{admin}"
allow = ["spiffe://lab.test/admin/ops"]
[state]
dir = "portcullis-state"
[[feed.crl]]
url = "file://{d}/portcullis.crl"
required = true
"""


class Lab(side.Lab):
    """The upstream, and whichever proxies are started. Files of both lists are there as before.pem and after.pem."""

    def __init__(self, d, binary):
        self.d, self.binary, self.processes, self.proxies = d, binary, {}, {}
        self.admin = None

    def start_upstream(self):
        self.up, echo = side.free_port(), side.free_port()
        self.start("echo", sys.executable, str(HERE / "echo.py"), str(echo))
        self.start_nginx("upstream", UPSTREAM.format(port=self.up, echo=echo, body=side.BODY))
        self.listening("upstream", self.up)

    def begin(self, *names):
        """Starts these proxies with the list of before, and waits until each serves."""
        for name in names:
            port = self.proxies[name] = side.free_port()
            subprocess.run(self.install(name, "before"), shell=True, check=True)
            {"nginx": self.start_nginx_proxy, "haproxy": self.start_haproxy,
             "portcullis": self.start_portcullis}[name](port)
        for name in names:
            self.listening(name, self.proxies[name])
            self.serving(name)
            self.settle(name)

    def end(self, *names):
        """Stops these proxies, or all there are."""
        ended = {name: self.processes.pop(name) for name in names or list(self.processes)}
        for process in ended.values():
            process.terminate()
        for name in ended:
            self.end_successor(name)
        for process in ended.values():
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for name in ended:
            self.proxies.pop(name, None)
        shutil.rmtree(self.d / "portcullis-state", ignore_errors=True)

    def successor(self, name):
        """The process that a reload has put in the place of the first; nothing if there is none."""
        file = self.d / f"{name}.successor"
        pids = [int(pid) for pid in file.read_text().split()] if file.exists() else []
        return [pid for pid in pids if pathlib.Path(f"/proc/{pid}").exists()]

    def end_successor(self, name):
        for pid in self.successor(name):
            os.kill(pid, signal.SIGTERM)
        while self.successor(name):
            time.sleep(0.05)
        (self.d / f"{name}.successor").unlink(missing_ok=True)

    def family(self, name):
        return super().family(name) + self.successor(name)

    def memory(self, name):
        """Proportional set size, MiB, of what has not ended."""
        kib = 0
        for pid in self.family(name):
            try:
                text = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text()
            except OSError:
                continue
            kib += sum(int(found) for found in re.findall(r"^Pss:\s+(\d+)", text, re.M))
        return kib / 1024

    def reload(self, name):
        """The shell command that puts the list of after in the place of that of before, and has the proxy read it."""
        install = self.install(name, "after")
        if name == "nginx":
            return f"{install} && nginx -p {self.d} -e {self.d}/nginx.log -c {self.d}/nginx.conf -s reload"
        if name == "haproxy":
            # A drill revokes twice: the second time it is the successor that has to go.
            return (f"{install} && cd {self.d} && haproxy -D -f haproxy.cfg -p haproxy.successor "
                    f"-sf $(cat haproxy.successor 2>/dev/null || echo {self.processes[name].pid})")
        options = f"--cacert {self.d}/ca.pem --client-cert {self.d}/ops.pem --client-key {self.d}/ops.key"
        return f"{install} && {self.binary} refresh --server https://localhost:{self.admin} {options}"

    def install(self, name, which):
        """The shell command that puts a list where a proxy looks for it."""
        return f"ln -sfn {which}.pem {self.d}/{name}.crl"

    def start_nginx_proxy(self, port):
        self.start_nginx("nginx", NGINX.format(port=port, up=self.up))

    def start_haproxy(self, port):
        (self.d / "haproxy.cfg").write_text(HAPROXY.format(d=self.d, port=port, up=self.up))
        self.start("haproxy", "haproxy", "-f", "haproxy.cfg")

    def start_portcullis(self, port):
        self.admin = side.free_port()
        text = PORTCULLIS.format(d=self.d, port=port, up=self.up, admin=self.admin)
        (self.d / "portcullis.toml").write_text(text)
        self.make_state(self.binary, "portcullis.toml")
        self.start("portcullis", str(self.binary), "run", "--config", "portcullis.toml")

    def until(self, name, what, done):
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end and self.processes[name].poll() is None:
            if done():
                return
            time.sleep(0.05)
        sys.exit(f"{name} did not {what}:\n" + (self.d / f"{name}.out").read_text())

    def listening(self, name, port):
        def listens():
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                return True
            except OSError:
                return False

        self.until(name, "start", listens)

    def serving(self, name):
        tls = ssl.create_default_context(cafile=self.d / "ca.pem")
        tls.load_cert_chain(self.d / f"{BYSTANDER}.pem", self.d / f"{BYSTANDER}.key")

        def serves():
            try:
                with socket.create_connection(("127.0.0.1", self.proxies[name]), 10) as tcp, \
                        tls.wrap_socket(tcp, server_hostname="localhost") as connection:
                    request = f"GET / HTTP/1.1\r\nHost: localhost\r\nx-agent-id: {BYSTANDER}\r\n\r\n"
                    connection.sendall(request.encode())
                    return connection.recv(64).startswith(b"HTTP/1.1 200")
            except OSError:
                return False

        self.until(name, "serve", serves)

    def settle(self, name):
        """Waits until a proxy does nothing."""
        while True:
            before = self.cpu(name)
            time.sleep(1)
            if self.cpu(name) - before < 0.02:
                return

    def url(self, name):
        return f"https://localhost:{self.proxies[name]}/"

    def client(self, who, prefix=""):
        """Options that name a client's files."""
        return [f"--{prefix}cert", str(self.d / f"{who}.pem"), f"--{prefix}key", str(self.d / f"{who}.key")]


class Messenger:
    """Hands the list of after to HAProxy's runtime API whenever the shell command `command` asks for it, which costs the
    shell two named pipes, and not the start of an interpreter."""

    def __init__(self, d):
        self.d = d
        self.command = f"echo > {d}/ask; read told < {d}/told; echo \"$told\"; test \"$told\" = done"
        for name in ("ask", "told"):
            os.mkfifo(d / name)
        threading.Thread(target=self.carry, daemon=True).start()

    def carry(self):
        while True:
            (self.d / "ask").read_text()
            path = self.d / "haproxy.crl"
            pem = (self.d / "after.pem").read_text().strip()
            try:
                said = self.say(f"set ssl crl-file {path} <<\n{pem}\n\n") + self.say(f"commit ssl crl-file {path}\n")
            except OSError as error:
                said = str(error)
            (self.d / "told").write_text("done\n" if "Success" in said else " ".join(said.split()) + "\n")

    def say(self, command):
        with socket.socket(socket.AF_UNIX) as api:
            api.connect(str(self.d / "haproxy.sock"))
            api.sendall(command.encode())
            api.shutdown(socket.SHUT_WR)
            return b"".join(iter(lambda: api.recv(65536), b"")).decode()
