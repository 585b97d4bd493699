"""A gRPC server, and clients for it, by the real library; messages are plain bytes, so that nothing has to be generated.

`serve [CERT KEY]` prints its port, then a line for each call that begins or ends. `call` takes commands, one JSON
document a line, and answers each with one.
"""

import json
import queue
import sys
import threading
import time
from concurrent import futures

import grpc

LARGE = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
# google.rpc.Status travels here, as whatever bytes it is.
DETAILS = "grpc-status-details-bin"
printing = threading.Lock()


def say(**line):
    with printing:
        print(json.dumps(line), flush=True)


class Noted:
    """Says when a call begins and how it ends."""

    def __init__(self, method, context):
        self.name = dict(context.invocation_metadata()).get("x-call", "")
        self.method, self.context = method, context
        say(begins=method, call=self.name)
        context.add_callback(self.ended)

    def ended(self):
        say(ends=self.method, call=self.name, code=str(self.context.code()))


def answer_metadata(context):
    sent = dict(context.invocation_metadata())
    context.send_initial_metadata((("x-begin", sent.get("x-sent", "none")),))
    context.set_trailing_metadata((("x-end", "done"), ("x-end-bin", b"\x00\xff\x01")))


def unary(request, context):
    Noted("unary", context)
    what, _, rest = request.partition(b" ")
    if what == b"fail":
        context.set_trailing_metadata(((DETAILS, b"\x08\x05\xff"), ("x-end", "failed")))
        # Nothing was sent before it: an answer of trailers only.
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not today \u2013 100 %")
    if what == b"wait":
        ended = threading.Event()
        context.add_callback(ended.set)
        ended.wait(30)
        return b""
    if what == b"who":
        return dict(context.invocation_metadata()).get("x-portcullis-principal", "").encode()
    if what == b"remaining":
        return str(context.time_remaining()).encode()
    answer_metadata(context)
    if what == b"large":
        return b"." * int(rest)
    return request


def server_stream(request, context):
    Noted("server_stream", context)
    answer_metadata(context)
    count, _, pause = request.decode().partition(" ")
    for number in range(int(count)):
        yield b"%d" % number
        time.sleep(float(pause))


def client_stream(requests, context):
    Noted("client_stream", context)
    answer_metadata(context)
    sizes = []
    for request in requests:
        sizes.append(len(request))
        if len(sizes) == 1:
            say(received=sizes[0])
    return json.dumps(sizes).encode()


def both_stream(requests, context):
    Noted("both_stream", context)
    answer_metadata(context)
    for request in requests:
        yield request


def serve(cert=None, key=None):
    server = grpc.server(futures.ThreadPoolExecutor(64), options=LARGE)
    handlers = {
        "Unary": grpc.unary_unary_rpc_method_handler(unary),
        "ServerStream": grpc.unary_stream_rpc_method_handler(server_stream),
        "ClientStream": grpc.stream_unary_rpc_method_handler(client_stream),
        "BothStream": grpc.stream_stream_rpc_method_handler(both_stream),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("lab.Echo", handlers),))
    if cert:
        pair = tuple(open(name, "rb").read() for name in (key, cert))
        port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair]))
    else:
        port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    say(port=port)
    server.wait_for_termination()


class Client:
    """One channel, and the calls that are open over it."""

    def __init__(self, address, ca, cert, key, claim):
        files = [open(name, "rb").read() for name in (ca, key, cert)] if cert else [open(ca, "rb").read()]
        options = LARGE + [("grpc.ssl_target_name_override", "localhost"), ("grpc.enable_retries", 0)]
        self.channel = grpc.secure_channel(address, grpc.ssl_channel_credentials(*files), options)
        self.metadata = (("x-agent-id", claim),) if claim else ()
        self.calls = {}

    def run(self, command):
        return getattr(self, command.pop("do"))(**command)

    def method(self, kind, name):
        return getattr(self.channel, kind)("/lab.Echo/" + name)

    def unary(self, text="", size=0, timeout=10, compress=False, name="", sent=None, wait=False):
        more = self.metadata + (("x-call", name),) + ((("x-sent", sent),) if sent else ())
        compression = grpc.Compression.Gzip if compress else None
        message = text.encode() + b"." * size
        future = self.method("unary_unary", "Unary").future(
            message, timeout=timeout, metadata=more, compression=compression
        )
        if wait:
            self.calls[name] = (future, None, "unary")
            return {}
        return self.outcome(future, lambda: future.result())

    def outcome(self, call, result):
        told = {}
        try:
            value = result()
            told["size"] = len(value)
            told["text"] = value[:200].decode()
        except grpc.FutureCancelledError:
            told["cancelled"] = True
        except (grpc.RpcError, StopIteration):
            pass
        told["code"] = call.code().name
        told["details"] = call.details()
        told["begin"] = self.plain(call.initial_metadata())
        told["end"] = self.plain(call.trailing_metadata())
        return told

    def plain(self, metadata):
        text = lambda value: value.hex() if isinstance(value, bytes) else value
        return {key: text(value) for key, value in metadata or ()}

    def open(self, kind, name, text="", timeout=30, compress=False):
        more = self.metadata + (("x-call", name), ("x-sent", "begun"))
        compression = grpc.Compression.Gzip if compress else None
        sent = queue.Queue()
        messages = iter(sent.get, None)
        if kind == "server":
            call = self.method("unary_stream", "ServerStream")(text.encode(), timeout=timeout, metadata=more)
        elif kind == "client":
            call = self.method("stream_unary", "ClientStream").future(
                messages, timeout=timeout, metadata=more, compression=compression
            )
        else:
            call = self.method("stream_stream", "BothStream")(
                messages, timeout=timeout, metadata=more, compression=compression
            )
        self.calls[name] = (call, sent, kind)
        return {}

    def send(self, name, text="", size=0):
        self.calls[name][1].put(text.encode() + b"." * size)
        return {}

    def done(self, name):
        self.calls[name][1].put(None)
        return {}

    def next(self, name):
        value = next(self.calls[name][0])
        return {"text": value[:200].decode(), "size": len(value)}

    def rest(self, name):
        """Waits for the end, reading what comes until then."""
        call, sent, kind = self.calls.pop(name)
        told = self.outcome(call, lambda: b" ".join(call) if kind in ("server", "both") else call.result())
        if sent:
            sent.put(None)
        return told

    def cancel(self, name):
        self.calls[name][0].cancel()
        return {}


def call():
    client = None
    for line in sys.stdin:
        command = json.loads(line)
        try:
            if client is None:
                client = Client(**command)
                say(ok=True)
            else:
                say(**client.run(command))
        except grpc.RpcError as error:
            say(code=error.code().name, details=error.details())
        except BaseException as error:
            say(error=repr(error))


if __name__ == "__main__":
    {"serve": serve, "call": call}[sys.argv[1]](*sys.argv[2:])
