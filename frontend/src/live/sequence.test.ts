import { describe, expect, it } from "vitest";
import { formatClock } from "../format.ts";
import { delayBefore, mood, PATIENCE, Sequence } from "./sequence.ts";

const snapshot = (number: number) => ({ type: "snapshot" as const, number, at: 0 });
const delta = (number: number) => ({ type: "delta" as const, number, at: 0 });

describe("numbered messages", () => {
  it("uses deltas that follow a snapshot one by one", () => {
    const sequence = new Sequence();
    expect([snapshot(4), delta(5), delta(6)].map((message) => sequence.take(message))).toEqual(["use", "use", "use"]);
  });

  it.each([
    ["a number left out", [snapshot(0), delta(2)]],
    ["a delta without a snapshot", [delta(1)]],
    ["a delta twice", [snapshot(0), delta(1), delta(1)]],
  ])("sees a gap in %s", (_, messages) => {
    const sequence = new Sequence();
    expect(messages.map((message) => sequence.take(message)).at(-1)).toBe("gap");
  });

  it("begins again with any snapshot", () => {
    const sequence = new Sequence();
    sequence.take(snapshot(0));
    sequence.take(delta(9));
    expect([sequence.take(snapshot(7)), sequence.take(delta(8))]).toEqual(["use", "use"]);
  });

  it("takes no delta of a connection that was lost", () => {
    const sequence = new Sequence();
    sequence.take(snapshot(0));
    sequence.forget();
    expect(sequence.take(delta(1))).toBe("gap");
  });
});

describe("the wait before another attempt", () => {
  it("is never nothing, even by chance", () => expect(delayBefore(0, 0)).toBeGreaterThan(0));
  it("grows", () => expect(delayBefore(5, 0.5)).toBeGreaterThan(delayBefore(1, 0.5)));
  it("has an end", () => expect(delayBefore(1_000, 1)).toBeLessThan(20_000));
});

describe("what the banner says", () => {
  const then = new Date(2026, 0, 2, 18, 2, 11);
  it.each([
    ["live", true, then, 0, "Live"],
    ["starting", false, null, 0, "Connecting"],
    ["reconnecting", false, then, PATIENCE - 1, "Reconnecting"],
    ["stale", false, then, PATIENCE, `Stale since ${formatClock(then)}`],
    ["stale", false, null, PATIENCE, "Not connected"],
  ] as const)("%s", (live, connected, current, lostFor, text) => {
    expect(mood(connected, current, lostFor)).toEqual({ live, text });
  });
});
