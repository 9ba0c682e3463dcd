import { expect, it } from "vitest";
import type { NodeShape } from "./drawing.ts";
import { HEIGHT, nameOf, placeNames } from "./names.ts";

const shape = (fields: Partial<NodeShape> = {}): NodeShape => ({
  x: 0,
  y: 0,
  size: 1,
  colour: "rgb(0, 0, 0)",
  opacity: 1,
  shape: "circle",
  label: "edge",
  named: "auto",
  above: false,
  depth: "nodes",
  ...fields,
});

const measure = (text: string) => 10 * text.length;
const placed = (shapes: Record<string, NodeShape>, zoom = 10) =>
  placeNames(new Map(Object.entries(shapes)), zoom, measure).map((name) => name.key);

it.each([
  ["each where all have room", { a: shape(), b: shape({ y: 9 }) }, ["a", "b"]],
  ["not over another node", { a: shape(), b: shape({ x: 3 }) }, ["b"]],
  ["not over another name", { a: shape(), b: shape({ x: -1, y: 1.5 }), c: shape({ x: -9 }) }, ["a", "c"]],
  ["who is found before the rest", { a: shape(), b: shape({ y: 1, x: 1, depth: "topNodes" }) }, ["b"]],
  ["whoever must be named, room or not", { a: shape({ named: "visible" }), b: shape({ x: 3 }) }, ["a"]],
  ["nobody who is dimmed", { a: shape({ named: "hidden" }) }, []],
  [
    "groups, whose discs nodes stand on",
    { a: shape(), g: shape({ size: 9, named: "visible", above: true, depth: "hulls" }) },
    ["g", "a"],
  ],
  ["nobody whose node is hardly to be seen", { a: shape({ size: 0.4 }) }, []],
])("names %s", (_, shapes, keys) => {
  expect(placed(shapes as Record<string, NodeShape>)).toEqual(keys);
});

it("names more the closer one looks", () => {
  const shapes = { a: shape(), b: shape({ x: 3 }) };
  expect([placed(shapes, 10), placed(shapes, 60)]).toEqual([["b"], ["a", "b"]]);
});

it("writes beside a node, and above a group", () => {
  expect(nameOf("a", shape(), 10, measure)).toEqual({ key: "a", text: "edge", left: 14, top: -HEIGHT / 2, width: 40 });
  expect(nameOf("g", shape({ above: true }), 10, measure)).toMatchObject({ left: -20, top: -14 - HEIGHT });
});
