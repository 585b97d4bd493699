#!/usr/bin/env python3
"""Full mutual handshakes with a long revocation list, beside the same without one, on Portcullis and on nginx.

Each proxy runs twice, with nothing revoked and with --entries certificates: nginx has them on a CRL, Portcullis took
them from its admin API and restored them from its journal. CPU time per handshake (one request each) in turn, medians
of the rounds, and the rate with the list in per cent of the rate without it; then memory.

Needs what side_by_side.py needs.

  cargo build --profile dist && benches/handshakes.py --entries 1000000
"""
import argparse
import json
import os
import pathlib
import random
import statistics
import subprocess
import sys
import tempfile
import time

import side_by_side as side
from revocation_list import revocation_list


class Lab(side.Lab):
    def __init__(self, d, portcullis, entries):
        self.d, self.processes, self.proxies, self.binary = d, {}, {}, portcullis
        random.seed(1)
        serials = [b"\x40" + random.randbytes(15) for _ in range(entries)]
        revocation_list(d, serials)
        self.start_upstream()
        self.start_nginx_proxy(side.free_port())
        self.start_nginx_proxy(side.free_port(), "nginx-revoked", "ssl_crl crl.pem;")
        self.start_gate("portcullis", [])
        self.start_gate("portcullis-revoked", serials)
        for name, port in [("upstream", self.up), *self.proxies.items()]:
            self.wait(name, port)

    def start_gate(self, name, serials):
        port, admin = side.free_port(), side.free_port()
        self.start_portcullis(port, self.binary, name, f"""
[admin]
listen = "127.0.0.1:{admin}"
allow = ["spiffe://lab.test/agent/agent"]
""")
        self.wait(name, port)
        if not serials:
            return
        (self.d / "serials").write_text("".join(f"{serial.hex()}\n" for serial in serials))
        print(f"revoking {len(serials)} certificates ...", file=sys.stderr)
        subprocess.run([str(self.binary), "revoke", "--server", f"https://localhost:{admin}", "--cacert", "ca.pem",
                        "--client-cert", "agent.pem", "--client-key", "agent.key", "--level", "certificate", "--file", "serials",
                        "--preemptive", "--yes", "--reason", "bench"], cwd=self.d, check=True,
                       stdout=subprocess.DEVNULL)
        # What is measured is a gate that restored them.
        self.processes[name].terminate()
        self.processes[name].wait(60)
        started = time.monotonic()
        self.start(name, str(self.binary), "run", "--config", f"{name}.toml")
        self.wait(name, port)
        print(f"restarted in {time.monotonic() - started:.1f} s", file=sys.stderr)

    def wait(self, name, port):
        # A long list takes nginx seconds to read.
        for _ in range(20):
            try:
                return super().wait(name, port)
            except SystemExit:
                if self.processes[name].poll() is not None:
                    raise
        raise SystemExit(f"{name} did not start")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--portcullis", type=pathlib.Path, default=side.HERE.parent / "target/dist/portcullis")
    parser.add_argument("--json", action="store_true", help="one JSON object a line instead of the table")
    options = parser.parse_args()
    side.need("nginx", "wrk", "openssl", "gcc")
    with tempfile.TemporaryDirectory() as d:
        d = pathlib.Path(d)
        d.chmod(0o755)
        shim = side.prepare(d)
        lab = Lab(d, options.portcullis.resolve(), options.entries)
        try:
            measure(lab, shim, options)
        finally:
            lab.stop()


def settle(lab, name):
    """Waits until a proxy does nothing: Portcullis reads its audit once, in the background."""
    while True:
        before = lab.cpu(name)
        time.sleep(1)
        if lab.cpu(name) - before < 0.02:
            return


def measure(lab, shim, options):
    results = {name: [] for name in lab.proxies}
    for name in lab.proxies:
        settle(lab, name)
    for number in range(1, options.rounds + 1):
        print(f"round {number} of {options.rounds}", file=sys.stderr)
        for name, port in lab.proxies.items():
            before = lab.cpu(name)
            os.environ["LD_PRELOAD"] = str(shim)
            requests, rate = side.wrk(port, options.seconds, "-c8", "-H", "Connection: close")
            os.environ.pop("LD_PRELOAD")
            results[name].append(((lab.cpu(name) - before) / max(requests, 1) * 1e6, rate))
    if not options.json:
        print("| proxy | CPU µs a handshake | handshakes/s | of the rate without | memory MiB |\n|---|---|---|---|---|")
    rate_of = lambda name: statistics.median(rate for _, rate in results[name])
    for name in lab.proxies:
        cpu = statistics.median(cpu for cpu, _ in results[name])
        share = rate_of(name) / rate_of(name.split("-")[0])
        row = {"proxy": name, "entries": options.entries if "revoked" in name else 0, "cpu_us": round(cpu, 1),
               "handshakes_s": round(rate_of(name)), "share": round(share, 3), "memory_mib": round(lab.memory(name), 1)}
        print(json.dumps(row) if options.json else
              f"| {name} | {cpu:.1f} | {rate_of(name):.0f} | {share:.1%} | {row['memory_mib']} |")


if __name__ == "__main__":
    main()
