"""A WebSocket server (RFC 6455) that sends back what it gets, and answers pings; on loopback, for the peers' upstream."""
import asyncio
import base64
import hashlib

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
CLOSE, PING, PONG = 8, 9, 10


async def frame(reader):
    """The first byte and the payload of the next frame of a client."""
    first, second = await reader.readexactly(2)
    length = second & 0x7f
    if length >= 126:
        length = int.from_bytes(await reader.readexactly(2 if length == 126 else 8), "big")
    mask = await reader.readexactly(4)
    payload = await reader.readexactly(length)
    return first, bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))


def framed(first, payload):
    size = len(payload)
    length = bytes([size]) if size < 126 else b"\x7e" + size.to_bytes(2, "big") if size < 65536 else \
        b"\x7f" + size.to_bytes(8, "big")
    return bytes([first]) + length + payload


async def serve(reader, writer):
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        fields = dict(line.split(b":", 1) for line in head.split(b"\r\n")[1:] if b":" in line)
        key = {name.lower(): value.strip() for name, value in fields.items()}[b"sec-websocket-key"]
        accept = base64.b64encode(hashlib.sha1(key + GUID).digest())
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                     b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n")
        while True:
            first, payload = await frame(reader)
            kind = first & 0x0f
            # Also the parts of a message in several frames go back as they came.
            writer.write(framed((first & 0xf0) | PONG if kind == PING else first, payload))
            await writer.drain()
            if kind == CLOSE:
                break
    except (asyncio.IncompleteReadError, ConnectionError, KeyError, ValueError):
        pass
    finally:
        writer.close()


async def main(port):
    server = await asyncio.start_server(serve, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    import sys
    asyncio.run(main(int(sys.argv[1])))
