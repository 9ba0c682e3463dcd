// The table of a node's links: rows, headings that sort, and pages, drawn by the browser as the server draws them elsewhere.
import { formatRoundTrip, formatShare } from "../charts/words.ts";
import { formatBytes, formatCount, formatRate, rate } from "../format.ts";
import { timeElement } from "../times.ts";
import { copyElement, element, fill, flash, keep, pairPath, stateElement } from "./dom.ts";
import { type Asked, dumpAsked, type Part, type Sort, sortedBy } from "./peers.ts";
import type { PeerRow, Sight } from "./shapes.ts";
import { drawSpark } from "./spark.ts";

const COLUMNS: readonly [head: string, sort: Sort | null][] = [
  ["Peer", "name"],
  ["State", "worst"],
  ["Seen by the peer", null],
  ["Endpoint", null],
  ["Last handshake", "handshake"],
  ["Round trip", "rtt"],
  ["Received", "received"],
  ["Sent", "sent"],
];
const FIRST_FIGURE = 5;

/** What a row says, beside the peer's own. */
export interface Shown {
  /** The node that the page is about. */
  node: number;
  figures: Sight | null;
  before: Sight | undefined;
  trail: readonly (number | null)[] | undefined;
  /** The form that has it tried again; none where nobody may, or nothing is to be tried. */
  again: Node[];
}

/** Links within the table ask for another part of the list: their address says which. */
const ASKS = "data-asks-peers";

/** Has such links ask in place, unless they are to open elsewhere. */
export function wireAsking(place: Element, ask: (query: string) => void): void {
  place.addEventListener("click", (event) => {
    const { ctrlKey, metaKey, shiftKey, button } = event as MouseEvent;
    const link = (event.target as Element).closest<HTMLAnchorElement>(`a[${ASKS}]`);
    if (!link || ctrlKey || metaKey || shiftKey || button) return;
    event.preventDefault();
    ask(link.search);
  });
}

/** Draws one part of the list into the place; `shown` gives what a row says. */
export function drawTable(place: Element, part: Part<PeerRow>, asked: Asked, shown: (peer: PeerRow) => Shown): void {
  const [table, foot] = parts(place);
  showHeads(table, asked);
  const body = table.tBodies[0];
  if (!body) return;
  const rows = keep(
    body,
    part.rows.map((peer) => String(peer.pk)),
    () => newRow(),
  );
  part.rows.forEach((peer, at) => {
    const row = rows[at];
    if (row) showRow(row, peer, shown(peer));
  });
  showPages(foot, part, asked);
}

function parts(place: Element): [HTMLTableElement, HTMLElement] {
  const known = place.querySelector("table");
  const below = place.querySelector<HTMLElement>(".card-footer");
  if (known && below) return [known, below];
  const heads = COLUMNS.map(([head, sort], at) => {
    const text = sort ? element("a", { [ASKS]: "", "data-sort": sort }, head) : head;
    return element("th", { scope: "col", class: at >= FIRST_FIGURE ? "text-end" : "" }, text);
  });
  const head = element("thead", {}, element("tr", {}, ...heads));
  const table = element("table", { class: "table ks-fold ks-close" }, head, element("tbody"));
  const step = (words: string, rel: string) =>
    element("li", { class: "page-item" }, element("a", { class: "page-link", rel, [ASKS]: "" }, words));
  const steps = element("ul", { class: "pagination m-0" }, step("Previous", "prev"), step("Next", "next"));
  const count = element("span", { class: "text-secondary num" });
  const pages = element("nav", { class: "ms-auto", "aria-label": "Pages" }, steps);
  const foot = element("div", { class: "card-footer d-flex flex-wrap gap-2 align-items-center" }, count, pages);
  place.setAttribute("data-said", "table");
  place.replaceChildren(element("div", { class: "ks-table-wrap" }, table), foot);
  return [table, foot];
}

function showHeads(table: HTMLTableElement, asked: Asked): void {
  for (const link of table.querySelectorAll<HTMLAnchorElement>("a[data-sort]")) {
    const sort = link.dataset.sort as Sort;
    link.href = dumpAsked(sortedBy(asked, sort), location.search);
    const head = link.closest("th");
    if (sort !== asked.sort) head?.removeAttribute("aria-sort");
    else head?.setAttribute("aria-sort", asked.turned ? "descending" : "ascending");
  }
}

function showPages(foot: HTMLElement, part: Part<PeerRow>, asked: Asked): void {
  foot.classList.toggle("d-none", part.pages === 1); // `d-flex` is stronger than `hidden`
  foot.classList.toggle("d-flex", part.pages > 1);
  const count = foot.querySelector("span");
  const last = part.before + part.rows.length;
  if (count) fill(count, `${part.before} ${last} ${part.count}`, countText(part.before + 1, last, part.count));
  const steps = { prev: part.page - 1, next: part.page + 1 };
  for (const [rel, page] of Object.entries(steps)) {
    const link = foot.querySelector<HTMLAnchorElement>(`a[rel=${rel}]`);
    if (!link?.parentElement) continue;
    link.href = dumpAsked({ ...asked, page }, location.search);
    link.parentElement.hidden = page < 1 || page > part.pages;
  }
}

function countText(first: number, last: number, all: number): string {
  return `${formatCount(first)}–${formatCount(last)} of ${formatCount(all)}`;
}

function newRow(): HTMLTableRowElement {
  const row = element("tr", {}, element("th", { scope: "row", class: "ks-name" }));
  COLUMNS.slice(1).forEach(([head], at) => {
    row.append(element("td", { "data-label": head, class: at + 1 >= FIRST_FIGURE ? "text-end num" : "" }));
  });
  return row;
}

function showRow(row: Element, peer: PeerRow, { node, figures, before, trail, again }: Shown): void {
  const [name, state, theirs, endpoint, handshake, trip, received, sent] = row.children;
  if (!name || !state || !theirs || !endpoint || !handshake || !trip || !received || !sent) return;
  fill(name, peer.name, element("a", { href: `/nodes/${peer.pk}/` }, peer.name));
  const was = state.querySelector<HTMLElement>("[data-state]")?.dataset.state;
  showState(state, peer, node, again);
  const changed = was !== undefined && was !== peer.ours?.state;
  const otherwise = fill(theirs, peer.theirs?.state ?? "", element("div", {}, sightElement(peer.theirs)));
  if (changed || otherwise) flash(row);
  const where = figures?.endpoint ?? "";
  fill(endpoint, where, element("div", {}, where ? copyElement(where, "Endpoint") : "—"));
  const age = figures?.handshake ? timeElement(figures.handshake) : "never";
  fill(handshake, String(figures?.handshake ? Math.round(figures.handshake) : "never"), element("div", {}, age));
  showRoundTrip(trip, figures, trail);
  showTraffic(received, figures, before, "received");
  showTraffic(sent, figures, before, "sent");
}

/** Each part by itself: another reason must not take the focus from the button beside it. */
function showState(place: Element, peer: PeerRow, node: number, again: Node[]): void {
  if (!place.firstElementChild) {
    const head = element("div", { class: "ks-peer-state" }, element("span"), element("span"));
    place.append(element("div", {}, head, element("span", { class: "ks-sub" })));
  }
  const [state, deed, why] = place.querySelectorAll<HTMLElement>(".ks-peer-state > span, .ks-sub");
  if (!state || !deed || !why) return;
  const whose = element("span", { class: "visually-hidden" }, `, the link with ${peer.name} from both ends`);
  const link = element("a", { class: "ks-plain", href: pairPath(node, peer.pk) }, sightElement(peer.ours), whose);
  fill(state, peer.ours?.state ?? "", link);
  fill(deed, String(again.length), ...again);
  fill(why, peer.why ?? "", peer.why ?? "");
  why.hidden = !peer.why;
}

function sightElement(sight: Sight | null): Node {
  return sight ? stateElement(sight.state) : element("span", { class: "text-secondary" }, "not said");
}

/** The round trip, what is lost, and how it went in the last hour where that is kept. */
function showRoundTrip(place: Element, now: Sight | null, trail: readonly (number | null)[] | undefined): void {
  const rtt = now?.rtt ?? null;
  const text = rtt === null ? "—" : formatRoundTrip(rtt);
  const lost = now?.loss ? `${formatShare(now.loss)} lost` : "";
  const parts: (Node | string)[] = [text];
  if (lost) parts.push(element("span", { class: "ks-sub" }, lost));
  if (trail?.some((value) => value !== null)) {
    const line = element("span", { class: "ks-trail", title: "Round trip in the last hour" });
    drawSpark(line, trail);
    parts.push(line);
  }
  fill(place, `${text} ${lost} ${trail?.join()}`, element("div", {}, ...parts));
}

function showTraffic(place: Element, now: Sight | null, before: Sight | undefined, which: "received" | "sent"): void {
  if (!now) {
    fill(place, "", "—");
    return;
  }
  const speed = before ? rate({ at: before.at, bytes: before[which] }, { at: now.at, bytes: now[which] }) : null;
  const total = formatBytes(now[which]);
  const rateText = speed === null ? "" : formatRate(speed);
  const parts = rateText ? [total, element("span", { class: "ks-sub" }, rateText)] : [total];
  fill(place, `${total} ${rateText}`, element("div", {}, ...parts));
}
