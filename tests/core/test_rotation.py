"""What a machine holds of secrets over a rotation, what it must be given, and how far it is."""

import pytest

from kubespan.core.rotation import (
    KEPT_BESIDE,
    KeptSecret,
    Secrets,
    Standing,
    lacking,
    may_switch_alone,
    standing,
)


def held(in_use, *others):
    """Secrets whose text follows from their generation."""
    if not in_use:
        return Secrets()
    return Secrets(
        generation=in_use, secret=f"s{in_use}", others=tuple(KeptSecret(number, f"s{number}") for number in others)
    )


@pytest.mark.parametrize(
    ("before", "given", "after"),
    [
        pytest.param(held(0), 1, held(1), id="the first one is used at once"),
        pytest.param(held(1), 2, held(1, 2), id="the next one is kept beside it"),
        pytest.param(held(1, 2), 2, held(1, 2), id="given again"),
        pytest.param(held(1, 2), 1, held(1), id="the present one again: the next one was cancelled"),
        pytest.param(held(1, 2), 3, held(1, 2, 3), id="away over a switch, back during the next rotation"),
        pytest.param(held(1, 2, 3), 4, held(1, 3, 4), id="no more than so many"),
        pytest.param(held(1, 2, 3), 2, held(1, 3, 2), id="the order is that of coming"),
        pytest.param(held(5), 3, held(5, 3), id="a console restored from a backup"),
    ],
)
def test_taking_a_secret(before, given, after):
    assert before.take(given, f"s{given}") == after
    assert len(after.others) <= KEPT_BESIDE


@pytest.mark.parametrize(
    ("before", "named", "after"),
    [
        pytest.param(held(0), 1, held(0), id="none is held"),
        pytest.param(held(1, 2), 1, held(1, 2), id="the one in use"),
        pytest.param(held(1, 2), 2, held(2), id="the switch; the old one is forgotten"),
        pytest.param(held(1, 2, 3), 2, held(2, 3), id="what came after stays"),
        pytest.param(held(1, 2, 3), 3, held(3), id="what came before goes, cancelled or not"),
        pytest.param(held(1, 2), 7, held(1, 2), id="one that is not held changes nothing"),
        pytest.param(held(5, 3), 3, held(3), id="a console restored from a backup"),
    ],
)
def test_following_the_settings(before, named, after):
    assert before.follow(named) == after


@pytest.mark.parametrize(
    ("secrets", "newest"), [(held(0), 0), (held(4), 4), (held(4, 5), 5), (held(5, 3), 3)], ids=repr
)
def test_the_newest_is_what_came_last(secrets, newest):
    assert secrets.newest == newest


def test_a_secret_given_again_is_replaced():
    """After a backup was restored, a generation may be another secret than before."""
    assert held(1, 2).take(2, "other").follow(2).secret == "other"
    assert held(1).take(1, "other").secret == "other"


def test_no_secret_in_a_representation():
    assert "s1" not in repr(held(1, 2))
    assert "s2" not in repr(held(1, 2))


@pytest.mark.parametrize(
    ("newest", "present", "following", "expected"),
    [
        pytest.param(0, 1, None, (1,), id="new, no rotation"),
        pytest.param(1, 1, None, (), id="has it, no rotation"),
        pytest.param(0, 1, 2, (1, 2), id="new, in the midst of one"),
        pytest.param(1, 1, 2, (2,), id="has the present one"),
        pytest.param(2, 1, 2, (), id="has both"),
        pytest.param(1, 2, None, (2,), id="away over the switch"),
        pytest.param(1, 2, 3, (2, 3), id="away over the switch, and another rotation is under way"),
        pytest.param(2, 1, None, (1,), id="the next one was cancelled"),
        pytest.param(2, 1, 3, (1, 3), id="the next one was cancelled, and another one came"),
        pytest.param(1, 1, 3, (3,), id="heard nothing of the cancelled one"),
    ],
)
def test_what_a_machine_lacks(newest, present, following, expected):
    assert lacking(newest, present, following) == expected


@pytest.mark.parametrize("start", [0, 1, 2, 7])
@pytest.mark.parametrize("following", [None, 3, 4])
def test_whatever_it_holds_what_it_lacks_makes_it_whole(start, following):
    """One conversation: given what it lacks, a machine follows the present generation and is ready for the next."""
    machine = held(start)
    for generation in lacking(machine.newest, 2, following):
        machine = machine.take(generation, f"s{generation}")
    machine = machine.follow(2)
    assert (machine.generation, machine.secret) == (2, "s2")
    assert lacking(machine.newest, 2, following) == ()
    if following:
        assert machine.follow(following) == held(following)


@pytest.mark.parametrize(
    ("kept", "connected", "version", "expected"),
    [
        pytest.param(2, True, 2, Standing.READY, id="has it"),
        pytest.param(1, True, 2, Standing.WAITING, id="has not said so"),
        pytest.param(7, True, 2, Standing.WAITING, id="has another one"),
        pytest.param(1, False, 2, Standing.AWAY, id="away"),
        pytest.param(2, False, 2, Standing.AWAY, id="away with it: it does not hear of the switch"),
        pytest.param(1, True, 1, Standing.TOO_OLD, id="too old"),
        pytest.param(1, False, 1, Standing.AWAY, id="too old and away"),
        pytest.param(0, True, 0, Standing.TOO_OLD, id="never seen by this release"),
    ],
)
def test_standing(kept, connected, version, expected):
    assert standing(kept=kept, following=2, connected=connected, version=version) is expected


@pytest.mark.parametrize(
    ("standings", "expected"),
    [
        ([], True),
        ([Standing.READY], True),
        ([Standing.READY, Standing.AWAY], False),
        ([Standing.TOO_OLD], False),
        ([Standing.WAITING, Standing.READY], False),
    ],
    ids=repr,
)
def test_a_switch_by_itself_cuts_nobody_off(standings, expected):
    assert may_switch_alone(standings) is expected


def test_the_list_begins_with_whoever_is_away():
    assert next(iter(Standing)) is Standing.AWAY
