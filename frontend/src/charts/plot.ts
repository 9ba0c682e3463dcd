// One chart: uPlot on a canvas, with a legend and a sentence of our own around it.
import uPlot from "uplot";
import { colour, faded } from "../colours.ts";
import { element } from "../live/dom.ts";
import { isolated, type Values } from "./series.ts";

const HEIGHT = 156;
const AXIS = 60;
const SPACE = "http://www.w3.org/2000/svg";

export interface Line {
  label: string;
  values: Values;
  /** What is said of a value; of a stacked line, `values` are sums and `said` its own. */
  said: Values;
  colour: string;
  dash?: number[];
  /** Filled down to the line of this place, or to the bottom. */
  fill?: boolean;
}

export interface Drawing {
  title: string;
  words: string;
  lines: Line[];
  format(value: number | null | undefined): string;
  /** The least that the axis reaches up to, so that a quiet chart does not look wild. */
  least: number;
  /** No more than this: a share. */
  most?: number;
  /** Where the axis has marks; left out, uPlot's own. */
  steps?: number[];
}

function sample(line: Line): SVGSVGElement {
  const svg = document.createElementNS(SPACE, "svg");
  svg.setAttribute("class", `ks-sample ${line.colour}`);
  svg.setAttribute("aria-hidden", "true");
  const stroke = document.createElementNS(SPACE, "line");
  for (const [name, value] of [
    ["x2", "100%"],
    ["y1", "50%"],
    ["y2", "50%"],
  ] as const)
    stroke.setAttribute(name, value);
  if (line.dash) stroke.setAttribute("stroke-dasharray", line.dash.join(" "));
  svg.append(stroke);
  return svg;
}

/** A chart in a place of its own; `moved` hears where the pointer is. */
export class Plot {
  readonly root: HTMLElement;
  readonly #canvas = element("div", { class: "ks-plot", role: "img" });
  readonly #words = element("p", { class: "ks-plot-words" });
  readonly #legend = element("ul", { class: "ks-plot-legend" });
  readonly #moved: (place: number | null) => void;
  readonly #sized = new ResizeObserver(() => this.#resize());
  #values: HTMLElement[] = [];
  #plot: uPlot | null = null;
  #at: number[] = [];
  #drawing: Drawing | null = null;
  #quiet = false;

  constructor(title: string, moved: (place: number | null) => void) {
    const head = element("div", { class: "ks-plot-head" }, element("h3", {}, title), this.#legend);
    this.root = element("div", { class: "ks-plot-box" }, head, this.#words, this.#canvas);
    this.#moved = moved;
    this.#sized.observe(this.#canvas);
  }

  /** Nothing holds it any more. */
  destroy(): void {
    this.#sized.disconnect();
    this.#plot?.destroy();
    this.#plot = null;
  }

  draw(at: number[], drawing: Drawing): void {
    const before = this.#drawing;
    this.#at = at;
    this.#drawing = drawing;
    this.#words.textContent = drawing.words;
    this.#canvas.setAttribute("aria-label", `${drawing.title}. ${drawing.words}`);
    this.#canvas.dataset.points = String(drawing.lines[0]?.said.filter((value) => value !== null).length ?? 0);
    const data = [at, ...drawing.lines.map((line) => line.values)] as uPlot.AlignedData;
    const same = before?.lines.map((line) => line.label).join() === drawing.lines.map((line) => line.label).join();
    if (this.#plot && same) this.#plot.setData(data);
    else this.#make(data, drawing);
    this.#say(null);
  }

  /** Draws anew in the colours of another theme. */
  repaint(): void {
    if (this.#drawing)
      this.#make([this.#at, ...this.#drawing.lines.map((line) => line.values)] as uPlot.AlignedData, this.#drawing);
  }

  /** Shows the figures of one moment, as the pointer would. */
  point(place: number | null): void {
    this.#say(place);
    const at = place === null ? undefined : this.#at[place];
    if (!this.#plot) return;
    this.#quiet = true;
    this.#plot.setCursor(
      at === undefined ? { left: -10, top: -10 } : { left: this.#plot.valToPos(at, "x"), top: HEIGHT / 2 },
    );
    this.#quiet = false;
  }

  #make(data: uPlot.AlignedData, drawing: Drawing): void {
    this.#plot?.destroy();
    this.#canvas.replaceChildren();
    this.#plot = new uPlot(this.#options(drawing), data, this.#canvas);
    this.#values = drawing.lines.map(() => element("span", { class: "num" }));
    const items = drawing.lines.map((line, index) => {
      const item = element("li", {}, line.label, " ");
      item.prepend(sample(line));
      item.append(this.#values[index] ?? "");
      return item;
    });
    this.#legend.replaceChildren(...items);
  }

  #say(place: number | null): void {
    this.#drawing?.lines.forEach((line, index) => {
      const shown = this.#values[index];
      if (shown) shown.textContent = place === null ? "" : (this.#drawing?.format(line.said[place]) ?? "");
    });
  }

  #resize(): void {
    const width = this.#canvas.clientWidth;
    if (this.#plot && width && width !== this.#plot.width) this.#plot.setSize({ width, height: HEIGHT });
  }

  #options(drawing: Drawing): uPlot.Options {
    const grid = { stroke: faded(colour("var(--border-color)"), 0.8), width: 1 };
    const axis = {
      stroke: colour("var(--secondary)"),
      font: "11px Inter, system-ui, sans-serif",
      grid,
      ticks: { show: false },
    };
    return {
      width: this.#canvas.clientWidth || 320,
      height: HEIGHT,
      padding: [8, 8, 0, 0],
      legend: { show: false },
      cursor: { y: false, drag: { setScale: false, x: false, y: false }, points: { size: 7 } },
      scales: { x: { time: true }, y: { range: (_, __, high) => [0, top(high, drawing)] } },
      axes: [
        { ...axis, size: 26, values: clock },
        {
          ...axis,
          size: AXIS,
          gap: 4,
          space: 28,
          values: (_, splits) => splits.map((value) => drawing.format(value)),
          ...(drawing.steps ? { incrs: drawing.steps } : {}),
        },
      ],
      series: [{}, ...drawing.lines.map(lineOptions)],
      bands: drawing.lines.flatMap((line, index) =>
        line.fill && index > 0
          ? [{ series: [index + 1, index] as [number, number], fill: faded(colour(`var(--${line.colour})`), 0.18) }]
          : [],
      ),
      hooks: {
        setCursor: [
          (plot) => {
            if (this.#quiet) return;
            const place = plot.cursor.left !== undefined && plot.cursor.left >= 0 ? (plot.cursor.idx ?? null) : null;
            this.#moved(place);
          },
        ],
      },
    };
  }
}

function top(high: number | null, drawing: Drawing): number {
  const reached = Math.max(drawing.least, (high ?? 0) * 1.08);
  return drawing.most === undefined ? reached : Math.min(drawing.most, reached);
}

function lineOptions(line: Line, index: number): uPlot.Series {
  return {
    label: line.label,
    stroke: colour(`var(--${line.colour})`),
    width: 1.5,
    spanGaps: false,
    ...(line.dash ? { dash: line.dash } : {}),
    ...(line.fill && index === 0 ? { fill: faded(colour(`var(--${line.colour})`), 0.18) } : {}),
    points: {
      show: true,
      size: 5,
      fill: colour(`var(--${line.colour})`),
      filter: (plot, place) => isolated(Array.from(plot.data[place] ?? [])),
    },
  };
}

/** Times under a chart: hours, and the day where it begins. */
function clock(_: uPlot, splits: number[]): string[] {
  return splits.map((at) => {
    const date = new Date(at * 1000);
    const two = (value: number) => String(value).padStart(2, "0");
    if (date.getHours() + date.getMinutes() === 0) {
      return date.toLocaleDateString("en", { day: "numeric", month: "short" });
    }
    return `${two(date.getHours())}:${two(date.getMinutes())}`;
  });
}
