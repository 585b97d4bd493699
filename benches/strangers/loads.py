"""Loads that strangers, and agents that mean harm, put on a gate. Each runs in a process of its own until it is told to
stop, and returns what it did."""
import asyncio
import errno
import selectors
import socket
import threading
import time

import certificates
import witness
from frames import Pump

STRANGER = "127.0.1.1"


def addresses(count):
    """Addresses of the loopback network."""
    return [f"127.0.1.{i + 1}" for i in range(count)]


def in_threads(count, work):
    """Runs `work(i)` in threads; what they counted, by name."""
    total, lock = {}, threading.Lock()

    def one(i):
        for name, value in work(i).items():
            with lock:
                total[name] = total.get(name, 0) + value

    threads = [threading.Thread(target=one, args=(i,), daemon=True) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return total


def chains(lab, phases_of, source, clients, places=(STRANGER,), path="/"):
    """Handshakes, each with a chain that was never presented before, and a request if the gate lets it."""
    source = source(lab)
    phases = phases_of()
    phases.until_attack()

    def client(i):
        file, done = lab.d / f"chain-{i}.pem", {"handshakes": 0, "served": 0, "refused": 0, "lost": 0}
        while phases.going():
            file.write_text(source.chain())
            tls = witness.context(lab.d)
            tls.load_cert_chain(file, source.key)
            done["handshakes"] += 1
            done[present(tls, places[i % len(places)])] += 1
        return done

    def present(tls, address):
        try:
            with witness.connect(tls, lab.gate, address, 10) as connection:
                # Over TLS 1.3 the client is through before the gate has judged it.
                connection.sendall(witness.request(path, "agent", "Connection: close\r\n"))
                return "served" if witness.answer(connection)[0] == 200 else "refused"
        except TimeoutError:
            return "lost"
        except OSError:
            return "refused"

    return in_threads(clients, client)


def look_alikes(curve):
    return lambda lab: certificates.LookAlikes(lab.d, curve)


def junk(own, count, size):
    return lambda lab: certificates.Junk(lab.d, own, count, size)


def silent(lab, phases_of, count, port, opening=b"", places=(STRANGER,)):
    """Sockets that say no more than `opening`, held open; one that the gate closes comes again at once."""
    phases = phases_of()
    phases.until_attack()
    selector, held = selectors.DefaultSelector(), Held(port(lab), opening)
    for i in range(count):
        held.open(selector, places[i % len(places)])
    while phases.going():
        for key, events in selector.select(0.1):
            held.move(selector, key, events)
    return {"sockets": count, "opened": held.opened, "closed by the gate": held.ended}


class Held:
    def __init__(self, port, opening):
        self.port, self.opening, self.opened, self.ended = port, opening, 0, 0

    def open(self, selector, address):
        tcp = socket.socket()
        tcp.setblocking(False)
        try:
            tcp.bind((address, 0))
            if tcp.connect_ex(("127.0.0.1", self.port)) not in (0, errno.EINPROGRESS):
                raise OSError("refused")
        except OSError:
            tcp.close()
            return
        self.opened += 1
        selector.register(tcp, selectors.EVENT_WRITE if self.opening else selectors.EVENT_READ, address)

    def move(self, selector, key, events):
        try:
            if events & selectors.EVENT_WRITE:
                key.fileobj.send(self.opening)
                selector.modify(key.fileobj, selectors.EVENT_READ, key.data)
                return
            if key.fileobj.recv(4096):
                return
        except OSError:
            pass
        self.ended += 1
        selector.unregister(key.fileobj)
        key.fileobj.close()
        self.open(selector, key.data)


# How a ClientHello of 512 bytes begins (RFC 8446, section 4.1.2).
HALF_HELLO = bytes.fromhex("16030102000100 01fc0303") + bytes(200)


def idle(lab, phases_of, clients):
    """Connections without a certificate that are through their handshake and ask for nothing."""
    tls = witness.context(lab.d)
    phases = phases_of()
    phases.until_attack()

    def client(_):
        done = {"opened": 0, "closed by the gate": 0}
        while phases.going():
            try:
                with witness.connect(tls, lab.gate, STRANGER) as connection:
                    # Those that come after the end of the attack have the places of others that have left.
                    done["opened"] += phases.going()
                    hold(connection)
                    done["closed by the gate"] += phases.going()
            except TimeoutError:
                pass
            except OSError:
                done["closed by the gate"] += phases.going()
        return done

    def hold(connection):
        """Until one of the two ends it."""
        connection.settimeout(1)
        while phases.going():
            try:
                if not connection.recv(4096):
                    return
            except TimeoutError:
                pass
            except OSError:
                return

    return {"sockets": clients, **in_threads(clients, client)}


def refused(lab, phases_of, path, at_once):
    """Requests without the claim that the route wants, over HTTP/1.1 connections that stay open, `at_once` ahead."""
    tls = witness.context(lab.d, "agent")
    phases = phases_of()
    phases.until_attack()
    one, done = witness.request(path), {"requests": 0, "bytes": 0, "connections": 0}
    while phases.going():
        try:
            pump = Pump(tls, lab.gate, STRANGER)
        except OSError:
            continue
        done["connections"] += 1
        begun = answered = 0
        while phases.going() and not pump.closed:
            if begun - answered <= at_once // 2:
                pump.give(one * (at_once - (begun - answered)))
                begun += at_once - (begun - answered)
            answered += pump.turn().count(b"HTTP/1.1 403")
        done["requests"], done["bytes"] = done["requests"] + answered, done["bytes"] + pump.sent
        pump.close()
    return done


def retry(lab, phases_of, clients):
    """A revoked agent that connects and asks as fast as it can."""
    tls = witness.context(lab.d, "retrier")
    phases = phases_of()
    phases.until_attack()

    def client(_):
        done = {"tries": 0, "refused": 0}
        while phases.going():
            done["tries"] += 1
            try:
                with witness.connect(tls, lab.gate, STRANGER, 10) as connection:
                    connection.sendall(witness.request(claim="retrier"))
                    done["refused"] += witness.answer(connection)[0] == 403
            except OSError:
                pass
        return done

    return in_threads(clients, client)


def loop(lab, phases_of):
    """One request that leads back to the gate, through a forwarder of TCP connections."""
    opened = [0]

    async def forward(reader, writer):
        opened[0] += 1
        try:
            there = await asyncio.open_connection("127.0.0.1", lab.gate)
        except OSError:
            writer.close()
            return
        await asyncio.gather(pass_on(reader, there[1]), pass_on(there[0], writer))

    async def pass_on(reader, writer):
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        writer.close()

    async def serve():
        await asyncio.start_server(forward, "127.0.0.1", lab.forwarder, backlog=4096)
        await asyncio.sleep(3600)

    threading.Thread(target=lambda: asyncio.run(serve()), daemon=True).start()
    tls = witness.context(lab.d, "agent")
    phases = phases_of()
    phases.until_attack()
    begun = time.monotonic()
    try:
        with witness.connect(tls, lab.gate, STRANGER) as connection:
            connection.sendall(witness.request("/loop", "agent"))
            status = witness.answer(connection)[0]
    except OSError as error:
        status = type(error).__name__
    return {"status": status, "seconds": round(time.monotonic() - begun, 3), "times round": opened[0]}
