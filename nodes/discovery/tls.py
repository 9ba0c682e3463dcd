"""TLS by certificate files that may be replaced while the service runs (spec/discovery-protocol.md §5.7)."""

from __future__ import annotations

from pathlib import Path

import grpc
import structlog

log = structlog.get_logger(__name__)


class CertificateFiles:
    """A certificate with its chain and its key, PEM; looked at again at each new connection."""

    def __init__(self, certificate: Path, key: Path) -> None:
        self._certificate = certificate
        self._key = key
        self._seen = self._stamp()
        self._pair = self._read()

    def credentials(self) -> grpc.ServerCredentials:
        """For a server; raises OSError when a file cannot be read."""
        return grpc.dynamic_ssl_server_credentials(self._configuration(), self._renewed)  # type: ignore[arg-type] # none is meant

    def _configuration(self) -> grpc.ServerCertificateConfiguration:
        key, certificate = self._pair
        return grpc.ssl_server_certificate_configuration([(key, certificate)])

    def _renewed(self) -> grpc.ServerCertificateConfiguration | None:
        """The new certificate, or none while the old one stands; half-written files wait for the next connection."""
        try:
            stamp = self._stamp()
            if stamp == self._seen:
                return None
            self._pair = self._read()
        except OSError as error:
            log.warning("the certificate was not read again", error=str(error))
            return None
        self._seen = stamp
        log.info("the certificate was read again", certificate=str(self._certificate))
        return self._configuration()

    def _stamp(self) -> tuple[int, int]:
        return self._certificate.stat().st_mtime_ns, self._key.stat().st_mtime_ns

    def _read(self) -> tuple[bytes, bytes]:
        return self._key.read_bytes(), self._certificate.read_bytes()
