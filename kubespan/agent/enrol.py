"""Joining a cluster: keys are made and kept, one request is sent, the reply is checked and kept.

Safe to repeat at any point: keys are kept before they are sent, and the console knows a node by its keys, so a request
whose reply was lost is answered again and costs no second use of the token.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import IPv6Address
from typing import Any

import msgspec

from kubespan import __version__
from kubespan.agent.sockets import MARK, explain, may_mark
from kubespan.agent.store import DEFAULT_STATE_DIR, ENROLLING, AgentState, Enrolment, Store
from kubespan.agent.trust import ConsoleUrl, dump_certificate, fetch_pinned, tls_context
from kubespan.core.cluster import ula_prefix
from kubespan.core.endpoint import LISTEN_PORT
from kubespan.core.identity import (
    KeyPair,
    encode_node_id,
    interface_id,
    make_signing_key,
    node_address,
    random_mac,
)
from kubespan.core.messages import (
    ENROL_PATH,
    MAX_TEXT,
    VERSIONS,
    EnrolReply,
    EnrolRequest,
    MessageError,
    Refusal,
    parse_body,
)

CONNECT_SECONDS = 10.0
READ_SECONDS = 30.0
MAX_REPLY = 64 * 1024
"""Bytes of a reply; a whole one has about 600."""

_OK = 200


class EnrolError(Exception):
    """This machine did not join; the sentence says why, and nothing but its keys was kept."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What the host says of itself at enrolment."""

    hostname: str
    operating_system: str
    addresses: tuple[str, ...]
    mac: bytes | None
    """Of the interface that spec/kubespan.md §1.5 picks; none where there is no such interface."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What the operator asked for."""

    url: str
    token: str = field(repr=False)
    pin: str = ""
    insecure_http: bool = False
    name: str = ""
    listen_port: int = LISTEN_PORT
    data_plane: str = "auto"
    networks: tuple[str, ...] = ()
    exempt_ports: tuple[int, ...] = ()
    """TCP ports of this machine whose connections stay outside the tunnel, besides those of a console on it."""


@dataclass(frozen=True, slots=True)
class Identity:
    """This machine's keys, whole."""

    keys: KeyPair
    node_id: str
    state: AgentState


def enrol(store: Store, wish: Wish, machine: Machine) -> EnrolReply:
    """Join; raises EnrolError, TrustError or StoreError."""
    url = ConsoleUrl.parse(wish.url, insecure_http=wish.insecure_http)
    with store.lock(ENROLLING):
        _refuse_second_cluster(store, url, wish)
        identity = make_identity(store, machine.mac)
        certificate = _look_at(url, wish.pin)
        reply = _ask(url, certificate, build_request(wish, machine, identity))
        check_reply(reply, identity)
        before = identity.state.enrolment
        if before is not None and (before.cluster != reply.cluster or reply.status == "pending"):
            store.forget_settings()  # the secret of a cluster that this machine leaves, or was removed from
        store.save_agent(accept(wish, identity.state, reply, certificate))
    return reply


def _refuse_second_cluster(store: Store, url: ConsoleUrl, wish: Wish) -> None:
    """One cluster a machine: where it is enrolled at another console, that one is left first, on purpose."""
    state = store.agent()
    if state is None or state.enrolment is None:
        return
    present = state.enrolment
    if present.alone:
        raise EnrolError(
            "this machine is of a cluster without a console, and a machine is of one cluster only. "
            f"To leave that one: kubespan-agent leave{state_option(store)}; then enrol again"
        )
    there = ConsoleUrl.parse(present.url, insecure_http=True)
    same_place = (url.host, url.port) == (there.host, there.port)
    if same_place or (wish.pin and wish.pin == present.pin):  # a console that moved keeps its certificate
        return
    cluster = f"the cluster {present.cluster_name}" if present.cluster_name else "a cluster"
    raise EnrolError(
        f"this machine is enrolled in {cluster} of the console {present.url}, and a machine is of one cluster only. "
        f"To leave that one: kubespan-agent leave{state_option(store)}; then enrol again"
    )


def state_option(store: Store) -> str:
    """What a command of the agent needs besides, to find this state directory."""
    return "" if str(store.directory) == DEFAULT_STATE_DIR else f" --state-dir {store.directory}"


def make_identity(store: Store, mac: bytes | None, random: Callable[[int], bytes] = os.urandom) -> Identity:
    """Return the machine's keys; those that it has not got yet are made and kept first.

    The hardware address is kept with them: the node address must not change when an interface is added, renamed or
    missing at some later start, and where there is none by the rule, it is made once.
    """
    keys = store.keys()
    node_id = store.node_id()
    state = store.agent()
    if keys is None:
        keys = KeyPair.make(random(32))
        store.create_keys(keys)
    if node_id is None:
        node_id = encode_node_id(random(32))
        store.create_node_id(node_id)
    if state is None:
        signing_key, verify_key = make_signing_key(random(32))
        made = (mac or random_mac(random(6))).hex(":")
        state = AgentState(signing_key=signing_key, verify_key=verify_key, mac=made)
        store.save_agent(state)
    return Identity(keys, node_id, state)


def build_request(wish: Wish, machine: Machine, identity: Identity) -> EnrolRequest:
    """Put together what the console may know: public keys only."""
    return EnrolRequest(
        versions=VERSIONS,
        token=wish.token,
        node_id=identity.node_id,
        name=wish.name or machine.hostname,
        public_key=identity.keys.public_key,
        verify_key=identity.state.verify_key,
        interface_id=parse_mac_interface(identity.state.mac).hex(),
        hostname=machine.hostname[:MAX_TEXT],
        operating_system=machine.operating_system[:MAX_TEXT],
        agent_version=__version__,
        listen_port=wish.listen_port,
        addresses=machine.addresses,
        networks=wish.networks,
    )


def parse_mac_interface(mac: str) -> bytes:
    """The interface id of a hardware address in text form."""
    return interface_id(bytes.fromhex(mac.replace(":", "")))


def check_reply(reply: EnrolReply, identity: Identity) -> None:
    """Refuse a reply that is not for this machine, or gives it an address that does not follow from the cluster."""
    if reply.version not in VERSIONS:
        raise EnrolError(f"the console answers in protocol version {reply.version}, which this release does not speak")
    if reply.node_id != identity.node_id:
        raise EnrolError("the console answered for another machine")
    if reply.status == "pending" and not reply.cluster_id:
        return  # it learns of the cluster once it is approved
    try:
        check_address(reply.cluster_id, reply.address, identity.state.mac)
    except ValueError as error:
        raise EnrolError(str(error)) from None


def check_address(cluster_id: str, address: str, mac: str) -> IPv6Address:
    """Give the machine's KubeSpan address; raises ValueError when it is not the one that follows from the cluster."""
    if not cluster_id:
        raise ValueError("the console does not say of which cluster this machine is")
    expected = node_address(ula_prefix(cluster_id), parse_mac_interface(mac))
    if address != str(expected):
        raise ValueError(f"the console gives this machine the address {address[:64]}, it must be {expected}")
    return expected


def accept(wish: Wish, state: AgentState, reply: EnrolReply, certificate: bytes | None) -> AgentState:
    """What to keep of a good reply."""
    enrolment = Enrolment(
        url=wish.url,
        pin=wish.pin,
        certificate=dump_certificate(certificate),
        insecure_http=wish.insecure_http,
        cluster=reply.cluster,
        cluster_id=reply.cluster_id,
        cluster_name=reply.cluster_name,
        console_key=reply.console_key,
        node_id=reply.node_id,
        address=reply.address,
    )
    return msgspec.structs.replace(
        state,
        name=wish.name,
        listen_port=wish.listen_port,
        data_plane=wish.data_plane,
        networks=wish.networks,
        exempt_ports=wish.exempt_ports or msgspec.UNSET,
        enrolment=enrolment,
    )


def _look_at(url: ConsoleUrl, pin: str) -> bytes | None:
    if not pin:
        return None
    try:
        return fetch_pinned(url, pin)
    except OSError as error:
        raise _failure(url, error) from None


def _ask(url: ConsoleUrl, certificate: bytes | None, request: EnrolRequest) -> EnrolReply:
    status, body = _post(url, certificate, msgspec.json.encode(request))
    try:
        if status == _OK:
            return parse_body(body, EnrolReply)
        refusal = parse_body(body, Refusal)
    except MessageError:
        raise EnrolError(
            f"what answers at {url.at(ENROL_PATH)} is not a console of this kind (HTTP status {status}); check the URL"
        ) from None
    raise EnrolError(f"the console refused: {refusal.reason} ({refusal.code})")


def _post(url: ConsoleUrl, certificate: bytes | None, body: bytes) -> tuple[int, bytes]:
    import urllib3  # noqa: PLC0415 - one MB that an agent that runs has no use for

    from kubespan.agent.patience import is_late, make_patience  # noqa: PLC0415 - likewise

    options = [*urllib3.connection.HTTPConnection.default_socket_options, *([MARK] if may_mark() else [])]
    tls: dict[str, Any] = {}
    if url.secure:
        tls["ssl_context"] = tls_context(url, certificate)
    if certificate is not None:
        tls["assert_hostname"] = False  # the context trusts this one certificate, whatever names stand in it
    with urllib3.PoolManager(socket_options=options, **tls) as pool:
        try:
            response = pool.request(
                "POST",
                url.at(ENROL_PATH),
                body=body,
                headers={"Content-Type": "application/json", "Accept": "application/json"},
                timeout=urllib3.Timeout(connect=CONNECT_SECONDS, read=READ_SECONDS),
                retries=make_patience(),
                redirect=False,
                preload_content=False,
            )
            return response.status, response.read(MAX_REPLY)
        except urllib3.exceptions.HTTPError as error:
            if is_late(getattr(error, "reason", None)):
                raise EnrolError(
                    f"the console at {url.host} port {url.port} takes the request and does not answer: it is busy or "
                    "stuck, and its log says more; repeat this later"
                ) from None
            raise _failure(url, _innermost(error)) from None


def _innermost(error: BaseException) -> BaseException:
    """The reason of what urllib3 wraps several times."""
    wrapped = (getattr(error, "reason", None), error.__cause__, *error.args)
    inner = next((one for one in wrapped if isinstance(one, BaseException)), None)
    return error if inner is None else _innermost(inner)


def _failure(url: ConsoleUrl, error: BaseException) -> EnrolError:
    if isinstance(error, ssl.SSLCertVerificationError):
        return EnrolError(
            f"the console at {url.host} port {url.port} shows a certificate that this machine does not trust "
            f"({error.verify_message}): take the pin from its enrolment page, and give it by --pin"
        )
    reason = explain(error) if isinstance(error, OSError) else str(error).rpartition(": ")[2]
    return EnrolError(f"cannot reach the console at {url.host} port {url.port}: {reason}")
