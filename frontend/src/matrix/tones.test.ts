import { expect, test } from "vitest";
import { type Cell, DOWN, NOT_SAID, UNKNOWN, UP } from "./cells.ts";
import type { Member } from "./members.ts";
import { disagree, labels, legend, describe as say, toneOf, worse } from "./tones.ts";

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
  ...more,
});
const one = member(0, "edge-1");
const two = member(1, "edge-2");
const cell = (ours: Cell["ours"], theirs: Cell["theirs"], figure: number | null = null): Cell => ({
  ours,
  theirs,
  figure,
});

test.each([
  ["both the same", cell(UP, UP), "state", "edge-1 sees edge-2 up; so does the other end"],
  ["two opinions", cell(DOWN, UP), "state", "edge-1 sees edge-2 down; edge-2 sees edge-1 up"],
  ["a figure", cell(UP, UP, 0.0123), "rtt", "edge-1 sees edge-2 up, round trip 12 ms; so does the other end"],
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
});

test("a large cell says it itself", () => {
  expect(labels(cell(UP, DOWN, 0.1), "rtt")).toEqual(["100 ms", "down"]);
  expect(labels(cell(UNKNOWN, UNKNOWN), "state")).toEqual(["unknown", ""]);
});
