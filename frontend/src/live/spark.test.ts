import { describe, expect, it } from "vitest";
import { sparkPaths, Trail } from "./spark.ts";

describe("a small line", () => {
  it("is as long as its values are many, and as high as the highest", () => {
    expect(sparkPaths([0, 1, 2])).toEqual(["M0.0 22.0L50.0 12.0L100.0 2.0"]);
  });

  it("has a part for each run between gaps, and a stroke for a lone value", () => {
    expect(sparkPaths([1, 1, null, 1, null])).toEqual(["M0.0 2.0L25.0 2.0", "M75.0 2.0h0.5"]);
  });

  it("lies on the ground where all is nought, and is not where there is nothing", () => {
    expect(sparkPaths([0, 0])).toEqual(["M0.0 22.0L100.0 22.0"]);
    expect(sparkPaths([null, null])).toEqual([]);
  });

  it("keeps the last values, with nothing before the first", () => {
    const trail = new Trail(3);
    for (const value of [1, null]) trail.push(value);
    expect(trail.padded()).toEqual([null, 1, null]);
    for (const value of [2, 3]) trail.push(value);
    expect(trail.padded()).toEqual([null, 2, 3]);
  });
});
