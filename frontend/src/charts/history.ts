// The history of a node or a link: fetched once, then a point a minute by the page's own socket.

import { onTheme } from "../colours.ts";
import { element } from "../live/dom.ts";
import { linkDrawings, nodeDrawings } from "./drawings.ts";
import { Plot } from "./plot.ts";
import { type Chart, extended, moments, pointCount, type Series } from "./series.ts";
import { linkSlots, linkWords, nodeSlots, StripView } from "./strip.ts";
import { tables } from "./table.ts";
import { emptyWords, linksWords, SPAN_WORDS } from "./words.ts";

const QUARTER = 900;
const wired = new WeakSet<Element>();

/** Finds the histories of the page: `data-history` is where the points are. */
export function wireHistories(): void {
  for (const root of document.querySelectorAll<HTMLElement>("[data-history]")) {
    if (wired.has(root)) continue;
    wired.add(root);
    new HistoryView(root);
  }
}

class HistoryView {
  readonly #root: HTMLElement;
  readonly #body: HTMLElement;
  readonly #kind: "node" | "link";
  readonly #plots = new Map<string, Plot>();
  #strips: StripView[] = [];
  #chart: Chart | null = null;
  #asked = 0;

  constructor(root: HTMLElement) {
    this.#root = root;
    this.#kind = root.dataset.kind === "link" ? "link" : "node";
    this.#body = root.querySelector<HTMLElement>("[data-history-body]") ?? root;
    root.addEventListener("history:points", (event) => this.#add((event as CustomEvent<Series[]>).detail));
    root.addEventListener("history:changed", () => this.#fetch());
    for (const link of root.querySelectorAll<HTMLAnchorElement>("a[data-span]")) {
      link.addEventListener("click", (event) => this.#choose(event, link));
    }
    onTheme(() => {
      for (const plot of this.#plots.values()) plot.repaint();
    });
    this.#fetch();
  }

  #choose(event: Event, link: HTMLAnchorElement): void {
    event.preventDefault();
    history.replaceState(history.state, "", link.href);
    this.#root.dataset.span = link.dataset.span;
    for (const other of this.#root.querySelectorAll("a[data-span]")) other.removeAttribute("aria-current");
    link.setAttribute("aria-current", "true");
    this.#fetch();
  }

  async #fetch(): Promise<void> {
    const turn = ++this.#asked;
    this.#body.setAttribute("aria-busy", "true");
    try {
      const answer = await fetch(`${this.#root.dataset.history}?span=${this.#root.dataset.span}`);
      if (!answer.ok || answer.redirected) throw new Error(String(answer.status));
      const chart = (await answer.json()) as Chart;
      if (turn === this.#asked) this.#show(chart);
    } catch {
      if (turn === this.#asked) this.#fail();
    }
    if (turn === this.#asked) this.#body.setAttribute("aria-busy", "false");
  }

  #fail(): void {
    const again = element("button", { type: "button", class: "btn btn-quiet btn-sm" }, "Try again");
    again.addEventListener("click", () => this.#fetch());
    const text = element("p", {}, "The history cannot be read just now: the console did not answer.");
    this.#clear(element("div", { class: "card-body text-secondary", role: "alert" }, text, again));
  }

  /** uPlot keeps every plot in a list of its own until it is destroyed, and an observer what it observes. */
  #letGo(): void {
    for (const plot of this.#plots.values()) plot.destroy();
    this.#plots.clear();
    this.#strips = [];
  }

  #clear(...shown: Node[]): void {
    this.#letGo();
    this.#body.replaceChildren(...shown);
  }

  #add(points: Series[]): void {
    if (!this.#chart) return;
    if (this.#chart.step === QUARTER) {
      const newest = Math.max(...points.flatMap((series) => series.at));
      if (newest % QUARTER === 0) this.#fetch();
      return;
    }
    this.#show(extended(this.#chart, points));
  }

  #show(chart: Chart): void {
    const had = this.#chart;
    this.#chart = chart;
    if (!pointCount(chart) && !this.#hasStates(chart)) {
      const text = element("p", { class: "mb-1" }, `No history of these ${SPAN_WORDS[chart.span]} yet.`);
      const more = element("p", { class: "text-secondary mb-0" }, chart.note || emptyWords(chart));
      this.#clear(element("div", { class: "card-body" }, text, more));
      return;
    }
    if (!had || had.span !== chart.span || !this.#plots.size) this.#build(chart);
    this.#draw(chart);
  }

  #hasStates(chart: Chart): boolean {
    return chart.strips.some((strip) => strip.stretches.some(([, , state]) => state !== "none"));
  }

  #build(chart: Chart): void {
    const labels = this.#kind === "node" ? ["Links by state"] : chart.strips.map((strip) => strip.name);
    this.#letGo();
    this.#strips = labels.map((label) => new StripView(label, (at) => this.#pointAt(at)));
    for (const drawing of this.#drawings(chart)) {
      this.#plots.set(drawing.title, new Plot(drawing.title, (place) => this.#point(place)));
    }
    const rows = element("div", { "data-history-table": "" });
    const summary = element("summary", {}, "As a table");
    const table = element("details", { class: "ks-history-table" }, summary, rows);
    table.addEventListener("toggle", () => this.#tabulate());
    const note = element("p", { class: "ks-history-note text-secondary" });
    const strips = element(
      "div",
      { class: "ks-strips" },
      ...this.#strips.map((strip) => strip.root),
      legend(this.#kind),
    );
    const plots = element("div", { class: "ks-plots" }, ...[...this.#plots.values()].map((plot) => plot.root));
    this.#body.replaceChildren(strips, note, plots, table);
  }

  #drawings(chart: Chart) {
    return this.#kind === "node" ? nodeDrawings(chart) : linkDrawings(chart);
  }

  #draw(chart: Chart): void {
    const at = moments(chart);
    for (const drawing of this.#drawings(chart)) this.#plots.get(drawing.title)?.draw(at, drawing);
    const [series] = chart.series;
    if (this.#kind === "node" && series) {
      this.#strips[0]?.draw(nodeSlots(chart, series), linksWords(chart, series));
    } else {
      chart.strips.forEach((strip, place) => {
        this.#strips[place]?.draw(linkSlots(strip, chart.span), linkWords(strip));
      });
    }
    const note = this.#body.querySelector<HTMLElement>(".ks-history-note");
    if (note) {
      note.textContent = chart.note;
      note.hidden = !chart.note;
    }
    this.#tabulate();
  }

  #tabulate(): void {
    const details = this.#body.querySelector<HTMLDetailsElement>(".ks-history-table");
    const place = details?.querySelector("[data-history-table]");
    if (details?.open && place && this.#chart) place.replaceChildren(...tables(this.#chart, this.#kind));
  }

  #point(place: number | null): void {
    for (const plot of this.#plots.values()) plot.point(place);
  }

  #pointAt(at: number | null): void {
    const chart = this.#chart;
    this.#point(at === null || !chart ? null : Math.floor((at - chart.start) / chart.step));
  }
}

function legend(kind: "node" | "link"): HTMLElement {
  const words = {
    up: "up",
    unknown: "unknown",
    down: "down",
    none: kind === "node" ? "away, or nothing noted" : "not known",
  };
  const items = Object.entries(words).map(([state, word]) =>
    element("li", {}, element("span", { class: "ks-strip-sample", "data-state": state, "aria-hidden": "true" }), word),
  );
  return element("ul", { class: "ks-legend" }, ...items);
}
