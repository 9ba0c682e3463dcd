// A node's live page: its own facts, and each link from both ends.
import { formatRoundTrip, formatShare } from "../charts/words.ts";
import { formatBytes, formatRate, rate } from "../format.ts";
import { timeElement } from "../times.ts";
import { showFacts } from "./cluster.ts";
import { copyElement, element, fill, flash, keep, pairPath, stateElement } from "./dom.ts";
import { addPoints, renewHistory } from "./history.ts";
import { reload } from "./leaving.ts";
import type { NodeDelta, NodeRow, NodeSnapshot, PeerRow, Sight } from "./shapes.ts";
import type { Page } from "./socket.ts";
import { drawSpark } from "./spark.ts";
import { reason } from "./words.ts";

const HEADS = ["Peer", "State", "Seen by the peer", "Endpoint", "Last handshake", "Round trip", "Received", "Sent", ""];
const FIRST_FIGURE = 5;

export class NodePage implements Page<NodeSnapshot, NodeDelta> {
  readonly #root: HTMLElement;
  readonly #peers = new Map<number, PeerRow>();
  readonly #before = new Map<number, Sight>();
  #node: NodeRow | null = null;
  #trails = new Map<number, (number | null)[]>();

  constructor(root: HTMLElement) {
    this.#root = root;
  }

  snapshot(message: NodeSnapshot): void {
    this.#peers.clear();
    this.#before.clear();
    for (const peer of message.peers) this.#peers.set(peer.pk, peer);
    if (this.#node) renewHistory(this.#root); // points were missed
    this.#take(message.node, message.at);
    this.#draw();
    this.#fetchTrails();
  }

  delta(message: NodeDelta): void {
    for (const pk of message.peers_gone ?? []) this.#peers.delete(pk);
    for (const peer of message.peers ?? []) {
      const known = this.#peers.get(peer.pk);
      const before = known && this.#figures(known);
      const now = this.#figures(peer);
      if (before && now && now.at > before.at) this.#before.set(peer.pk, before);
      this.#peers.set(peer.pk, peer);
    }
    if (message.node) this.#take(message.node, message.at);
    this.#draw();
    addPoints(this.#root, message.history);
    if (message.history?.length) this.#fetchTrails();
  }

  /** A minute was noted: the small lines have another point. Without them the figures still say all. */
  async #fetchTrails(): Promise<void> {
    const path = this.#root.querySelector<HTMLElement>("[data-trails]")?.dataset.trails;
    if (!path) return;
    try {
      const answer = await fetch(path);
      if (!answer.ok || answer.redirected) return;
      const found = (await answer.json()) as Record<string, (number | null)[]>;
      this.#trails = new Map(Object.entries(found).map(([pk, values]) => [Number(pk), values]));
      this.#draw();
    } catch {
      // the next minute brings another
    }
  }

  #take(row: NodeRow, at: number): void {
    if (this.#node && this.#node.status !== row.status) {
      reload(); // approved or removed meanwhile: another page
      return;
    }
    this.#node = row;
    showFacts(this.#root, row, at);
  }

  /** How the link stands by numbers: as the node sees it, or where it reports nothing here, as its peer does. */
  #figures(peer: PeerRow): Sight | null {
    if (!this.#node?.talos) return peer.ours;
    const { theirs } = peer;
    return theirs && { ...theirs, received: theirs.sent, sent: theirs.received };
  }

  #draw(): void {
    this.#showHeard();
    const place = this.#root.querySelector("[data-peers]");
    if (!place) return;
    if (!this.#peers.size) {
      const text = "It is alone in its cluster; a link takes two.";
      fill(place, text, element("div", { class: "card-body text-secondary" }, text));
      return;
    }
    const peers = [...this.#peers.values()].sort((a, b) => a.name.localeCompare(b.name, "en", { numeric: true }));
    const body = tableBody(place);
    const rows = keep(
      body,
      peers.map((peer) => String(peer.pk)),
      () => newRow(),
    );
    peers.forEach((peer, at) => {
      const row = rows[at];
      if (row) this.#show(row, peer);
    });
  }

  /** While its agent is away, what it sees is what it last said. */
  #showHeard(): void {
    const place = this.#root.querySelector("[data-heard]");
    if (!place || !this.#node) return;
    if (this.#node.talos) {
      fill(place, "talos", "as its peers see it: it reports nothing here itself");
      return;
    }
    const last = Math.max(0, ...[...this.#peers.values()].map((peer) => peer.ours?.at ?? 0));
    if (this.#node.connected || !last) fill(place, "now", "as it sees its peers, and as they see it");
    else {
      const words = element("span", {}, "as it last said ", timeElement(last), ", and as its peers see it now");
      fill(place, String(last), words);
    }
  }

  #tryAgain(peer: PeerRow): Node[] {
    const template = this.#root.querySelector<HTMLTemplateElement>("template[data-try-again]");
    if (!template) return [];
    const form = template.content.cloneNode(true) as DocumentFragment;
    const field = form.querySelector<HTMLInputElement>("input[name=peer]");
    if (field) field.value = String(peer.pk);
    const whom = form.querySelector(".visually-hidden");
    if (whom) whom.textContent = ` ${peer.name}`;
    return [form];
  }

  #show(row: Element, peer: PeerRow): void {
    const [name, state, theirs, endpoint, handshake, trip, received, sent, action] = row.children;
    if (!name || !state || !theirs || !endpoint || !handshake || !trip || !received || !sent || !action) return;
    const { ours } = peer;
    const figures = this.#figures(peer);
    const before = this.#before.get(peer.pk);
    fill(name, peer.name, element("a", { href: `/nodes/${peer.pk}/` }, peer.name));
    const why = ours ? reason(ours, peer.theirs, undefined, Date.now() / 1000) : "";
    const again = why && ours?.state !== "up";
    const was = state.querySelector<HTMLElement>("[data-state]")?.dataset.state;
    const whose = element("span", { class: "visually-hidden" }, `, the link with ${peer.name} from both ends`);
    const href = this.#node ? pairPath(this.#node.pk, peer.pk) : "";
    const link = element("a", { class: "ks-plain", href }, sightElement(ours), whose);
    const shown = [link, ...(why ? [element("span", { class: "ks-sub" }, why)] : [])];
    fill(state, (ours?.state ?? "") + why, element("div", {}, ...shown));
    const changed = was !== undefined && was !== ours?.state;
    const otherwise = fill(theirs, peer.theirs?.state ?? "", element("div", {}, sightElement(peer.theirs)));
    if (changed || otherwise) flash(row);
    fill(
      endpoint,
      figures?.endpoint ?? "",
      element("div", {}, figures?.endpoint ? copyElement(figures.endpoint, "Endpoint") : "—"),
    );
    const age = figures?.handshake ? timeElement(figures.handshake) : "never";
    fill(handshake, String(figures?.handshake ? Math.round(figures.handshake) : "never"), element("div", {}, age));
    showRoundTrip(trip, figures, this.#trails.get(peer.pk));
    showTraffic(received, figures, before, "received");
    showTraffic(sent, figures, before, "sent");
    fill(action, again ? "again" : "", ...(again ? this.#tryAgain(peer) : []));
  }
}

function headElement(head: string, at: number): HTMLElement {
  const cell = element("th", { scope: "col", class: at >= FIRST_FIGURE ? "text-end" : "" });
  cell.append(head || element("span", { class: "visually-hidden" }, "Actions"));
  return cell;
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

function tableBody(place: Element): Element {
  const found = place.querySelector("tbody");
  if (found) return found;
  const heads = HEADS.map(headElement);
  const body = element("tbody");
  const table = element("table", { class: "table ks-fold" }, element("thead", {}, element("tr", {}, ...heads)), body);
  place.setAttribute("data-said", "table");
  place.replaceChildren(element("div", { class: "ks-table-wrap" }, table));
  return body;
}

function newRow(): HTMLTableRowElement {
  const row = element("tr", {}, element("th", { scope: "row", class: "ks-name" }));
  HEADS.slice(1).forEach((head, at) => {
    row.append(element("td", { "data-label": head, class: at + 1 >= FIRST_FIGURE ? "text-end num" : "" }));
  });
  return row;
}
