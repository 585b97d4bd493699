#!/usr/bin/env python3
"""What a gate keeps in memory after a peak of clients, one of which presents large chains.

Opens --connections connections at once, each over mutual TLS 1.3 with one answered request, in --rounds; then shakes hands
--large times with a chain of --bytes, another each time. Prints the resident memory before, at the peak, and 10 s after
everything was closed.

Needs openssl and nginx (the upstream).

  cargo build --profile dist && benches/memory_after_peak.py
"""
import argparse
import os
import pathlib
import resource
import socket
import ssl
import tempfile
import time

import side_by_side as side

REQUEST = b"GET / HTTP/1.1\r\nhost: localhost\r\nx-agent-id: agent\r\n\r\n"


class Lab(side.Lab):
    def __init__(self, d, portcullis, env):
        self.d, self.processes, self.proxies = d, {}, {}
        os.environ.update(env)
        self.start_upstream()
        self.start_portcullis(side.free_port(), portcullis)
        for name, port in [("upstream", self.up), *self.proxies.items()]:
            self.wait(name, port)

    def memory(self):
        status = pathlib.Path(f"/proc/{self.processes['portcullis'].pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) / 1024


def context(d, chain):
    made = ssl.create_default_context(cafile=str(d / "ca.pem"))
    made.load_cert_chain(d / chain, d / "agent.key")
    made.minimum_version = ssl.TLSVersion.TLSv1_3
    return made


def connect(made, port):
    stream = made.wrap_socket(socket.create_connection(("127.0.0.1", port), 30), server_hostname="localhost")
    stream.sendall(REQUEST)
    stream.recv(4096)
    return stream


def large_chain(d, number):
    """The agent's certificate with six others behind it, about so many bytes, which differ by `number`."""
    # The last bytes are the signature, of which any will do.
    junk = ssl.PEM_cert_to_DER_cert((d / "junk.pem").read_text())[:-5]
    others = [ssl.DER_cert_to_PEM_cert(junk + number.to_bytes(4, "big") + bytes([i])) for i in range(6)]
    (d / "large.pem").write_text((d / "agent.pem").read_text() + "".join(others))
    return context(d, "large.pem")


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--connections", type=int, default=3000)
    arguments.add_argument("--rounds", type=int, default=2)
    arguments.add_argument("--large", type=int, default=3000)
    arguments.add_argument("--bytes", type=int, default=30_000)
    arguments.add_argument("--rest", type=int, default=10)
    arguments.add_argument("--portcullis", type=pathlib.Path, default=pathlib.Path("target/dist/portcullis"))
    arguments.add_argument("--env", action="append", default=[], help="NAME=VALUE for the gate")
    options = arguments.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with tempfile.TemporaryDirectory() as name:
        d = pathlib.Path(name)
        side.make_pki(d)
        side.subprocess.run(["openssl", "req", "-x509", "-new", "-newkey", "rsa:2048", "-nodes", "-keyout", "junk.key",
                             "-days", "2", "-subj", "/CN=junk", "-out", "junk.pem",
                             "-addext", f"1.2.3.4=ASN1:UTF8String:{'x' * (options.bytes // 6 - 800)}"], cwd=d, check=True, capture_output=True)
        lab = Lab(d, options.portcullis.resolve(), dict(pair.split("=", 1) for pair in options.env))
        try:
            measure(lab, options)
        finally:
            lab.stop()


def measure(lab, options):
    port = lab.proxies["portcullis"]
    plain = context(lab.d, "agent.pem")
    connect(plain, port).close()
    print(f"idle: {lab.memory():.0f} MiB")
    for _ in range(options.rounds):
        streams = [connect(plain, port) for _ in range(options.connections)]
        peak = lab.memory()
        for stream in streams:
            stream.close()
        del streams
        time.sleep(options.rest)
        print(f"{options.connections} connections: {peak:.0f} MiB, {options.rest} s later {lab.memory():.0f} MiB")
    failed = 0
    peak = 0
    for number in range(options.large):
        try:
            connect(large_chain(lab.d, number), port).close()
        except (ssl.SSLError, OSError):
            failed += 1
        if number % 100 == 0:
            peak = max(peak, lab.memory())
    peak = max(peak, lab.memory())
    time.sleep(options.rest)
    print(f"{options.large} handshakes of {options.bytes} bytes ({failed} refused): {peak:.0f} MiB,"
          f" {options.rest} s later {lab.memory():.0f} MiB")


if __name__ == "__main__":
    main()
