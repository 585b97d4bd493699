"""A gate with what it needs, processes that ask it for something, and what it takes meanwhile."""
import multiprocessing
import os
import pathlib
import re
import subprocess
import sys
import time
from dataclasses import dataclass

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import side_by_side as side  # noqa: E402
import witness  # noqa: E402

VICTIMS = 8
AGENTS = ("agent", "fresh", "retrier", *(f"victim-{i}" for i in range(VICTIMS)))
CLIENTS = (*(f"agent/{name}" for name in AGENTS), "admin/ops")
# A log that grows beyond this ends the attack: the disk belongs to others too.
MOST_LOG = 2 << 30

GATE = """
[gate]
listen = "127.0.0.1:{gate}"
threads = 1
drain = "1s"
[gate.tls]
cert = "server.pem"
key = "server.key"
client_ca = ["ca.pem"]
[gate.limits]
{limits}
[identity]
trust_domains = ["lab.test"]
templates = ["spiffe://{{trust_domain}}/agent/{{agent}}"]
claim = {{ header = "x-agent-id" }}
[[route]]
host = "localhost"
upstream = ["http://127.0.0.1:{up}"]
{more}
[admin]
listen = "127.0.0.1:{admin}"
allow = ["spiffe://lab.test/admin/ops"]
[state]
dir = "gate-state"
"""
ADVISORY = """[[route]]
host = "localhost"
path = "/open"
mode = "advisory"
upstream = ["http://127.0.0.1:{up}"]"""
LOOP = """[[route]]
host = "localhost"
path = "/loop"
upstream = "itself"
[upstream.itself]
endpoints = ["https://127.0.0.1:{forwarder}"]
tls = {{ ca = "ca.pem", name = "localhost", cert = "agent.pem", key = "agent.key" }}"""


class Lab(side.Lab):
    """An authority of one curve, an upstream, and one gate at a time."""

    victims = [name for name in AGENTS if name.startswith("victim")]

    def __init__(self, d, curve):
        self.d, self.processes, self.proxies = d, {}, {}
        side.make_pki(d, CLIENTS, curve)
        self.start_upstream()
        self.wait("upstream", self.up)

    def configure(self, limits="", more=""):
        self.gate, self.admin, self.forwarder = (side.free_port() for _ in range(3))
        more = more.format(up=self.up, forwarder=self.forwarder)
        (self.d / "gate.toml").write_text(GATE.format(gate=self.gate, admin=self.admin, up=self.up, limits=limits, more=more))
        subprocess.run(["rm", "-rf", "gate-state"], cwd=self.d, check=True)

    def begin(self, binary, limits="", more=""):
        """Starts a gate without a past. A port that was free may be taken by the time it binds: it is tried again."""
        for left in (2, 1, 0):
            try:
                self.configure(limits, more)
                return self.start_gate(binary)
            except SystemExit:
                if not left:
                    raise
                self.end()

    def start_gate(self, binary):
        self.make_state(binary, "gate.toml")
        self.start("gate", str(binary), "run", "--config", "gate.toml")
        self.wait("gate", self.gate)
        self.wait("gate", self.admin)
        if witness.revoke(self, "spiffe://lab.test/agent/retrier") != 200:
            raise SystemExit("the admin API did not answer:\n" + self.log.read_text()[-2000:])

    def end(self):
        """Stops the gate; its log goes as well."""
        gate = self.processes.pop("gate", None)
        if not gate:
            return
        gate.terminate()
        try:
            gate.wait(10)
        except subprocess.TimeoutExpired:
            gate.kill()
            gate.wait()
        self.log.unlink()

    @property
    def log(self):
        return self.d / "gate.out"

    @property
    def process(self):
        return pathlib.Path(f"/proc/{self.processes['gate'].pid}")

    def lives(self):
        return self.processes["gate"].poll() is None

    def resident(self):
        """Resident memory, MiB."""
        return int(re.search(r"^VmRSS:\s+(\d+)", (self.process / "status").read_text(), re.M).group(1)) / 1024

    def descriptors(self):
        return len(os.listdir(self.process / "fd"))

    def used(self):
        """Seconds of CPU, of threads that have ended too."""
        fields = (self.process / "stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def said(self):
        """Bytes and lines of the log so far."""
        lines = size = 0
        with self.log.open("rb") as log:
            while part := log.read(1 << 20):
                size, lines = size + len(part), lines + part.count(b"\n")
        return size, lines


@dataclass
class Phases:
    """When what begins, seconds of the monotonic clock, which all processes share."""

    quiet: float
    attack: float
    # The last that is begun under attack; the attack goes on until all of it has ended.
    last: float
    stop: object

    def going(self):
        return not self.stop.is_set()

    def until_attack(self):
        while self.going() and (left := self.attack - time.monotonic()) > 0:
            time.sleep(min(left, 0.1))


class Party:
    """A process that gets ready, is told the phases, and sends what came of it."""

    fork = multiprocessing.get_context("fork")

    def __init__(self, lab, what, stop, nice=None):
        self.here, there = self.fork.Pipe()
        self.name = getattr(what, "__name__", "load")
        self.process = self.fork.Process(target=self.run, args=(lab, what, stop, nice, there), daemon=True)
        self.process.start()
        there.close()

    def run(self, lab, what, stop, nice, pipe):
        if nice is not None:
            os.nice(nice)
            others = sorted(os.sched_getaffinity(0))[1:]
            if others:
                os.sched_setaffinity(0, others)

        def phases_of():
            pipe.send("ready")
            return Phases(*pipe.recv(), stop)

        try:
            pipe.send({"done": what(lab, phases_of)})
        except Exception as error:  # what went wrong there is told here
            pipe.send({"failed": f"{type(error).__name__}: {error}"})
        witness.leave()

    def ready(self):
        told = self.here.recv() if self.here.poll(60) else None
        if told != "ready":
            raise SystemExit(f"{self.name} did not begin: {told}")

    def tell(self, *times):
        self.here.send(times)

    def over(self):
        return self.here.poll()

    def result(self, patience=45):
        told = self.here.recv() if self.here.poll(patience) else {"failed": "no result"}
        self.process.join(1)
        if self.process.is_alive():
            self.process.kill()
        if "failed" in told:
            raise RuntimeError(f"{self.name}: {told['failed']}")
        return told["done"]


class Meter:
    """Reads a gate's accounts."""

    def __init__(self, lab):
        self.lab = lab
        self.resident, self.descriptors = lab.resident(), lab.descriptors()
        self.begun, self.cpu, self.log = time.monotonic(), lab.used(), lab.said()

    def look(self):
        """Keeps the peaks; whether the gate may go on."""
        if not self.lab.lives():
            return False
        try:
            self.resident = max(self.resident, self.lab.resident())
            self.descriptors = max(self.descriptors, self.lab.descriptors())
        except (OSError, AttributeError):
            return False
        return self.lab.log.stat().st_size < MOST_LOG

    def spent(self):
        """What the gate took since: seconds, seconds of CPU, bytes and lines of log."""
        size, lines = self.lab.said()
        return {"seconds": time.monotonic() - self.begun, "cpu": self.lab.used() - self.cpu,
                "log_bytes": size - self.log[0], "log_lines": lines - self.log[1]}
