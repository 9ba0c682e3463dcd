// The names of a drawing, written over it at one size however close it is looked at.
import { faded } from "../colours.ts";
import type { Palette } from "./colours.ts";
import type { Spot } from "./layout.ts";
import { HEIGHT, type Name } from "./names.ts";

const FONT = "550 12px Inter, system-ui, sans-serif";
const PADDING = 2;

export class Writing {
  readonly #canvas = document.createElement("canvas");
  readonly #context = this.#canvas.getContext("2d");
  readonly #widths = new Map<string, number>();

  constructor(container: HTMLElement) {
    this.#canvas.className = "ks-map-names";
    container.append(this.#canvas);
  }

  /** How many pixels a text takes. */
  measure = (text: string): number => {
    const known = this.#widths.get(text);
    if (known !== undefined) return known;
    if (!this.#context) return 0;
    this.#context.font = FONT;
    const width = this.#context.measureText(text).width;
    this.#widths.set(text, width);
    return width;
  };

  forget(): void {
    this.#widths.clear();
  }

  /** Writes these names, the last above all others; `spot` tells where a node is on the screen, if it still is. */
  write(names: readonly Name[], pointed: Name | null, spot: (key: string) => Spot | null, palette: Palette): void {
    const context = this.#context;
    if (!context) return;
    const [width, height] = this.#clear(context);
    context.font = FONT;
    context.textBaseline = "middle";
    const one = (name: Name, paper: string) => {
      const at = spot(name.key);
      if (!at) return;
      const [left, top] = [at.x + name.left, at.y + name.top];
      if (left > width || left + name.width < 0 || top > height || top + HEIGHT < 0) return;
      context.fillStyle = paper;
      context.fillRect(left - PADDING, top, name.width + 2 * PADDING, HEIGHT);
      context.fillStyle = palette.text;
      context.fillText(name.text, left, top + HEIGHT / 2);
    };
    const paper = faded(palette.surface, 0.75);
    for (const name of names) if (name.key !== pointed?.key) one(name, paper);
    if (pointed) one(pointed, palette.surface);
  }

  /** As large as it is shown, and empty; its width and height. */
  #clear(context: CanvasRenderingContext2D): [number, number] {
    const { clientWidth: width, clientHeight: height } = this.#canvas;
    const ratio = window.devicePixelRatio;
    const [wide, high] = [Math.round(width * ratio), Math.round(height * ratio)];
    if (this.#canvas.width !== wide || this.#canvas.height !== high) {
      this.#canvas.width = wide;
      this.#canvas.height = high;
    }
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, width, height);
    return [width, height];
  }
}
