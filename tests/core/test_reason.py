"""Why a link is not up: a table of named cases."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubespan.core.peer_status import PeerState
from kubespan.core.reason import CASES, End, Link, Reason, Sight, explain

UP = Sight(state=PeerState.UP, endpoint="192.0.2.1:51820", handshake=30.0, received=9000)
DOWN = Sight(state=PeerState.DOWN, endpoint="192.0.2.1:51820", handshake=600.0)
NEVER_MET = replace(DOWN, handshake=None)
TRYING = Sight(state=PeerState.UNKNOWN, endpoint="192.0.2.1:51820")
WAITING = Sight(state=PeerState.UNKNOWN)
MUTE = replace(UP, loss=1.0)
UNANSWERED = replace(UP, measured=False, lasting=3600.0)
TAKEN = ("10.0.0.5 is an address of charlie already",)


def end(name: str, sight: Sight | None = DOWN, **known: object) -> End:
    return End(**{"name": name, "endpoints": 3, "own": 1, "sight": sight} | known)  # type: ignore[arg-type]


def alpha(sight: Sight | None = DOWN, **known: object) -> End:
    return end("alpha", sight, **known)


def bravo(sight: Sight | None = DOWN, **known: object) -> End:
    return end("bravo", sight, **known)


TABLE = [
    pytest.param(Link(alpha(), bravo(), enabled=False), "off", "KubeSpan is switched off in this cluster.", id="off"),
    pytest.param(
        Link(alpha(), bravo(None, standing="pending")),
        "pending",
        "bravo waits for approval, and is nobody's peer yet.",
        id="not enrolled yet",
    ),
    pytest.param(
        Link(alpha(None, standing="removed"), bravo()),
        "removed",
        "alpha was removed from the cluster.",
        id="removed",
    ),
    pytest.param(
        Link(alpha(), bravo(None, standing="left", talos=True)),
        "left",
        "bravo has left discovery, and nobody heard it any more.",
        id="left discovery long ago",
    ),
    pytest.param(
        Link(alpha(), bravo(fault="no WireGuard.", behind=2)),
        "fault",
        "bravo cannot apply its settings: no WireGuard.",
        id="settings cannot be applied",
    ),
    pytest.param(
        Link(alpha(stopping=("firewall-closed", "rp-filter")), bravo()),
        "obstacle",
        "Something on alpha keeps traffic out of the mesh (firewall-closed, rp-filter).",
        id="preflight found what stops traffic",
    ),
    pytest.param(
        Link(alpha(), bravo(skew=-3600.0)),
        "clock",
        "The clock of bravo is behind: if it was set back, its handshakes are refused as old.",
        id="clock set back",
    ),
    pytest.param(
        Link(alpha(), bravo(None, connected=False)),
        "away",
        "The agent of bravo is away: the machine is off, or cannot reach this console.",
        id="agent not connected",
    ),
    pytest.param(
        Link(alpha(), bravo(None, connected=False, talos=True)),
        "unlisted",
        "Discovery lists bravo no more: it is switched off, or cannot reach the discovery service.",
        id="Talos machine that discovery lists no more",
    ),
    pytest.param(
        Link(alpha(), bravo(behind=1)),
        "behind",
        "bravo is behind by 1 revision, and may not know the other end as it is now.",
        id="one revision behind",
    ),
    pytest.param(
        Link(alpha(behind=1200), bravo()),
        "behind",
        "alpha is behind by 1,200 revisions, and may not know the other end as it is now.",
        id="many revisions behind",
    ),
    pytest.param(
        Link(alpha(DOWN), bravo(DOWN, refused=TAKEN, endpoints=0, own=0)),
        "conflict",
        "Nobody tries bravo at its own address: 10.0.0.5 is an address of charlie already.",
        id="address conflict, and no endpoint left",
    ),
    pytest.param(
        Link(alpha(TRYING), bravo(TRYING, refused=TAKEN, endpoints=1, own=0), known=61.0),
        "conflict",
        "Nobody tries bravo at its own address, and it answers nowhere else: "
        "10.0.0.5 is an address of charlie already.",
        id="address conflict, and what a NAT has for it is silent",
    ),
    pytest.param(
        Link(alpha(DOWN), bravo(None, talos=True, refused=TAKEN, endpoints=0, own=0)),
        "conflict",
        "Nobody tries bravo at its own address: 10.0.0.5 is an address of charlie already.",
        id="address conflict of a Talos machine",
    ),
    pytest.param(
        Link(alpha(None, endpoints=0, own=0), bravo(None, refused=TAKEN, endpoints=0, own=0)),
        "conflict",
        "Nobody tries bravo at its own address: 10.0.0.5 is an address of charlie already.",
        id="address conflict, and neither can begin",
    ),
    pytest.param(
        Link(alpha(DOWN), bravo(DOWN, refused=TAKEN)),
        "silent",
        "bravo has not answered alpha at any of its 3 endpoints for 10 m.",
        id="silent at addresses of its own, whatever else it claims",
    ),
    pytest.param(
        Link(alpha(TRYING), bravo(TRYING, refused=TAKEN, own=0), known=30.0),
        "trying",
        "alpha is trying bravo at 192.0.2.1:51820.",
        id="an address is refused, and others are being tried",
    ),
    pytest.param(
        Link(alpha(WAITING, endpoints=0), bravo(WAITING, endpoints=0)),
        "no-endpoint",
        "No endpoint is known of either end, so neither can begin.",
        id="no endpoint known",
    ),
    pytest.param(
        Link(alpha(WAITING, endpoints=0), bravo(WAITING, endpoints=0, filtered=2)),
        "filtered",
        "The cluster's endpoint filters leave out every endpoint that is known of bravo.",
        id="filter excludes all endpoints",
    ),
    pytest.param(
        Link(alpha(DOWN), bravo(DOWN, endpoints=0, own=0, filtered=2)),
        "filtered",
        "The cluster's endpoint filters leave out every endpoint that is known of bravo, "
        "and bravo does not reach alpha either.",
        id="filter excludes all endpoints of one end, and the other is not reached",
    ),
    pytest.param(
        Link(alpha(UP), bravo()),
        "one-way",
        "alpha hears bravo, but bravo does not hear alpha: one direction only.",
        id="one direction only",
    ),
    pytest.param(
        Link(alpha(), bravo(UP)),
        "one-way",
        "bravo hears alpha, but alpha does not hear bravo: one direction only.",
        id="the other direction only",
    ),
    pytest.param(
        Link(alpha(replace(NEVER_MET, received=296)), bravo(NEVER_MET)),
        "one-way",
        "alpha hears bravo, but bravo does not hear alpha: one direction only.",
        id="one direction only, of two that never met",
    ),
    pytest.param(
        Link(alpha(replace(DOWN, hears=False)), bravo(replace(DOWN, received=9000, hears=True))),
        "one-way",
        "bravo hears alpha, but alpha does not hear bravo: one direction only.",
        id="one direction only, since it was cut",
    ),
    pytest.param(
        Link(alpha(replace(DOWN, received=9000)), bravo(NEVER_MET)),
        "silent",
        "bravo has not answered alpha at any of its 3 endpoints for 10 m.",
        id="what was received before tells nothing",
    ),
    pytest.param(
        Link(alpha(WAITING), bravo(TRYING)),
        "trying",
        "bravo is trying alpha at 192.0.2.1:51820.",
        id="still trying",
    ),
    pytest.param(
        Link(alpha(TRYING), bravo(TRYING), known=60.0),
        "trying",
        "alpha is trying bravo at 192.0.2.1:51820.",
        id="three endpoints have had their turn, and the first one again not yet",
    ),
    pytest.param(
        Link(alpha(TRYING), bravo(TRYING), known=61.0),
        "silent",
        "bravo has not answered alpha at any of its 3 endpoints so far.",
        id="every endpoint was tried in vain, and the next one has its turn",
    ),
    pytest.param(
        Link(alpha(replace(TRYING, handshake=240.0)), bravo(replace(TRYING, handshake=240.0)), known=9e9),
        "trying",
        "alpha is trying bravo at 192.0.2.1:51820.",
        id="trying again, while the session may still live",
    ),
    pytest.param(
        Link(alpha(replace(TRYING, handshake=241.0)), bravo(replace(TRYING, handshake=241.0)), known=9e9),
        "silent",
        "bravo has not answered alpha at any of its 3 endpoints for 4 m.",
        id="every endpoint was tried since the session ended",
    ),
    pytest.param(
        Link(alpha(UP), bravo(TRYING), known=61.0),
        "one-way",
        "alpha hears bravo, but bravo does not hear alpha: one direction only.",
        id="one direction only, and the next endpoint has its turn",
    ),
    pytest.param(
        Link(alpha(translated=True), bravo(translated=True)),
        "nat",
        "alpha and bravo are both behind a NAT, and neither lets the other in.",
        id="both behind NAT",
    ),
    pytest.param(
        Link(alpha(NEVER_MET), bravo(NEVER_MET, translated=True)),
        "silent",
        "bravo has not answered alpha at any of its 3 endpoints so far.",
        id="endpoints tried and silent",
    ),
    pytest.param(
        Link(alpha(), bravo(endpoints=1)),
        "silent",
        "bravo has not answered alpha at its endpoint for 10 m.",
        id="silent after it was up",
    ),
    pytest.param(
        Link(alpha(), bravo(None, endpoints=0)),
        "silent",
        "alpha knows no endpoint of bravo, and bravo does not reach it either.",
        id="silent, and it could not be tried",
    ),
    pytest.param(
        Link(alpha(None), bravo(None)),
        "unsaid",
        "Neither end has said anything of this link yet.",
        id="nothing said",
    ),
    pytest.param(
        Link(alpha(None, talos=True), bravo(None, talos=True)),
        "unsaid",
        "Both ends are Talos machines: they report to nobody, so nothing is known of this link.",
        id="two Talos machines",
    ),
    pytest.param(
        Link(alpha(MUTE), bravo(MUTE)),
        "mute",
        "Handshakes pass between alpha and bravo, but no probe is answered in either direction.",
        id="handshake but no traffic",
    ),
    pytest.param(
        Link(alpha(replace(UP, loss=0.0)), bravo(MUTE)),
        "mute",
        "Handshakes pass, but alpha answers no probe of bravo.",
        id="handshake but no traffic in one direction",
    ),
    pytest.param(
        Link(alpha(MUTE), bravo(None, talos=True)),
        "mute",
        "Handshakes pass, but bravo answers no probe of alpha.",
        id="handshake but no traffic, to one that reports nothing",
    ),
    pytest.param(
        Link(alpha(replace(MUTE, handshake=181.0)), bravo(replace(MUTE, handshake=181.0))),
        "fading",
        "Nothing passes between alpha and bravo any more, and no handshake either.",
        id="cut, and not down yet",
    ),
    pytest.param(
        Link(alpha(replace(UP, loss=0.25)), bravo(replace(UP, loss=0.65))),
        "lossy",
        "alpha does not answer 65 % of the probes of bravo, though handshakes pass.",
        id="most probes are lost",
    ),
    pytest.param(
        Link(alpha(replace(UP, loss=0.0, arrived=0.04)), bravo(replace(UP, loss=0.0, arrived=1.0))),
        "mtu",
        "Of the bytes that alpha sent in the last minutes 4 % arrived at bravo.",
        id="small packets pass, large ones do not",
    ),
    pytest.param(
        Link(alpha(UNANSWERED, probes=True), bravo(replace(UNANSWERED, received=9**9), probes=True)),
        "unanswered",
        "Handshakes pass between alpha and bravo, but no probe was ever answered.",
        id="never a probe was answered, and one end hears no more than handshakes",
    ),
    pytest.param(
        Link(alpha(UNANSWERED, probes=True), bravo(None, talos=True)),
        "unanswered",
        "Handshakes pass between alpha and bravo, but no probe was ever answered.",
        id="never a probe was answered by one that reports nothing",
    ),
]


@pytest.mark.parametrize(("link", "code", "text"), TABLE)
def test_reason(link: Link, code: str, text: str) -> None:
    reason = explain(link)
    assert reason is not None
    assert (reason.code, reason.text) == (code, text)
    assert reason.remedy.endswith(".")


@pytest.mark.parametrize(
    "link",
    [
        pytest.param(Link(alpha(UP), bravo(UP)), id="both ends see it up"),
        pytest.param(Link(alpha(UP), bravo(None, talos=True)), id="up as seen by the end that reports"),
        pytest.param(Link(alpha(UP, skew=-3600.0), bravo(UP, behind=3)), id="what would be a reason if it were down"),
        pytest.param(Link(alpha(UP), bravo(None, connected=False)), id="up to an agent that is away"),
        pytest.param(Link(alpha(replace(UP, loss=0.45)), bravo(replace(UP, loss=0.0))), id="some probes are lost"),
        pytest.param(Link(alpha(replace(UP, received=300)), bravo(UP)), id="little was received so far"),
        pytest.param(
            Link(alpha(UNANSWERED, probes=True), bravo(replace(UNANSWERED, measured=True), probes=True)),
            id="one end's probes are answered",
        ),
        pytest.param(
            Link(alpha(replace(UNANSWERED, lasting=300.0), probes=True), bravo(None)), id="not up for long enough"
        ),
        pytest.param(Link(alpha(UNANSWERED), bravo(UNANSWERED)), id="nobody probes"),
        pytest.param(
            Link(
                alpha(replace(UNANSWERED, received=72_001), probes=True),
                bravo(replace(UNANSWERED, received=72_001), probes=True),
            ),
            id="no probe is answered, but both hear more than handshakes",
        ),
    ],
)
def test_a_link_that_is_up_needs_no_reason(link: Link) -> None:
    assert explain(link) is None


def test_what_explains_most_goes_first() -> None:
    """A machine whose agent is away, whose clock is wrong and which is behind: the first of CASES that fits."""
    told = [
        case(Link(alpha(behind=1, skew=-3600.0, fault="full disk"), bravo(None, connected=False))) for case in CASES
    ]
    codes = [reason.code for reason in told if reason is not None]
    assert codes[:4] == ["fault", "clock", "away", "behind"]


SIGHTS = st.none() | st.builds(
    Sight,
    state=st.sampled_from(PeerState),
    endpoint=st.sampled_from(["", "192.0.2.1:51820"]),
    handshake=st.none() | st.floats(0, 1e9),
    received=st.integers(0, 2**63),
    loss=st.none() | st.floats(0, 1),
    measured=st.booleans(),
    lasting=st.floats(0, 1e9),
    hears=st.none() | st.booleans(),
    arrived=st.none() | st.floats(0, 1),
)
ENDS = st.builds(
    End,
    name=st.sampled_from(["alpha", "bravo"]),
    standing=st.sampled_from(["pending", "approved", "left", "removed"]),
    talos=st.booleans(),
    connected=st.booleans(),
    behind=st.integers(0, 5),
    skew=st.none() | st.floats(-1e9, 1e9),
    endpoints=st.integers(0, 3),
    filtered=st.integers(0, 3),
    translated=st.booleans(),
    probes=st.booleans(),
    refused=st.sampled_from([(), TAKEN]),
    own=st.integers(0, 1),
    sight=SIGHTS,
)


@given(here=ENDS, there=ENDS, known=st.floats(0, 1e9))
def test_every_link_that_is_not_up_has_a_reason_from_either_side(here: End, there: End, known: float) -> None:
    for link in (Link(here, there, known=known), Link(there, here, known=known)):
        reason = explain(link)
        if not link.up:
            assert isinstance(reason, Reason)
            assert reason.text
            assert reason.remedy
