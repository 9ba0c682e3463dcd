"""Snapshots and deltas add up to the same members, whichever way they come."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubespan.core.membership import Gap, Membership
from kubespan.core.messages import Delta, Member, Revision, Snapshot
from kubespan.core.options import Options


def member(index, name="n"):
    return Member(index=index, node_id=f"id-{index}", name=name, public_key="k", address="fd00::1")


def snapshot(number, *members, epoch=1, options=None):
    return Snapshot(
        revision=Revision(epoch, number), secret_generation=1, options=options or Options(), members=members
    )


def delta(since, number, *changed, gone=(), epoch=1, options=None, secret_generation=1):
    return Delta(
        since=Revision(epoch, since),
        revision=Revision(epoch, number),
        secret_generation=secret_generation,
        options=options,
        changed=changed,
        gone=gone,
    )


HELD = Membership().apply(snapshot(5, member(1), member(2)))


def test_a_snapshot_replaces_everything():
    after = HELD.apply(snapshot(9, member(3), options=Options(mtu=1300)))
    assert after.members == {3: member(3)}
    assert after.options.mtu == 1300
    assert after.revision == Revision(1, 9)


def test_an_older_snapshot_is_believed_too():
    assert HELD.apply(snapshot(2, member(1))).members == {1: member(1)}


@pytest.mark.parametrize(
    ("news", "members"),
    [
        pytest.param(delta(5, 6, member(3)), {1: "n", 2: "n", 3: "n"}, id="joined"),
        pytest.param(delta(5, 6, member(2, "renamed")), {1: "n", 2: "renamed"}, id="changed"),
        pytest.param(delta(5, 6, gone=(1,)), {2: "n"}, id="gone"),
        pytest.param(delta(5, 6, gone=(1, 77)), {2: "n"}, id="gone, and gone before"),
        pytest.param(delta(3, 6, member(3)), {1: "n", 2: "n", 3: "n"}, id="from further back"),
    ],
)
def test_delta(news, members):
    after = HELD.apply(news)
    assert {index: one.name for index, one in after.members.items()} == members
    assert after.revision == Revision(1, 6)
    assert HELD.members.keys() == {1, 2}


def test_options_come_with_a_delta_or_stay():
    changed = HELD.apply(delta(5, 6, options=Options(mtu=1300)))
    assert changed.options.mtu == 1300
    assert changed.apply(delta(6, 7, secret_generation=2)).options.mtu == 1300
    assert changed.apply(delta(6, 7, secret_generation=2)).secret_generation == 2


@pytest.mark.parametrize("news", [delta(2, 5, gone=(1,)), delta(2, 4, gone=(1,))], ids=["the same", "older"])
def test_old_news_changes_nothing(news):
    assert HELD.apply(news) is HELD


@pytest.mark.parametrize(
    ("held", "news"),
    [
        pytest.param(HELD, delta(6, 7), id="starts after what is held"),
        pytest.param(HELD, delta(0, 1, epoch=2), id="a new epoch"),
        pytest.param(HELD, delta(9, 10, epoch=0), id="an old epoch"),
        pytest.param(
            HELD, Delta(since=Revision(1, 5), revision=Revision(2, 1), secret_generation=1), id="over an epoch's end"
        ),
        pytest.param(Membership(), delta(0, 1), id="nothing held"),
    ],
)
def test_a_gap_is_told(held, news):
    with pytest.raises(Gap, match="the delta leads from"):
        held.apply(news)


def test_it_can_be_stored():
    assert msgspec.json.decode(msgspec.json.encode(HELD), type=Membership) == HELD


def test_it_can_be_sent_on():
    assert Membership().apply(HELD.snapshot()) == HELD
    with pytest.raises(ValueError, match="no revision"):
        Membership().snapshot()


CHANGES = st.lists(st.tuples(st.integers(0, 4), st.sampled_from(("joined", "renamed", None))), max_size=12)


@given(CHANGES, st.data())
def test_any_deltas_lead_where_the_snapshot_leads(changes, data):
    """One change a revision; a node hears of them in pieces that may overlap, some of them twice."""
    history = [HELD]
    for number, (index, name) in enumerate(changes, start=6):
        changed, gone = ((member(index, name),), ()) if name else ((), (index,))
        history.append(history[-1].apply(delta(number - 1, number, *changed, gone=gone)))
    node = HELD
    while node.revision != history[-1].revision:
        place = node.revision.number - 5
        since = data.draw(st.integers(0, place))
        until = data.draw(st.integers(place + 1, len(changes)))
        touched = {index for index, _ in changes[since:until]}
        members = history[until].members
        news = delta(
            since + 5,
            until + 5,
            *(members[index] for index in sorted(touched & members.keys())),
            gone=tuple(sorted(touched - members.keys())),
        )
        node = node.apply(news).apply(news)
    assert node == history[-1]
