"""The state directory: who this machine is, where it enrolled, and the last settings it was given.

Every file is replaced whole: written beside its place, synced, renamed, and the directory synced. So whoever is
killed at any instant leaves the old file or the new one. All of them are secret or tell of the mesh: mode 0600.
One process at a time changes them, for moments: an operator may enrol beside a running agent.

`kubespan-identity.yaml` and `node-identity.yaml` have the form of spec/kubespan.md §1.2 and §1.3; the others are our
own and carry `version`. A file that is damaged, or of a newer version, is an error with its remedy and never replaced
by a fresh one: a new identity would be a new machine.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from kubespan.core.endpoint import LISTEN_PORT
from kubespan.core.identity import KeyPair, decode_node_id
from kubespan.core.messages import Snapshot
from kubespan.core.rotation import KeptSecret, Secrets
from kubespan.ctl.published import LOCK_NAME, is_held

DEFAULT_STATE_DIR = "/var/lib/kubespan-agent"
STATE_VERSION = 1
SEVERAL_SECRETS_VERSION = 2
"""Of `settings.json` while it holds more than one cluster secret, which an older release could not read."""

KUBESPAN_IDENTITY = "kubespan-identity.yaml"
NODE_IDENTITY = "node-identity.yaml"
AGENT = "agent.yaml"
SETTINGS = "settings.json"
DISCOVERY = "discovery.yaml"
RESOURCES = "resources.json"
RETRACTED = "retracted.json"
"""What was in `resources.json` when the mesh was taken away; its versions go on where the mesh comes back."""
STATUS = "status.json"
DAMAGE = "damage.json"

ENROLLING = "enrol.lock"
"""Held while the machine joins a cluster, or leaves one at an operator's word."""

SEND_AGAIN = "remove it: the console sends it again; a machine without one joins again"
"""What to do about settings that cannot be read."""

DOCUMENT_END = b"...\n"
"""YAML's own mark of the end of a document."""

NODE_ID_BYTES = 32

PRIVATE = 0o600
PRIVATE_DIRECTORY = 0o700

LOCK_ATTEMPTS = 3
WRITE_ATTEMPTS = 200
"""To get at the files while another process changes one: a slow disk takes a while to sync it."""
LOCK_PAUSE = 0.05
"""Seconds between attempts."""


class StoreError(Exception):
    """A file of the state directory cannot be read or written; the sentence names it and what to do."""


class Damaged(StoreError):
    """A file holds what cannot be, such as half of what was written."""


class Busy(StoreError):
    """Another process of this agent holds the state directory."""


class _Document(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, rename="camel"):
    """One file; its text form is never shown, for most hold a secret."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}(…)"


class KubeSpanIdentity(_Document, frozen=True, kw_only=True):
    """`kubespan-identity.yaml`; address and subnet are written empty and ignored when read (spec/kubespan.md §1.3)."""

    address: str = ""
    subnet: str = ""
    private_key: str
    public_key: str


class NodeIdentity(_Document, frozen=True, kw_only=True):
    """`node-identity.yaml`."""

    node_id: str


class Enrolment(_Document, frozen=True, kw_only=True):
    """Which console took this machine into which cluster; none of it is secret."""

    url: str
    """Empty where no console did: then the machine has joined by itself, and `cluster` is the cluster's id."""
    pin: str = ""
    certificate: str = ""
    """The console's certificate that the pin names, base64 of its DER form."""
    insecure_http: bool = False
    cluster: str
    console_key: str
    node_id: str
    cluster_id: str = ""
    """Empty while the machine waits for approval, as the two below are: until then it learns nothing of its cluster."""
    cluster_name: str = ""
    address: str = ""

    @property
    def alone(self) -> bool:
        """Whether the machine has no console."""
        return not self.url


class DiscoveryService(_Document, frozen=True, kw_only=True):
    """Where a discovery service is."""

    url: str
    roots: str = ""
    """The certificates to trust, PEM; the machine's own authorities where there are none."""


class Discovery(_Document, frozen=True, kw_only=True):
    """`discovery.yaml`: the services that this machine uses, and what it says there besides what it finds out itself.

    A file of its own: a former release, to which an upgrade may fall back, does not read it.
    """

    version: int = STATE_VERSION
    services: tuple[DiscoveryService, ...] = ()
    extra_endpoints: tuple[str, ...] = ()
    """Where a machine without a console is reached besides (spec/kubespan.md §3.2)."""


class AgentState(_Document, frozen=True, kw_only=True):
    """`agent.yaml`: what the agent made or was told at enrolment, and keeps over removal and enrolment elsewhere."""

    version: int = STATE_VERSION
    signing_key: str
    """Ed25519 private key, base64."""
    verify_key: str
    mac: str
    """Hardware address that the node address is made of, as first seen or, where there was none, as made once."""
    name: str = ""
    listen_port: int = LISTEN_PORT
    data_plane: str = "auto"
    networks: tuple[str, ...] = ()
    exempt_ports: tuple[int, ...] | msgspec.UnsetType = msgspec.UNSET
    """Written only where there are some: a former release, to which an upgrade may fall back, does not know of them."""
    enrolment: Enrolment | None = None


class Settings(_Document, frozen=True, kw_only=True):
    """`settings.json`: everything needed to mesh with no console."""

    version: int = STATE_VERSION
    cluster: str
    """The console's name of the cluster that the rest belongs to."""
    secret: str = ""
    """The one in use."""
    secret_generation: int = 0
    others: tuple[KeptSecret, ...] | msgspec.UnsetType = msgspec.UNSET
    """Those of a rotation that is under way, or was missed; left out of the file while there are none."""
    snapshot: Snapshot | None = None

    @classmethod
    def of(cls, cluster: str, secrets: Secrets, snapshot: Snapshot | None) -> Settings:
        """Put together what is to be kept."""
        return cls(
            version=SEVERAL_SECRETS_VERSION if secrets.others else STATE_VERSION,
            cluster=cluster,
            secret=secrets.secret,
            secret_generation=secrets.generation,
            others=secrets.others or msgspec.UNSET,
            snapshot=snapshot,
        )

    @property
    def secrets(self) -> Secrets:
        """The cluster secrets that are kept."""
        return Secrets(generation=self.secret_generation, secret=self.secret, others=self.others or ())


class Damage(_Document, frozen=True, kw_only=True):
    """`damage.json`: how often the agent did not start for a damaged file since it last did."""

    starts: int
    last: str
    """Which file, and what is wrong with it."""


Document = TypeVar("Document", bound=_Document)


class Store:
    """Reads and writes the files of one state directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def path(self, name: str) -> Path:
        """Where the file of that name lies."""
        return self.directory / name

    def keys(self) -> KeyPair | None:
        """The machine's WireGuard keys; none before they are made."""
        identity = self._read_yaml(KUBESPAN_IDENTITY, KubeSpanIdentity)
        if identity is None:
            return None
        try:
            keys = KeyPair.from_private(identity.private_key)
        except ValueError as error:
            raise self.damaged(KUBESPAN_IDENTITY, f"privateKey: {error}") from None
        if keys.public_key != identity.public_key:
            raise self.damaged(KUBESPAN_IDENTITY, "publicKey does not belong to privateKey")
        return keys

    def create_keys(self, keys: KeyPair) -> None:
        """Keep new WireGuard keys; fails if there are any."""
        identity = KubeSpanIdentity(private_key=keys.private_key, public_key=keys.public_key)
        self._write(KUBESPAN_IDENTITY, msgspec.yaml.encode(identity), exclusive=True)

    def node_id(self) -> str | None:
        """The machine's node id; none before it is made."""
        identity = self._read_yaml(NODE_IDENTITY, NodeIdentity)
        if identity is None:
            return None
        try:
            whole = decode_node_id(identity.node_id)
        except ValueError as error:
            raise self.damaged(NODE_IDENTITY, f"nodeId: {error}") from None
        if len(whole) != NODE_ID_BYTES or not any(whole):
            raise self.damaged(NODE_IDENTITY, f"nodeId must be of {NODE_ID_BYTES} bytes")
        return identity.node_id

    def create_node_id(self, node_id: str) -> None:
        """Keep a new node id; fails if there is one."""
        self._write(NODE_IDENTITY, msgspec.yaml.encode(NodeIdentity(node_id=node_id)), exclusive=True)

    def agent(self) -> AgentState | None:
        """What enrolment left; none before the first one began."""
        self._check_version(AGENT)
        return self._read_yaml(AGENT, AgentState, end=DOCUMENT_END)

    def save_agent(self, state: AgentState) -> None:
        """Keep what enrolment made or was told."""
        self._write(AGENT, msgspec.yaml.encode(state) + DOCUMENT_END)

    def save_enrolment(self, known: Enrolment, learnt: Enrolment) -> None:
        """Keep what a running agent has learnt of its cluster, unless its machine has enrolled anew meanwhile."""
        self._exchange_enrolment(known, learnt)

    def forget_enrolment(self, known: Enrolment) -> None:
        """Keep the keys, and nothing of the console, unless the machine has enrolled anew meanwhile."""
        self._exchange_enrolment(known, None)

    def _exchange_enrolment(self, known: Enrolment, new: Enrolment | None) -> None:
        with self._writing():
            state = self.agent()
            if state is not None and state.enrolment == known:
                state = msgspec.structs.replace(state, enrolment=new)
                self._replace(AGENT, msgspec.yaml.encode(state) + DOCUMENT_END)

    def discovery(self) -> Discovery:
        """Which discovery services this machine uses; none before it was told of any."""
        self._check_version(DISCOVERY)
        return self._read_yaml(DISCOVERY, Discovery, end=DOCUMENT_END, remedy=SEND_AGAIN) or Discovery()

    def save_discovery(self, discovery: Discovery) -> None:
        """Keep which discovery services this machine uses."""
        self._write(DISCOVERY, msgspec.yaml.encode(discovery) + DOCUMENT_END)

    def settings(self, cluster: str) -> Settings | None:
        """The last settings of that cluster; none when there are none, or another cluster's."""
        content = self._read(SETTINGS)
        if content is None:
            return None
        self._check_version(SETTINGS)
        try:
            settings = msgspec.json.decode(content, type=Settings)
        except msgspec.DecodeError as error:
            raise self.damaged(SETTINGS, _without_values(error), SEND_AGAIN) from None
        return settings if settings.cluster == cluster else None

    def save_settings(self, settings: Settings) -> None:
        """Keep the settings that are about to be applied."""
        self._write(SETTINGS, msgspec.json.encode(settings))

    def forget_settings(self) -> None:
        """Remove the cluster's secret, its members and where they are found from this machine."""
        with self._writing():
            for name in (SETTINGS, DISCOVERY, RESOURCES, RETRACTED, STATUS):
                with self._reporting(name, "remove"):
                    self.path(name).unlink(missing_ok=True)
                    self._fresh(name).unlink(missing_ok=True)  # left by a kill in the middle of writing
            with self._reporting(SETTINGS, "remove"):
                self._sync_directory()

    def read_published(self, name: str) -> bytes | None:
        """What the running agent last published under that name (RESOURCES, STATUS)."""
        return self._read(name)

    def read_last_resources(self) -> bytes | None:
        """What an agent last published as RESOURCES, though it may have been retracted since."""
        content = self._read(RESOURCES)
        return self._read(RETRACTED) if content is None else content

    def retract(self) -> None:
        """Take what is published from where others read it: the mesh that it tells of is gone."""
        with self._writing(), self._reporting(RESOURCES, "remove"):
            self.path(STATUS).unlink(missing_ok=True)
            with contextlib.suppress(FileNotFoundError):
                self.path(RESOURCES).replace(self.path(RETRACTED))
            self._sync_directory()

    def publish(self, name: str, content: bytes) -> None:
        """Put what others on this machine may ask for where they read it."""
        self._write(name, content)

    @contextlib.contextmanager
    def lock(self, name: str = LOCK_NAME) -> Iterator[None]:
        """Hold the state directory, or raise Busy: two agents would undo each other's work."""
        with self._open_lock(name) as descriptor:
            if not _acquire(descriptor, LOCK_ATTEMPTS):
                holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
                raise Busy(f"another kubespan-agent (process {holder}) works on {self.directory}; stop it first")
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
            yield

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Have no other process change a file here; held for moments, and never while somebody is waited for."""
        with self._open_lock("write.lock") as descriptor:
            if not _acquire(descriptor, WRITE_ATTEMPTS):
                raise Busy(f"another process does not come to its end of writing to {self.directory}")
            yield

    @contextlib.contextmanager
    def _open_lock(self, name: str) -> Iterator[int]:
        self._make_directory()
        with self._reporting(name, "open"):
            descriptor = os.open(self.path(name), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def is_locked(self) -> bool:
        """Say whether an agent runs on this state directory."""
        try:
            return is_held(self.path(LOCK_NAME))
        except OSError as error:
            raise StoreError(f"cannot open {self.path(LOCK_NAME)}: {error.strerror}") from None

    def holder(self) -> int | None:
        """The process of the agent that runs on this state directory; none where none does."""
        if not self.is_locked():
            return None
        text = (self._read(LOCK_NAME) or b"").strip()
        return int(text) if text.isdigit() else None

    def damage(self) -> Damage | None:
        """How often a damaged file kept the agent from starting; none when it started since."""
        content = self._read(DAMAGE)
        try:
            return None if content is None else msgspec.json.decode(content, type=Damage)
        except msgspec.DecodeError:
            return Damage(starts=1, last=f"{self.path(DAMAGE)} itself is damaged")

    def count_damage(self, last: str) -> None:
        """Count a start that came to nothing."""
        before = self.damage()
        self._write(DAMAGE, msgspec.json.encode(Damage(starts=(before.starts if before else 0) + 1, last=last)))

    def forget_damage(self) -> None:
        """Begin to count anew."""
        with self._reporting(DAMAGE, "remove"):
            self.path(DAMAGE).unlink(missing_ok=True)

    def damaged(self, name: str, fault: str, remedy: str = "") -> Damaged:
        """Say that what a file holds cannot be; nothing of it is quoted."""
        remedy = remedy or "restore it from a backup, or remove it and enrol this machine again with a new token"
        return Damaged(f"{self.path(name)} is damaged ({fault}); {remedy}")

    def _check_version(self, name: str) -> None:
        """Refuse what a newer release wrote, before its fields are looked at."""
        head = _read_head(self._read(name), msgspec.json.decode if name == SETTINGS else msgspec.yaml.decode)
        known = SEVERAL_SECRETS_VERSION if name == SETTINGS else STATE_VERSION
        if head is not None and head.version > known:
            raise StoreError(
                f"{self.path(name)} is of version {head.version}, this release knows up to {known}: "
                "install the newer release again"
            )

    def _read_yaml(self, name: str, form: type[Document], *, end: bytes = b"\n", remedy: str = "") -> Document | None:
        content = self._read(name)
        if content is None:
            return None
        if not content.endswith(end):
            # YAML alone would take a word that was cut for a shorter one, and lines that are missing for defaults.
            raise self.damaged(name, "it ends too early", remedy)
        try:
            return msgspec.yaml.decode(content, type=form)
        except msgspec.DecodeError as error:
            raise self.damaged(name, _without_values(error), remedy) from None

    def _read(self, name: str) -> bytes | None:
        with self._reporting(name, "read"):
            try:
                return self.path(name).read_bytes()
            except FileNotFoundError:
                return None

    def _write(self, name: str, content: bytes, *, exclusive: bool = False) -> None:
        with self._writing():
            self._replace(name, content, exclusive=exclusive)

    def _replace(self, name: str, content: bytes, *, exclusive: bool = False) -> None:
        path, fresh = self.path(name), self._fresh(name)
        with self._reporting(name, "write"):
            # Removed, not truncated: after a kill between link and unlink below it is another name of the file itself.
            fresh.unlink(missing_ok=True)
            try:
                _write_synced(fresh, content)
                if exclusive:
                    os.link(fresh, path)
                else:
                    os.replace(fresh, path)
            finally:
                fresh.unlink(missing_ok=True)
            self._sync_directory()

    def _fresh(self, name: str) -> Path:
        """Where a file is written before it takes its place."""
        return self.path(f".{name}.new")

    def _make_directory(self) -> None:
        with self._reporting("", "make"):
            self.directory.mkdir(mode=PRIVATE_DIRECTORY, parents=True, exist_ok=True)

    def _sync_directory(self) -> None:
        descriptor = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    @contextlib.contextmanager
    def _reporting(self, name: str, verb: str) -> Iterator[None]:
        try:
            yield
        except FileExistsError:
            raise StoreError(f"{self.path(name)} exists already; an identity is never overwritten") from None
        except OSError as error:
            raise StoreError(f"cannot {verb} {self.path(name)}: {error.strerror or error}") from None


class _Head(msgspec.Struct, frozen=True):
    """The part of our own files that every release can read."""

    version: int = 0


def _read_head(content: bytes | None, decode: Callable[..., Any]) -> _Head | None:
    try:
        return None if content is None else decode(content, type=_Head)
    except msgspec.DecodeError:
        return None  # whoever reads the rest reports it


def _acquire(descriptor: int, attempts: int) -> bool:
    """Take the lock; who only asks whether somebody holds it (`is_locked`) is out of the way in a moment."""
    for attempt in range(attempts):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if attempt + 1 < attempts:
                time.sleep(LOCK_PAUSE)
        else:
            return True
    return False


def _write_synced(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE)
    with open(descriptor, "wb") as file:
        os.fchmod(descriptor, PRIVATE)
        file.write(content)
        file.flush()
        os.fsync(descriptor)


def _without_values(error: msgspec.DecodeError) -> str:
    """Say what is wrong without quoting the file: a parser's message may carry a piece of a key."""
    if isinstance(error, msgspec.ValidationError):
        return str(error)
    return "it ends too early or is not of its format"
