import { describe, expect, it } from "vitest";
import { formatAge, formatBytes, formatRelative, plural, rate } from "./format.ts";

describe("bytes", () => {
  it.each([
    [0, "0 B"],
    [1023, "1,023 B"],
    [1024, "1.00 KiB"],
    [10 * 1024, "10.0 KiB"],
    [150 * 1024, "150 KiB"],
    [5 * 1024 ** 3, "5.00 GiB"],
    [-4, "0 B"],
  ])("%d is %s", (bytes, expected) => expect(formatBytes(bytes)).toBe(expected));
});

describe("ages", () => {
  it.each([
    [0.9, "0 s"],
    [59, "59 s"],
    [60, "1 m"],
    [3_600, "1 h"],
    [3_660, "1 h 1 m"],
    [86_400 + 3_600, "1 d 1 h"],
    [12 * 86_400 + 3_600, "12 d"],
    [-5, "0 s"],
  ])("%d seconds are %s", (seconds, expected) => expect(formatAge(seconds)).toBe(expected));

  it.each([
    [100, 101, "just now"],
    [100, 104, "4 s ago"],
    [3_700, 100.2, "in 1 h"],
  ])("%d seen at %d is %s", (at, now, expected) => expect(formatRelative(at, now)).toBe(expected));
});

it("counts with a noun", () =>
  expect([1, 3, 1000].map((count) => plural(count, "node"))).toEqual(["1 node", "3 nodes", "1,000 nodes"]));

describe("rates", () => {
  const reading = (at: number, bytes: number) => ({ at, bytes });
  it("divides by the time between two readings", () => expect(rate(reading(1, 100), reading(3, 300))).toBe(100));
  it("has none where the counter began anew", () => expect(rate(reading(1, 100), reading(3, 5))).toBeNull());
  it("has none for the same moment", () => expect(rate(reading(1, 100), reading(1, 100))).toBeNull());
});
