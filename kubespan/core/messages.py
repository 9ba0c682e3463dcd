"""What agent and console say to each other, one schema for both ends.

A conversation over the WebSocket `/agent/v1`, JSON text frames, `type` names the message::

    console                                    agent
    Challenge (nonce, versions spoken)   →
                                         ←     Hello (version chosen, who, signature, what it holds)
    Welcome (approved or pending)        →
    ClusterSecret (sealed, if newer)     →
    Snapshot or Delta                    →
                                         ←     Applied, Claim, Report, Notice … at any time
    Delta, Pace, Resync, Removed …       →

Version 2 added Upgrade, UpgradeFailed, SecretKept, Findings, FetchHistory and History, round trip and loss to Report,
the option `probes`, and says to a pending node nothing of its cluster: what it must know of it comes with the Welcome
that approves it. Within a version the schema is strict: an unknown type, an unknown field or a wrong value is a
MessageError with a sentence for the sender. Frames that go to all nodes (Snapshot, Delta) hold no secret.
Addresses travel as text; durations as ages, because two machines' clocks differ.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal, TypeVar, cast

import msgspec

from kubespan.core.endpoint import LISTEN_PORT
from kubespan.core.options import Options

VERSIONS: tuple[int, ...] = (2, 1)
"""Protocol versions that this release speaks, newest first: the present one and the one before."""

AGENT_PATH = "/agent/v1"
ENROL_PATH = "/agent/v1/enrol"
NONCE_BYTES = 32
MAX_TEXT = 256

FRAME_BASE = 16 * 1024
FRAME_PER_MEMBER = 256
REPORT_SECONDS = 30.0
"""A node reports at least this often; spec/kubespan.md §9 asks for a status no older than 30 s."""

Status = Literal["pending", "approved"]

Text = Annotated[str, msgspec.Meta(max_length=MAX_TEXT)]
"""A name or a word; whatever may be longer is a plain `str`, bounded by the frame's size alone."""
Word = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_TEXT)]
Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
"""A number that a database can hold."""
Age = Annotated[int, msgspec.Meta(ge=-1, le=2**63 - 1)]
"""Milliseconds ago; -1 for never."""
Seconds = Annotated[float, msgspec.Meta(ge=0)]
Moment = Annotated[float, msgspec.Meta(ge=0, le=253_402_300_799)]
"""Unix time, to the end of the year 9999."""
State = Annotated[int, msgspec.Meta(ge=0, le=2)]
RoundTrip = Annotated[int, msgspec.Meta(ge=-1, le=2**31 - 1)]
"""Microseconds; -1 for not measured."""
Loss = Annotated[int, msgspec.Meta(ge=-1, le=1000)]
"""Per mille of the probes in the window (kubespan.core.probe); -1 for not measured."""
Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]


class MessageError(ValueError):
    """What came is not a message of the version agreed; the text is meant for the sender."""


class VersionError(MessageError):
    """The two ends speak no common version; the text says which must be upgraded."""


class Revision(msgspec.Struct, frozen=True, order=True, array_like=True, forbid_unknown_fields=True):
    """A cluster's place in its change log: a restored backup starts a new epoch; numbers count within it."""

    epoch: Count
    number: Count

    def __str__(self) -> str:
        return f"{self.epoch}.{self.number}"


class _Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of all messages: nothing unknown gets in."""


class _Message(_Strict, frozen=True, tag_field="type", tag=str.lower):
    """A frame of the conversation; its tag is the class name in lower case."""


# Enrolment: one HTTP request, so that a script can make it too.


class EnrolRequest(_Strict, frozen=True):
    """A machine asks to join: public keys only, the private ones stay where they were made."""

    versions: tuple[int, ...]
    token: Text
    node_id: Word
    name: Word
    public_key: Text
    """WireGuard public key, base64."""
    verify_key: Text
    """Ed25519 public key, base64; later connections are signed with its private half."""
    interface_id: Text
    """The low 64 bits of its KubeSpan address, as 16 hex digits (spec/kubespan.md §1.5)."""
    hostname: Text = ""
    operating_system: Text = ""
    agent_version: Text = ""
    listen_port: Port = LISTEN_PORT
    addresses: tuple[Text, ...] = ()
    networks: tuple[Text, ...] = ()

    def __repr__(self) -> str:
        return f"EnrolRequest(node_id={self.node_id!r}, name={self.name!r})"  # the token stays out of logs


class RefusedClaim(_Strict, frozen=True):
    """An address or network that a machine claimed and that is not believed."""

    claim: str
    reason: str
    """One sentence. It may name other members, so only an approved node hears it."""


class EnrolReply(_Strict, frozen=True):
    """What a machine must keep to come back; of its cluster a pending node learns only the console's name for it."""

    version: int
    status: Status
    cluster: str
    """The console's own name of the cluster (a UUID); the cluster id of discovery is in `cluster_id`."""
    cluster_id: str
    """Empty for a pending node, as the two other fields on its cluster are."""
    cluster_name: str
    console_key: str
    """Identifies the console; part of what a node signs, so that another console's challenge is useless."""
    node_id: str
    address: str
    """The node's KubeSpan address, which follows from cluster id and interface id."""
    refused: tuple[RefusedClaim, ...] = ()
    """What it claimed and others will not route to it; the rest of the request was good."""


class Refusal(_Strict, frozen=True):
    """The body of a refused request, and of the last frame before a connection is closed."""

    code: str
    reason: str
    """What was wrong, where, and what to do, in one or two sentences."""


# Console → agent.


class Challenge(_Message, frozen=True):
    """The first frame: sign this."""

    nonce: str
    versions: tuple[int, ...]


class Welcome(_Message, frozen=True, omit_defaults=True):
    """The hello was good; sent again when a pending node is approved."""

    version: int
    status: Status
    console_time: float
    """Unix time at the console; a skew is shown, never an error."""
    index: Count | None = None
    """The node's own member index; none while it is pending."""
    report_seconds: Seconds = REPORT_SECONDS
    frame_limit: Count = FRAME_BASE
    cluster_id: str = ""
    """Of an approved node's cluster, since version 2; a node that was pending at its enrolment learns it here."""
    cluster_name: str = ""
    address: str = ""
    """The node's KubeSpan address, likewise."""
    discovery: str = ""
    """The URL of the discovery service that knows the cluster, since version 2; empty where there is none."""


class ClusterSecret(_Message, frozen=True):
    """The cluster secret, sealed to the node's WireGuard public key (kubespan.core.sealing)."""

    generation: Count
    sealed: str


class Member(_Strict, frozen=True):
    """One machine of the mesh as every other one must know it; the columns of an affiliate (spec/kubespan.md §2.2)."""

    index: Count
    """Its number within the cluster, never used again for another machine."""
    node_id: Word
    name: Text
    public_key: Text
    address: Text
    addresses: tuple[str, ...] = ()
    endpoints: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()
    excluded: tuple[str, ...] = ()
    hostname: Text = ""
    machine_type: Text = "worker"
    operating_system: Text = ""


class Snapshot(_Message, frozen=True):
    """Everything a node needs but the secret, as of a revision."""

    revision: Revision
    secret_generation: Count
    options: Options
    members: tuple[Member, ...]


class Delta(_Message, frozen=True):
    """What changed after `since`; each entry is the whole present value, so applying it twice does no harm.

    It may be applied by whoever holds any revision from `since` to `revision` of the same epoch.
    """

    since: Revision
    revision: Revision
    secret_generation: Count
    options: Options | None = None
    changed: tuple[Member, ...] = ()
    gone: tuple[Count, ...] = ()


class Pace(_Message, frozen=True):
    """Somebody looks at this node's links: report every `seconds` for the next `lease` seconds."""

    seconds: Seconds
    lease: Seconds


class Resync(_Message, frozen=True):
    """The console has a gap: send a complete report (and a claim)."""


class TryAgain(_Message, frozen=True):
    """An operator asks: take the next endpoint of these members now, whatever their state's patience."""

    members: tuple[Count, ...]


class FetchHistory(_Message, frozen=True):
    """Somebody wants to see this link's past, as this machine kept it; since version 2."""

    request: Count
    """Comes back with the answer."""
    member: Count


class Upgrade(_Message, frozen=True):
    """Fetch this agent from the console and become it; since version 2."""

    version: Word
    sha256: Word
    """Of the file, in hex."""
    size: Count
    """Bytes of the file."""


class Removed(_Message, frozen=True):
    """The node is no longer of the cluster: take the mesh down and forget the secret."""

    reason: str


class ClaimRefused(_Message, frozen=True):
    """Part of the last claim is not believed; the conversation goes on."""

    refused: tuple[RefusedClaim, ...]


class Refused(_Message, frozen=True):
    """The last frame before the console closes: what was wrong with what the agent sent."""

    code: str
    reason: str


# Agent → console.


class Hello(_Message, frozen=True):
    """Who connects, proved by a signature over `challenge_text` with the node's Ed25519 key (base64)."""

    version: int
    cluster: Text
    node_id: Word
    signature: Text
    held: Revision | None = None
    secret_generation: Count = 0
    """The newest cluster secret it holds; 0 for none."""
    agent_version: Text = ""
    agent_time: Moment = 0.0


class Applied(_Message, frozen=True):
    """The node's WireGuard, routes and rules now follow this revision; with `fault`, why they do not."""

    revision: Revision
    fault: str = ""


class Claim(_Message, frozen=True):
    """What the machine says of itself; nothing of it is believed unchecked (trust)."""

    hostname: Text
    operating_system: Text
    agent_version: Text
    backend: Literal["kernel", "userspace"]
    listen_port: Port
    addresses: tuple[Text, ...]
    networks: tuple[Text, ...] = ()


class Report(_Message, frozen=True, omit_defaults=True):
    """Peer statuses in columns of equal length, by member index; only what changed, or everything when `complete`.

    The last two columns are left out where nothing of these peers was measured, and to a console of version 1.
    """

    number: Count
    """Counts the reports of one connection from 0; a gap makes the console ask for a Resync."""
    complete: bool
    revision: Revision
    members: tuple[Count, ...] = ()
    states: tuple[State, ...] = ()
    """0 unknown, 1 up, 2 down (spec/kubespan.md §2.2)."""
    endpoints: tuple[Text, ...] = ()
    """As WireGuard has it; empty for none."""
    handshakes: tuple[Age, ...] = ()
    """Age of the last handshake."""
    received: tuple[Count, ...] = ()
    sent: tuple[Count, ...] = ()
    rtts: tuple[RoundTrip, ...] = ()
    """Smoothed round trip through the tunnel; since version 2."""
    losses: tuple[Loss, ...] = ()
    """Since version 2."""

    def __post_init__(self) -> None:
        columns = [self.states, self.endpoints, self.handshakes, self.received, self.sent]
        columns += [column for column in (self.rtts, self.losses) if column]
        if any(len(column) != len(self.members) for column in columns):
            raise ValueError("report: all columns must have the length of members")


class Notice(_Message, frozen=True):
    """Something at the machine that an operator should know: drift that was healed, a fault that was met."""

    kind: Literal["drift", "fault"]
    text: str


class UpgradeFailed(_Message, frozen=True):
    """The agent that was asked for is not the one that runs: the old one went on, or came back; since version 2."""

    version: Word
    reason: str


class SecretKept(_Message, frozen=True):
    """The cluster secret of this generation is stored here and may be switched to; since version 2."""

    generation: Count


class Finding(_Strict, frozen=True):
    """Something about the machine that keeps the mesh from working, or may."""

    code: Word
    text: str
    """What was found and where, in a sentence."""
    remedy: str
    """What to do, as a command where there is one."""


class Findings(_Message, frozen=True):
    """All that the machine's preflight finds now; takes the place of what it said before; since version 2."""

    findings: tuple[Finding, ...]


class Track(_Strict, frozen=True):
    """One ring of a link's past (kubespan.core.history), its oldest point first."""

    seconds: Count
    """That each point is over."""
    age: Count
    """Milliseconds since the newest point ended."""
    points: str
    """Eight bytes each, base64."""


class History(_Message, frozen=True):
    """A link's past, as its machine kept it; nothing of a link that it never had; since version 2."""

    request: Count
    member: Count
    tracks: tuple[Track, ...] = ()


FromConsole = (
    Challenge
    | Welcome
    | ClusterSecret
    | Snapshot
    | Delta
    | Pace
    | Resync
    | TryAgain
    | Removed
    | ClaimRefused
    | Refused
    | Upgrade
    | FetchHistory
)
FromAgent = Hello | Applied | Claim | Report | Notice | UpgradeFailed | SecretKept | Findings | History

# Version 1: what it did not know is refused in it, as a release that speaks no other refuses it.

_of_now: dict[type[msgspec.Struct], type[msgspec.Struct]] = {}
"""By a form of version 1: the one that it is since."""


def _of_1(kind: type[msgspec.Struct], *added: str, **others: Any) -> Any:
    """The form that a message had in version 1: without the fields added since, with `others` as types of some."""
    fields = [
        (one.name, others.get(one.name, one.type), msgspec.field(default=one.default))
        for one in msgspec.structs.fields(kind)
        if one.name not in added
    ]
    config = kind.__struct_config__
    form = msgspec.defstruct(
        kind.__name__, fields, kw_only=True, forbid_unknown_fields=True, tag_field=config.tag_field, tag=config.tag
    )
    _of_now[form] = kind
    return form


def _bring_up(message: Any) -> Any:
    """Give it in the form of now, with the defaults of what was added; the columns of a report are not looked at."""
    kind = _of_now.get(type(message))
    if kind is None:
        return message
    return kind(**{name: _bring_up(getattr(message, name)) for name in message.__struct_fields__})


_Welcome1 = _of_1(Welcome, "cluster_id", "cluster_name", "address", "discovery")
_Report1 = _of_1(Report, "rtts", "losses")
_Options1 = _of_1(Options, "probes")
_Snapshot1 = _of_1(Snapshot, options=_Options1)
_Delta1 = _of_1(Delta, options=_Options1 | None)
_FromConsole1 = (
    Challenge
    | _Welcome1
    | ClusterSecret
    | _Snapshot1
    | _Delta1
    | Pace
    | Resync
    | TryAgain
    | Removed
    | ClaimRefused
    | Refused
)
_FromAgent1 = Hello | Applied | Claim | _Report1 | Notice

_encoder = msgspec.json.Encoder()
_from_console: dict[int, msgspec.json.Decoder[FromConsole]] = {
    2: msgspec.json.Decoder(FromConsole),
    1: msgspec.json.Decoder(_FromConsole1),
}
_from_agent: dict[int, msgspec.json.Decoder[FromAgent]] = {
    2: msgspec.json.Decoder(FromAgent),
    1: msgspec.json.Decoder(_FromAgent1),
}

Body = TypeVar("Body", bound=_Strict)


def dump(message: _Strict) -> bytes:
    """Encode a message as UTF-8 JSON."""
    return _encoder.encode(message)


def settings_for(frame: str, version: int) -> str:
    """Leave out of an encoded Snapshot or Delta what that version does not know; the frame itself where that is all.

    Version 1 knows no option `probes`, which is there only while somebody has switched it.
    """
    if version > 1 or '"probes":' not in frame:
        return frame
    settings = msgspec.json.decode(frame)
    options = settings.get("options") or {}
    options.pop("probes", None)
    return _encoder.encode(settings).decode()


def parse_from_console(frame: bytes | str, version: int = VERSIONS[0]) -> FromConsole:
    """Read a frame of the console in the version agreed; raises MessageError."""
    return _parse(_from_console[version], frame)


def parse_from_agent(frame: bytes | str, version: int = VERSIONS[0]) -> FromAgent:
    """Read a frame of an agent in the version agreed; raises MessageError."""
    return _parse(_from_agent[version], frame)


def parse_body(body: bytes, form: type[Body]) -> Body:
    """Read the body of an enrolment request or its reply; raises MessageError."""
    return _parse(msgspec.json.Decoder(form), body)


T = TypeVar("T")


def _parse(decoder: msgspec.json.Decoder[T], frame: bytes | str) -> T:
    try:
        return cast("T", _bring_up(decoder.decode(frame)))
    except RecursionError:
        raise MessageError("not a message of this protocol version: nested too deeply") from None
    except (msgspec.DecodeError, ValueError) as error:  # the latter where columns differ, or for what is not UTF-8
        _check_versions(frame)
        raise MessageError(f"not a message of this protocol version: {error}") from None


class _Offer(msgspec.Struct):
    """As much of another version's message as tells that it is one."""

    versions: tuple[int, ...]


_offer = msgspec.json.Decoder(_Offer)


def _check_versions(frame: bytes | str) -> None:
    """Raise VersionError for a message whose sender speaks none of our versions: its fields are not ours to judge."""
    try:
        offer = _offer.decode(frame)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return
    negotiate(offer.versions)


def negotiate(offered: Iterable[int], spoken: Sequence[int] = VERSIONS) -> int:
    """Pick the newest version that both ends speak; raises VersionError."""
    offered = sorted(offered, reverse=True)
    for version in offered:
        if version in spoken:
            return version
    ours = ", ".join(map(str, spoken))
    theirs = ", ".join(map(str, offered)) or "none"
    raise VersionError(f"no common protocol version: one end speaks {theirs}, the other {ours}; upgrade the older one")


def frame_limit(members: int) -> int:
    """Bytes of the largest frame that a cluster of this many members can need; more is refused.

    The console counts the member indexes that it ever gave.
    """
    return FRAME_BASE + FRAME_PER_MEMBER * members


def challenge_text(console_key: str, cluster: str, node_id: str, nonce: str) -> bytes:
    """What a node signs: purpose, console, cluster, node and nonce, each with its length so that none collide."""
    parts = ("kubespan-web agent hello 1", console_key, cluster, node_id, nonce)
    return b"".join(b"%d:%b," % (len(raw), raw) for raw in (part.encode() for part in parts))


def parse_key(text: str, what: str) -> bytes:
    """Read 32 bytes of standard base64, padded; raises MessageError that names `what` but not the text."""
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise MessageError(f"{what} is not standard base64") from None
    if base64.b64encode(raw).decode() != text:
        # Two spellings of one key would be two nodes, and never compare equal to what WireGuard reports.
        raise MessageError(f"{what} is not standard base64 as WireGuard writes it")
    if len(raw) != 32:  # noqa: PLR2004 - the length of every key here
        raise MessageError(f"{what} must be 32 bytes, got {len(raw)}")
    return raw
