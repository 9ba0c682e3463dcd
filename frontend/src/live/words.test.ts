import { describe, expect, it } from "vitest";
import type { Enrolled, Link, NodeRow } from "./shapes.ts";
import { configurationWords, enrolmentSteps, linksText, presenceWords, totals, worst, worstFirst } from "./words.ts";

const row = (fields: Partial<NodeRow> = {}): NodeRow => ({
  pk: 1,
  index: 0,
  name: "edge-7",
  status: "approved",
  address: "fd00::1",
  connected: true,
  last_seen: 0,
  applied: 5,
  behind: 0,
  fault: "",
  links: { up: 0, unknown: 0, down: 0 },
  ...fields,
});

const link = (fields: Partial<Link> = {}): Link => ({
  node: 1,
  peer: 2,
  state: "down",
  endpoint: "192.0.2.1:51820",
  handshake: null,
  rtt: null,
  loss: null,
  received: 0,
  sent: 0,
  at: 1_000,
  ...fields,
});

describe("a cluster's figures", () => {
  it("count members only", () => {
    const rows = [
      row({ links: { up: 2, unknown: 1, down: 0 } }),
      row({ connected: false, behind: 3, links: { up: 1, unknown: 0, down: 1 } }),
      row({ fault: "no link" }),
      row({ status: "pending", links: { up: 9, unknown: 9, down: 9 } }),
    ];
    expect(totals(rows)).toEqual({ nodes: 3, connected: 2, drift: 2, up: 3, unknown: 1, down: 1 });
  });

  it("count each link once, by who reports it", () => {
    const links = { up: 1, unknown: 0, down: 0 };
    expect(totals([row({ links }), row({ talos: true, links })])).toMatchObject({ nodes: 2, up: 1 });
  });
});

describe("a node's facts", () => {
  it.each([
    [{ up: 4, unknown: 0, down: 0 }, "up", "4 of 4"],
    [{ up: 3, unknown: 1, down: 0 }, "unknown", "3 of 4"],
    [{ up: 2, unknown: 1, down: 1 }, "down", "2 of 4, 1 down"],
    [{ up: 0, unknown: 0, down: 0 }, "none", "—"],
  ])("links %j are %s: %s", (links, state, text) => expect([worst(links), linksText(links)]).toEqual([state, text]));

  it.each([
    [{}, "connected"],
    [{ connected: false }, "never connected"],
    [{ connected: false, last_seen: 1 }, "away since"],
    [{ talos: true }, "in discovery"],
    [{ talos: true, connected: false, last_seen: 1 }, "left discovery"],
  ])("presence of %j is %s", (fields, text) => expect(presenceWords(row({ last_seen: null, ...fields }))).toBe(text));

  it.each([
    [{ status: "pending" as const }, "none", "nothing to apply"],
    [{ fault: "no link", behind: 2 }, "fault", "could not be applied"],
    [{ behind: 2 }, "behind", "behind by 2 revisions"],
    [{ behind: 2, applied: 0 }, "behind", "nothing applied yet"],
    [{}, "applied", "applied"],
  ])("configuration of %j is %s: %s", (fields, state, text) =>
    expect(configurationWords(row(fields))).toEqual([state, text]),
  );
});

it("lists down before unknown, the longest silence first, and nothing that is up", () => {
  const links = [
    link({ node: 1, state: "unknown" }),
    link({ node: 2, handshake: 900 }),
    link({ node: 3, handshake: 100 }),
    link({ node: 4, state: "up" }),
  ];
  expect(worstFirst(links).map((found) => found.node)).toEqual([3, 2, 1]);
});

describe("an enrolment's steps", () => {
  const node = (stage: Enrolled["stage"], fields: Partial<Enrolled> = {}): Enrolled => ({
    pk: 7,
    name: "edge-7",
    stage,
    handshake: null,
    peers: 3,
    ...fields,
  });
  const shown = (nodes: Enrolled[], uses = 1, worthless: "expired" | null = null) =>
    enrolmentSteps(nodes, nodes.length, uses, worthless).map(({ step, text }) => `${step}: ${text}`);

  it.each([
    ["nobody yet", [], ["now: Waiting for the machine", "next: Connected", "next: First handshake"]],
    ["enrolled", [node("enrolled")], ["done: edge-7 has enrolled", "now: Connected", "next: First handshake"]],
    [
      "pending",
      [node("pending")],
      ["done: edge-7 has enrolled", "now: edge-7 waits for your approval", "next: Connected", "next: First handshake"],
    ],
    ["connected", [node("connected")], ["done: edge-7 has enrolled", "done: Connected", "now: First handshake"]],
    [
      "up",
      [node("up", { handshake: 1.23 })],
      ["done: edge-7 has enrolled", "done: Connected", "done: First handshake after 1.2 s"],
    ],
    [
      "the first machine",
      [node("connected", { peers: 0 })],
      ["done: edge-7 has enrolled", "done: Connected", "done: It is the first machine: enrol another one to mesh with"],
    ],
    ["removed", [node("removed")], ["now: edge-7 has been removed again"]],
  ])("%s", (_, nodes, expected) => expect(shown(nodes)).toEqual(expected));

  it("says that a token can no longer be used", () =>
    expect(shown([], 1, "expired")).toEqual(["now: The token is expired; close this and make another"]));

  it("has a line for each of several machines", () =>
    expect(shown([node("up", { handshake: 2 })], 3)).toEqual([
      "done: edge-7: first handshake after 2.0 s",
      "now: Waiting for 2 more machines",
    ]));
});
