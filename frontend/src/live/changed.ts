// Rows that the server draws flash as those do that a socket draws: where a state is another than it was before.
import { flash } from "./dom.ts";

let known = new Map<string, string>();

/** Rows of followed parts by what names them, for several lists of a page may have the same keys. */
function rows(): Map<string, Element> {
  const found = document.querySelectorAll("[data-follow] tr[data-key]");
  const name = (row: Element) =>
    `${row.closest("section")?.getAttribute("aria-labelledby")} ${row.getAttribute("data-key")}`;
  return new Map(Array.from(found, (row) => [name(row), row]));
}

function states(row: Element): string {
  return Array.from(row.querySelectorAll("[data-state]"), (shown) => shown.getAttribute("data-state")).join();
}

/** Notes what rows say now, and has those flash that said otherwise; a row that was not there is none of them. */
export function flashChanged(): void {
  const before = known;
  known = new Map();
  for (const [name, row] of rows()) {
    const now = states(row);
    known.set(name, now);
    const then = before.get(name);
    if (then !== undefined && then !== now) flash(row);
  }
}
