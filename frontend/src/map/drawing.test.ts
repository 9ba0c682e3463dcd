import { describe, expect, it } from "vitest";
import type { Palette } from "./colours.ts";
import { difference, draw, type View } from "./drawing.ts";
import { node, snapshot } from "./examples.ts";
import { Layout } from "./layout.ts";
import { MapModel, membersByGroup } from "./model.ts";
import type { MapSnapshot } from "./shapes.ts";

const palette: Palette = {
  up: "rgb(1, 1, 1)",
  unknown: "rgb(2, 2, 2)",
  down: "rgb(3, 3, 3)",
  quiet: "rgb(4, 4, 4)",
  node: "rgb(5, 5, 5)",
  hull: "rgb(6, 6, 6)",
  text: "rgb(7, 7, 7)",
  surface: "rgb(8, 8, 8)",
  ring: "rgb(9, 9, 9)",
};

function drawn(message: Partial<MapSnapshot>, view: Partial<View> = {}) {
  const model = new MapModel();
  model.snapshot(snapshot(message));
  const layout = new Layout();
  const members = membersByGroup(model.nodes.values());
  layout.place(new Map([...members].map(([key, nodes]) => [key, nodes.map((one) => one.pk)])));
  return draw(model, layout, { root: null, search: "", palette, unit: 0.1, ...view });
}

const nodes = [node(1), node(2, { name: "hub", site: "ams", group: "=ams" }), node(3, { talos: true })];
const links: MapSnapshot["links"] = [
  [1, 2, "up", 3],
  [2, 1, "down", 0],
  [1, 3, "unknown", 0],
  [2, 3, "up", 0],
];

describe("a drawing", () => {
  it("tells states by stroke as well as by colour", () => {
    const { edges } = drawn({ nodes, links });
    const [down, unknown, up] = ["1-2", "1-3", "2-3"].map((key) => edges.get(key));
    expect([down?.dashSize, unknown?.dashSize, up?.dashSize]).toEqual([0.9, 0.2, 0]);
    expect([down?.colour, unknown?.colour, up?.colour]).toEqual([palette.down, palette.unknown, palette.up]);
  });

  it("is wider where there is traffic", () => {
    const wide = drawn({ nodes, links: [[2, 3, "up", 3]] }).edges.get("2-3")?.size ?? 0;
    const narrow = drawn({ nodes, links: [[2, 3, "up", 0]] }).edges.get("2-3")?.size ?? 0;
    expect(wide).toBeGreaterThan(2 * narrow);
  });

  it("tells who is away and who is Talos by shape", () => {
    const shapes = drawn({ nodes: [...nodes, node(4, { connected: false })] }).nodes;
    expect(["n1", "n3", "n4"].map((key) => shapes.get(key)?.shape)).toEqual(["circle", "square", "triangle"]);
  });

  it("dims whoever is not searched for, and their links", () => {
    const { nodes: shapes, edges } = drawn({ nodes, links }, { search: "hub" });
    expect(shapes.get("n1")?.opacity).toBeLessThan(0.2);
    expect(shapes.get("n2")?.opacity).toBe(1);
    expect([shapes.get("n1")?.named, shapes.get("n2")?.named]).toEqual(["hidden", "auto"]);
    expect(edges.get("1-3")?.opacity).toBeLessThan(0.2);
    expect(edges.get("1-2")?.opacity).toBeGreaterThan(0.9);
  });

  it("has whoever is chosen in the middle, with its links and nearly nothing else", () => {
    const { nodes: shapes, edges } = drawn({ nodes, links }, { root: 1 });
    expect([shapes.get("n1")?.x, shapes.get("n1")?.y, shapes.get("n1")?.depth]).toEqual([0, 0, "topNodes"]);
    expect(edges.has("2-3")).toBe(false);
    expect(edges.get("1-2")?.depth).toBe("topEdges");
  });

  it("of a large cluster has lines between groups, by how they stand together", () => {
    const { edges } = drawn({ nodes, links: [[1, 2, "down", 0]], grouped: true, groups: [["=ams", "=fra", 1, 0, 9]] });
    expect([...edges.keys()].sort()).toEqual(["1-2", "=ams =fra"]);
    expect(edges.get("=ams =fra")?.colour).toBe(palette.down);
  });
});

describe("a difference", () => {
  it("touches only what is not the same", () => {
    const before = new Map([
      ["a", { x: 1 }],
      ["b", { x: 1 }],
      ["c", { x: 1 }],
    ]);
    const after = new Map([
      ["a", { x: 1 }],
      ["b", { x: 2 }],
      ["d", { x: 1 }],
    ]);
    expect(difference(before, after)).toEqual({ gone: ["c"], fresh: ["d"], changed: ["b"] });
  });
});
