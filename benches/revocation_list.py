"""Certificate revocation lists of any length (RFC 5280, section 5.1), written as DER by hand and signed by openssl.

`openssl ca` would take hours for a million entries.
"""
import base64
import subprocess
import time

# ecdsa-with-SHA256 (RFC 5758, section 3.2).
ALGORITHM = bytes.fromhex("300a06082a8648ce3d040302")
CRL_NUMBER = bytes.fromhex("0603551d14")


def der(tag, *parts):
    body = b"".join(parts)
    if len(body) < 0x80:
        return bytes([tag, len(body)]) + body
    length = len(body).to_bytes((len(body).bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + body


def integer(value):
    return der(2, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def content(data):
    """What is in the first element of `data`, and what comes after it."""
    length, head = data[1], 2
    if length & 0x80:
        head += length & 0x7f
        length = int.from_bytes(data[2:head], "big")
    return data[head:head + length], data[head + length:]


def subject(certificate):
    """The subject of a certificate (RFC 5280, section 4.1), as it stands there."""
    fields = content(content(certificate)[0])[0]
    for _ in range(5):  # version, serial, algorithm, issuer, validity
        fields = content(fields)[1]
    return fields[:len(fields) - len(content(fields)[1])]


def stamp(seconds):
    return der(0x17, time.strftime("%y%m%d%H%M%SZ", time.gmtime(seconds)).encode())


def revocation_list(d, serials, name="crl", number=1):
    """Writes NAME.pem and NAME.der into `d`: a list of the authority in ca.pem and ca.key, for a day. Each serial is
    bytes that begin below 0x80."""
    openssl = lambda *args: subprocess.run(["openssl", *args], cwd=d, check=True, capture_output=True).stdout
    issuer = subject(openssl("x509", "-in", "ca.pem", "-outform", "DER"))
    now = time.time()
    revoked = stamp(now)
    entries = [der(0x30, der(2, serial), revoked) for serial in serials]
    signed = der(0x30, integer(1), ALGORITHM, issuer, revoked, stamp(now + 86400),
                 # An empty one must be left out.
                 der(0x30, *entries) if entries else b"",
                 der(0xa0, der(0x30, der(0x30, CRL_NUMBER, der(4, integer(number))))))
    (d / f"{name}.tbs").write_bytes(signed)
    signature = openssl("dgst", "-sha256", "-sign", "ca.key", f"{name}.tbs")
    (d / f"{name}.tbs").unlink()
    whole = der(0x30, signed, ALGORITHM, der(3, b"\0", signature))
    (d / f"{name}.der").write_bytes(whole)
    text = base64.b64encode(whole).decode()
    lines = "\n".join(text[at:at + 64] for at in range(0, len(text), 64))
    (d / f"{name}.pem").write_text(f"-----BEGIN X509 CRL-----\n{lines}\n-----END X509 CRL-----\n")
