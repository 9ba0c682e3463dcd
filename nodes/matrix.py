"""What a cluster's matrix shows: who sees whom and how, in the part that a page has in view. Decisions alone.

A page asks for rows and columns, each a list of member indexes, and for one mode; it gets that part as a whole and then
cells of it that changed. A row sees a column; a cell has both ends' states, so that a page can draw where they
disagree. `frontend/src/matrix` has the same shapes as types.

A message is binary: a JSON head of a length that comes before it, then columns of little-endian numbers, the widest
first. Each begins where the one before ends, and the head is padded so that all lie as typed arrays want them.
"""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Callable, Iterable, Sequence
from operator import itemgetter
from typing import Literal, cast

import msgspec

from nodes.live import ABSENT, STATES, Figure, Seen

Mode = Literal["state", "rtt", "loss", "received", "sent", "uptime"]

MOST_CELLS = 1 << 20
"""Cells that a view may have: all of a cluster of 1,024 nodes, half a megabyte of states."""

MOST_LINES = 1 << 12
"""Rows, or columns, of a view."""

MOST_VALUES = 1 << 15
"""Where each cell has a figure besides, as each costs a look into a node's record."""

MOST_VALUE_ROWS = 128
"""Records that a view of figures reads at a time: 7 MB for 1,000 members."""

RESEND_SHARE = 4
"""Where more than one cell in so many changed, the view is sent anew instead of its cells."""

NO_VALUE = -1.0
"""In place of a figure that nobody said."""

NOT_SAID = 3
"""In place of a state in a cell, which has two bits for each end."""

_HEAD = struct.Struct("<I")
_ALIGNMENT = 8

FIGURES: dict[Mode, tuple[Figure, float]] = {
    "rtt": ("rtt", 1e-6),
    "loss": ("loss", 1e-3),
    "received": ("received", 1.0),
    "sent": ("sent", 1.0),
    "uptime": ("since", 1.0),
}
"""By mode, which figure of a link is shown besides its state, and in which unit a record keeps it.

Of `uptime` it is not the age, which would be another one each second, but the Unix time since when: a page counts on.
"""

_WIDE: set[Mode] = {"uptime"}
"""Modes whose figures need more digits than the seven of four bytes."""


class View(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="view"):
    """What a page has in view, as it asks for it; `id` comes back with the answer."""

    id: int
    mode: Mode
    rows: list[int]
    columns: list[int]

    def check(self, next_index: int) -> None:
        """Raise ValueError where it is more than a page may ask for, or names what was no member or one twice."""
        for line in (self.rows, self.columns):
            if len(line) > MOST_LINES or len(set(line)) != len(line):
                raise ValueError("a member is named twice, or too many are")
            if line and not 0 <= min(line) <= max(line) < next_index:
                raise ValueError("there never was such a member")
        cells = len(self.rows) * len(self.columns)
        values = self.mode != "state"
        if cells > (MOST_VALUES if values else MOST_CELLS) or (values and len(self.rows) > MOST_VALUE_ROWS):
            raise ValueError("too many cells")


class Member(msgspec.Struct, frozen=True, array_like=True):
    """A member of the cluster: a row and a column of its matrix, whose key is its index."""

    index: int
    pk: int
    name: str
    site: str
    talos: bool
    connected: bool
    up: int
    unknown: int
    down: int
    began: int
    """Unix time at which its record began: what it sees since then, it may have seen for longer."""


class MatrixSnapshot(msgspec.Struct, frozen=True, tag_field="type", tag="snapshot"):
    """`/live/matrix/<uuid>`: all members. Cells come when the page has said what it has in view."""

    number: int
    at: float
    members: list[Member]


class Shape(msgspec.Struct, frozen=True):
    """A view that follows as a whole: figures (unless the mode is `state`), then a byte a cell, row by row.

    A figure has four bytes, those of `uptime` eight.
    """

    id: int
    rows: int
    columns: int


class MatrixDelta(msgspec.Struct, frozen=True, tag_field="type", tag="delta", omit_defaults=True):
    """What changed: members, indexes of those that are gone; and the view as a whole, or `cells` of it.

    So many changed cells follow as columns: figures (unless the mode is `state`), row and column numbers within the
    view, a byte a cell.
    """

    number: int
    at: float
    members: list[Member] = []
    gone: list[int] = []
    view: Shape | None = None
    cells: int = 0


def dump(head: msgspec.Struct, body: bytes = b"") -> bytes:
    """One message."""
    text = msgspec.json.encode(head)
    text += b" " * (-(_HEAD.size + len(text)) % _ALIGNMENT)
    return _HEAD.pack(len(text)) + text + body


def _picker(indexes: Sequence[int]) -> Callable[[Sequence[int]], Sequence[int]]:
    """Pick these places of a row, in one call however many they are."""
    if not indexes:
        return lambda _: ()
    if len(indexes) == 1:
        (only,) = indexes
        return lambda row: (row[only],)
    return cast("Callable[[Sequence[int]], Sequence[int]]", itemgetter(*indexes))


_TWO_BITS = bytes(state if state < len(STATES) else NOT_SAID for state in range(256))
_HIGH_BITS = bytes((state if state < len(STATES) else NOT_SAID) << 2 for state in range(256))


class Sheet:
    """The part of a matrix that one page has in view, and what of it the page has not been told.

    It keeps a byte for each link of the members in view, which is 1 MB for a thousand, and a figure a cell.
    """

    def __init__(self) -> None:
        self.view: View | None = None
        self._size = 0
        self._states: dict[int, bytearray] = {}
        self._row_at: dict[int, int] = {}
        self._column_at: dict[int, int] = {}
        self._values = array("f")
        self._whole = False
        self._changed: set[tuple[int, int]] = set()
        """Cells, by row and column number."""

    @property
    def shown(self) -> set[int]:
        """Members whose states are wanted: rows, and columns for what they see of the rows."""
        return set(self._row_at) | set(self._column_at)

    @property
    def figure(self) -> Figure | None:
        """Which figure of each cell is wanted, if any."""
        return FIGURES[self.view.mode][0] if self.view is not None and self.view.mode in FIGURES else None

    @property
    def rows(self) -> list[int]:
        """Members whose records are wanted."""
        return self.view.rows if self.view is not None and self.figure is not None else []

    def look_at(self, view: View) -> None:
        """Another view; all that is known of members in both is kept, and the view is sent as a whole."""
        self.view = view
        self._row_at = {index: place for place, index in enumerate(view.rows)}
        self._column_at = {index: place for place, index in enumerate(view.columns)}
        self._size = max(self.shown, default=-1) + 1
        shown = self.shown
        self._states = {index: self._fit(row) for index, row in self._states.items() if index in shown}
        none = array("d" if view.mode in _WIDE else "f", [NO_VALUE])
        self._values = none * (0 if view.mode == "state" else len(view.rows) * len(view.columns))
        self._changed.clear()
        self._whole = True

    def _fit(self, row: bytearray) -> bytearray:
        row.extend(bytes([ABSENT]) * (self._size - len(row)))
        return row

    def put_states(self, index: int, states: bytes | None) -> None:
        """How a member sees all others, by their indexes; none where it says nothing."""
        row = self._fit(bytearray(states or b""))
        before = self._states.get(index)
        self._states[index] = row
        if before is None or before == row:
            self._whole = self._whole or before is None
            return
        for peer in self._shown_beside(index):
            if before[peer] != row[peer]:
                self._touch(index, peer)

    def _shown_beside(self, index: int) -> Iterable[int]:
        if index in self._row_at and index in self._column_at:
            return self.shown
        return self._column_at if index in self._row_at else self._row_at

    def put_state(self, index: int, peer: int, state: int) -> None:
        """How a member sees another one."""
        row = self._states.get(index)
        if row is None or peer >= self._size or row[peer] == state:
            return
        row[peer] = state
        self._touch(index, peer)

    def _touch(self, index: int, peer: int) -> None:
        """A directed link is in two cells: as one's sight, and as the other end's."""
        for row, column in ((index, peer), (peer, index)):
            if row in self._row_at and column in self._column_at:
                self._changed.add((self._row_at[row], self._column_at[column]))

    def put_seen(self, index: int, peer: int, seen: Seen | None) -> None:
        """The figure of one link."""
        if self.figure is not None and index in self._row_at and peer in self._column_at:
            value = None if seen is None else getattr(seen, self.figure)
            self._put_value(self._row_at[index], self._column_at[peer], NO_VALUE if value is None else value)

    def put_figures(self, index: int, figures: Sequence[int]) -> None:
        """The figures of all links of a member, as its record keeps them."""
        if self.view is None or self.figure is None or index not in self._row_at:
            return
        row, unit = self._row_at[index], FIGURES[self.view.mode][1]
        for column, peer in enumerate(self.view.columns):
            kept = figures[peer] if peer < len(figures) else -1
            self._put_value(row, column, kept * unit if kept >= 0 else NO_VALUE)

    def _put_value(self, row: int, column: int, value: float) -> None:
        place = row * len(self._column_at) + column
        before = self._values[place]
        self._values[place] = value
        if self._values[place] != before:  # as it is kept, with fewer digits
            self._changed.add((row, column))

    def news(self) -> tuple[Shape | None, int, bytes]:
        """The view as a whole, or how many of its cells changed since the last call; and what follows the head."""
        if self.view is None:
            return None, 0, b""
        changed, self._changed = self._changed, set()
        cells = len(self.view.rows) * len(self.view.columns)
        if self._whole or len(changed) * RESEND_SHARE > cells:
            self._whole = False
            shape = Shape(self.view.id, len(self.view.rows), len(self.view.columns))
            return shape, 0, _little(self._values) + self._all_cells()
        return None, len(changed), self._some_cells(sorted(changed))

    def _all_cells(self) -> bytes:
        assert self.view is not None  # noqa: S101 - `news` returned else
        rows, columns = self.view.rows, self.view.columns
        absent = bytes([ABSENT]) * self._size
        ahead, across = _picker(columns), _picker(rows)
        # What the columns see of the rows is picked a column at a time, and turned.
        back = [bytes(across(self._states.get(index, absent))).translate(_HIGH_BITS) for index in columns]
        turned = list(zip(*back, strict=True)) if back else [()] * len(rows)
        cells = bytearray()
        for index, theirs in zip(rows, turned, strict=True):
            ours = bytes(ahead(self._states.get(index, absent))).translate(_TWO_BITS)
            # No bit is in both, so that adding them as two long numbers is adding them byte by byte.
            both = int.from_bytes(ours, "big") | int.from_bytes(bytes(theirs), "big")
            cells += both.to_bytes(len(columns), "big")
        return bytes(cells)

    def _some_cells(self, changed: Sequence[tuple[int, int]]) -> bytes:
        if not changed:
            return b""
        assert self.view is not None  # noqa: S101 - `news` returned else
        width = len(self._column_at)
        kept = self._values
        values = array(kept.typecode, [kept[row * width + column] for row, column in changed] if kept else [])
        places = array("H", [row for row, _ in changed]) + array("H", [column for _, column in changed])
        cells = bytes(self._cell(self.view.rows[row], self.view.columns[column]) for row, column in changed)
        return _little(values) + _little(places) + cells

    def _cell(self, row: int, column: int) -> int:
        ours, theirs = self._states.get(row), self._states.get(column)
        ahead = ABSENT if ours is None else ours[column]
        back = ABSENT if theirs is None else theirs[row]
        return _TWO_BITS[ahead] | _HIGH_BITS[back]


def _little(numbers: array[float] | array[int]) -> bytes:
    if sys.byteorder == "big":
        numbers = array(numbers.typecode, numbers)
        numbers.byteswap()
    return numbers.tobytes()
