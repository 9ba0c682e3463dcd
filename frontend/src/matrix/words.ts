// The words beside the matrix: what is pointed at, the focused cell for whoever hears it, how many there are.
import { formatCount, plural } from "../format.ts";
import type { Place } from "./geometry.ts";
import type { Member, Order } from "./members.ts";

const STATES = ["up", "unknown", "down"] as const;

export class Words {
  readonly #root: HTMLElement;

  constructor(root: HTMLElement) {
    this.#root = root;
  }

  #find(name: string): HTMLElement | null {
    return this.#root.querySelector(`[data-mx="${name}"]`);
  }

  #write(name: string, text: string): void {
    const place = this.#find(name);
    if (place && place.textContent !== text) place.textContent = text;
  }

  /** How many members there are, and how they see their links. */
  count(members: Iterable<Member>): void {
    const sums = { up: 0, unknown: 0, down: 0 };
    let count = 0;
    for (const member of members) {
      count += 1;
      for (const state of STATES) sums[state] += member[state];
    }
    this.#write("count", plural(count, "member"));
    for (const state of STATES) {
      const place = this.#root.querySelector(`[data-mx-total="${state}"]`);
      if (place && place.textContent !== formatCount(sums[state])) place.textContent = formatCount(sums[state]);
    }
    const few = count < 2;
    this.#find("few")?.toggleAttribute("hidden", !few);
    this.#find("many")?.toggleAttribute("hidden", few);
  }

  /** What is pointed at, and where its pair is. */
  point(text: string | null, path: string | null): void {
    this.#write("readout", text || "Point at a cell, or move with the arrow keys; Enter opens the pair.");
    const link = this.#find("open");
    if (!link) return;
    link.toggleAttribute("hidden", !path);
    if (path) link.setAttribute("href", path);
  }

  /** The focused cell, as the grid's active one. */
  focus(place: Place, order: Order, text: string): void {
    const row = this.#find("row");
    const cell = this.#find("cell");
    if (!row || !cell) return;
    row.setAttribute("aria-rowindex", String(place.row + 1));
    cell.setAttribute("aria-colindex", String(place.column + 1));
    this.#write("rowhead", order.members[place.row]?.name ?? "");
    this.#write("cell", text);
    if (document.activeElement === this.#find("grid")) this.#write("spoken", text);
  }

  zoomed(out: boolean, further: boolean): void {
    this.#find("out")?.toggleAttribute("disabled", !out);
    this.#find("in")?.toggleAttribute("disabled", !further);
  }
}
