// Which of a node's links its page shows, and in which order, as its address says; pure.
import type { PeerRow, Sight, State } from "./shapes.ts";

/** As many rows as every list has on a page (nodes/views/common.py). */
export const PAGE_SIZE = 25;

/** What the list may be sorted by; the first is the default. `-` before it turns it round. */
export const SORTS = ["worst", "name", "handshake", "rtt", "received", "sent"] as const;
export type Sort = (typeof SORTS)[number];

/** What the address asks for. */
export interface Asked {
  text: string;
  sort: Sort;
  turned: boolean;
  page: number;
}

export function parseAsked(query: string): Asked {
  const asked = new URLSearchParams(query);
  const said = asked.get("sort") ?? "";
  const sort = SORTS.find((one) => one === said.replace(/^-/, ""));
  const page = Number(asked.get("page"));
  return {
    text: asked.get("q") ?? "",
    sort: sort ?? SORTS[0],
    turned: sort !== undefined && said.startsWith("-"),
    page: Number.isInteger(page) && page > 0 ? page : 1,
  };
}

/** The same as an address, with whatever else it has; what is as by default is left out. */
export function dumpAsked(asked: Asked, query: string): string {
  const address = new URLSearchParams(query);
  const sort = `${asked.turned ? "-" : ""}${asked.sort}`;
  const said = { q: asked.text, sort: sort === SORTS[0] ? "" : sort, page: asked.page > 1 ? String(asked.page) : "" };
  for (const [name, value] of Object.entries(said)) {
    if (value) address.set(name, value);
    else address.delete(name);
  }
  return `?${address}`;
}

/** What a heading asks for: its order, or the other way round where it is that already. */
export function sortedBy(asked: Asked, sort: Sort): Asked {
  return { ...asked, sort, turned: asked.sort === sort && !asked.turned, page: 1 };
}

const RANK: Record<State, number> = { down: 0, unknown: 1, up: 2 };
const NOT_SAID = 3;

/** Less is worse: by the end that is worse off, then by the other, as the list of links that are not up has it. */
function badness(peer: PeerRow): number {
  const ranks = [peer.ours, peer.theirs].map((sight) => (sight ? RANK[sight.state] : NOT_SAID));
  return Math.min(...ranks) * (NOT_SAID + 1) + Math.max(...ranks);
}

type Figures = (peer: PeerRow) => Sight | null;

function orderedBy(peer: PeerRow, sort: Sort, figures: Figures): number | null {
  if (sort === "worst") return badness(peer);
  if (sort === "name") return 0;
  return figures(peer)?.[sort] ?? null;
}

function byName(one: PeerRow, other: PeerRow): number {
  return one.name.localeCompare(other.name, "en", { numeric: true }) || one.pk - other.pk;
}

/** All that match, in order; who has no such figure comes last, whichever way round. */
export function arrange(peers: Iterable<PeerRow>, asked: Asked, figures: Figures): PeerRow[] {
  const text = asked.text.trim().toLowerCase();
  const way = asked.turned ? -1 : 1;
  const found = [...peers].filter((peer) => peer.name.toLowerCase().includes(text));
  const valued = found.map((peer) => ({ peer, value: orderedBy(peer, asked.sort, figures) }));
  valued.sort((one, other) => {
    if (one.value === null || other.value === null) {
      return Number(one.value === null) - Number(other.value === null) || way * byName(one.peer, other.peer);
    }
    return way * (one.value - other.value || byName(one.peer, other.peer));
  });
  return valued.map(({ peer }) => peer);
}

/** What the order is made anew for: figures alone do not, or rows would move under the pointer with each report. */
export function standing(peers: Iterable<PeerRow>, asked: Asked): string {
  return JSON.stringify([asked, [...peers].map((peer) => [peer.pk, peer.name, peer.ours?.state, peer.theirs?.state])]);
}

/** One page of rows, the last one where there are not so many. */
export interface Part<T> {
  rows: T[];
  page: number;
  pages: number;
  /** How many rows come before these. */
  before: number;
  count: number;
}

export function partOf<T>(rows: readonly T[], wanted: number): Part<T> {
  const pages = Math.max(1, Math.ceil(rows.length / PAGE_SIZE));
  const page = Math.min(wanted, pages);
  const before = (page - 1) * PAGE_SIZE;
  return { rows: rows.slice(before, before + PAGE_SIZE), page, pages, before, count: rows.length };
}
