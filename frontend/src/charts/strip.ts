// A strip of states: each slot's share up, unknown and down, by pattern as well as by colour. Arrow keys go from slot to slot.
import { formatAge } from "../format.ts";
import { element } from "../live/dom.ts";
import { type Chart, onGrid, type Series, type Strip as Stretches, type StripState } from "./series.ts";
import { formatMean, formatMoment } from "./words.ts";

const SPACE = "http://www.w3.org/2000/svg";

export interface Slot {
  start: number;
  end: number;
  /** Shares of the height, from below; together 1, or nothing where nobody could say. */
  shares: [state: StripState, share: number][];
  text: string;
}

const SLOTS: Record<Chart["span"], number> = { "24h": 900, "7d": 7200 };

/** A node's slots: what its points of each come to. */
export function nodeSlots(chart: Chart, series: Series): Slot[] {
  const [connected, up, unknown, down] = (["connected", "up", "unknown", "down"] as const).map((column) =>
    onGrid(chart, series, column),
  );
  const size = SLOTS[chart.span];
  const slots: Slot[] = [];
  for (let begin = Math.floor(chart.start / size) * size; begin < chart.end; begin += size) {
    const start = Math.max(begin, chart.start); // whole slots of the clock: they don't move with each minute
    const end = Math.min(begin + size, chart.end);
    const [first, last] = [start, end].map((at) => (at - chart.start) / chart.step);
    const mean = (values: (number | null)[] | undefined) => {
      const known = (values ?? []).slice(first, last).filter((value) => value !== null);
      return known.length ? known.reduce((sum, value) => sum + value, 0) / known.length : null;
    };
    slots.push(nodeSlot(start, end, mean(connected), [mean(up), mean(unknown), mean(down)], chart.span));
  }
  return slots;
}

function nodeSlot(
  start: number,
  end: number,
  connected: number | null,
  means: (number | null)[],
  span: Chart["span"],
): Slot {
  const when = `${formatMoment(start, span)} to ${formatMoment(end, span)}`;
  const [up = 0, unknown = 0, down = 0] = means.map((value) => value ?? 0);
  const all = up + unknown + down;
  if (connected === null) return { start, end, shares: [], text: `${when}: nothing noted` };
  if (connected === 0) return { start, end, shares: [], text: `${when}: away` };
  if (!all) return { start, end, shares: [], text: `${when}: connected, no links` };
  const words = [`${formatMean(up)} of ${formatMean(all)} up`];
  if (unknown) words.push(`${formatMean(unknown)} unknown`);
  if (down) words.push(`${formatMean(down)} down`);
  const shares = (
    [
      ["down", down / all],
      ["unknown", unknown / all],
      ["up", up / all],
    ] as [StripState, number][]
  ).filter(([, share]) => share > 0);
  return { start, end, shares, text: `${when}: ${words.join(", ")}` };
}

/** A link's slots: one from each change to the next. */
export function linkSlots(strip: Stretches, span: Chart["span"]): Slot[] {
  return strip.stretches.map(([start, end, state]) => {
    const words = state === "none" ? "not known" : state;
    const text = `${words} from ${formatMoment(start, span)} to ${formatMoment(end, span)}, for ${formatAge(end - start)}`;
    return { start, end, shares: state === "none" ? [] : [[state, 1] as [StripState, number]], text };
  });
}

/** One sentence on a link's strip. */
export function linkWords(strip: Stretches): string {
  const total = (state: StripState) =>
    strip.stretches.reduce((sum, [start, end, one]) => sum + (one === state ? end - start : 0), 0);
  const [up, unknown, down] = [total("up"), total("unknown"), total("down")];
  const known = up + unknown + down;
  if (!known) return "Nobody could say in this time.";
  if (!unknown && !down) return "Up all the time that anybody could say.";
  const parts = [`Up ${Math.floor((1000 * up) / known) / 10} % of the time`];
  if (down) parts.push(`down for ${formatAge(down)}`);
  if (unknown) parts.push(`unknown for ${formatAge(unknown)}`);
  return `${parts.join(", ")}.`;
}

function shape<K extends keyof SVGElementTagNameMap>(
  tag: K,
  attributes: Record<string, string>,
): SVGElementTagNameMap[K] {
  const made = document.createElementNS(SPACE, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

let strips = 0;

export class StripView {
  readonly root: HTMLElement;
  readonly #svg = shape("svg", { class: "ks-strip-svg", "aria-hidden": "true" });
  readonly #slider: HTMLElement;
  readonly #text = element("p", { class: "ks-strip-text", "aria-hidden": "true" });
  readonly #moved: (at: number | null) => void;
  readonly #id = `strip-${++strips}`;
  #slots: Slot[] = [];
  #place = -1;
  #words = "";

  constructor(label: string, moved: (at: number | null) => void) {
    this.#slider = element(
      "div",
      { class: "ks-strip-slider", role: "slider", tabindex: "0", "aria-label": label },
      this.#svg,
    );
    this.root = element("div", { class: "ks-strip-box" }, element("h3", {}, label), this.#slider, this.#text);
    this.#moved = moved;
    this.#slider.addEventListener("keydown", (event) => this.#key(event));
    this.#slider.addEventListener("pointermove", (event) => this.#hover(event));
    this.#slider.addEventListener("pointerdown", (event) => this.#hover(event));
    this.#slider.addEventListener("pointerleave", () => this.#leave());
    this.#slider.addEventListener("blur", () => this.#leave());
  }

  draw(slots: Slot[], words: string): void {
    this.#slots = slots;
    this.#words = words;
    const [first, last] = [slots[0], slots.at(-1)];
    if (!first || !last) return;
    const all = last.end - first.start;
    const percent = (value: number) => `${(100 * value).toFixed(3)}%`;
    const drawn: Element[] = [this.#patterns()];
    for (const slot of slots) {
      const x = percent((slot.start - first.start) / all);
      const width = percent((slot.end - slot.start) / all);
      let below = 1;
      drawn.push(shape("rect", { class: "none", x, width, height: "100%" }));
      for (const [state, share] of slot.shares) {
        below -= share;
        const fill = state === "up" ? {} : { fill: `url(#${this.#id}-${state})` };
        drawn.push(
          shape("rect", { class: state, x, width, y: percent(Math.max(0, below)), height: percent(share), ...fill }),
        );
      }
    }
    this.#svg.replaceChildren(...drawn);
    this.#slider.setAttribute("aria-valuemin", "0");
    this.#slider.setAttribute("aria-valuemax", String(slots.length - 1));
    this.#show(this.#place >= slots.length ? -1 : this.#place);
  }

  /** Down is hatched, unknown is dotted: the pattern says it without the colour. */
  #patterns(): SVGDefsElement {
    const defs = shape("defs", {});
    const hatch = shape("pattern", {
      id: `${this.#id}-down`,
      width: "6",
      height: "6",
      patternUnits: "userSpaceOnUse",
      patternTransform: "rotate(45)",
    });
    hatch.append(
      shape("rect", { class: "down-soft", width: "6", height: "6" }),
      shape("rect", { class: "down", width: "3.5", height: "6" }),
    );
    const dots = shape("pattern", {
      id: `${this.#id}-unknown`,
      width: "5",
      height: "5",
      patternUnits: "userSpaceOnUse",
    });
    dots.append(
      shape("rect", { class: "unknown-soft", width: "5", height: "5" }),
      shape("circle", { class: "unknown", cx: "2.5", cy: "2.5", r: "1.6" }),
    );
    defs.append(hatch, dots);
    return defs;
  }

  #key(event: KeyboardEvent): void {
    const last = this.#slots.length - 1;
    const from = this.#place < 0 ? last + 1 : this.#place;
    const to = {
      ArrowLeft: from - 1,
      ArrowDown: from - 1,
      ArrowRight: from + 1,
      ArrowUp: from + 1,
      Home: 0,
      End: last,
    }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    this.#go(Math.min(last, Math.max(0, to)));
  }

  #hover(event: PointerEvent): void {
    const box = this.#svg.getBoundingClientRect();
    const [first, last] = [this.#slots[0], this.#slots.at(-1)];
    if (!first || !last || !box.width) return;
    const at = first.start + ((event.clientX - box.left) / box.width) * (last.end - first.start);
    const place = this.#slots.findIndex((slot) => at < slot.end);
    this.#go(place < 0 ? this.#slots.length - 1 : place);
  }

  #go(place: number): void {
    if (place === this.#place) return;
    this.#show(place);
    const slot = this.#slots[place];
    this.#moved(slot ? (slot.start + slot.end) / 2 : null);
  }

  #leave(): void {
    this.#show(-1);
    this.#moved(null);
  }

  #show(place: number): void {
    this.#place = place;
    const slot = this.#slots[place];
    this.#text.textContent = slot?.text ?? this.#words;
    this.#slider.setAttribute("aria-valuenow", String(Math.max(0, place)));
    this.#slider.setAttribute("aria-valuetext", slot?.text ?? this.#words);
  }
}
