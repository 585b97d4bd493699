#!/usr/bin/env python3
"""Portcullis beside nginx and HAProxy as mTLS reverse proxies on loopback, one worker each, in turn, in one run.

Prints, for HTTP/1.1 keep-alive, HTTP/2, full mutual handshakes and resumed ones, the median over the rounds of the
CPU time that each proxy spends on a request, its ratio to the first proxy's, and requests per second; then memory.
CPU time is the figure to compare: the load generator shares the machine.

Needs nginx, haproxy, wrk, h2load, openssl and gcc (Debian: nginx haproxy wrk nghttp2-client).

  cargo build --profile dist && benches/side_by_side.py --rounds 5 --seconds 3
"""
import argparse
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
BODY = "x" * 64


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def make_pki(d, clients=("agent/agent",), curve="P-256"):
    """An authority of this curve, a P-256 server, and P-256 clients with a SPIFFE ID of this path; gone with the directory."""

    def openssl(*args):
        subprocess.run(["openssl", *args], cwd=d, check=True, capture_output=True)

    def key(name, curve="P-256"):
        openssl("genpkey", "-algorithm", "EC", "-pkeyopt", f"ec_paramgen_curve:{curve}", "-out", f"{name}.key")

    key("ca", curve)
    openssl("req", "-x509", "-new", "-key", "ca.key", "-days", "2", "-subj", "/CN=bench root", "-out", "ca.pem",
            "-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign,cRLSign")
    named = [(path.split("/")[-1], f"URI:spiffe://lab.test/{path}", "clientAuth") for path in clients]
    for name, san, use in [("server", "DNS:localhost,IP:127.0.0.1", "serverAuth"), *named]:
        key(name)
        openssl("req", "-new", "-key", f"{name}.key", "-subj", f"/CN={name}", "-out", f"{name}.csr")
        (d / f"{name}.ext").write_text(
            f"basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\n"
            f"extendedKeyUsage={use}\nsubjectAltName={san}\n")
        openssl("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial",
                "-days", "2", "-extfile", f"{name}.ext", "-out", f"{name}.pem")
    (d / "server.both").write_text((d / "server.pem").read_text() + (d / "server.key").read_text())


NGINX = """worker_processes 1; pid {d}/{name}.pid; error_log {d}/{name}.log; daemon off;
events {{ worker_connections 8192; }}
http {{ access_log off; keepalive_requests 100000000; keepalive_timeout 600s;
  client_body_temp_path {d}; proxy_temp_path {d}; fastcgi_temp_path {d}; uwsgi_temp_path {d}; scgi_temp_path {d};
  {http} }}
"""


class Lab:
    def __init__(self, d, portcullis):
        self.d, self.processes, self.proxies = d, {}, {}
        self.start_upstream()
        self.start_haproxy(free_port())
        self.start_nginx_proxy(free_port())
        self.start_portcullis(free_port(), portcullis)
        for name, port in [("upstream", self.up), *self.proxies.items()]:
            self.wait(name, port)

    def start_upstream(self):
        self.up = free_port()
        self.start_nginx("upstream", f"server {{ listen 127.0.0.1:{self.up} backlog=4096; "
                                     f"location / {{ return 200 '{BODY}'; }} }}")

    def start(self, name, *command):
        log = open(self.d / f"{name}.out", "wb")
        self.processes[name] = subprocess.Popen(command, cwd=self.d, stdout=log, stderr=log)

    def start_nginx(self, name, http):
        (self.d / f"{name}.conf").write_text(NGINX.format(d=self.d, name=name, http=http))
        self.start(name, "nginx", "-p", str(self.d), "-e", f"{self.d}/{name}.log", "-c", f"{self.d}/{name}.conf")

    def start_nginx_proxy(self, port, name="nginx", more=""):
        self.proxies[name] = port
        self.start_nginx(name, f"""
  upstream u {{ server 127.0.0.1:{self.up}; keepalive 256; keepalive_requests 100000000; }}
  server {{ listen 127.0.0.1:{port} ssl http2 backlog=4096; http2_max_requests 100000000;
    ssl_certificate server.pem; ssl_certificate_key server.key; ssl_protocols TLSv1.3; ssl_session_cache shared:s:8m;
    ssl_client_certificate ca.pem; ssl_verify_client on; {more}
    location / {{ proxy_pass http://u; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_set_header Host $host; proxy_set_header Client-Cert $ssl_client_escaped_cert; }} }}""")

    def start_haproxy(self, port):
        self.proxies["haproxy"] = port
        (self.d / "haproxy.cfg").write_text(f"""
global
  nbthread 1
  maxconn 8192
  ssl-default-bind-options ssl-min-ver TLSv1.3
defaults
  mode http
  timeout connect 5s
  timeout client 600s
  timeout server 600s
  http-reuse always
frontend f
  bind 127.0.0.1:{port} ssl crt server.both ca-file ca.pem verify required alpn h2,http/1.1
  http-request set-header Client-Cert %[ssl_c_der,base64]
  default_backend b
backend b
  server u 127.0.0.1:{self.up} pool-max-conn 256
""")
        self.start("haproxy", "haproxy", "-f", "haproxy.cfg")

    def start_portcullis(self, port, binary, name="portcullis", more=""):
        self.proxies[name] = port
        (self.d / f"{name}.toml").write_text(f"""
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
upstream = ["http://127.0.0.1:{self.up}"]
[state]
dir = "{name}-state"
{more}""")
        self.make_state(binary, f"{name}.toml")
        self.start(name, str(binary), "run", "--config", f"{name}.toml")

    def make_state(self, binary, config):
        subprocess.run([str(binary), "state", "init", "--config", config], cwd=self.d, check=True, stdout=subprocess.DEVNULL)

    def wait(self, name, port):
        for _ in range(200):
            if self.processes[name].poll() is not None:
                break
            try:
                return socket.create_connection(("127.0.0.1", port), 1).close()
            except OSError:
                time.sleep(0.05)
        sys.exit(f"{name} did not start:\n" + (self.d / f"{name}.out").read_text())

    def stop(self):
        for process in self.processes.values():
            process.send_signal(signal.SIGTERM)
        for process in self.processes.values():
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()

    def family(self, name):
        """The process and its workers."""
        todo, found = [self.processes[name].pid], []
        while todo:
            pid = todo.pop()
            found.append(pid)
            children = pathlib.Path(f"/proc/{pid}/task/{pid}/children")
            todo += [int(child) for child in children.read_text().split()]
        return found

    def cpu(self, name):
        """Seconds of CPU so far, from the scheduler's own accounts."""
        total = 0
        for pid in self.family(name):
            for stat in pathlib.Path(f"/proc/{pid}/task").glob("*/schedstat"):
                total += int(stat.read_text().split()[0])
        return total / 1e9

    def memory(self, name):
        """Proportional set size, MiB."""
        text = "".join(pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in self.family(name))
        return sum(int(kib) for kib in re.findall(r"^Pss:\s+(\d+)", text, re.M)) / 1024


def wrk(port, seconds, *extra):
    out = subprocess.run(["wrk", "-t1", f"-d{seconds}", "-H", "x-agent-id: agent", *extra,
                          f"https://localhost:{port}/"], capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in out:
        sys.exit(f"port {port} refused:\n{out}")
    return int(re.search(r"(\d+) requests in", out).group(1)), float(re.search(r"/sec:\s+([\d.]+)", out).group(1))


def h2load(port, seconds):
    out = subprocess.run(["h2load", "-D", str(seconds), "-c8", "-m16", "-t1", "-H", "x-agent-id: agent",
                          f"https://localhost:{port}/"], capture_output=True, text=True, check=True).stdout
    good, bad = re.search(r"status codes: (\d+) 2xx, \d+ 3xx, (\d+) 4xx", out).groups()
    if int(bad) or not int(good):
        sys.exit(f"port {port} refused:\n{out}")
    return int(good), float(re.search(r"finished in .*?, ([\d.]+) req/s", out).group(1))


WORKS = {
    "h1 keep-alive": lambda port, seconds: wrk(port, seconds, "-c32"),
    "h2": h2load,
    "full handshake": lambda port, seconds: wrk(port, seconds, "-c8", "-H", "Connection: close"),
    "resumed handshake": lambda port, seconds: wrk(port, seconds, "-c8", "-H", "Connection: close"),
}


def need(*tools):
    for tool in tools:
        if not shutil.which(tool):
            sys.exit(f"{tool} is missing (Debian: apt-get install nginx haproxy wrk nghttp2-client openssl gcc)")


def prepare(d):
    """The authority, and what makes the load generators present a certificate."""
    make_pki(d)
    shim = d / "present_cert.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-o", shim, HERE / "present_cert.c", "-ldl"], check=True)
    os.environ.update(BENCH_CERT=str(d / "agent.pem"), BENCH_KEY=str(d / "agent.key"))
    return shim


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--portcullis", type=pathlib.Path, default=HERE.parent / "target/dist/portcullis")
    parser.add_argument("--json", action="store_true", help="one JSON object a line instead of the table")
    options = parser.parse_args()
    need("nginx", "haproxy", "wrk", "h2load", "openssl", "gcc")
    if not options.portcullis.exists():
        sys.exit(f"{options.portcullis} is missing: cargo build --profile dist")
    with tempfile.TemporaryDirectory() as d:
        d = pathlib.Path(d)
        d.chmod(0o755)
        shim = prepare(d)
        lab = Lab(d, options.portcullis.resolve())
        try:
            measure(lab, shim, options)
        finally:
            lab.stop()


def measure(lab, shim, options):
    results = {}
    steps = options.rounds * len(WORKS) * len(lab.proxies)
    done = 0
    for _ in range(options.rounds):
        for work, drive in WORKS.items():
            for name, port in lab.proxies.items():
                os.environ["LD_PRELOAD"] = str(shim)
                os.environ.pop("BENCH_RESUME", None)
                if work.startswith("resumed"):
                    os.environ["BENCH_RESUME"] = "1"
                before = lab.cpu(name)
                requests, rate = drive(port, options.seconds)
                os.environ.pop("LD_PRELOAD")
                results.setdefault((work, name), []).append(((lab.cpu(name) - before) / requests * 1e6, rate))
                done += 1
                if sys.stderr.isatty():
                    print(f"\r{done}/{steps} {work}, {name}        ", end="", file=sys.stderr)
    if sys.stderr.isatty():
        print(file=sys.stderr)
    if not options.json:
        print("| work | proxy | CPU µs a request | ratio | requests/s |\n|---|---|---|---|---|")
    for work in WORKS:
        base = statistics.median(cpu for cpu, _ in results[work, next(iter(lab.proxies))])
        for name in lab.proxies:
            cpu, rate = (statistics.median(column) for column in zip(*results[work, name]))
            row = {"work": work, "proxy": name, "cpu_us": round(cpu, 2), "ratio": round(cpu / base, 2),
                   "requests_s": round(rate)}
            print(json.dumps(row) if options.json else
                  f"| {work} | {name} | {cpu:.1f} | {cpu / base:.2f} | {rate:.0f} |")
    for name in lab.proxies:
        mib = round(lab.memory(name), 1)
        print(json.dumps({"proxy": name, "memory_mib": mib}) if options.json else
              f"| memory after it | {name} | {mib} MiB | | |")


if __name__ == "__main__":
    main()
