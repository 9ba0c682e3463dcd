// A cluster's live list of its nodes.
import { formatCount } from "../format.ts";
import { timeElement } from "../times.ts";
import { element, fill, flash, stateElement } from "./dom.ts";
import type { ClusterDelta, ClusterSnapshot, Link, NodeRow } from "./shapes.ts";
import type { Page } from "./socket.ts";
import { configurationWords, linksText, presenceWords, totals, worst, worstFirst } from "./words.ts";

/** As many as the console agrees to (nodes/consumers.py). */
const IN_VIEW = 50;

/** What the socket told so far, and who is to draw it. */
export class ClusterPage implements Page<ClusterSnapshot, ClusterDelta> {
  readonly nodes = new Map<number, NodeRow>();
  readonly links = new Map<string, Link>();
  partial = false;
  readonly #root: HTMLElement;
  readonly #draw: (page: ClusterPage, at: number) => void;

  constructor(root: HTMLElement, draw: (page: ClusterPage, at: number) => void) {
    this.#root = root;
    this.#draw = draw;
  }

  view(): number[] {
    if (!this.partial) return [];
    const listed = Array.from(this.#root.querySelectorAll("[data-rows] tr[data-key]"), (row) =>
      Number(row.getAttribute("data-key")),
    );
    const unwell = worstFirst(this.links.values()).map((link) => link.node);
    return [...new Set(listed.length ? listed : unwell)].slice(0, IN_VIEW);
  }

  snapshot(message: ClusterSnapshot): void {
    this.nodes.clear();
    this.links.clear();
    this.partial = message.partial;
    this.#merge(message.nodes, message.links);
    showRevision(message.revision);
    this.#draw(this, message.at);
  }

  delta(message: ClusterDelta): void {
    for (const pk of message.nodes_gone ?? []) this.nodes.delete(pk);
    for (const [node, peer] of message.links_gone ?? []) this.links.delete(`${node}-${peer}`);
    this.#merge(message.nodes ?? [], message.links ?? []);
    if (message.revision) showRevision(message.revision);
    this.#draw(this, message.at);
  }

  #merge(nodes: NodeRow[], links: Link[]): void {
    for (const node of nodes) this.nodes.set(node.pk, node);
    for (const link of links) this.links.set(`${link.node}-${link.peer}`, link);
  }
}

/** The page's head names the revision; its epoch stays as long as the console is not restored from a backup. */
function showRevision(number: number): void {
  const place = document.querySelector("[data-revision]");
  if (place) place.textContent = (place.textContent ?? "").replace(/\d+$/, String(number));
}

/** Brings a node's three facts up to date wherever the page shows them (`data-cell`). */
export function showFacts(place: Element, row: NodeRow, at: number): void {
  const cell = (name: string) => place.querySelector(`[data-cell="${name}"]`);
  const links = cell("links");
  if (links) {
    const text = linksText(row.links);
    if (fill(links, text + worst(row.links), text === "—" ? "—" : stateElement(worst(row.links), text))) flash(links);
  }
  const agent = cell("agent");
  if (agent) showPresence(agent, row, at);
  if (row.talos) return; // it is configured by Talos
  const configuration = cell("configuration");
  if (configuration) {
    const [state, text] = configurationWords(row);
    fill(configuration, text, stateElement(state, text));
  }
}

function showPresence(place: Element, row: NodeRow, at: number): void {
  const said = row.connected ? "connected" : "away";
  const first = !place.hasAttribute("data-said");
  const shown = place.querySelector<HTMLElement>(".ks-state")?.dataset.state;
  if (first && shown === said) {
    place.setAttribute("data-said", said); // the server knew since when, and said so
    return;
  }
  // In discovery a machine is for as long as it is told again: since when is of no matter.
  const since = row.connected ? (row.talos ? null : at) : row.last_seen;
  const age = since === null ? [] : [element("span", { class: "age" }, " ", timeElement(since))];
  if (fill(place, said, stateElement(said, presenceWords(row), ...age))) flash(place);
}

export function drawNodes(root: HTMLElement): (page: ClusterPage, at: number) => void {
  let members = "";
  return (page, at) => {
    for (const [name, value] of Object.entries(totals(page.nodes.values()))) {
      for (const shown of root.querySelectorAll(`[data-count="${name}"]`)) {
        if (shown.textContent !== formatCount(value)) shown.textContent = formatCount(value);
      }
      const noun = root.querySelector(`[data-noun="${name}"]`);
      if (noun) noun.textContent = value === 1 ? "node" : "nodes";
    }
    for (const row of page.nodes.values()) {
      const place = root.querySelector(`[data-rows] tr[data-key="${row.pk}"]`);
      if (place) showFacts(place, row, at);
    }
    const now = JSON.stringify([...page.nodes.values()].map((row) => [row.pk, row.status, row.name, row.found]).sort());
    if (members && members !== now) root.querySelector("#member-list")?.dispatchEvent(new Event("membership"));
    members = now;
  };
}
