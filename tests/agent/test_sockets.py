"""Why there is no connection, in words that a person can use."""

from __future__ import annotations

import errno
import socket
import ssl

import pytest

from kubespan.agent.sockets import explain


def _not_tls():
    """What comes of speaking TLS to a server that does not."""
    incoming = ssl.MemoryBIO()
    incoming.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    try:
        ssl.create_default_context().wrap_bio(incoming, ssl.MemoryBIO(), server_hostname="a").do_handshake()
    except ssl.SSLError as error:
        return error
    raise AssertionError


@pytest.mark.parametrize(
    ("error", "words"),
    [
        pytest.param(
            OSError(errno.ECONNREFUSED, "Connect call failed ('192.0.2.1', 8443)"), "Connection refused", id="refused"
        ),
        pytest.param(
            socket.gaierror(socket.EAI_NONAME, "Name or service not known"), "Name or service not known", id="no name"
        ),
        pytest.param(OSError("Multiple exceptions: one, two"), "Multiple exceptions: one, two", id="several"),
        pytest.param(TimeoutError("timed out"), "timed out", id="late"),
        pytest.param(_not_tls(), "no TLS: wrong version number", id="not TLS"),
    ],
)
def test_failures_are_words(error, words):
    assert explain(error) == words
