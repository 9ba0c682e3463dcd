"""How the agent knows its console: a public certificate, or exactly the one that its pin names."""

from __future__ import annotations

import base64
import hashlib
import re
import ssl
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urlsplit

from kubespan.agent.sockets import MARK, may_mark

FETCH_TIMEOUT = 10.0
"""Seconds for connecting and for the handshake when a certificate is looked at."""

# Of OpenSSL, unnamed in Python's ssl. A pin says what to trust whatever the clock says: a machine whose clock stands at
# its epoch must reach its console too, and the console's own certificate is replaced together with its pin.
_NO_CHECK_TIME = 0x200000


class TrustError(Exception):
    """The console is not who it should be, or the way to it is not safe; the sentence says what to do."""


@dataclass(frozen=True, slots=True)
class ConsoleUrl:
    """Where a console is: `https://console.example:8443/path`, the path as a rule empty."""

    secure: bool
    host: str
    port: int
    path: str

    @classmethod
    def parse(cls, text: str, *, insecure_http: bool = False) -> ConsoleUrl:
        """Read a console's address; plain HTTP only to this machine itself, unless it is allowed in so many words."""
        try:
            parts = urlsplit(text)
            port = parts.port
        except ValueError:
            raise TrustError(f"{text!r} is not a URL such as https://console.example") from None
        if parts.username or parts.query or parts.fragment:
            raise TrustError("the console's URL must have no user name, query or fragment")
        if parts.scheme not in {"https", "http"} or not parts.hostname:
            raise TrustError(f"{text!r} is not a URL such as https://console.example")
        secure = parts.scheme == "https"
        if not secure and not insecure_http and not _is_loopback(parts.hostname):
            raise TrustError(
                "plain HTTP would show the token to everybody on the way: use https:// with --pin, "
                "or --insecure-http if the way is safe by itself"
            )
        return cls(secure, parts.hostname, port or (443 if secure else 80), parts.path.rstrip("/"))

    def at(self, path: str, *, websocket: bool = False) -> str:
        """The URL of a path of the console."""
        scheme = ("wss" if self.secure else "ws") if websocket else ("https" if self.secure else "http")
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{scheme}://{host}:{self.port}{self.path}{path}"


@dataclass(frozen=True, slots=True)
class Way:
    """Where the console is and how it is known."""

    url: ConsoleUrl
    tls: ssl.SSLContext | None


def parse_pin(text: str) -> str:
    """Read `sha256:` and 64 hex digits, in any case; raises TrustError."""
    pin = text.strip().lower().replace("sha256:", "", 1).replace(":", "")
    if not text.strip().lower().startswith("sha256:") or not re.fullmatch("[0-9a-f]{64}", pin):
        raise TrustError("a pin is written sha256: and 64 hex digits, as the console's enrolment line has it")
    return f"sha256:{pin}"


def fingerprint(certificate: bytes) -> str:
    """The pin of a certificate in DER form."""
    return f"sha256:{hashlib.sha256(certificate).hexdigest()}"


def fetch_pinned(url: ConsoleUrl, pin: str) -> bytes:
    """Look at the certificate that the console shows and return it if the pin names it; nothing else is sent.

    Raises TrustError when it is another one, OSError when there is no TLS to be had.
    """
    from urllib3.util.connection import create_connection  # noqa: PLC0415 - see enrol.py

    options: list[tuple[int, int, int | bytes]] = [MARK] if may_mark() else []
    looking = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    looking.check_hostname = False
    looking.verify_mode = ssl.CERT_NONE
    with (
        create_connection((url.host, url.port), FETCH_TIMEOUT, socket_options=options) as plain,
        looking.wrap_socket(plain, server_hostname=url.host) as secured,
    ):
        certificate = secured.getpeercert(binary_form=True) or b""
    if fingerprint(certificate) != pin:
        raise TrustError(
            f"the console at {url.host} port {url.port} shows a certificate with another fingerprint than the pin: "
            "either it has a new one (take the pin from its enrolment page again), or this is not your console"
        )
    return certificate


def tls_context(url: ConsoleUrl, certificate: bytes | None) -> ssl.SSLContext | None:
    """What to check the console by: that certificate alone, or without one the machine's authorities; none for HTTP."""
    if not url.secure:
        return None
    if certificate is None:
        context = ssl.create_default_context()
    else:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False  # the certificate itself is named, whatever names stand in it
        context.load_verify_locations(cadata=certificate)
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | _NO_CHECK_TIME
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def dump_certificate(certificate: bytes | None) -> str:
    """Text form for the store; empty for none."""
    return base64.b64encode(certificate or b"").decode()


def parse_certificate(text: str) -> bytes | None:
    """The certificate that `dump_certificate` wrote."""
    return base64.b64decode(text) or None


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
