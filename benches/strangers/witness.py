"""What others have of a gate: an agent on an open connection, agents that connect anew, an operator who revokes."""
import json
import os
import socket
import ssl
import threading
import time
from concurrent.futures import ThreadPoolExecutor

# Each party comes from an address of its own, as on a network: no limit of an address is shared with the attacker.
STEADY, FRESH, VICTIM, OPERATOR = ("127.0.0.2", "127.0.0.3", "127.0.0.4", "127.0.0.5")
# How long anyone waits for the gate, seconds; --patience.
PATIENCE = 20
RHYTHM_STEADY, RHYTHM_FRESH = 0.005, 0.1


def context(d, who=None, protocol="http/1.1"):
    """TLS of a client, with a certificate or without. The gate's own certificate is not what is measured."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
    tls.set_alpn_protocols([protocol])
    if who:
        tls.load_cert_chain(d / f"{who}.pem", d / f"{who}.key")
    return tls


def connect(tls, port, address, timeout=None):
    """A connection through its handshake, from this address of the loopback network."""
    tcp = socket.create_connection(("127.0.0.1", port), timeout or PATIENCE, (address, 0))
    tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        return tls.wrap_socket(tcp, server_hostname="localhost")
    except BaseException:
        tcp.close()
        raise


def request(path="/", claim=None, more=""):
    claim = f"x-agent-id: {claim}\r\n" if claim else ""
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\n{claim}{more}\r\n".encode()


def answer(connection):
    """The status and the body of the next answer."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += received(connection)
    head, body = data.split(b"\r\n\r\n", 1)
    fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
    while len(body) < int(fields.get(b"content-length", 0)):
        body += received(connection)
    return int(head.split()[1]), body


def received(connection):
    data = connection.recv(65536)
    if not data:
        raise ConnectionError("closed")
    return data


def sample(begun, good):
    return {"at": begun, "seconds": time.monotonic() - begun, "good": good}


def steady(lab, phases_of):
    """One request after the other over one connection."""
    tls = context(lab.d, "agent")
    connection = connect(tls, lab.gate, STEADY)
    phases = phases_of()
    samples = []
    while phases.going():
        begun = time.monotonic()
        try:
            connection = connection or connect(tls, lab.gate, STEADY)
            connection.sendall(request(claim="agent"))
            samples.append(sample(begun, answer(connection)[0] == 200))
        except OSError:
            samples.append(sample(begun, False))
            connection = None
        time.sleep(max(0, begun + RHYTHM_STEADY - time.monotonic()))
    return samples


def fresh(lab, phases_of):
    """A connection with a full handshake for each request, in a rhythm that does not wait for answers."""
    tls = context(lab.d, "fresh")
    samples = []

    def once(begun):
        try:
            with connect(tls, lab.gate, FRESH) as connection:
                connection.sendall(request(claim="fresh", more="Connection: close\r\n"))
                samples.append(sample(begun, answer(connection)[0] == 200))
        except OSError:
            samples.append(sample(begun, False))

    once(0)
    samples.clear()
    phases = phases_of()
    with ThreadPoolExecutor(512) as pool:
        due = time.monotonic()
        while due < phases.last and phases.going():
            time.sleep(max(0, due - time.monotonic()))
            pool.submit(once, due)
            due += RHYTHM_FRESH
    return samples


def revoke(lab, target, level="principal"):
    """Revokes through the admin API, over a new connection; the status."""
    body = json.dumps({"action": "revoke", "level": level, "target": target, "reason": "bench"})
    head = f"Host: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close\r\n"
    with connect(context(lab.d, "ops"), lab.admin, OPERATOR) as connection:
        connection.sendall(f"POST /v1/revocations HTTP/1.1\r\n{head}\r\n{body}".encode())
        return answer(connection)[0]


class Victim:
    """An agent on an open connection that has been served once, and the time at which it ended."""

    def __init__(self, lab, who):
        self.who, self.ended = who, None
        self.connection = connect(context(lab.d, who), lab.gate, VICTIM)
        self.connection.sendall(request(claim=who))
        answer(self.connection)
        self.connection.settimeout(None)
        self.watch = threading.Thread(target=self.wait, daemon=True)
        self.watch.start()

    def wait(self):
        try:
            # What comes before the end is the answer that tells of it.
            while self.connection.recv(4096):
                pass
        except OSError:
            pass
        self.ended = time.monotonic()

    def revoke(self, lab):
        begun = time.monotonic()
        lost = self.ended is not None
        try:
            status = revoke(lab, f"spiffe://lab.test/agent/{self.who}")
        except OSError:
            status = None
        told = sample(begun, status == 200)
        self.watch.join(2)
        ended = None if lost or self.ended is None else self.ended - begun
        return {**told, "status": status, "ended": ended, "lost": lost}


def operator(lab, phases_of):
    """Revokes the victims, the first half in the quiet, the other half under attack, evenly spaced."""
    victims = [Victim(lab, who) for who in lab.victims]
    phases = phases_of()
    half = len(victims) // 2
    samples = []
    for i, victim in enumerate(victims):
        first, length, place = ((phases.quiet, phases.attack - phases.quiet, i) if i < half
                                else (phases.attack, phases.last - phases.attack, i - half))
        time.sleep(max(0, first + length * (place + 0.5) / half - time.monotonic()))
        if not phases.going():
            break
        samples.append(victim.revoke(lab))
    return samples


def leave():
    """Ends a process whose threads may still wait for something."""
    os._exit(0)
