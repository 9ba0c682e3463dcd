"""Who is of the cluster and by which options, as of a revision: what snapshots and deltas add up to."""

from __future__ import annotations

import msgspec

from kubespan.core.messages import Delta, Member, Revision, Snapshot
from kubespan.core.options import Options


class Gap(Exception):
    """A delta does not connect to what is held; only a snapshot, or a delta from further back, helps."""


class Membership(msgspec.Struct, frozen=True, kw_only=True):
    """The cluster as of `revision`; without one, nothing is held yet. Options and members are read only."""

    revision: Revision | None = None
    secret_generation: int = 0
    options: Options = Options()
    members: dict[int, Member] = {}
    """By index."""

    def apply(self, news: Snapshot | Delta) -> Membership:
        """Give the membership after a snapshot or a delta; a delta that brings nothing new changes nothing.

        Raises Gap when the delta starts after what is held, or belongs to another epoch.
        """
        if isinstance(news, Snapshot):
            # Taken even where its number is lower: the console is the truth, whatever became of its database.
            return Membership(
                revision=news.revision,
                secret_generation=news.secret_generation,
                options=news.options,
                members={member.index: member for member in news.members},
            )
        held = self.revision
        if held is None or held.epoch != news.since.epoch or held.epoch != news.revision.epoch or news.since > held:
            raise Gap(f"the delta leads from {news.since} to {news.revision}, but what is held is {held or 'nothing'}")
        if news.revision <= held:
            return self
        members = self.members | {member.index: member for member in news.changed}
        for index in news.gone:
            members.pop(index, None)
        return Membership(
            revision=news.revision,
            secret_generation=news.secret_generation,
            options=self.options if news.options is None else news.options,
            members=members,
        )

    def snapshot(self) -> Snapshot:
        """Write everything held as one message; raises ValueError when nothing is held."""
        if self.revision is None:
            raise ValueError("there is no revision to write a snapshot of")
        return Snapshot(
            revision=self.revision,
            secret_generation=self.secret_generation,
            options=self.options,
            members=tuple(member for _, member in sorted(self.members.items())),
        )
