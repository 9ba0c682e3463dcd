// What the map knows, and what it makes of it: pairs, groups, standings, words. Nothing here draws.
import { formatCount, plural } from "../format.ts";
import type { State } from "../live/shapes.ts";
import type { GroupLinks, MapDelta, MapLink, MapNode, MapSnapshot } from "./shapes.ts";

/** Names as people order them; one collator for all, for a thousand names are ten thousand comparisons. */
export const byName = new Intl.Collator("en", { numeric: true }).compare;

/** What the socket told so far. */
export class MapModel {
  readonly nodes = new Map<number, MapNode>();
  readonly links = new Map<string, MapLink>();
  readonly groups = new Map<string, GroupLinks>();
  grouped = false;
  notUp = 0;
  unread = 0;

  snapshot(message: MapSnapshot): void {
    this.nodes.clear();
    this.links.clear();
    this.groups.clear();
    this.delta({ ...message, type: "delta" });
  }

  delta(message: MapDelta): void {
    this.grouped = message.grouped ?? this.grouped;
    this.notUp = message.not_up ?? this.notUp;
    this.unread = message.unread ?? this.unread;
    for (const pk of message.nodes_gone ?? []) this.nodes.delete(pk);
    for (const [node, peer] of message.links_gone ?? []) this.links.delete(`${node}-${peer}`);
    for (const key of message.groups_gone ?? []) this.groups.delete(JSON.stringify(key));
    for (const node of message.nodes ?? []) this.nodes.set(node.pk, node);
    for (const link of message.links ?? []) this.links.set(`${link[0]}-${link[1]}`, link);
    for (const group of message.groups ?? []) this.groups.set(JSON.stringify([group[0], group[1]]), group);
  }
}

/** Two nodes and what lies between them: the worse of what both ends say, the wider of their traffics. */
export interface Pair {
  one: number;
  other: number;
  state: State;
  level: number;
}

const RANK: Record<State, number> = { up: 0, unknown: 1, down: 2 };

export function pairs(links: Iterable<MapLink>): Map<string, Pair> {
  const found = new Map<string, Pair>();
  for (const [node, peer, state, level] of links) {
    const one = Math.min(node, peer);
    const other = Math.max(node, peer);
    const key = `${one}-${other}`;
    const known = found.get(key);
    if (!known) found.set(key, { one, other, state, level });
    else {
      if (RANK[state] > RANK[known.state]) known.state = state;
      known.level = Math.max(known.level, level);
    }
  }
  return found;
}

/** Nodes by group, groups in the order of their names, those without one last; nodes as they were approved. */
export function membersByGroup(nodes: Iterable<MapNode>): Map<string, MapNode[]> {
  const found = new Map<string, MapNode[]>();
  for (const node of nodes) {
    const members = found.get(node.group);
    if (members) members.push(node);
    else found.set(node.group, [node]);
  }
  const last = (key: string) => (key.startsWith("=") ? 0 : 1);
  const order = (a: string, b: string) => last(a) - last(b) || byName(a, b);
  const keys = [...found.keys()].sort(order);
  return new Map(keys.map((key) => [key, (found.get(key) ?? []).sort((a, b) => a.pk - b.pk)]));
}

export function groupName(key: string): string {
  if (key.startsWith("=")) return key.slice(1);
  return key === "none" ? "No site" : "Other sites";
}

/** How a node stands: away, connected with most of its links down, or connected. */
export type Standing = "away" | "cut" | "connected";

export function standing(node: MapNode): Standing {
  if (!node.connected) return "away";
  const { up, unknown, down } = node.links;
  return down * 2 > up + unknown + down ? "cut" : "connected";
}

export const STANDING_WORDS: Record<Standing, string> = {
  away: "away",
  cut: "connected, most links down",
  connected: "connected",
};

const FEW = 0.05;
const MOST = 0.5;

/** How links between two groups stand together: nearly all up, a part of them not, or most not. */
export function together(up: number, unknown: number, down: number): State {
  const share = (unknown + down) / Math.max(1, up + unknown + down);
  if (share > MOST) return "down";
  return share < FEW ? "up" : "unknown";
}

/** How many of these links are up, in words; never "100 %" unless all are. */
export function shareWords(up: number, all: number): string {
  if (!all) return "none yet";
  if (up === all) return `all ${formatCount(all)} up`;
  const percent = Math.floor((1000 * up) / all) / 10;
  return `${percent} % up, ${formatCount(all - up)} not`;
}

export interface GroupRow {
  key: string;
  name: string;
  nodes: number;
  connected: number;
  up: number;
  unknown: number;
  down: number;
}

/** Each group with its links, within it and to others. */
export function groupRows(model: MapModel): GroupRow[] {
  const rows = new Map<string, GroupRow>();
  for (const [key, members] of membersByGroup(model.nodes.values())) {
    const connected = members.filter((node) => node.connected).length;
    rows.set(key, { key, name: groupName(key), nodes: members.length, connected, up: 0, unknown: 0, down: 0 });
  }
  const add = (keys: Iterable<string>, counts: Partial<Record<State, number>>) => {
    for (const key of new Set(keys)) {
      const row = rows.get(key);
      if (!row) continue;
      row.up += counts.up ?? 0;
      row.unknown += counts.unknown ?? 0;
      row.down += counts.down ?? 0;
    }
  };
  if (model.grouped) {
    for (const [one, other, up, unknown, down] of model.groups.values()) add([one, other], { up, unknown, down });
  } else {
    for (const [node, peer, state] of model.links.values()) {
      const keys = [node, peer].map((pk) => model.nodes.get(pk)?.group ?? "");
      add(keys, { [state]: 1 });
    }
  }
  return [...rows.values()];
}

/** Links that are not up: down before unknown, then by name. */
export function notUp(model: MapModel): MapLink[] {
  const name = (pk: number) => model.nodes.get(pk)?.name ?? "";
  const found = [...model.links.values()].filter(([, , state]) => state !== "up");
  return found.sort(
    (a, b) => RANK[b[2]] - RANK[a[2]] || byName(name(a[0]), name(b[0])) || byName(name(a[1]), name(b[1])),
  );
}

/** Nodes that a search means: by name, site or kind; all when nothing is searched. */
export function matches(node: MapNode, search: string): boolean {
  const words = search.trim().toLowerCase().split(/\s+/).filter(Boolean);
  const text = `${node.name} ${node.site} ${node.talos ? "talos" : "linux"}`.toLowerCase();
  return words.every((word) => text.includes(word));
}

/** What the map shows, in a sentence or two. */
export function summary(model: MapModel, drawn: number): string {
  const size = model.nodes.size;
  if (!model.grouped) {
    if (size < 2) return size ? "One node; a link takes two." : "";
    const rest = model.notUp ? `${plural(model.notUp, "link")} not up` : "every link that was reported is up";
    return `${plural(size, "node")}; ${rest}.`;
  }
  const counting = model.unread ? ` The links of ${plural(model.unread, "node")} are still being counted.` : "";
  const which =
    drawn < model.notUp
      ? `${formatCount(drawn)} of the ${formatCount(model.notUp)}`
      : `the ${formatCount(model.notUp)}`;
  return (
    `${plural(size, "node")} are too many to draw every link: drawn are groups, the links between groups together, ` +
    `and ${which} links that are not up.${counting}`
  );
}

/** What one node's links are, from both ends. */
export function ownLinks(model: MapModel, pk: number): Pair[] {
  const own = [...model.links.values()].filter(([node, peer]) => node === pk || peer === pk);
  return [...pairs(own).values()];
}
