"""What things cost on this machine: `make -s bench`, or `make -s bench ARGS=plan` for one.

Each benchmark prints one JSON object on a line of its own. Both sides of a ratio run in the same process, in turns, so
that a noisy machine troubles both alike; figures are medians, in milliseconds, with the spread of the middle half.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

from kubespan.core.affiliate import from_member
from kubespan.core.desired import desired
from kubespan.core.identity import KeyPair
from kubespan.core.membership import Membership
from kubespan.core.messages import Member, Revision, Snapshot, dump, parse_from_console
from kubespan.core.options import Options
from kubespan.core.peer_spec import peer_specs
from kubespan.core.plan import Link, Observed, plan

MEMBERS = 1000
ROUNDS = 15
SECRET = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="


def _key(number: int) -> KeyPair:
    return KeyPair.make(number.to_bytes(32, "big"))


def _snapshot() -> Snapshot:
    members = tuple(
        Member(
            index=number,
            node_id=f"node-{number:04}",
            name=f"machine-{number:04}",
            public_key=_key(number + 1).public_key,
            address=f"fd21:4de:ec13:da02::{number + 1:x}",
            addresses=(f"10.{number // 250}.{number % 250}.1", f"2001:db8::{number + 1:x}"),
            endpoints=(f"10.{number // 250}.{number % 250}.1:51820", f"[2001:db8::{number + 1:x}]:51820"),
            hostname=f"machine-{number:04}.example",
            operating_system="Debian GNU/Linux 12",
        )
        for number in range(MEMBERS)
    )
    return Snapshot(revision=Revision(1, MEMBERS), secret_generation=1, options=Options(), members=members)


def _in_turns(*sides: Callable[[], object]) -> list[dict[str, float]]:
    """Time each side ROUNDS times, alternating; median and middle half in milliseconds."""
    times: list[list[float]] = [[] for _ in sides]
    for _ in range(ROUNDS):
        for side, column in zip(sides, times, strict=True):
            started = time.perf_counter()
            side()
            column.append((time.perf_counter() - started) * 1000)
    figures = []
    for column in times:
        low, middle, high = statistics.quantiles(column, n=4)
        figures.append({"ms": round(middle, 3), "from": round(low, 3), "to": round(high, 3)})
    return figures


def bench_frame() -> dict[str, object]:
    """A snapshot of 1,000 members from objects to bytes and back, beside the standard library's JSON for the same."""
    snapshot = _snapshot()
    frame = dump(snapshot)
    plain = json.loads(frame)
    ours, reference = _in_turns(
        lambda: parse_from_console(dump(snapshot)), lambda: json.loads(json.dumps(plain, separators=(",", ":")))
    )
    return {"bytes": len(frame), "ours": ours, "json": reference, "ratio": round(ours["ms"] / reference["ms"], 3)}


def bench_plan() -> dict[str, object]:
    """One pass with nothing to do at 1,000 members, beside only reading their addresses."""
    membership = Membership().apply(_snapshot())
    keys = _key(5000)

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
    ours, reference = _in_turns(decide, lambda: [from_member(member) for member in membership.members.values()])
    return {"members": MEMBERS, "ours": ours, "reading": reference, "ratio": round(ours["ms"] / reference["ms"], 3)}


BENCHMARKS: dict[str, Callable[[], dict[str, object]]] = {"frame": bench_frame, "plan": bench_plan}


def main() -> None:
    """Run the benchmarks that are named, or all."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*BENCHMARKS, []], help="which; default all")
    for name in parser.parse_args().names or BENCHMARKS:
        print(json.dumps({"name": name, **BENCHMARKS[name]()}), flush=True)


if __name__ == "__main__":
    main()
