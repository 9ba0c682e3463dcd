// Beside the drawing: the same in words and tables, for whoever cannot see it or wants it exactly.
import { formatCount, plural } from "../format.ts";
import { element, fill, keep, pairPath, stateElement } from "../live/dom.ts";
import {
  byName,
  type GroupRow,
  groupName,
  groupRows,
  type MapModel,
  matches,
  notUp,
  ownLinks,
  STANDING_WORDS,
  shareWords,
  standing,
  together,
} from "./model.ts";
import type { MapLink } from "./shapes.ts";

const ROWS = 25;
const LEVELS = ["hardly any traffic", "some traffic", "much traffic", "very much traffic"];

function nodeButton(pk: number, name: string, root: number | null): HTMLElement {
  const pressed = String(pk === root);
  return element(
    "button",
    { type: "button", class: "ks-map-node", "data-root": String(pk), "aria-pressed": pressed },
    name,
  );
}

function cells(row: Element, drawn: readonly (readonly [said: string, ...shown: (Node | string)[]])[]): void {
  drawn.forEach(([said, ...shown], at) => {
    const cell = row.children[at];
    if (cell) fill(cell, said, ...shown);
  });
}

function newRow(count: number): HTMLTableRowElement {
  const rest = Array.from({ length: count - 1 }, () => element("td"));
  return element("tr", {}, element("th", { scope: "row", class: "ks-name" }), ...rest);
}

function more(place: Element | null, shown: number, all: number, noun: string): void {
  if (!place) return;
  const text = shown < all ? `${formatCount(shown)} of ${plural(all, noun)}; the search finds the others.` : "";
  fill(place, text, text);
}

function showGroups(root: HTMLElement, rows: GroupRow[]): void {
  const body = root.querySelector("[data-map-groups]");
  if (!body) return;
  const byKey = new Map(rows.map((row) => [row.key, row]));
  for (const shown of keep(body, [...byKey.keys()], () => newRow(3))) {
    const row = byKey.get(shown.getAttribute("data-key") ?? "");
    if (!row) continue;
    const button = element("button", { type: "button", class: "ks-map-node", "data-group": row.key }, row.name);
    const all = row.up + row.unknown + row.down;
    const state = all ? together(row.up, row.unknown, row.down) : "none";
    const words = shareWords(row.up, all);
    const away = row.nodes - row.connected;
    const sub = away ? [element("span", { class: "ks-sub" }, `${formatCount(away)} away`)] : [];
    cells(shown, [
      [row.name, button],
      [`${row.nodes} ${away}`, formatCount(row.nodes), ...sub],
      [state + words, stateElement(state, words)],
    ]);
  }
}

function showNotUp(root: HTMLElement, model: MapModel, links: MapLink[]): void {
  const body = root.querySelector("[data-map-bad]");
  if (!body) return;
  const byKey = new Map(links.slice(0, ROWS).map((link) => [`${link[0]}-${link[1]}`, link]));
  for (const shown of keep(body, [...byKey.keys()], () => newRow(2))) {
    const link = byKey.get(shown.getAttribute("data-key") ?? "");
    if (!link) continue;
    const [node, peer, state] = link;
    const name = (pk: number) => model.nodes.get(pk)?.name ?? "a node";
    const text = `${name(node)} → ${name(peer)}`;
    const spoken = element("span", { class: "visually-hidden" }, " sees ");
    const arrow = element("span", { "aria-hidden": "true" }, " → ");
    cells(shown, [
      [text, element("a", { href: pairPath(node, peer) }, name(node), arrow, spoken, name(peer))],
      [state, stateElement(state)],
    ]);
  }
  const none = root.querySelector<HTMLElement>("[data-map-none-bad]");
  if (none) none.hidden = links.length > 0;
}

function showNodes(root: HTMLElement, model: MapModel, centre: number | null, search: string): void {
  const body = root.querySelector("[data-map-nodes]");
  if (!body) return;
  const found = [...model.nodes.values()].filter((node) => matches(node, search));
  found.sort((a, b) => byName(a.name, b.name));
  const byKey = new Map(found.slice(0, ROWS).map((node) => [String(node.pk), node]));
  for (const shown of keep(body, [...byKey.keys()], () => newRow(3))) {
    const node = byKey.get(shown.getAttribute("data-key") ?? "");
    if (!node) continue;
    const stands = standing(node);
    cells(shown, [
      [`${node.name}${node.pk === centre}`, nodeButton(node.pk, node.name, centre)],
      [node.group, groupName(node.group)],
      [stands, stateElement(stands === "cut" ? "down" : stands, STANDING_WORDS[stands])],
    ]);
  }
  more(root.querySelector("[data-map-more-nodes]"), Math.min(ROWS, found.length), found.length, "node");
  const none = root.querySelector<HTMLElement>("[data-map-none-found]");
  if (none) none.hidden = found.length > 0 || !search.trim();
}

function factElement(term: string, ...shown: (Node | string)[]): HTMLElement {
  return element("div", {}, element("dt", {}, term), element("dd", {}, ...shown));
}

function showDetails(root: HTMLElement, model: MapModel, centre: number | null): void {
  const place = root.querySelector<HTMLElement>("[data-map-details]");
  if (!place) return;
  const node = centre === null ? undefined : model.nodes.get(centre);
  place.hidden = !node;
  if (!node) return;
  const own = ownLinks(model, node.pk);
  const count = (state: string) => own.filter((pair) => pair.state === state).length;
  const bad = own.filter((pair) => pair.state !== "up");
  const widest = Math.max(0, ...own.map((pair) => pair.level));
  const stands = standing(node);
  const said = JSON.stringify([node, own]);
  if (place.getAttribute("data-said") === said) return;
  place.setAttribute("data-said", said);
  const title = place.querySelector("[data-map-title]");
  title?.replaceChildren(element("a", { href: `/nodes/${node.pk}/` }, node.name));
  const states = (["up", "unknown", "down"] as const).map((state) =>
    element("span", {}, stateElement(state, `${formatCount(count(state))} ${state}`), " "),
  );
  const worst = bad.slice(0, 8).map((pair) => {
    const peer = pair.one === node.pk ? pair.other : pair.one;
    const link = element("a", { href: pairPath(node.pk, peer) }, model.nodes.get(peer)?.name ?? "a node");
    return element("li", {}, stateElement(pair.state, pair.state), " ", link);
  });
  const rest =
    bad.length > worst.length ? [element("li", {}, `and ${formatCount(bad.length - worst.length)} more`)] : [];
  place
    .querySelector("[data-map-facts]")
    ?.replaceChildren(
      factElement(
        "Agent",
        stateElement(
          stands === "cut" ? "down" : stands,
          node.talos && node.connected ? "in discovery" : STANDING_WORDS[stands],
        ),
      ),
      factElement("Site", node.site || "—"),
      factElement("Kind", node.talos ? "Talos" : "Linux"),
      factElement("Its links, the worse of both ends", ...states),
      factElement("Traffic", LEVELS[widest] ?? ""),
      ...(worst.length ? [factElement("Not up", element("ul", { class: "ks-map-worst" }, ...worst, ...rest))] : []),
    );
}

/** Brings everything beside the drawing up to date. */
export function showList(root: HTMLElement, model: MapModel, centre: number | null, search: string): void {
  const bad = notUp(model);
  const inSearch = bad.filter(([node, peer]) =>
    [node, peer].some((pk) => {
      const known = model.nodes.get(pk);
      return known !== undefined && matches(known, search);
    }),
  );
  showDetails(root, model, centre);
  showGroups(root, groupRows(model));
  showNotUp(root, model, inSearch);
  showNodes(root, model, centre, search);
  const count = root.querySelector("[data-map-bad-count]");
  if (count) {
    const shown = Math.min(ROWS, inSearch.length);
    const text =
      shown < model.notUp ? `${formatCount(shown)} of ${formatCount(model.notUp)}` : formatCount(model.notUp);
    fill(count, text, text);
  }
}
