// A small line without axes: how a figure went lately. Decoration beside the figure itself, so hidden from screen readers.
const SPACE = "http://www.w3.org/2000/svg";
const WIDTH = 100;
const HEIGHT = 24;
const EDGE = 2;

/** The line's parts, one for each run of values between gaps; a lone value is a short stroke. */
export function sparkPaths(values: readonly (number | null)[]): string[] {
  const known = values.filter((value) => value !== null);
  if (!known.length) return [];
  const high = Math.max(...known);
  const step = values.length > 1 ? WIDTH / (values.length - 1) : WIDTH;
  const y = (value: number) => (high ? EDGE + (HEIGHT - 2 * EDGE) * (1 - value / high) : HEIGHT - EDGE).toFixed(1);
  const paths: string[] = [];
  let run: string[] = [];
  const end = () => {
    const [first] = run;
    if (first) paths.push(run.length > 1 ? `M${run.join("L")}` : `M${first}h0.5`);
    run = [];
  };
  values.forEach((value, place) => {
    if (value === null) end();
    else run.push(`${(place * step).toFixed(1)} ${y(value)}`);
  });
  end();
  return paths;
}

/** Draws into the place, keeping its element. */
export function drawSpark(place: Element, values: readonly (number | null)[]): void {
  let svg = place.querySelector<SVGSVGElement>("svg.ks-spark");
  if (!svg) {
    svg = document.createElementNS(SPACE, "svg");
    svg.setAttribute("class", "ks-spark");
    svg.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
    svg.setAttribute("preserveAspectRatio", "none");
    svg.setAttribute("aria-hidden", "true");
    svg.append(document.createElementNS(SPACE, "path"));
    place.replaceChildren(svg);
  }
  svg.firstElementChild?.setAttribute("d", sparkPaths(values).join(""));
}

/** The last so many values. */
export class Trail {
  readonly #size: number;
  readonly values: (number | null)[] = [];

  constructor(size: number) {
    this.#size = size;
  }

  push(value: number | null): void {
    this.values.push(value);
    if (this.values.length > this.#size) this.values.shift();
  }

  /** With nothing before the first value. */
  padded(): (number | null)[] {
    return [...new Array(this.#size - this.values.length).fill(null), ...this.values];
  }
}
