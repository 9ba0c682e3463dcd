"""One pass with nothing to do at 1,000 members, beside only reading their addresses."""

from __future__ import annotations

from kubespan.core.affiliate import from_member
from kubespan.core.desired import desired
from kubespan.core.membership import Membership
from kubespan.core.peer_spec import peer_specs
from kubespan.core.plan import Link, Observed, plan
from tests.bench.example import MEMBERS, SECRET, make_keys, make_snapshot
from tests.bench.figures import ROUNDS, in_turns, ratio


def bench(members: int = MEMBERS, rounds: int = ROUNDS) -> dict[str, object]:
    """Decide what to change where nothing is to be changed."""
    membership = Membership().apply(make_snapshot(members))
    keys = make_keys(5000)

    def decide() -> list[object]:
        affiliates = [from_member(member) for member in membership.members.values()]
        specs = peer_specs(affiliates, "somebody-else").specs
        address = affiliates[0].address
        if address is None:
            raise ValueError("the example has addresses")
        wanted = desired(
            keys=keys, address=address, secret=SECRET, options=membership.options, specs=specs, statuses={},
            endpoints={}, now=0.0,
        )  # fmt: skip
        link = wanted.link
        if not isinstance(link, Link) or wanted.address is None:
            raise TypeError("KubeSpan is on in the example")
        observed = Observed(
            link=link, addresses=frozenset({wanted.address}), peers=wanted.peers, routes=wanted.routes,
            rules=wanted.rules, firewall=wanted.firewall,
        )  # fmt: skip
        return list(plan(wanted, observed))

    if decide():
        raise ValueError("the second plan must be empty")
    ours, reference = in_turns(
        decide, lambda: [from_member(member) for member in membership.members.values()], rounds=rounds
    )
    return {"members": members, "ours": ours, "reading": reference, "ratio": ratio(ours, reference)}
