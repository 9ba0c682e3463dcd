"""Settings come from the environment or from files that it names; what is missing or wrong stops the start."""

from __future__ import annotations

import base64
import binascii
import ipaddress
import os
from pathlib import Path
from urllib.parse import urlsplit

FERNET_KEY_BYTES = 32
SECRET_KEY_LENGTH = 50  # Django's own check asks for as much


class SettingsError(SystemExit):
    """A setting is missing or wrong; whatever was starting ends with the sentence and status 1, without a traceback."""


def env(name: str, default: str | None = None) -> str:
    """Read NAME, or the file that NAME_FILE points to; without a default, a missing value stops the start."""
    if path := os.environ.get(f"{name}_FILE"):
        try:
            return Path(path).read_text(encoding="utf-8").strip()
        except OSError as error:
            raise SettingsError(f"{name}_FILE: {path}: {error.strerror}") from None
    value = os.environ.get(name) or default
    if value is None:
        raise SettingsError(f"set {name} or {name}_FILE")
    return value


def words(name: str, default: str = "") -> list[str]:
    """Read a list separated by commas."""
    return [word.strip() for word in env(name, default).split(",") if word.strip()]


def flag(name: str) -> bool:
    """Read a switch: 1, true, yes, on, or their opposites."""
    value = env(name, "no").lower()
    if value not in {"1", "true", "yes", "on", "0", "false", "no", "off"}:
        raise SettingsError(f"{name}: expected yes or no")
    return value in {"1", "true", "yes", "on"}


def number(name: str, default: int) -> int:
    """Read a whole number above nought."""
    value = env(name, str(default))
    if not value.isdecimal() or not int(value):
        raise SettingsError(f"{name}: expected a whole number above 0")
    return int(value)


def choice(name: str, *words: str) -> str:
    """Read one of a few words; the first is the default."""
    value = env(name, words[0])
    if value not in words:
        raise SettingsError(f"{name}: expected {' or '.join(words)}")
    return value


def secret_key(name: str) -> str:
    """Read Django's secret key, long enough to sign with."""
    value = env(name)
    if len(value) < SECRET_KEY_LENGTH:
        raise SettingsError(f"{name}: expected at least {SECRET_KEY_LENGTH} characters")
    return value


def keys(name: str) -> dict[str, str]:
    """Read `name:key,…`, the keys that encrypt at rest; the first one encrypts, all decrypt. No key is ever quoted."""
    found: dict[str, str] = {}
    for number, word in enumerate(words(name, env(name)), start=1):
        label, colon, key = word.partition(":")
        if not colon or not label or label in found:
            raise SettingsError(f"{name}: entry {number}: expected NAME:KEY with a name of its own")
        try:
            size = len(base64.b64decode(key, altchars=b"-_", validate=True))
        except (binascii.Error, ValueError):
            size = 0
        if size != FERNET_KEY_BYTES:
            raise SettingsError(f"{name}: key {label}: expected {FERNET_KEY_BYTES} bytes in URL-safe base64")
        found[label] = key
    if not found:
        raise SettingsError(f"set {name} or {name}_FILE")
    return found


def networks(name: str) -> list[str]:
    """Read a list of addresses and networks."""
    found = []
    for word in words(name):
        try:
            found.append(str(ipaddress.ip_network(word)))
        except ValueError as error:
            raise SettingsError(f"{name}: {error}") from None
    return found


def base_url(name: str, default: str) -> str:
    """Read the console's own address; plain HTTP only on loopback (docs/security.md)."""
    value = env(name, default).rstrip("/")
    parts = urlsplit(value)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.path or parts.query or parts.username:
        raise SettingsError(f"{name}: expected https://HOST[:PORT]")
    if parts.scheme == "http" and not is_loopback(parts.hostname):
        raise SettingsError(f"{name}: plain HTTP is for loopback only; expected https://…")
    return value


def service_url(name: str, default: str) -> str:
    """Read where discovery is, as Talos configurations name it; plain where a private network is trusted as such."""
    value = env(name, default)
    try:
        parts = urlsplit(value)
        usable = parts.scheme in {"http", "https"} and parts.hostname and (parts.port is None or parts.port)
    except ValueError:
        usable = False
    if not usable or parts.path.strip("/") or parts.query or parts.username or any(map(str.isspace, value)):
        raise SettingsError(f"{name}: expected https://HOST[:PORT], or http://HOST[:PORT] where it is plain")
    return value.rstrip("/") + "/"


def host_of(url: str) -> str:
    """The host of a URL as browsers and agents name it to the server: IPv6 addresses in brackets."""
    host = urlsplit(url).hostname or ""
    return f"[{host}]" if ":" in host else host


def is_loopback(host: str) -> bool:
    """Tell whether a host name or address can only mean this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
