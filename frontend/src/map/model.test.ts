import { describe, expect, it } from "vitest";
import { node, snapshot } from "./examples.ts";
import {
  groupName,
  groupRows,
  MapModel,
  matches,
  membersByGroup,
  notUp,
  ownLinks,
  pairs,
  shareWords,
  standing,
  summary,
  together,
} from "./model.ts";
import type { MapSnapshot } from "./shapes.ts";

const modelOf = (fields: Partial<MapSnapshot>) => {
  const model = new MapModel();
  model.snapshot(snapshot(fields));
  return model;
};

describe("the model", () => {
  it("takes what changed and drops what is gone", () => {
    const model = modelOf({
      nodes: [node(1), node(2)],
      links: [[1, 2, "up", 0]],
      groups: [["=ams", "=fra", 1, 0, 0]],
    });
    model.delta({ type: "delta", number: 1, at: 1, not_up: 1, links: [[1, 2, "down", 0]] });
    expect([model.links.get("1-2")?.[2], model.notUp, model.nodes.size]).toEqual(["down", 1, 2]);
    model.delta({
      type: "delta",
      number: 2,
      at: 2,
      nodes_gone: [2],
      links_gone: [[1, 2]],
      groups_gone: [["=ams", "=fra"]],
    });
    expect([model.nodes.size, model.links.size, model.groups.size, model.notUp]).toEqual([1, 0, 0, 1]);
    model.snapshot(snapshot({ grouped: true }));
    expect([model.nodes.size, model.grouped, model.notUp]).toEqual([0, true, 0]);
  });
});

describe("pairs", () => {
  it("are as bad as the worse end says, and as wide as the wider", () => {
    const found = pairs([
      [2, 1, "up", 3],
      [1, 2, "down", 0],
      [1, 3, "unknown", 1],
    ]);
    expect(found.get("1-2")).toEqual({ one: 1, other: 2, state: "down", level: 3 });
    expect(found.get("1-3")?.state).toBe("unknown");
  });

  it("of one node are its own", () => {
    const model = modelOf({
      nodes: [node(1), node(2), node(3)],
      links: [
        [2, 1, "up", 0],
        [2, 3, "up", 0],
      ],
    });
    expect(ownLinks(model, 1)).toEqual([{ one: 1, other: 2, state: "up", level: 0 }]);
  });
});

describe("groups", () => {
  it("come by name, those without one last, and nodes in the order in which they came", () => {
    const members = membersByGroup([
      node(9, { group: "none" }),
      node(8, { group: "=rack 10" }),
      node(7, { group: "=rack 2" }),
      node(3, { group: "=rack 10" }),
    ]);
    expect([...members].map(([key, nodes]) => [key, nodes.map((one) => one.pk)])).toEqual([
      ["=rack 2", [7]],
      ["=rack 10", [3, 8]],
      ["none", [9]],
    ]);
    expect(["=none", "none", "other"].map(groupName)).toEqual(["none", "No site", "Other sites"]);
  });

  it("count links once for each group that they touch, of a small cluster and of a large one", () => {
    const nodes = [node(1), node(2), node(3, { group: "=ams", connected: false })];
    const small = modelOf({
      nodes,
      links: [
        [1, 2, "up", 0],
        [1, 3, "down", 0],
      ],
    });
    const large = modelOf({
      nodes,
      grouped: true,
      groups: [
        ["=fra", "=fra", 1, 0, 0],
        ["=ams", "=fra", 0, 0, 1],
      ],
    });
    const rows = [
      { key: "=ams", name: "ams", nodes: 1, connected: 0, up: 0, unknown: 0, down: 1 },
      { key: "=fra", name: "fra", nodes: 2, connected: 2, up: 1, unknown: 0, down: 1 },
    ];
    expect(groupRows(small)).toEqual(rows);
    expect(groupRows(large)).toEqual(rows);
  });

  it.each([
    ["all up", [100, 0, 0], "up"],
    ["one away of many", [1000, 3, 20], "up"],
    ["a part", [90, 0, 10], "unknown"],
    ["most", [10, 45, 45], "down"],
    ["none said", [0, 0, 0], "up"],
  ] as const)("stand together: %s", (_, [up, unknown, down], state) => {
    expect(together(up, unknown, down)).toBe(state);
  });
});

it.each([
  [0, 0, "none yet"],
  [4, 4, "all 4 up"],
  [99_999, 100_000, "99.9 % up, 1 not"],
  [0, 7, "0 % up, 7 not"],
])("%i of %i links are up: %s", (up, all, words) => {
  expect(shareWords(up, all)).toBe(words);
});

describe("a node", () => {
  it.each([
    ["connected", {}, "connected"],
    ["away", { connected: false }, "away"],
    ["half down", { links: { up: 1, unknown: 0, down: 1 } }, "connected"],
    ["most down", { links: { up: 1, unknown: 0, down: 2 } }, "cut"],
  ] as const)("stands: %s", (_, fields, wanted) => {
    expect(standing(node(1, fields))).toBe(wanted);
  });

  it.each([
    ["", true],
    ["EDGE-7", true],
    ["fra edge", true],
    ["talos", false],
    ["fra ams", false],
  ])("is found by %j: %s", (search, found) => {
    expect(matches(node(7), search)).toBe(found);
  });
});

describe("words", () => {
  const two = [node(1), node(2)];
  it.each([
    ["nobody", {}, ""],
    ["one", { nodes: [node(1)] }, "One node; a link takes two."],
    ["all well", { nodes: two }, "2 nodes; every link that was reported is up."],
    ["one down", { nodes: two, not_up: 1 }, "2 nodes; 1 link not up."],
  ])("of a small cluster: %s", (_, fields, text) => {
    expect(summary(modelOf(fields), 0)).toBe(text);
  });

  it("of a large one say what is drawn and what is left out", () => {
    const model = modelOf({ nodes: two, grouped: true, not_up: 1200, unread: 1 });
    expect(summary(model, 1000)).toBe(
      "2 nodes are too many to draw every link: drawn are groups, the links between groups together, and 1,000 of " +
        "the 1,200 links that are not up. The links of 1 node are still being counted.",
    );
    expect(summary(model, 1200)).toContain("and the 1,200 links that are not up.");
  });

  it("list what is worse first, then by name", () => {
    const model = modelOf({
      nodes: [node(1), node(2), node(10)],
      links: [
        [1, 2, "unknown", 0],
        [10, 1, "down", 0],
        [2, 1, "down", 0],
        [2, 10, "up", 0],
      ],
    });
    expect(notUp(model).map(([from, to]) => `${from}-${to}`)).toEqual(["2-1", "10-1", "1-2"]);
  });
});
