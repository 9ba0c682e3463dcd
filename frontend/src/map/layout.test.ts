import { describe, expect, it } from "vitest";
import { around, groupSpots, Layout, reach } from "./layout.ts";

const count = (size: number, first = 1) => Array.from({ length: size }, (_, at) => at + first);
const distance = (a: { x: number; y: number }, b: { x: number; y: number }) => Math.hypot(a.x - b.x, a.y - b.y);

describe("a group's spots", () => {
  it.each([
    [2, true],
    [12, true],
    [64, true],
    [65, true],
    [999, true],
    [2, false],
    [14, false],
    [15, false],
    [400, false],
  ])("keep %i nodes apart (alone: %s)", (size, alone) => {
    const spots = groupSpots(size, alone);
    const nearest = Math.min(...spots.slice(1).map((spot, at) => distance(spot, spots[at] ?? spot)));
    expect(spots).toHaveLength(size);
    expect(nearest).toBeGreaterThan(0.8);
  });

  it("leave the middle free where the group is alone: whoever is chosen stands there", () => {
    for (const size of [2, 40, 500]) {
      expect(Math.min(...groupSpots(size, true).map((spot) => Math.hypot(spot.x, spot.y)))).toBeGreaterThan(1.5);
    }
  });
});

describe("groups", () => {
  it.each([[[1, 1]], [[3, 1, 1]], [[20, 1, 1, 1]], [[5, 5, 5, 5, 5, 5, 5]], [count(24)]])(
    "of radii %j do not overlap, and leave the middle free",
    (radii) => {
      const centres = around(radii);
      centres.forEach((centre, at) => {
        expect(Math.hypot(centre.x, centre.y)).toBeGreaterThan(radii[at] ?? 0);
        centres.slice(at + 1).forEach((other, further) => {
          const apart = (radii[at] ?? 0) + (radii[at + 1 + further] ?? 0);
          expect(distance(centre, other)).toBeGreaterThanOrEqual(apart);
        });
      });
    },
  );
});

describe("a layout", () => {
  const members = new Map([
    ["=ams", count(30)],
    ["=fra", count(20, 31)],
  ]);

  it("is the same for the same nodes", () => {
    const [one, other] = [new Layout(), new Layout()];
    one.place(members);
    other.place(members);
    expect([...one.spots]).toEqual([...other.spots]);
    expect(one.extent()).toBeGreaterThan(reach([...one.spots.values()]));
  });

  it("moves nobody when somebody comes or goes", () => {
    const layout = new Layout();
    layout.place(members);
    const before = new Map(layout.spots);
    layout.place(new Map([...members, ["=fra", [...count(19, 32), 77, 78]]]));
    for (const [pk, spot] of before) if (pk !== 31) expect(layout.spots.get(pk)).toEqual(spot);
    expect(layout.spots.has(31)).toBe(false);
    const [new1, new2] = [77, 78].map((pk) => layout.spots.get(pk));
    const hull = layout.hulls.get("=fra");
    expect(new1 && new2 && distance(new1, new2)).toBeGreaterThan(0.5);
    expect(hull && new1 && distance(hull, new1)).toBeLessThanOrEqual((hull?.radius ?? 0) + 1e-9);
  });

  it("moves a node that belongs elsewhere now, and is made anew where there are other groups", () => {
    const layout = new Layout();
    layout.place(members);
    const before = layout.spots.get(1);
    layout.place(
      new Map([
        ["=ams", count(29, 2)],
        ["=fra", [...count(20, 31), 1]],
      ]),
    );
    expect(layout.spots.get(1)).not.toEqual(before);
    layout.place(new Map([["=fra", count(50)]]));
    expect(layout.hulls.size).toBe(1);
    expect(layout.spots.size).toBe(50);
  });

  it("of nobody is empty", () => {
    const layout = new Layout();
    layout.place(new Map());
    expect([layout.spots.size, layout.extent()]).toEqual([0, 3]);
  });
});
