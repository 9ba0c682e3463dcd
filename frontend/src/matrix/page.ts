// The matrix of the page: what the socket tells, what is in view, and when it is drawn.

import { pairPath } from "../live/dom.ts";
import type { Page } from "../live/socket.ts";
import { type Asked, Cells, type Delta, decode, type Mode, type Snapshot } from "./cells.ts";
import { Field } from "./field.ts";
import {
  cellAt,
  covers,
  FIGURED,
  type Frame,
  fitting,
  headers,
  moved,
  nextSize,
  type Place,
  reveal,
  visibleColumns,
  visibleRows,
  wanted,
  zoomed,
} from "./geometry.ts";
import type { Deed } from "./keys.ts";
import { arrange, type Member, type Order, readMember, type Sorting, sameOrder } from "./members.ts";
import { paint } from "./paint.ts";
import { type Palette, readPalette } from "./palette.ts";
import { Strip } from "./strip.ts";
import { describe, SCALES } from "./tones.ts";
import type { Words } from "./words.ts";

/** At most so often, in milliseconds, is another view asked for. */
const ASK_EVERY = 250;

export class MatrixPage implements Page<Snapshot, Delta> {
  /** Set when there is a socket to speak to. */
  say: (message: unknown) => void = () => {};
  #members = new Map<number, Member>();
  #order: Order = { members: [], groups: [] };
  #mode: Mode;
  #sorting: Sorting;
  #size = 0;
  #cells: Cells | null = null;
  #asked: Asked | null = null;
  #askedAt = Number.NEGATIVE_INFINITY;
  #askLater: ReturnType<typeof setTimeout> | undefined;
  #ids = 0;
  #focus: Place | null = null;
  #hover: Place | null = null;
  /** How far the console's clock is ahead of this one, in seconds. */
  #ahead = 0;
  #drawn = true;
  #stale = true;
  #palette: Palette | null = null;
  readonly #field = new Field();
  readonly #strip = new Strip();
  readonly #scroller: HTMLElement;
  readonly #canvas: HTMLCanvasElement;
  readonly #spacer: HTMLElement;
  readonly #words: Words;

  constructor(scroller: HTMLElement, words: Words, mode: Mode, sorting: Sorting) {
    this.#scroller = scroller;
    this.#canvas = scroller.querySelector("canvas") ?? document.createElement("canvas");
    this.#spacer = scroller.querySelector("[data-spacer]") ?? document.createElement("div");
    this.#words = words;
    this.#mode = mode;
    this.#sorting = sorting;
  }

  // What the socket says.

  decode(message: ArrayBuffer): Snapshot | Delta {
    return decode(message);
  }

  snapshot(message: Snapshot): void {
    this.#ahead = message.at - Date.now() / 1000;
    this.#members = new Map(message.members.map((row) => [row[0], readMember(row)]));
    this.#asked = null;
    this.#cells = null;
    this.#arrange();
  }

  delta(message: Delta): void {
    let others = Boolean(message.gone?.length);
    for (const index of message.gone ?? []) this.#members.delete(index);
    for (const row of message.members ?? []) {
      const before = this.#members.get(row[0]);
      const member = readMember(row);
      others ||= before?.name !== member.name || before.site !== member.site;
      this.#members.set(member.index, member);
    }
    if (others) this.#arrange();
    else if (message.members) this.#refreshOrder();
    if (message.view && message.body && this.#asked?.id === message.view.id) {
      this.#cells = new Cells(this.#asked, message.body);
      this.#cells.now = this.#now;
      this.#askedAt = Number.NEGATIVE_INFINITY;
      this.#fieldIsOld();
      this.#look();
    } else if (message.cells && message.body && this.#cells) {
      this.#cells.now = this.#now;
      this.#cells.change(message.cells, message.body);
      this.#fieldIsOld();
    }
    this.#tell();
  }

  /** Unix time by the console's clock. */
  get #now(): number {
    return Date.now() / 1000 + this.#ahead;
  }

  /** Time went by: ages are others, if they are what is shown. Whoever listens to the focused cell is not told. */
  age(): void {
    if (!this.#cells || this.#mode !== "uptime") return;
    this.#cells.now = this.#now;
    this.#fieldIsOld();
    this.#point();
  }

  /** Members that stay where they are have new figures. */
  #refreshOrder(): void {
    this.#order = { ...this.#order, members: this.#order.members.map((one) => this.#members.get(one.index) ?? one) };
    this.#words.count(this.#order.members);
  }

  // What is chosen.

  choose(mode: Mode, sorting: Sorting): void {
    const resort = sorting !== this.#sorting;
    this.#mode = mode;
    this.#sorting = sorting;
    if (resort) this.#arrange();
    else {
      this.#cells = null;
      this.#asked = null;
      if (this.#size < this.#least) this.zoom(this.#least);
      this.#look();
    }
    this.#tell();
  }

  #arrange(): void {
    const before = this.#order;
    this.#order = arrange(this.#members.values(), this.#sorting);
    const count = this.#order.members.length;
    this.#scroller.setAttribute("aria-rowcount", String(count));
    this.#scroller.setAttribute("aria-colcount", String(count));
    if (!sameOrder(before, this.#order)) {
      this.#cells = null;
      this.#asked = null;
      if (this.#focus)
        this.#focus = { row: this.#moved(before, this.#focus.row), column: this.#moved(before, this.#focus.column) };
    }
    if (!this.#size && count) this.#size = fitting(count, this.#room(), Math.max(this.#least, 4));
    this.measure();
    this.#words.count(this.#order.members);
  }

  #moved(before: Order, at: number): number {
    const index = before.members[at]?.index;
    return Math.max(
      0,
      this.#order.members.findIndex((member) => member.index === index),
    );
  }

  // Where everything is.

  get #least(): number {
    return SCALES[this.#mode] ? FIGURED : 1;
  }

  #room(): number {
    const { left, top } = headers(12, this.#scroller.clientWidth);
    return Math.min(this.#scroller.clientWidth - left, this.#scroller.clientHeight - top);
  }

  get #frame(): Frame {
    const width = this.#scroller.clientWidth;
    return {
      count: this.#order.members.length,
      size: this.#size || 12,
      width,
      height: this.#scroller.clientHeight,
      ...headers(this.#size || 12, width),
      x: Math.round(this.#scroller.scrollLeft),
      y: Math.round(this.#scroller.scrollTop),
    };
  }

  /** Takes the sizes of what is around into account: at the beginning, and when the window's changes. */
  measure(): void {
    const frame = this.#frame;
    const ratio = Math.min(2, window.devicePixelRatio || 1);
    const [width, height] = [Math.round(frame.width * ratio), Math.round(frame.height * ratio)];
    if (this.#canvas.width !== width || this.#canvas.height !== height) {
      this.#canvas.width = width;
      this.#canvas.height = height;
      this.#canvas.style.width = `${frame.width}px`;
      this.#canvas.style.height = `${frame.height}px`;
    }
    this.#spacer.style.width = `${frame.left + frame.count * frame.size}px`;
    this.#spacer.style.height = `${frame.top + frame.count * frame.size}px`;
    this.#words.zoomed(nextSize(frame.size, -1, this.#least) !== frame.size, nextSize(frame.size, 1, 1) !== frame.size);
    this.#look();
  }

  repaint(): void {
    this.#palette = null;
    this.#fieldIsOld();
  }

  scrolled(): void {
    this.#look();
  }

  /** One step in or out, or to a size, around a point of the canvas or its middle. */
  zoom(to: number | 1 | -1, point?: { x: number; y: number }): void {
    const frame = this.#frame;
    const size = to === 1 || to === -1 ? nextSize(frame.size, to, this.#least) : to;
    if (size === frame.size) return;
    const x = (point?.x ?? (frame.width + frame.left) / 2) - frame.left;
    const y = (point?.y ?? (frame.height + frame.top) / 2) - frame.top;
    this.#size = size;
    this.measure();
    this.#scroller.scrollTo({
      left: zoomed(frame.x, Math.max(0, x), frame.size, size),
      top: zoomed(frame.y, Math.max(0, y), frame.size, size),
      behavior: "instant",
    });
    if (this.#focus) this.#show(this.#focus);
    this.#fieldIsOld();
  }

  // What is pointed at.

  point(x: number, y: number): void {
    this.#setHover(cellAt(this.#frame, x, y));
  }

  leave(): void {
    this.#setHover(null);
  }

  #setHover(place: Place | null): void {
    if (place?.row === this.#hover?.row && place?.column === this.#hover?.column) return;
    this.#hover = place;
    this.#tell();
    this.#draw();
  }

  /** Focuses the cell at a point; gives where its pair is. */
  take(x: number, y: number): string | null {
    const place = cellAt(this.#frame, x, y);
    if (!place) return null;
    this.#focus = place;
    this.#tell();
    this.#draw();
    return this.#path(place);
  }

  /** The focus comes by the keyboard: the cell that had it last, or the first one in view. */
  enter(): void {
    if (!this.#order.members.length) return;
    this.#focus ??= { row: visibleRows(this.#frame).from, column: visibleColumns(this.#frame).from };
    this.#tell();
    this.#draw();
  }

  press(deed: Deed): void {
    const frame = this.#frame;
    const focus = this.#focus ?? { row: 0, column: 0 };
    if (!frame.count) return;
    if (deed.kind === "zoom") this.zoom(deed.step);
    if (deed.kind === "leave") this.leave();
    if (deed.kind === "move") this.#show(moved(focus, deed.rows, deed.columns, frame.count));
    if (deed.kind === "turn") this.#show({ row: focus.column, column: focus.row });
    if (deed.kind === "open") {
      const path = this.#path(focus);
      if (path) location.assign(path);
    }
  }

  get page(): { rows: number; columns: number } {
    const rows = visibleRows(this.#frame);
    const columns = visibleColumns(this.#frame);
    return { rows: Math.max(1, rows.to - rows.from - 2), columns: Math.max(1, columns.to - columns.from - 2) };
  }

  #show(place: Place): void {
    this.#focus = place;
    this.#hover = null;
    const frame = this.#frame;
    this.#scroller.scrollTo({
      left: reveal(frame.x, frame.width - frame.left, frame.size, place.column),
      top: reveal(frame.y, frame.height - frame.top, frame.size, place.row),
      behavior: "instant",
    });
    this.#tell();
    this.#draw();
  }

  #path(place: Place): string | null {
    const row = this.#order.members[place.row];
    const column = this.#order.members[place.column];
    return row && column && row !== column ? pairPath(row.pk, column.pk) : null;
  }

  // Asking, telling, drawing.

  /** Asks for what is in view, unless what is held or asked for covers it. */
  #look(): void {
    this.#draw();
    const frame = this.#frame;
    if (!frame.count || !frame.width) return;
    const rows = visibleRows(frame);
    const columns = visibleColumns(frame);
    const asked = this.#asked;
    if (asked && asked.mode === this.#mode && covers(asked.rows, rows) && covers(asked.columns, columns)) return;
    const wait = this.#askedAt + ASK_EVERY - performance.now();
    clearTimeout(this.#askLater);
    if (wait > 0) {
      this.#askLater = setTimeout(() => this.#look(), wait);
      return;
    }
    this.#ids += 1;
    const figures = SCALES[this.#mode] !== undefined;
    this.#asked = { id: this.#ids, mode: this.#mode, ...wanted(rows, columns, frame.count, figures) };
    this.#askedAt = performance.now();
    const indexes = ({ from, to }: { from: number; to: number }) =>
      this.#order.members.slice(from, to).map((member) => member.index);
    this.say({
      type: "view",
      id: this.#ids,
      mode: this.#mode,
      rows: indexes(this.#asked.rows),
      columns: indexes(this.#asked.columns),
    });
  }

  #point(): void {
    const place = this.#hover ?? this.#focus;
    this.#words.point(place && this.#describe(place), place && this.#path(place));
  }

  #tell(): void {
    this.#point();
    if (this.#focus) this.#words.focus(this.#focus, this.#order, this.#describe(this.#focus));
  }

  #describe(place: Place): string {
    const row = this.#order.members[place.row];
    const column = this.#order.members[place.column];
    if (!row || !column) return "";
    return describe(row, column, this.#cells?.cell(place.row, place.column) ?? null, this.#mode);
  }

  #fieldIsOld(): void {
    this.#stale = true;
    this.#draw();
  }

  #draw(): void {
    if (!this.#drawn) return;
    this.#drawn = false;
    requestAnimationFrame(() => {
      this.#drawn = true;
      this.#paint();
    });
  }

  #paint(): void {
    const context = this.#canvas.getContext("2d", { alpha: false });
    if (!context) return;
    this.#palette ??= readPalette(this.#scroller);
    const frame = this.#frame;
    const ratio = this.#canvas.width / Math.max(1, frame.width);
    if (this.#stale && this.#cells) {
      this.#field.draw(this.#cells, this.#palette, frame.size >= 8);
      this.#stale = false;
    }
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    paint(context, {
      frame,
      order: this.#order,
      field: this.#field,
      strip: this.#strip,
      cells: this.#cells,
      focus: this.#focus,
      hover: this.#hover,
      palette: this.#palette,
    });
  }
}
