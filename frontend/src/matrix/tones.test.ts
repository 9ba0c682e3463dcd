import { expect, test } from "vitest";
import { type Cell, DOWN, NOT_SAID, UNKNOWN, UP } from "./cells.ts";
import type { Member } from "./members.ts";
import { disagree, labels, legend, describe as say, toneOf, worse } from "./tones.ts";

const BEGAN = 1_700_000_000;
const member = (index: number, name: string, more: Partial<Member> = {}): Member => ({
  index,
  pk: index,
  name,
  site: "",
  talos: false,
  connected: true,
  up: 0,
  unknown: 0,
  down: 0,
  began: BEGAN,
  ...more,
});
const one = member(0, "edge-1");
const two = member(1, "edge-2");
const cell = (
  ours: Cell["ours"],
  theirs: Cell["theirs"],
  figure: number | null = null,
  since: number | null = null,
): Cell => ({ ours, theirs, figure, since });

test.each([
  ["both the same", cell(UP, UP), "state", "edge-1 sees edge-2 up; so does the other end"],
  ["two opinions", cell(DOWN, UP), "state", "edge-1 sees edge-2 down; edge-2 sees edge-1 up"],
  ["a figure", cell(UP, UP, 0.0123), "rtt", "edge-1 sees edge-2 up, round trip 12 ms; so does the other end"],
  [
    "up for so long",
    cell(UP, UP, 11_100, BEGAN + 1),
    "uptime",
    "edge-1 sees edge-2 up for 3 h 5 m; so does the other end",
  ],
  ["at least", cell(UP, DOWN, 59, BEGAN), "uptime", "edge-1 sees edge-2 up for at least 59 s; edge-2 sees edge-1 down"],
  [
    "lost",
    cell(DOWN, DOWN, 120, BEGAN + 1),
    "uptime",
    "edge-1 sees edge-2 down, not up for 2 m; so does the other end",
  ],
  ["since nobody knows when", cell(UP, UP), "uptime", "edge-1 sees edge-2 up; so does the other end"],
  ["one end alone", cell(UNKNOWN, NOT_SAID), "state", "edge-1 sees edge-2 unknown; edge-2 has not said"],
  ["not loaded", null, "state", "edge-1 and edge-2: not loaded yet"],
] as const)("in words: %s", (_, shown, mode, expected) => {
  expect(say(one, two, shown, mode)).toBe(expected);
});

test("who says nothing, and why", () => {
  expect(say(member(2, "cp-1", { talos: true }), two, cell(NOT_SAID, UP), "state")).toBe(
    "cp-1 is a Talos machine and reports nothing; edge-2 sees cp-1 up",
  );
  expect(say(one, member(3, "old", { connected: false }), cell(DOWN, NOT_SAID), "state")).toContain("; old is away");
  expect(say(one, one, null, "state")).toBe("edge-1: itself");
});

test("what was not said is no second opinion", () => {
  expect([disagree(cell(UP, DOWN)), disagree(cell(UP, NOT_SAID)), disagree(cell(UP, UP))]).toEqual([
    true,
    false,
    false,
  ]);
  expect([worse(UP, DOWN), worse(UNKNOWN, UP), worse(NOT_SAID, UP)]).toEqual([DOWN, UNKNOWN, UP]);
});

test.each([
  ["state", UP, null, "up"],
  ["rtt", UP, 0.0005, "1"],
  ["rtt", UP, 0.002, "2"],
  ["rtt", UP, 3, "6"],
  ["rtt", UP, null, "silent"],
  ["rtt", DOWN, 0.1, "down"],
  ["received", UP, 0, "1"],
  ["uptime", UP, 0, "6"],
  ["uptime", UP, 59.9, "6"],
  ["uptime", UP, 60, "5"],
  ["uptime", UP, 3600, "3"],
  ["uptime", UP, 8 * 86_400, "1"],
  ["uptime", UP, null, "silent"],
  ["uptime", UNKNOWN, 60, "unknown"],
] as const)("the colour of %s %s %s is %s", (mode, state, figure, expected) => {
  expect(toneOf(mode, state, figure)).toBe(expected);
});

test("a legend has a word for every colour", () => {
  expect(legend("state").map((key) => key.text)).toEqual(["up", "unknown", "down", "not said"]);
  expect(
    legend("rtt")
      .map((key) => key.text)
      .slice(0, 3),
  ).toEqual(["under 2 ms", "from 2 ms", "from 10 ms"]);
  expect(new Set(legend("loss").map((key) => key.tone)).size).toBe(9);
  expect(
    legend("uptime")
      .slice(0, 6)
      .map((key) => `${key.tone}: ${key.text}`),
  ).toEqual(["6: up for under 1 m", "5: from 1 m", "4: from 10 m", "3: from 1 h", "2: from 1 d", "1: from 7 d"]);
});

test("a large cell says it itself", () => {
  expect(labels(one, cell(UP, DOWN, 0.1), "rtt")).toEqual(["100 ms", "down"]);
  expect(labels(one, cell(UNKNOWN, UNKNOWN), "state")).toEqual(["unknown", ""]);
  expect(labels(one, cell(UP, UP, 11_100, BEGAN + 1), "uptime")).toEqual(["3 h", ""]);
  expect(labels(one, cell(UP, UP, 11_100, BEGAN), "uptime")).toEqual(["≥ 3 h", ""]);
});
