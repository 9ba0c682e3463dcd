import { describe, expect, test } from "vitest";
import {
  cellAt,
  covers,
  type Frame,
  fitting,
  moved,
  nextSize,
  reveal,
  visible,
  visibleColumns,
  visibleRows,
  wanted,
  widened,
  zoomed,
} from "./geometry.ts";

const FRAME: Frame = { count: 1000, size: 12, width: 900, height: 600, left: 180, top: 120, x: 0, y: 0 };

describe("what is in view", () => {
  test.each([
    ["from the beginning", 0, 480, { from: 0, to: 40 }],
    ["cells that are cut off count", 6, 480, { from: 0, to: 41 }],
    ["at the end", 12_000 - 480, 480, { from: 960, to: 1000 }],
    ["beyond the end there is nothing", 20_000, 480, { from: 1000, to: 1000 }],
    ["no room, no cells", 0, -20, { from: 0, to: 0 }],
  ])("%s", (_, scroll, extent, expected) => {
    expect(visible(scroll, extent, 12, 1000)).toEqual(expected);
  });

  test("headers take their room", () => {
    expect(visibleRows(FRAME)).toEqual({ from: 0, to: 40 });
    expect(visibleColumns({ ...FRAME, x: 120 })).toEqual({ from: 10, to: 70 });
  });
});

describe("the cell at a point", () => {
  test.each([
    ["the first one", 180, 120, 0, 0, { row: 0, column: 0 }],
    ["after scrolling", 180, 120, 24, 36, { row: 3, column: 2 }],
    ["in the row heads", 179, 300, 0, 0, null],
    ["in the column heads", 300, 119, 0, 0, null],
    ["beyond the last one", 899, 300, 11_900, 0, null],
  ])("%s", (_, x, y, scrollX, scrollY, expected) => {
    expect(cellAt({ ...FRAME, x: scrollX, y: scrollY }, x, y)).toEqual(expected);
  });
});

describe("scrolling and zooming", () => {
  test("what is in view is not moved", () => expect(reveal(100, 480, 12, 20)).toBe(100));
  test("what is above comes to the top", () => expect(reveal(100, 480, 12, 2)).toBe(24));
  test("what is below comes to the bottom", () => expect(reveal(0, 480, 12, 60)).toBe(252));
  test("the same cell stays under the pointer", () => {
    const scroll = zoomed(240, 60, 12, 24);
    expect((scroll + 60) / 24).toBe((240 + 60) / 12);
  });
  test("a large matrix begins small, a small one large", () => {
    expect(fitting(1000, 600, 4)).toBe(4);
    expect(fitting(4, 600, 4)).toBe(76);
    expect(fitting(40, 600, 4)).toBe(12);
  });
  test("sizes end at both ends", () => {
    expect(nextSize(12, 1, 1)).toBe(16);
    expect(nextSize(1, -1, 1)).toBe(1);
    expect(nextSize(8, -1, 8)).toBe(8);
    expect(nextSize(76, 1, 1)).toBe(76);
  });
  test("a step stays within", () => {
    expect(moved({ row: 0, column: 5 }, -1, 1, 6)).toEqual({ row: 0, column: 5 });
    expect(moved({ row: 2, column: 2 }, Number.MAX_SAFE_INTEGER, -1, 6)).toEqual({ row: 5, column: 1 });
  });
});

describe("what is asked for", () => {
  const cells = (view: ReturnType<typeof wanted>) =>
    (view.rows.to - view.rows.from) * (view.columns.to - view.columns.from);

  test("a margin around what is in view", () => {
    expect(wanted({ from: 100, to: 140 }, { from: 0, to: 60 }, 1000, false)).toEqual({
      rows: { from: 80, to: 160 },
      columns: { from: 0, to: 90 },
    });
  });
  test("all of a thousand at a glance", () => {
    const view = wanted({ from: 0, to: 480 }, { from: 0, to: 720 }, 1000, false);
    expect(covers(view.rows, { from: 0, to: 480 })).toBe(true);
    expect(cells(view)).toBeLessThanOrEqual(1 << 20);
  });
  test.each([
    ["an ordinary screen", 60, 100],
    ["a wall", 120, 470],
  ])("figures within what the console reads: %s", (_, rows, columns) => {
    const view = wanted({ from: 300, to: 300 + rows }, { from: 300, to: 300 + columns }, 1000, true);
    expect(cells(view)).toBeLessThanOrEqual(1 << 15);
    expect(view.rows.to - view.rows.from).toBeLessThanOrEqual(128);
    expect(view.rows.from).toBeLessThanOrEqual(300);
  });
  test("a margin ends with the matrix", () =>
    expect(widened({ from: 1, to: 9 }, 10, 0.5)).toEqual({ from: 0, to: 10 }));
});
