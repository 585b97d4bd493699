"""Certificates that nobody signed (RFC 5280, section 4.1), written as DER: look-alikes of an authority, and large ones."""
import base64
import os
import subprocess
import time

from revocation_list import der, stamp, subject

# ecdsa-with-SHA256, ecdsa-with-SHA384 (RFC 5758, section 3.2), and the bytes of a number below the order of the curve.
SIGNATURES = {"P-256": (bytes.fromhex("300a06082a8648ce3d040302"), 31), "P-384": (bytes.fromhex("300a06082a8648ce3d040303"), 47)}
BASIC_CONSTRAINTS, KEY_USAGE, EXTENDED_KEY_USAGE, ALTERNATIVE_NAME, UNKNOWN = (
    bytes.fromhex(oid) for oid in ("0603551d13", "0603551d0f", "0603551d25", "0603551d11", "06032a0304"))


def extension(oid, value, critical=b""):
    return der(0x30, oid, critical, der(4, value))


CRITICAL = bytes.fromhex("0101ff")
AUTHORITY = (extension(BASIC_CONSTRAINTS, bytes.fromhex("30030101ff"), CRITICAL)
             + extension(KEY_USAGE, bytes.fromhex("03020106"), CRITICAL))


def agent(name):
    """The extensions of a client's certificate."""
    uri = der(0x86, f"spiffe://lab.test/agent/{name}".encode())
    client_auth = bytes.fromhex("300a06082b06010505070302")
    return (extension(KEY_USAGE, bytes.fromhex("03020780"), CRITICAL) + extension(EXTENDED_KEY_USAGE, client_auth)
            + extension(ALTERNATIVE_NAME, der(0x30, uri)))


def name(common_name):
    """A distinguished name of one CN (UTF8String)."""
    return der(0x30, der(0x31, der(0x30, bytes.fromhex("0603550403"), der(12, common_name.encode()))))


def openssl(d, *args):
    return subprocess.run(["openssl", *args], cwd=d, check=True, capture_output=True).stdout


def make_key(d, file, curve="P-256"):
    """Writes a private key; returns its SubjectPublicKeyInfo."""
    openssl(d, "genpkey", "-algorithm", "EC", "-pkeyopt", f"ec_paramgen_curve:{curve}", "-out", file)
    return openssl(d, "pkey", "-in", file, "-pubout", "-outform", "DER")


def certificate(key, subject_name, issuer_name, extensions, curve="P-256"):
    """A certificate with a serial of its own, whose signature has the right form and verifies under no key."""
    algorithm, length = SIGNATURES[curve]
    now = time.time()
    number = lambda size: der(2, b"\x40" + os.urandom(size - 1))
    signed = der(0x30, der(0xa0, der(2, b"\2")), number(16), algorithm, issuer_name,
                 der(0x30, stamp(now - 3600), stamp(now + 86400)), subject_name, key,
                 der(0xa3, der(0x30, extensions)))
    return der(0x30, signed, algorithm, der(3, b"\0", der(0x30, number(length), number(length))))


def pem(certificate_der):
    return f"-----BEGIN CERTIFICATE-----\n{base64.encodebytes(certificate_der).decode()}-----END CERTIFICATE-----\n"


class LookAlikes:
    """Chains of a leaf and `count` authorities, all of which bear the name of the authority in ca.pem as subject and
    issuer, each on a key of its own. Each chain has serials that no other has."""

    def __init__(self, d, curve, count=6):
        self.curve, self.key = curve, d / "look-alike.key"
        self.leaf_key = make_key(d, self.key.name)
        self.keys = [make_key(d, f"look-alike-{i}.key", curve) for i in range(count)]
        self.name = subject(openssl(d, "x509", "-in", "ca.pem", "-outform", "DER"))

    def chain(self):
        leaf = certificate(self.leaf_key, name("agent"), self.name, agent("agent"), self.curve)
        return "".join(map(pem, [leaf, *(certificate(key, self.name, self.name, AUTHORITY, self.curve) for key in self.keys)]))


class Junk:
    """Chains of a leaf and `count` certificates of `size` bytes that have nothing to do with it. The leaf is the agent's
    own, or, without `own`, one that no authority has signed."""

    def __init__(self, d, own, count, size):
        # Besides the padding a certificate has some 350 bytes.
        self.count, self.padding = count, bytes(size - 350)
        self.key = d / ("agent.key" if own else "stranger.key")
        if own:
            self.leaf = (d / "agent.pem").read_text()
            self.public = openssl(d, "pkey", "-in", "agent.key", "-pubout", "-outform", "DER")
        else:
            self.public = make_key(d, self.key.name)
            self.leaf = pem(certificate(self.public, name("stranger"), name("nobody"), agent("stranger")))

    def chain(self):
        more = AUTHORITY + extension(UNKNOWN, self.padding)
        junk = (certificate(self.public, name(f"junk {i}"), name("nobody"), more) for i in range(self.count))
        return self.leaf + "".join(map(pem, junk))
