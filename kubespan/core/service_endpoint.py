"""Where a discovery service is: what a URL of one says (spec/kubespan.md §3.4)."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

EXAMPLE = "such as https://discovery.example:3000"
DEFAULT_PORTS = {"https": 443, "grpc": 443, "http": 80}


@dataclass(frozen=True, slots=True)
class ServiceEndpoint:
    """Host and port, and whether what is said there can be listened to on the way."""

    host: str
    """A name or an address; IPv6 without brackets."""
    port: int
    insecure: bool

    @classmethod
    def parse(cls, url: str) -> ServiceEndpoint:
        """Read a URL, of which path and query mean nothing. Raises ValueError with a sentence."""
        try:
            parts = urlsplit(url.strip())
            host, port = parts.hostname, parts.port
        except ValueError:
            raise ValueError(f"the endpoint must be a URL, {EXAMPLE}") from None
        if not parts.scheme or not parts.netloc:
            raise ValueError(f"the endpoint's scheme and host are required, {EXAMPLE}")
        if parts.scheme not in DEFAULT_PORTS:
            raise ValueError(f"the endpoint's scheme must be https://, grpc:// or http://, {EXAMPLE}")
        if not host or any(char.isspace() for char in host):
            raise ValueError(f"the endpoint's host is required, {EXAMPLE}")
        if port == 0:
            raise ValueError("the endpoint's port must be a number from 1 to 65535")
        return cls(host, port or DEFAULT_PORTS[parts.scheme], parts.scheme == "http")

    @property
    def target(self) -> str:
        """`host:port`, an IPv6 host in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"
