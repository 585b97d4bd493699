"""The attacks, by name: which load, on a gate that is configured how, and what is told of it."""
from dataclasses import dataclass
from functools import partial

import frames
import lab
import loads
import witness

# A quotation mark takes two bytes of a line of JSON.
LONG_PATH, QUOTED_PATH = "/" + "p" * 2047, b"/" + b'"' * 2047
SILENT = 1500


def named(name, function, **arguments):
    work = partial(function, **arguments)
    work.__name__ = name
    return work


@dataclass
class Attack:
    name: str
    load: object
    told: object
    limits: str = ""
    more: str = ""
    curve: str = "P-256"
    # Of the usual time.
    times: float = 1
    # Whether it goes on until the load has ended by itself.
    waits: bool = False


def handshakes(did, took):
    each = f", {took['cpu'] / did['handshakes'] * 1000:.1f} ms CPU each" if did["handshakes"] else ""
    outcomes = ", ".join(f"{did[name]} {name}" for name in ("served", "refused", "lost") if did[name])
    return f"{did['handshakes']} handshakes ({outcomes}){each}"


def sockets(did, took):
    return f"{did['sockets']} sockets, {did['opened']} opened, {did['closed by the gate']} closed by the gate"


def requests(did, took):
    return (f"{did['requests']} requests in {did['bytes'] / 1e6:.2f} MB, {did['connections']} connections; "
            f"log: {took['log_bytes'] / max(1, did['bytes']):.1f} times what was sent")


def tries(did, took):
    return f"{did['tries']} tries, {did['refused']} answered with 403"


def flooded(did, took):
    closed = "never closed"
    if did["closed"]:
        why = f", GOAWAY {', '.join(map(str, did['goaway']))}" if did["goaway"] else ""
        closed = f"{did['closed']} of {did['connections']} connections closed, after {did['frames_until_closed']} frames{why}"
    return f"{did['frames'] / took['seconds'] / 1e6:.3f} M frames/s taken; {closed}"


def looped(did, took):
    return f"one request: {did['status']} after {did['seconds']} s, {did['times round']} connections of the gate to itself"


def look_alikes(name, curve, places=(loads.STRANGER,)):
    load = named(name, loads.chains, source=loads.look_alikes(curve), clients=64, places=places)
    return Attack(name, load, handshakes, curve=curve)


def gate(lab):
    return lab.gate


def admin(lab):
    return lab.admin


def silent(name, limits="", port=gate, **arguments):
    return Attack(name, named(name, loads.silent, count=SILENT, port=port, **arguments), sockets, limits=limits)


def junk(name, own, kib=10, **more):
    load = named(name, loads.chains, source=loads.junk(own, 5, kib << 10), clients=4, path="/" if own else "/open")
    return Attack(name, load, handshakes, times=2.5, **more)


def refused(name, load, **arguments):
    return Attack(name, named(name, load, **arguments), requests)


def flood(kind, port=gate):
    name = f"{kind} frames" + (", admin listener" if port is admin else "")
    return Attack(name, named(name, frames.flood, kind=kind, port=port, address=loads.STRANGER), flooded)


ATTACKS = [
    look_alikes("look-alikes, P-256", "P-256"),
    look_alikes("look-alikes, P-384", "P-384"),
    look_alikes("look-alikes, P-384, 64 addresses", "P-384", loads.addresses(64)),
    look_alikes("look-alikes, P-384, from the address of the new connections", "P-384", (witness.FRESH,)),
    silent("silent, handshakes = 8", "handshakes = 8"),
    silent("silent, handshakes = 8, 250 addresses", "handshakes = 8", places=loads.addresses(250)),
    silent("one byte, handshakes = 8", "handshakes = 8", opening=b"\x16"),
    silent("half a ClientHello, handshakes = 8", "handshakes = 8", opening=loads.HALF_HELLO),
    silent("half a ClientHello, handshakes = 8, 250 addresses", "handshakes = 8", opening=loads.HALF_HELLO, places=loads.addresses(250)),
    silent("silent, handshakes = 1024"),
    silent("one byte, handshakes = 1024", opening=b"\x16"),
    silent("silent, connections = 64", "connections = 64"),
    silent("one byte, connections = 64", "connections = 64", opening=b"\x16"),
    Attack("idle connections, connections = 64", named("idle", loads.idle, clients=200), sockets, limits="connections = 64"),
    silent("silent, admin listener", port=admin),
    silent("one byte, admin listener", port=admin, opening=b"\x16"),
    junk("chains of 50 KiB, a valid agent", True),
    junk("chains of 25 KiB, a valid agent", True, 5),
    junk("chains of 50 KiB, a stranger, advisory route", False, more=lab.ADVISORY),
    refused("no claim, HTTP/1.1", loads.refused, path=LONG_PATH, at_once=1),
    refused("no claim, pipelined", loads.refused, path=LONG_PATH, at_once=64),
    refused("no route, HTTP/2", frames.refused, path=QUOTED_PATH, address=loads.STRANGER),
    Attack("a revoked agent tries again", named("retry", loads.retry, clients=4), tries),
    *(flood(kind) for kind in frames.FLOODS),
    flood("PING ACK", admin),
    Attack("loop", loads.loop, looped, more=lab.LOOP, waits=True),
]
