"""Where a discovery service is, as a Talos configuration writes it (spec/kubespan.md §3.4)."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

PUBLIC_SERVICE = "https://discovery.talos.dev/"
"""Where Talos machines look for each other unless their configuration says otherwise."""

PORTS = {"http": 80, "https": 443, "grpc": 443}
INSECURE = "http"


@dataclass(frozen=True, slots=True)
class ServiceEndpoint:
    """Host, port, and whether the connection is plain."""

    host: str
    """A name or an address; an IPv6 address without brackets."""
    port: int
    insecure: bool

    @classmethod
    def parse(cls, url: str) -> ServiceEndpoint:
        """Read a URL; path and query mean nothing. Raises ValueError with a sentence that quotes nothing."""
        try:
            parts = urlsplit(url.strip())
            host, port = parts.hostname or "", parts.port
        except ValueError:
            raise ValueError("the endpoint is not a URL, such as https://discovery.example:3000") from None
        if not parts.scheme or ("//" not in url):
            raise ValueError("the endpoint's scheme is required, such as https://discovery.example:3000")
        if parts.scheme not in PORTS:
            raise ValueError("the endpoint's scheme must be http://, https:// or grpc://")
        if not host or any(char.isspace() for char in host):
            raise ValueError("the endpoint's host is required, such as https://discovery.example:3000")
        if port == 0:
            raise ValueError("the endpoint's port must be a number from 1 to 65535")
        return cls(host, port or PORTS[parts.scheme], parts.scheme == INSECURE)

    @property
    def target(self) -> str:
        """`host:port`, an IPv6 host in brackets."""
        return f"{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"
