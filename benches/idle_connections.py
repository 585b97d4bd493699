#!/usr/bin/env python3
"""What an idle connection costs in memory: HTTP/1.1 and HTTP/2 over mutual TLS 1.3, each after one answered request.

Opens --connections of each protocol, one after the other, against a gate of its own and against nginx, and divides by
their number what the proxy's resident memory has grown by since its first hundred connections, which pay for what is
made once. Raises its own descriptors as far as it may: --connections times four are needed in all.

Needs openssl and nginx (which is the upstream, too).

  cargo build --profile dist && benches/idle_connections.py --connections 4000
"""
import argparse
import json
import pathlib
import resource
import socket
import ssl
import subprocess
import tempfile
import time

import side_by_side as side

WARM = 100
# GET /, https, localhost, and the claim, as literals without indexing (RFC 7541, section 6.2.2).
HEADERS = b"\x82\x84\x87\x01\x09localhost\x00\x0ax-agent-id\x05agent"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"


class Lab(side.Lab):
    def __init__(self, d, portcullis):
        self.d, self.processes, self.proxies = d, {}, {}
        self.start_upstream()
        for protocol in ["http/1.1", "h2"]:
            # Each protocol meets a fresh process: memory that was freed is not given back at once.
            tag = protocol.replace("/", "").replace(".", "")
            self.start_portcullis(side.free_port(), portcullis, f"portcullis-{tag}")
            self.start_nginx_proxy(side.free_port(), f"nginx-{tag}", "keepalive_timeout 1h;")
        for name, port in [("upstream", self.up), *self.proxies.items()]:
            self.wait(name, port)

    def start_nginx(self, name, http):
        (self.d / f"{name}.conf").write_text(
            f"worker_processes 1; daemon off; worker_rlimit_nofile 20000; pid {self.d}/{name}.pid;"
            f" error_log {self.d}/{name}.log; events {{ worker_connections 16000; }} http {{ access_log off; {http} }}")
        self.start(name, "nginx", "-p", str(self.d), "-c", f"{self.d}/{name}.conf")


def client(d, protocol):
    context = ssl.create_default_context(cafile=str(d / "ca.pem"))
    context.load_cert_chain(d / "agent.pem", d / "agent.key")
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols([protocol])
    return context


def connect(context, port, protocol):
    plain = socket.create_connection(("127.0.0.1", port), timeout=30)
    stream = context.wrap_socket(plain, server_hostname="localhost")
    assert stream.selected_alpn_protocol() == protocol, stream.selected_alpn_protocol()
    if protocol == "h2":
        length = len(HEADERS).to_bytes(3, "big")
        stream.sendall(PREFACE + length + b"\1\5\0\0\0\1" + HEADERS)
        return stream, read_h2(stream)
    stream.sendall(b"GET / HTTP/1.1\r\nhost: localhost\r\nx-agent-id: agent\r\n\r\n")
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += stream.recv(65536)
    head, body = answer.split(b"\r\n\r\n", 1)
    length = next(int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    while len(body) < length:
        body += stream.recv(65536)
    return stream, head.startswith(b"HTTP/1.1 200")


def read_h2(stream):
    """Reads on to the end of the first stream; whether its answer begins with the indexed `:status: 200`."""
    data, good = b"", False
    while True:
        while len(data) < 9 or len(data) < 9 + int.from_bytes(data[:3], "big"):
            data += stream.recv(65536)
        size, kind, flags = int.from_bytes(data[:3], "big"), data[3], data[4]
        payload, data = data[9:9 + size], data[9 + size:]
        if kind == 4 and not flags & 1:
            stream.sendall(b"\0\0\0\4\1\0\0\0\0")
        if kind == 1:
            # Past updates of the table's size.
            good = payload.lstrip(bytes(range(0x20, 0x40)))[:1] == b"\x88"
        if kind in (0, 1) and flags & 1:
            return good


def settled(lab, name):
    before = -1.0
    while (now := lab.memory(name)) != before:
        before = now
        time.sleep(1)
    return now


def measure(lab, d, name, protocol, connections):
    context, port, held = client(d, protocol), lab.proxies[name], []
    warm = None
    for count in range(connections + WARM):
        if count == WARM:
            warm = settled(lab, name)
        stream, good = connect(context, port, protocol)
        assert good, "not answered"
        held.append(stream)
    grown = settled(lab, name) - warm
    for stream in held:
        stream.close()
    return {"proxy": name.split("-")[0], "protocol": protocol, "connections": connections,
            "kib_each": round(grown * 1024 / connections, 1)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--connections", type=int, default=4000)
    parser.add_argument("--portcullis", type=pathlib.Path, default=side.HERE.parent / "target/dist/portcullis")
    parser.add_argument("--json", action="store_true", help="one JSON object a line instead of the table")
    options = parser.parse_args()
    side.need("nginx", "openssl")
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    if most < options.connections * 4 + 1024:
        raise SystemExit(f"{most} descriptors: too few for so many connections (ulimit -Hn)")
    version = subprocess.run([options.portcullis, "--version"], check=True, capture_output=True, text=True).stdout.strip()
    with tempfile.TemporaryDirectory() as d:
        d = pathlib.Path(d)
        d.chmod(0o755)
        side.make_pki(d)
        lab = Lab(d, options.portcullis.resolve())
        try:
            if not options.json:
                print(f"{version}, {time.strftime('%Y-%m-%d')}, {options.connections} connections of each\n")
                print("| proxy | protocol | KiB a connection |\n|---|---|---|")
            for name in lab.proxies:
                protocol = "h2" if name.endswith("h2") else "http/1.1"
                row = measure(lab, d, name, protocol, options.connections)
                print(json.dumps(row) if options.json else f"| {row['proxy']} | {protocol} | {row['kib_each']} |", flush=True)
        finally:
            lab.stop()


if __name__ == "__main__":
    main()
