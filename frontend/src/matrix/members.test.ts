import { expect, test } from "vitest";
import { arrange, type Member, sameOrder } from "./members.ts";

function member(index: number, name: string, more: Partial<Member> = {}): Member {
  const counts = { up: 9, unknown: 0, down: 0, began: 0 };
  return { index, pk: index + 100, name, site: "", talos: false, connected: true, ...counts, ...more };
}

const names = (order: { members: Member[] }) => order.members.map((one) => one.name);

test("names are in the order in which people count", () => {
  expect(names(arrange([member(0, "edge-10"), member(1, "edge-9"), member(2, "Edge-1")], "name"))).toEqual([
    "Edge-1",
    "edge-9",
    "edge-10",
  ]);
});

test("sites are groups, and who has none is one of its own", () => {
  const order = arrange(
    [member(0, "b", { site: "fra" }), member(1, "a", { site: "ams" }), member(2, "c"), member(3, "a", { site: "fra" })],
    "group",
  );
  expect(order.groups).toEqual([
    { name: "ams", from: 0, to: 1 },
    { name: "fra", from: 1, to: 3 },
    { name: "no site", from: 3, to: 4 },
  ]);
  expect(order.members.map((one) => one.index)).toEqual([1, 3, 0, 2]);
});

test("without sites kinds are groups", () => {
  const order = arrange([member(0, "a", { talos: true }), member(1, "b")], "group");
  expect(order.groups.map((group) => group.name)).toEqual(["Linux", "Talos"]);
});

test("the worst come first: away, then most down, then most unknown", () => {
  const order = arrange(
    [
      member(0, "well"),
      member(1, "unsure", { unknown: 3 }),
      member(2, "cut off", { down: 2 }),
      member(3, "away", { connected: false }),
      member(4, "talos", { connected: false, talos: true }),
    ],
    "worst",
  );
  expect(names(order)).toEqual(["away", "cut off", "unsure", "talos", "well"]);
});

test("an order is the same when everybody stands where they stood", () => {
  const one = arrange([member(0, "a"), member(1, "b")], "name");
  expect(sameOrder(one, arrange([member(1, "b", { down: 7 }), member(0, "a")], "name"))).toBe(true);
  expect(sameOrder(one, arrange([member(0, "a")], "name"))).toBe(false);
});
