"""One request to where a webhook leads: at public addresses only, never elsewhere by a redirect, and soon over.

Whoever may write a webhook's address must not be able to make the console talk to itself, to its database, to a
cloud's metadata or to others in its network. A name is looked up here, its addresses are judged, and the connection
goes to the one that was judged: a name that means something else a moment later leads nowhere.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.util import Timeout

SECONDS = 5.0
"""For connecting, and for the answer to begin; a worker waits no longer than both."""

WHOLE_SECONDS = 12.0
"""After which a request is over, whatever it still has to say: an answer may come byte by byte."""

ANSWER_BYTES = 300
"""Of an answer that is not a success, so many are kept to be shown."""

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

EMBEDDING = tuple(map(ipaddress.IPv6Network, ("64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32", "::/96")))
"""IPv6 that stands for an IPv4 address behind a translator: it could be anybody's, and no public service needs it."""


class Undelivered(Exception):
    """It did not arrive; the text is for people, and names no secret. `gone` says that nobody wants any more."""

    def __init__(self, text: str, *, gone: bool = False) -> None:
        super().__init__(text)
        self.gone = gone


@dataclass(frozen=True)
class Arrived:
    """The status of a success, 200 to 299."""

    status: int


def allowed(address: Address, networks: Sequence[Network]) -> bool:
    """Whether a webhook may lead there: public addresses, and the networks that the console was told of."""
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    if any(address in network for network in networks if network.version == address.version):
        return True
    if isinstance(address, ipaddress.IPv6Address) and (
        address.is_site_local or any(address in network for network in EMBEDDING)
    ):
        return False
    return address.is_global and not address.is_multicast and not address.is_reserved


def check_url(url: str) -> str:
    """The host of an address that a webhook may have, before anything is looked up; ValueError says what is wrong."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ValueError(f"This is no address: {error}.") from None
    if parts.scheme not in {"http", "https"} or not parts.hostname or any(map(str.isspace, url)):
        raise ValueError("Give an address that begins with https:// and a host.")
    if parts.username is not None or parts.password is not None:
        raise ValueError("Leave name and password out of the address; a secret belongs into its path or its query.")
    return f"{parts.hostname}:{port}" if port else parts.hostname


def connect(host: str, port: int, networks: Sequence[Network], timeout: float | None = SECONDS) -> socket.socket:
    """A connection to one of the host's addresses at which a webhook may be; raises Undelivered."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:  # the latter of a name that no name can be
        raise Undelivered(f"{host} cannot be looked up: {getattr(error, 'strerror', None) or error}.") from None
    fault = f"{host} has no address."
    for family, kind, protocol, _, where in found:
        address = ipaddress.ip_address(str(where[0]).partition("%")[0])
        if not allowed(address, networks):
            raise Undelivered(
                f"{host} is at {address}, which is not a public address. Whoever runs the console may allow its "
                "network by WEBHOOK_NETWORKS."
            )
        connection = socket.socket(family, kind, protocol)
        connection.settimeout(timeout)
        try:
            connection.connect(where)
        except OSError as error:
            connection.close()
            fault = f"{host} cannot be reached at {address}: {error.strerror or 'no answer in time'}."
        else:
            return connection
    raise Undelivered(fault)


class Limit:
    """Ends a connection after WHOLE_SECONDS, also while TLS has it."""

    def __init__(self, connection: socket.socket) -> None:
        self._same = connection.dup()
        self._timer = threading.Timer(WHOLE_SECONDS, self._end)
        self._timer.daemon = True
        self._timer.start()

    def _end(self) -> None:
        with contextlib.suppress(OSError):
            self._same.shutdown(socket.SHUT_RDWR)

    def lift(self) -> None:
        """It was over in time."""
        self._timer.cancel()
        self._same.close()


def post(url: str, body: bytes, headers: Mapping[str, str], networks: Sequence[Network]) -> Arrived:
    """Send it once; raises Undelivered for whatever is not a success."""
    parts = urlsplit(url)
    limits: list[Limit] = []

    class Judged:
        """A connection by way of `connect`."""

        host: str
        port: int

        def _new_conn(self) -> socket.socket:
            connection = connect(self.host, self.port, networks)
            limits.append(Limit(connection))
            return connection

    class Plain(Judged, HTTPConnection):
        """Without TLS."""

    class Secure(Judged, HTTPSConnection):
        """With TLS, whose certificate is checked against the name."""

    options: dict[str, Any] = {"timeout": Timeout(connect=SECONDS, read=SECONDS), "retries": False}
    kinds = {"http": (urllib3.HTTPConnectionPool, Plain), "https": (urllib3.HTTPSConnectionPool, Secure)}
    pool_class, connection_class = kinds[parts.scheme]
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    try:
        pool = pool_class(parts.hostname or "", parts.port, **options)
    except urllib3.exceptions.HTTPError as error:
        raise Undelivered(f"{parts.hostname} is no host: {error}") from None
    pool.ConnectionCls = connection_class
    try:
        answer = pool.urlopen("POST", target, body=body, headers=dict(headers), redirect=False, preload_content=False)
        return judge(answer.status, answer.reason or "", answer.read(ANSWER_BYTES))
    except urllib3.exceptions.ReadTimeoutError:
        raise Undelivered(f"No answer within {SECONDS:.0f} s.") from None
    except urllib3.exceptions.SSLError as error:
        raise Undelivered(f"No TLS with {parts.hostname}: {error}") from None
    except urllib3.exceptions.HTTPError as error:
        raise Undelivered(f"The connection to {parts.hostname} was lost: {type(error).__name__}.") from None
    finally:
        pool.close()
        for limit in limits:
            limit.lift()


def judge(status: int, reason: str, answer: bytes) -> Arrived:
    """What an answer means; raises Undelivered."""
    family = status // 100 * 100
    if family == HTTPStatus.OK:
        return Arrived(status)
    said = " ".join(answer.decode(errors="replace").split())
    text = f"Answered {status} {reason}".strip() + (f": {said}" if said else "")
    if family == HTTPStatus.MULTIPLE_CHOICES:
        text = f"Answered {status} {reason}: redirects are not followed; give the address where it leads to."
    text = text.replace("\0", "\ufffd")  # PostgreSQL keeps no NUL
    raise Undelivered(text, gone=status == HTTPStatus.GONE)
