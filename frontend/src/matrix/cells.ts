// What the console says of a view, from bytes to cells. Pure; the shapes are those of nodes/matrix.py.
import type { Range } from "./geometry.ts";
import type { MemberRow } from "./members.ts";

export type Mode = "state" | "rtt" | "loss" | "received" | "sent" | "uptime";

export interface Snapshot {
  type: "snapshot";
  number: number;
  at: number;
  members: MemberRow[];
}

export interface Delta {
  type: "delta";
  number: number;
  at: number;
  members?: MemberRow[];
  gone?: number[];
  view?: { id: number; rows: number; columns: number } | null;
  cells?: number;
  /** What follows the head. */
  body?: ArrayBuffer;
}

/** A message: the length of its JSON head, the head, and columns of numbers. */
export function decode(message: ArrayBuffer): Snapshot | Delta {
  const length = new DataView(message).getUint32(0, true);
  const head = JSON.parse(new TextDecoder().decode(new Uint8Array(message, 4, length)));
  if (head.type === "delta") head.body = message.slice(4 + length);
  return head;
}

export const UNKNOWN = 0;
export const UP = 1;
export const DOWN = 2;
export const NOT_SAID = 3;
export type State = typeof UNKNOWN | typeof UP | typeof DOWN | typeof NOT_SAID;

export interface Cell {
  /** How the row sees the column. */
  ours: State;
  /** How the column sees the row. */
  theirs: State;
  /** The mode's figure as the row has it; none where nobody said any. Of uptime an age in seconds. */
  figure: number | null;
  /** Of uptime, since when, as Unix time. */
  since: number | null;
}

const LITTLE = new Uint8Array(new Uint16Array([1]).buffer)[0] === 1;

/** Numbers of a message, which are little-endian. */
function numbers<T extends Float32Array | Float64Array | Uint16Array>(
  kind: { new (buffer: ArrayBuffer, offset: number, length: number): T; BYTES_PER_ELEMENT: number },
  body: ArrayBuffer,
  offset: number,
  length: number,
): T {
  if (!LITTLE) {
    const bytes = new Uint8Array(body, offset, length * kind.BYTES_PER_ELEMENT);
    for (let at = 0; at < bytes.length; at += kind.BYTES_PER_ELEMENT) {
      bytes.subarray(at, at + kind.BYTES_PER_ELEMENT).reverse();
    }
  }
  return new kind(body, offset, length);
}

/** A view as it was asked for, in places of the order of that time. */
export interface Asked {
  id: number;
  mode: Mode;
  rows: Range;
  columns: Range;
}

/** The cells of a view; what comes later of them is written in place, so that it never grows. */
export class Cells {
  readonly asked: Asked;
  readonly width: number;
  readonly height: number;
  /** Unix time by the console's clock, to which ages are counted. */
  now = 0;
  readonly #states: Uint8Array;
  readonly #figures: Float32Array | Float64Array | null;

  constructor(asked: Asked, body: ArrayBuffer) {
    this.asked = asked;
    this.width = asked.columns.to - asked.columns.from;
    this.height = asked.rows.to - asked.rows.from;
    const count = this.width * this.height;
    this.#figures = this.#readFigures(body, count);
    this.#states = new Uint8Array(body, this.#figures?.byteLength ?? 0, count);
  }

  /** A message's first column, unless the mode has none. */
  #readFigures(body: ArrayBuffer, count: number): Float32Array | Float64Array | null {
    if (this.asked.mode === "state") return null;
    return this.asked.mode === "uptime" ? numbers(Float64Array, body, 0, count) : numbers(Float32Array, body, 0, count);
  }

  /** Takes changed cells in; gives their places in the order. */
  change(count: number, body: ArrayBuffer): { row: number; column: number }[] {
    const figures = this.#readFigures(body, count);
    const offset = figures?.byteLength ?? 0;
    const rows = numbers(Uint16Array, body, offset, count);
    const columns = numbers(Uint16Array, body, offset + count * 2, count);
    const states = new Uint8Array(body, offset + count * 4, count);
    return Array.from(states, (both, at) => {
      const row = rows[at] ?? 0;
      const column = columns[at] ?? 0;
      const place = row * this.width + column;
      this.#states[place] = both;
      if (this.#figures && figures) this.#figures[place] = figures[at] ?? -1;
      return { row: row + this.asked.rows.from, column: column + this.asked.columns.from };
    });
  }

  /** Both ends' states of a cell, by its place in the order, as four bits; none where it is not in this view. */
  both(row: number, column: number): number | null {
    const { rows, columns } = this.asked;
    if (row < rows.from || row >= rows.to || column < columns.from || column >= columns.to) return null;
    return this.#states[(row - rows.from) * this.width + column - columns.from] ?? null;
  }

  #kept(row: number, column: number): number {
    const { rows, columns } = this.asked;
    return this.#figures?.[(row - rows.from) * this.width + column - columns.from] ?? -1;
  }

  /** The mode's figure, or below nought where nobody said any. */
  figure(row: number, column: number): number {
    const kept = this.#kept(row, column);
    return kept < 0 || this.asked.mode !== "uptime" ? kept : Math.max(0, this.now - kept);
  }

  cell(row: number, column: number): Cell | null {
    const both = this.both(row, column);
    if (both === null) return null;
    const figure = this.figure(row, column);
    return {
      ours: (both & 3) as State,
      theirs: (both >> 2) as State,
      figure: figure < 0 ? null : figure,
      since: figure < 0 || this.asked.mode !== "uptime" ? null : this.#kept(row, column),
    };
  }

  /** Bytes that it holds. */
  get weight(): number {
    return this.#states.buffer.byteLength;
  }
}
