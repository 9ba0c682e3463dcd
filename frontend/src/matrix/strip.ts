// Names above columns: turned text is slow to draw, so a stretch of it is kept as a picture.
import { covers, type Frame, type Range, widened } from "./geometry.ts";
import type { Order } from "./members.ts";
import type { Palette } from "./palette.ts";

type Context = CanvasRenderingContext2D;

interface Held extends Range {
  order: Order;
  palette: Palette;
  size: number;
  top: number;
  ratio: number;
}

export class Strip {
  readonly #picture = document.createElement("canvas");
  #held: Held | null = null;

  /** Draws the names of columns in view, from the picture where that has them. */
  show(context: Context, { frame, order, palette }: { frame: Frame; order: Order; palette: Palette }, columns: Range) {
    const ratio = context.getTransform().a;
    const { size, top } = frame;
    const held = this.#held;
    const same = held && held.order === order && held.palette === palette && held.size === size;
    if (!same || held.top !== top || held.ratio !== ratio || !covers(held, columns)) {
      this.#held = { ...widened(columns, frame.count, 0.5), order, palette, size, top, ratio };
      this.#draw(frame, this.#held);
    }
    const { from, to } = this.#held ?? columns;
    if (to > from) context.drawImage(this.#picture, frame.left - frame.x + from * size, 0, (to - from) * size, top);
  }

  #draw(frame: Frame, { from, to, order, palette, size, top, ratio }: Held): void {
    this.#picture.width = Math.max(1, Math.round((to - from) * size * ratio));
    this.#picture.height = Math.round(top * ratio);
    const context = this.#picture.getContext("2d", { alpha: false });
    if (!context) return;
    context.scale(ratio, ratio);
    context.fillStyle = palette.surface;
    context.fillRect(0, 0, (to - from) * size, top);
    context.fillStyle = palette.faint;
    for (let column = from; column < to; column += 1) {
      writeUpwards(context, frame, palette, order.members[column]?.name ?? "", (column - from) * size);
    }
  }
}

/** Writes a name upwards into the column that begins there. */
export function writeUpwards(context: Context, frame: Frame, palette: Palette, name: string, left: number): void {
  context.save();
  context.font = nameFont(frame, palette);
  context.textAlign = "left";
  context.textBaseline = "middle";
  context.translate(left + frame.size / 2, frame.top - 8);
  context.rotate(-Math.PI / 2);
  context.fillText(shortened(context, name, frame.top - 14), 0, 0);
  context.restore();
}

export function nameFont(frame: Frame, palette: Palette): string {
  return `500 ${Math.min(12, frame.size - 2)}px ${palette.font}`;
}

const widths = new Map<string, string>();
const MOST_WIDTHS = 4096;

/** A text that fits, with … for what its middle lost: what tells names apart is at their ends. Remembered, for
 * measuring is slow. */
export function shortened(context: Context, text: string, width: number): string {
  const key = `${context.font}|${Math.round(width)}|${text}`;
  const known = widths.get(key);
  if (known !== undefined) return known;
  if (widths.size >= MOST_WIDTHS) widths.clear();
  let left = text.length;
  let shown = text;
  while (left > 0 && context.measureText(shown).width > width) {
    left -= 1;
    const tail = Math.ceil(left * 0.6);
    shown = `${text.slice(0, left - tail)}…${text.slice(text.length - tail)}`;
  }
  const found = left > 0 ? shown : "";
  widths.set(key, found);
  return found;
}
