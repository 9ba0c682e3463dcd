"""The matrix: what a page has in view, as a whole and by what changes in it."""

import json
import struct
from array import array
from typing import get_args

import pytest

from nodes.live import ABSENT, DOWN, UNKNOWN, UP, Seen
from nodes.matrix import FIGURES, MOST_CELLS, MOST_LINES, NO_VALUE, MatrixDelta, Mode, Shape, Sheet, View, dump
from nodes.views.links import MODES

GONE = 3


def both(ours, theirs):
    return ours | theirs << 2


def open_sheet(rows=(0, 1), columns=(0, 1, 2), mode="state", states=None):
    sheet = Sheet()
    sheet.look_at(View(7, mode, list(rows), list(columns)))
    for index, row in (states or {0: [ABSENT, UP, DOWN], 1: [UP, ABSENT, UNKNOWN], 2: [UP, DOWN]}).items():
        sheet.put_states(index, bytes(row))
    return sheet


def test_a_view_has_both_ends_of_each_cell():
    shape, cells, body = open_sheet().news()
    assert (shape, cells) == (Shape(7, 2, 3), 0)
    assert list(body) == [
        both(GONE, GONE), both(UP, UP), both(DOWN, UP),
        both(UP, UP), both(GONE, GONE), both(UNKNOWN, DOWN),
    ]  # fmt: skip


def test_what_did_not_change_is_not_sent_again():
    sheet = open_sheet(range(3), range(3))
    sheet.news()
    assert sheet.news() == (None, 0, b"")
    sheet.put_state(0, 1, UP)
    sheet.put_states(1, bytes([UP, ABSENT, UNKNOWN]))
    assert sheet.news() == (None, 0, b"")


def test_a_changed_link_is_in_the_cells_of_both_ends():
    sheet = open_sheet(range(3), range(3))
    sheet.news()
    sheet.put_state(0, 1, DOWN)
    shape, cells, body = sheet.news()
    assert (shape, cells) == (None, 2)
    assert struct.unpack("<2H2H2B", body) == (0, 1, 1, 0, both(DOWN, UP), both(UP, DOWN))


def test_states_that_are_read_again_are_compared():
    sheet = open_sheet((0,), range(1, 9), states={0: [ABSENT] + [UP] * 8})
    sheet.news()
    sheet.put_states(0, bytes([ABSENT] + [UP] * 7 + [DOWN]))
    _, cells, body = sheet.news()
    assert cells == 1
    assert struct.unpack("<HHB", body) == (0, 7, both(DOWN, GONE))


def test_a_member_that_says_nothing_any_more_has_empty_cells():
    sheet = open_sheet((0,), range(1, 9), states={0: [ABSENT] + [UP] * 8})
    sheet.news()
    sheet.put_states(0, None)
    shape, _, body = sheet.news()
    assert shape == Shape(7, 1, 8), "most of it changed, so it is sent as a whole"
    assert set(body) == {both(GONE, GONE)}


def seen(received):
    return Seen("up", "", None, received, 0, 0.0)


def test_figures_stand_before_the_states():
    sheet = open_sheet((0,), range(1, 9), "received", states={0: [ABSENT] + [UP] * 8})
    sheet.put_figures(0, [-1, 10, 20, -1, 40])
    shape, _, body = sheet.news()
    assert shape == Shape(7, 1, 8)
    assert list(struct.unpack("<8f", body[:32])) == [10, 20, NO_VALUE, 40, *[NO_VALUE] * 4]
    assert len(body) == 8 * 4 + 8
    sheet.put_seen(0, 2, seen(1_000_000_007))
    sheet.put_seen(0, 4, seen(40))
    _, cells, body = sheet.news()
    assert cells == 1
    assert struct.unpack("<fHHB", body) == (array("f", [1_000_000_007])[0], 0, 1, both(UP, GONE))
    sheet.put_seen(0, 2, seen(1_000_000_007))
    assert sheet.news() == (None, 0, b""), "it is the same as far as it is kept"


def test_since_when_a_link_is_up_is_told_to_the_second():
    since = 1_700_000_001
    sheet = open_sheet((0,), range(1, 9), "uptime", states={0: [ABSENT] + [UP] * 8})
    sheet.put_figures(0, [-1, since, since + 1, -1])
    _, _, body = sheet.news()
    assert list(struct.unpack("<8d", body[:64])) == [since, since + 1, *[NO_VALUE] * 6]
    assert len(body) == 8 * 8 + 8
    sheet.put_seen(0, 2, Seen("up", "", None, 0, 0, 0.0, since=since + 2))
    sheet.put_seen(0, 1, Seen("up", "", None, 0, 0, 9.0, since=since))
    _, cells, body = sheet.news()
    assert cells == 1, "that time goes by changes nothing"
    assert struct.unpack("<dHHB", body) == (since + 2, 0, 1, both(UP, GONE))


def test_a_page_offers_every_mode_and_each_but_the_state_has_its_figure():
    assert [mode for mode, _ in MODES] == list(get_args(Mode)) == ["state", *FIGURES]


def test_what_is_known_stays_when_the_view_moves():
    sheet = open_sheet(range(3), range(3))
    sheet.news()
    sheet.look_at(View(8, "state", [1], [2]))
    shape, _, body = sheet.news()
    assert (shape, list(body)) == (Shape(8, 1, 1), [both(UNKNOWN, DOWN)])
    assert sheet.shown == {1, 2}


def test_a_day_of_changes_keeps_nothing():
    """What a page holds grows with what it has in view, not with what happens."""
    sheet = open_sheet(range(3), range(3))
    sheet.news()
    for turn in range(5_000):
        sheet.put_state(turn % 3, (turn + 1) % 3, turn % 2)
        sheet.put_state(turn, turn + 1, DOWN)
    assert len(sheet._changed) <= 9
    assert sorted(sheet._states) == [0, 1, 2]


@pytest.mark.parametrize(
    ("rows", "columns", "mode"),
    [
        pytest.param([0, 0], [1], "state", id="a member twice"),
        pytest.param([10], [1], "state", id="no member yet"),
        pytest.param([-1], [1], "state", id="below nought"),
        pytest.param(range(MOST_LINES + 1), [1], "state", id="too many rows"),
        pytest.param(range(MOST_LINES), range(MOST_CELLS // MOST_LINES + 1), "state", id="too many cells"),
        pytest.param(range(200), range(2), "sent", id="too many records"),
    ],
)
def test_a_view_is_bounded(rows, columns, mode):
    size = 10 if len(rows) < 10 else 10_000
    with pytest.raises(ValueError, match=r"member|cells"):
        View(1, mode, list(rows), list(columns)).check(size)


@pytest.mark.parametrize("extra", range(9))
def test_what_follows_the_head_lies_as_typed_arrays_want_it(extra):
    message = dump(MatrixDelta(3, 0.5, gone=[10**place for place in range(extra)]), b"body")
    (length,) = struct.unpack_from("<I", message)
    assert (4 + length) % 8 == 0
    assert json.loads(message[4 : 4 + length])["number"] == 3
    assert message[4 + length :] == b"body"
