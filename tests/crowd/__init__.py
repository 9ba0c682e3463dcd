"""A crowd of agents without machines: many nodes' connections in one process, real protocol, real keys, no data plane.

Each enrols by HTTP, answers the challenge with its signature, opens the sealed secret, applies snapshots and deltas by
`kubespan.core.membership`, says what it applied, claims, reports, pings, and comes back with the agent's own back-off.
What costs a processor and proves nothing is shared: a frame that a thousand receive is decoded and applied once.

It runs in a process of its own and is told what to do by JSON lines; `Crowd` is the other end of that pipe::

    with Crowd(["http://127.0.0.1:8000"]) as crowd:          # several URLs: agents start spread, and go on to the next
        crowd.ask("enrol", token=token, count=300, at_once=300)  # {"enrolled": 300, "refused": {}, "first": …}
        crowd.ask("connect")  # all of them, for ever; back-off when cut
        crowd.ask("await", what="connected", seconds=30)  # {"ready": 300, "first": …, "last": …}
        crowd.ask("await", what="revision", revision=[1, 300], seconds=10)
        crowd.ask("await", what="acknowledged", revision=[1, 300], seconds=10)
        crowd.ask("state", each=True)

`await` waits until `count` agents (all that are to be connected, unless it is given) are connected, hold this revision
or a later one, or have said that they applied it; `ready` tells how many were when it ended, which is fewer where
`seconds` ran out. `first` and `last` are when the first and last of them came to be so. All times are CLOCK_MONOTONIC,
which one machine's processes have in common: a frame's is when its last byte was read from the socket.

`state` tells `agents`, `connected`, `revisions` and `acknowledged` (how many per revision, as "epoch.number"),
`last_frame`, `memberships` (how many hold each digest of what the frames add up to: one entry when all agree) and
`counts`; with `each`, `nodes`: by name `connected`, `held`, `acknowledged`, `frame_at`, `url`, `members`.

`set` changes how they behave: `think` (two numbers: seconds between a frame's arrival and its being applied, at random;
none: at once), `reports` (none, or `every` seconds, and the `share` of links that changed; a first complete one
follows the first settings), `version` (protocol version spoken). `drop` cuts connections (`code` or none for a cut
without a word); those agents come back. `disconnect` ends them for good; with `forget` they then hold nothing.

For comparison, `listen` opens sockets to `url` that only read, `at_once` at a time, and come back when cut as agents
do; with `enrol` each posts a request to join there before, with `answer` each says that it applied whatever it hears.
`await` with what="heard" waits until all have had a frame, with what="listening" until each was connected; not before
`since`, as for "connected". `set` with `mirror` has them send a copy of each agent's reports. `hush` ends them for
good.
"""

from __future__ import annotations

from tests.apart import Apart


class Crowd(Apart):
    """A crowd in a process of its own; a context manager, which ends it."""

    def __init__(self, urls: list[str], seed: str = "crowd") -> None:
        super().__init__("tests.crowd", "--seed", seed, *urls)
