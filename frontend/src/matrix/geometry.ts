// Where cells are: sizes, scrolling, what is in view. Pure; lengths are CSS pixels.

/** Edges of a cell by zoom level. */
export const SIZES = [1, 2, 4, 8, 12, 16, 24, 36, 52, 76] as const;
/** The least at which names have room beside cells. */
export const NAMED = 12;
/** The least at which cells say in words what they are. */
export const WORDED = 52;
/** The least at which figures are shown: below, a view would be more than the console reads at a time. */
export const FIGURED = 8;

/** From the first to just before the last. */
export interface Range {
  from: number;
  to: number;
}

export interface Place {
  row: number;
  column: number;
}

export interface Frame {
  /** Cells in either direction. */
  count: number;
  size: number;
  /** Of the canvas, headers included. */
  width: number;
  height: number;
  /** Of the headers. */
  left: number;
  top: number;
  /** How far it is scrolled. */
  x: number;
  y: number;
}

const clamp = (value: number, least: number, most: number) => Math.max(least, Math.min(most, value));

/** Room for names, or for the names of groups alone. */
export function headers(size: number, width: number): { left: number; top: number } {
  if (size < NAMED) return { left: 72, top: 28 };
  return { left: clamp(Math.round(width * 0.22), 96, 176), top: 124 };
}

/** The cells along one direction that are in view, partly or wholly. */
export function visible(scroll: number, extent: number, size: number, count: number): Range {
  const from = clamp(Math.floor(scroll / size), 0, count);
  return { from, to: clamp(Math.ceil((scroll + Math.max(0, extent)) / size), from, count) };
}

export function visibleRows(frame: Frame): Range {
  return visible(frame.y, frame.height - frame.top, frame.size, frame.count);
}

export function visibleColumns(frame: Frame): Range {
  return visible(frame.x, frame.width - frame.left, frame.size, frame.count);
}

/** The cell at a point of the canvas, if there is one. */
export function cellAt(frame: Frame, x: number, y: number): Place | null {
  if (x < frame.left || y < frame.top || x >= frame.width || y >= frame.height) return null;
  const column = Math.floor((x - frame.left + frame.x) / frame.size);
  const row = Math.floor((y - frame.top + frame.y) / frame.size);
  return row < frame.count && column < frame.count ? { row, column } : null;
}

/** How far to scroll so that a cell is wholly in view: not at all where it is. */
export function reveal(scroll: number, extent: number, size: number, at: number): number {
  if (at * size < scroll) return at * size;
  return Math.max(scroll, (at + 1) * size - extent);
}

/** How far to scroll so that after zooming the same cells are under a point, given from the first cell's edge. */
export function zoomed(scroll: number, point: number, before: number, after: number): number {
  return Math.max(0, Math.round(((scroll + point) / before) * after - point));
}

/** The largest size at which everything is in view, or the least there is. */
export function fitting(count: number, extent: number, least: number): number {
  const found = SIZES.filter((size) => size >= least && size * count <= extent);
  return found.at(-1) ?? least;
}

/** The next size up or down, if there is one. */
export function nextSize(size: number, step: 1 | -1, least: number): number {
  const wanted = SIZES.filter((one) => one >= least && (step > 0 ? one > size : one < size));
  return (step > 0 ? wanted[0] : wanted.at(-1)) ?? Math.max(size, least);
}

/** A range with a margin on both sides, so that a little scrolling needs nothing new. */
export function widened(range: Range, count: number, share: number): Range {
  const more = Math.ceil((range.to - range.from) * share);
  return { from: Math.max(0, range.from - more), to: Math.min(count, range.to + more) };
}

export function covers(outer: Range, inner: Range): boolean {
  return outer.from <= inner.from && outer.to >= inner.to;
}

const MOST_CELLS = 1 << 20;
const MOST_FIGURES = 1 << 15;
const MOST_FIGURE_ROWS = 128;

/** What to ask for: what is in view and a margin, within what the console answers (nodes/matrix.py). */
export function wanted(rows: Range, columns: Range, count: number, figures: boolean): { rows: Range; columns: Range } {
  const most = figures ? MOST_FIGURES : MOST_CELLS;
  for (const share of [0.5, 0.2, 0]) {
    const found = { rows: widened(rows, count, share), columns: widened(columns, count, share) };
    const height = found.rows.to - found.rows.from;
    const width = found.columns.to - found.columns.from;
    if (height * width <= most && (!figures || height <= MOST_FIGURE_ROWS)) return found;
  }
  const height = Math.min(rows.to - rows.from, figures ? MOST_FIGURE_ROWS : most);
  const width = Math.min(columns.to - columns.from, Math.floor(most / Math.max(1, height)));
  return {
    rows: { from: rows.from, to: rows.from + height },
    columns: { from: columns.from, to: columns.from + width },
  };
}

/** A place after a step, within the matrix. */
export function moved(place: Place, rows: number, columns: number, count: number): Place {
  return {
    row: clamp(place.row + rows, 0, count - 1),
    column: clamp(place.column + columns, 0, count - 1),
  };
}
