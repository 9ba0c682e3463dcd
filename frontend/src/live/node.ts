// A node's live page: its own facts, and each link from both ends, a page of them as the address asks for it.
import { timeElement } from "../times.ts";
import { showFacts } from "./cluster.ts";
import { element, fill } from "./dom.ts";
import { addPoints, renewHistory } from "./history.ts";
import { reload } from "./leaving.ts";
import { drawTable, type Shown, wireAsking } from "./peer-table.ts";
import { type Asked, arrange, dumpAsked, parseAsked, partOf, standing } from "./peers.ts";
import type { NodeDelta, NodeRow, NodeSnapshot, PeerRow, Sight } from "./shapes.ts";
import type { Page } from "./socket.ts";

export class NodePage implements Page<NodeSnapshot, NodeDelta> {
  readonly #root: HTMLElement;
  readonly #look: () => void;
  readonly #search: HTMLInputElement | null;
  readonly #peers = new Map<number, PeerRow>();
  readonly #before = new Map<number, Sight>();
  #node: NodeRow | null = null;
  #trails = new Map<number, (number | null)[]>();
  #asked: Asked = parseAsked(location.search);
  #standing = "";
  #order: number[] = [];
  #shown: number[] = [];

  /** `look` tells the console that other links are in view. */
  constructor(root: HTMLElement, look: () => void) {
    this.#root = root;
    this.#look = look;
    this.#search = root.querySelector<HTMLInputElement>("[data-search]");
    this.#wire();
  }

  #wire(): void {
    wireAsking(this.#root, (query) => {
      history.pushState(history.state, "", query);
      this.#ask(parseAsked(query));
    });
    window.addEventListener("popstate", () => {
      this.#ask(parseAsked(location.search));
      if (this.#search) this.#search.value = this.#asked.text;
    });
    this.#search?.form?.addEventListener("submit", (event) => event.preventDefault());
    this.#search?.addEventListener("input", () => this.#find(this.#search?.value ?? ""));
  }

  #find(text: string): void {
    const asked = { ...this.#asked, text, page: 1 };
    history.replaceState(history.state, "", dumpAsked(asked, location.search));
    this.#ask(asked);
  }

  /** The file has what the list has. */
  #ask(asked: Asked): void {
    this.#asked = asked;
    for (const file of this.#root.querySelectorAll<HTMLAnchorElement>("a[download]")) {
      const kind = new URLSearchParams(file.search).get("_export") ?? "csv";
      file.href = `${dumpAsked({ ...asked, page: 1 }, location.search)}&_export=${kind}`;
    }
    this.#redraw();
  }

  view(): number[] {
    return this.#shown;
  }

  snapshot(message: NodeSnapshot): void {
    this.#peers.clear();
    this.#before.clear();
    for (const peer of message.peers) this.#peers.set(peer.pk, peer);
    if (this.#node) renewHistory(this.#root); // points were missed
    this.#take(message.node, message.at);
    this.#draw(); // its socket tells what is in view after every snapshot
    this.#fetchTrails();
  }

  delta(message: NodeDelta): void {
    for (const pk of message.peers_gone ?? []) {
      this.#peers.delete(pk);
      this.#before.delete(pk);
    }
    for (const peer of message.peers ?? []) {
      const known = this.#peers.get(peer.pk);
      const before = known && this.#figures(known);
      const now = this.#figures(peer);
      if (before && now && now.at > before.at) this.#before.set(peer.pk, before);
      this.#peers.set(peer.pk, peer);
    }
    if (message.node) this.#take(message.node, message.at);
    this.#redraw();
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
      this.#redraw();
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

  #redraw(): void {
    const before = this.#shown.join();
    this.#draw();
    if (this.#shown.join() !== before) this.#look();
  }

  #draw(): void {
    this.#showHeard();
    const place = this.#root.querySelector("[data-peers]");
    if (!place || !this.#node) return;
    const peers = this.#arranged();
    const part = partOf(peers, this.#asked.page);
    this.#shown = part.rows.map((peer) => peer.pk);
    if (peers.length) drawTable(place, part, this.#asked, (peer) => this.#row(peer));
    else this.#sayNone(place);
  }

  #arranged(): PeerRow[] {
    const now = standing(this.#peers.values(), this.#asked);
    if (now !== this.#standing) {
      this.#standing = now;
      const found = arrange(this.#peers.values(), this.#asked, (peer) => this.#figures(peer));
      this.#order = found.map((peer) => peer.pk);
    }
    return this.#order.flatMap((pk) => this.#peers.get(pk) ?? []);
  }

  #sayNone(place: Element): void {
    const text = this.#peers.size ? "No peer has that in its name." : "It is alone in its cluster; a link takes two.";
    fill(place, text, element("div", { class: "card-body text-secondary" }, text));
  }

  #row(peer: PeerRow): Shown {
    return {
      node: this.#node?.pk ?? 0,
      figures: this.#figures(peer),
      before: this.#before.get(peer.pk),
      trail: this.#trails.get(peer.pk),
      again: peer.ours && peer.ours.state !== "up" ? this.#tryAgain(peer) : [],
    };
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
}
