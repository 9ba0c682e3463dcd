import { describe, expect, it } from "vitest";
import { arrange, dumpAsked, PAGE_SIZE, parseAsked, partOf, sortedBy, standing } from "./peers.ts";
import type { PeerRow, Sight, State } from "./shapes.ts";

const sight = (fields: Partial<Sight> = {}): Sight => ({
  state: "up",
  endpoint: "",
  handshake: null,
  received: 0,
  sent: 0,
  at: 0,
  rtt: null,
  loss: null,
  ...fields,
});

let pk = 0;
const peer = (name: string, ours: State | Partial<Sight> | null, theirs: State | null = "up"): PeerRow => {
  pk += 1;
  const fields = typeof ours === "string" ? { state: ours } : ours;
  return { pk, name, ours: fields && sight(fields), theirs: theirs && sight({ state: theirs }) };
};

const names = (peers: PeerRow[], query: string) =>
  arrange(peers, parseAsked(query), (one) => one.ours).map(({ name }) => name);

describe("the address", () => {
  it.each([
    ["", { text: "", sort: "worst", turned: false, page: 1 }],
    ["?q=edge&sort=-rtt&page=3", { text: "edge", sort: "rtt", turned: true, page: 3 }],
    ["?sort=-nonsense&page=-1", { text: "", sort: "worst", turned: false, page: 1 }],
    ["?page=1.5", { text: "", sort: "worst", turned: false, page: 1 }],
  ])("%s is understood", (query, asked) => expect(parseAsked(query)).toEqual(asked));

  it.each(["?q=edge&sort=-rtt&page=3", "?sort=-worst", "?sort=name", "?history=7d&q=nas"])("%s is kept", (query) =>
    expect(dumpAsked(parseAsked(query), query)).toBe(query),
  );

  it("leaves out what is so by default", () =>
    expect(dumpAsked(parseAsked("?sort=worst&page=1&q="), "?sort=worst&page=1&q=")).toBe("?"));
});

it("a heading sorts, turns it round, and begins with the first page", () => {
  const asked = parseAsked("?q=edge&page=3");
  const sorted = sortedBy(asked, "name");
  expect(sorted).toEqual({ text: "edge", sort: "name", turned: false, page: 1 });
  expect(sortedBy(sorted, "name").turned).toBe(true);
  expect(sortedBy(sortedBy(sorted, "name"), "rtt").turned).toBe(false);
});

describe("the order of a node's links", () => {
  const mixed = [
    peer("silent", null, null),
    peer("well", "up"),
    peer("edge-10", "down", "down"),
    peer("edge-2", "down", "down"),
    peer("deaf", "down"),
    peer("heard", "up", "down"),
    peer("trying", "unknown"),
    peer("half", "up", null),
  ];
  const worst = ["edge-2", "edge-10", "deaf", "heard", "trying", "well", "half", "silent"];

  it("is the worst first, whichever end is worse off", () => expect(names(mixed, "")).toEqual(worst));
  it("is turned round", () => expect(names(mixed, "?sort=-worst")).toEqual([...worst].reverse()));
  it("is by name, numbers as numbers", () =>
    expect(names(mixed, "?sort=name&q=E").slice(0, 3)).toEqual(["deaf", "edge-2", "edge-10"]));

  it.each(["handshake", "rtt", "received", "sent"] as const)("is by %s, last who has none", (figure) => {
    const some = [peer("most", { [figure]: 9 }), peer("none", null), peer("least", { [figure]: 1 })];
    expect(names(some, `?sort=${figure}`)).toEqual(["least", "most", "none"]);
    expect(names(some, `?sort=-${figure}`)).toEqual(["most", "least", "none"]);
  });
});

it.each([
  ["?q=EDGE-1", ["edge-1", "edge-10"]],
  ["?q=%20nas%20", ["nas"]],
  ["?q=nobody", []],
])("a search for %s finds %j", (query, found) =>
  expect(names([peer("nas", "up"), peer("edge-1", "up"), peer("edge-10", "up")], query)).toEqual(found),
);

describe("the order is made anew", () => {
  const before = { ...peer("nas", { received: 1, sent: 1 }), pk: 1 };
  const asked = parseAsked("?sort=received");
  it.each([
    ["not for figures", { ours: sight({ received: 9, at: 5, rtt: 1 }) }, "?sort=received", false],
    ["nor for why", { why: "Its agent is away." }, "?sort=received", false],
    ["for a state", { ours: sight({ state: "down" as const }) }, "?sort=received", true],
    ["for the other end's", { theirs: null }, "?sort=received", true],
    ["for a name", { name: "nas-2" }, "?sort=received", true],
    ["for another address", {}, "?sort=-received", true],
  ])("%s", (_, fields, query, anew) =>
    expect(standing([{ ...before, ...fields }], parseAsked(query)) !== standing([before], asked)).toBe(anew),
  );
});

describe("a page", () => {
  const rows = Array.from({ length: 2 * PAGE_SIZE + 3 }, (_, place) => place);
  it.each([
    [1, 0, PAGE_SIZE, 1],
    [2, PAGE_SIZE, PAGE_SIZE, 2],
    [3, 2 * PAGE_SIZE, 3, 3],
    [9, 2 * PAGE_SIZE, 3, 3],
  ])("%i begins after %i rows and has %i", (wanted, before, length, page) => {
    const part = partOf(rows, wanted);
    expect([part.before, part.rows.length, part.page, part.pages]).toEqual([before, length, page, 3]);
    expect(part.rows[0]).toBe(before);
  });
  it("is there for no rows as well", () => expect(partOf([], 4)).toMatchObject({ rows: [], page: 1, pages: 1 }));
});
