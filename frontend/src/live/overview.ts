// Pages that the server draws: their part that is marked `data-follow` is fetched anew when something is different.
import { renewHistory } from "./history.ts";
import type { OverviewDelta, OverviewSnapshot } from "./shapes.ts";
import type { Page } from "./socket.ts";

const RETRY = 5_000;
/** Charts get a point a minute: they are not asked for more often, whatever else is news. */
const CHART_EVERY = 55_000;

export class OverviewPage implements Page<OverviewSnapshot, OverviewDelta> {
  readonly #root: HTMLElement;
  #fetched = new Date();
  #failing = false;
  #charted = performance.now();
  #again: ReturnType<typeof setTimeout> | undefined;

  constructor(root: HTMLElement) {
    this.#root = root;
    document.addEventListener("htmx:after:swap", () => {
      this.#fetched = new Date();
      this.#failing = false;
    });
    for (const name of ["htmx:error", "htmx:response:error"]) document.addEventListener(name, () => this.#fail());
  }

  snapshot(): void {
    this.#fetch();
  }

  delta(): void {
    this.#fetch();
  }

  stale(): Date | null {
    return this.#failing ? this.#fetched : null;
  }

  #fetch(): void {
    this.#root.querySelector("[data-follow]")?.dispatchEvent(new Event("news"));
    if (performance.now() - this.#charted < CHART_EVERY) return;
    this.#charted = performance.now();
    renewHistory(this.#root);
  }

  #fail(): void {
    this.#failing = true;
    clearTimeout(this.#again);
    this.#again = setTimeout(() => this.#fetch(), RETRY);
  }
}
