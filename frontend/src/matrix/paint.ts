// Draws the matrix: the picture of its cells, marks on those that are not up, names, and what is pointed at.
import { type Cells, DOWN, NOT_SAID, type State, UNKNOWN } from "./cells.ts";
import type { Field } from "./field.ts";
import { type Frame, NAMED, type Place, type Range, visibleColumns, visibleRows, WORDED } from "./geometry.ts";
import type { Order } from "./members.ts";
import type { Palette } from "./palette.ts";
import { nameFont, type Strip, shortened, writeUpwards } from "./strip.ts";
import { labels, toneOf } from "./tones.ts";

/** Edges from which on cells stand apart, halves show, and marks do. */
const APART = 8;
const MARKED = 12;

export interface Scene {
  frame: Frame;
  order: Order;
  field: Field;
  strip: Strip;
  cells: Cells | null;
  focus: Place | null;
  hover: Place | null;
  palette: Palette;
}

type Context = CanvasRenderingContext2D;

export function paint(context: Context, scene: Scene): void {
  const { frame, palette } = scene;
  const rows = visibleRows(frame);
  const columns = visibleColumns(frame);
  context.fillStyle = palette.surface;
  context.fillRect(0, 0, frame.width, frame.height);
  context.save();
  context.beginPath();
  context.rect(frame.left, frame.top, frame.width - frame.left, frame.height - frame.top);
  context.clip();
  context.translate(frame.left - frame.x, frame.top - frame.y);
  paintCells(context, scene, rows, columns);
  if (frame.size >= APART) paintGaps(context, scene, rows, columns);
  if (frame.size >= APART && scene.cells) paintMarks(context, scene, scene.cells, rows, columns);
  if (frame.size >= WORDED && scene.cells) paintLabels(context, scene, scene.cells, rows, columns);
  paintGroupLines(context, scene, rows, columns);
  for (const place of [scene.hover, scene.focus]) if (place) paintRing(context, scene, place);
  context.restore();
  paintColumnHeads(context, scene, columns);
  paintRowHeads(context, scene, rows);
  context.fillStyle = palette.surface;
  context.fillRect(0, 0, frame.left, frame.top);
}

function paintCells(context: Context, { frame, cells, field, palette }: Scene, rows: Range, columns: Range): void {
  const { size } = frame;
  context.fillStyle = palette.tones.wait;
  const width = (columns.to - columns.from) * size;
  context.fillRect(columns.from * size, rows.from * size, width, (rows.to - rows.from) * size);
  if (!cells?.width || !cells.height) return;
  // Only the part in view: what lies outside would be scaled for nothing.
  const { rows: held, columns: across } = cells.asked;
  const top = Math.max(rows.from, held.from);
  const left = Math.max(columns.from, across.from);
  const high = Math.min(rows.to, held.to) - top;
  const wide = Math.min(columns.to, across.to) - left;
  if (high <= 0 || wide <= 0) return;
  context.imageSmoothingEnabled = false;
  context.drawImage(
    field.picture,
    left - across.from,
    top - held.from,
    wide,
    high,
    left * size,
    top * size,
    wide * size,
    high * size,
  );
}

function paintGaps(context: Context, { frame, palette }: Scene, rows: Range, columns: Range): void {
  const { size } = frame;
  context.fillStyle = palette.surface;
  const width = (columns.to - columns.from) * size;
  const height = (rows.to - rows.from) * size;
  for (let row = rows.from; row <= rows.to; row += 1) context.fillRect(columns.from * size, row * size, width, 1);
  for (let column = columns.from; column <= columns.to; column += 1) {
    context.fillRect(column * size, rows.from * size, 1, height);
  }
}

function paintMarks(context: Context, scene: Scene, cells: Cells, rows: Range, columns: Range): void {
  const { size } = scene.frame;
  for (let row = rows.from; row < rows.to; row += 1) {
    for (let column = columns.from; column < columns.to; column += 1) {
      const both = cells.both(row, column);
      if (both === null || row === column || both === 5 || both === 15) continue;
      const ours = (both & 3) as State;
      const theirs = (both >> 2) as State;
      const x = column * size + 1;
      const y = row * size + 1;
      if (ours !== theirs && ours !== NOT_SAID && theirs !== NOT_SAID) paintHalf(context, scene, x, y, theirs);
      if (size >= MARKED && size < WORDED && (ours === DOWN || ours === UNKNOWN)) paintMark(context, scene, x, y, ours);
    }
  }
}

/** The lower right half is the other end's. */
function paintHalf(context: Context, { frame, palette, cells }: Scene, x: number, y: number, theirs: State): void {
  const edge = frame.size - 1;
  context.fillStyle = palette.tones[toneOf(cells?.asked.mode ?? "state", theirs, null)];
  context.beginPath();
  context.moveTo(x + edge, y);
  context.lineTo(x + edge, y + edge);
  context.lineTo(x, y + edge);
  context.fill();
  context.strokeStyle = palette.surface;
  context.lineWidth = 1;
  context.beginPath();
  context.moveTo(x + edge, y);
  context.lineTo(x, y + edge);
  context.stroke();
}

/** A hollow dot for down, a half one for unknown, as everywhere. */
function paintMark(context: Context, { frame, palette }: Scene, x: number, y: number, state: State): void {
  const edge = frame.size - 1;
  const radius = edge * 0.22;
  context.strokeStyle = palette.mark;
  context.fillStyle = palette.mark;
  context.lineWidth = Math.max(1.25, edge * 0.07);
  context.beginPath();
  context.arc(x + edge / 2, y + edge / 2, radius, 0, Math.PI * 2);
  context.stroke();
  if (state !== UNKNOWN) return;
  context.beginPath();
  context.arc(x + edge / 2, y + edge / 2, radius, Math.PI / 2, (Math.PI * 3) / 2);
  context.fill();
}

function paintLabels(context: Context, scene: Scene, cells: Cells, rows: Range, columns: Range): void {
  const { frame, order, palette } = scene;
  const mode = cells.asked.mode;
  context.font = `560 11px ${palette.font}`;
  context.textAlign = "center";
  context.textBaseline = "middle";
  for (let row = rows.from; row < rows.to; row += 1) {
    for (let column = columns.from; column < columns.to; column += 1) {
      const member = order.members[row];
      const cell = row === column ? null : cells.cell(row, column);
      if (!cell || !member) continue;
      const [ours, theirs] = labels(member, cell, mode);
      const apart = theirs ? frame.size / 5 : 0;
      const x = (column + 0.5) * frame.size;
      const y = (row + 0.5) * frame.size;
      context.fillStyle = palette.ink[toneOf(mode, cell.ours, cell.figure)];
      context.fillText(ours, x - apart / 2, y - apart);
      if (!theirs) continue;
      context.fillStyle = palette.ink[toneOf(mode, cell.theirs, null)];
      context.fillText(theirs, x + apart / 2, y + apart);
    }
  }
}

function paintGroupLines(context: Context, { frame, order, palette }: Scene, rows: Range, columns: Range): void {
  context.fillStyle = palette.faint;
  const { size } = frame;
  for (const group of order.groups.slice(1)) {
    const at = group.from * size;
    if (group.from > rows.from && group.from < rows.to) {
      context.fillRect(columns.from * size, at, (columns.to - columns.from) * size, 1);
    }
    if (group.from > columns.from && group.from < columns.to) {
      context.fillRect(at, rows.from * size, 1, (rows.to - rows.from) * size);
    }
  }
}

function paintRing(context: Context, { frame, palette, focus }: Scene, place: Place): void {
  const size = Math.max(frame.size, 5);
  const x = place.column * frame.size + (frame.size - size) / 2;
  const y = place.row * frame.size + (frame.size - size) / 2;
  context.strokeStyle = place === focus ? palette.ring : palette.text;
  context.lineWidth = 2;
  context.strokeRect(x, y, size + 1, size + 1);
}

function paintRowHeads(context: Context, scene: Scene, rows: Range): void {
  const { frame, order, palette } = scene;
  context.save();
  context.beginPath();
  context.rect(0, frame.top, frame.left, frame.height - frame.top);
  context.clip();
  context.fillStyle = palette.surface;
  context.fillRect(0, frame.top, frame.left, frame.height - frame.top);
  context.textBaseline = "middle";
  context.textAlign = "right";
  const write = (text: string, middle: number, strong: boolean) => {
    context.fillStyle = strong ? palette.text : palette.faint;
    context.fillText(shortened(context, text, frame.left - 14), frame.left - 8, middle);
  };
  if (frame.size >= NAMED) {
    context.font = nameFont(frame, palette);
    for (let row = rows.from; row < rows.to; row += 1) {
      const name = order.members[row]?.name ?? "";
      write(name, frame.top - frame.y + (row + 0.5) * frame.size, isPointedAt(scene, "row", row));
    }
  } else {
    context.font = `500 11px ${palette.font}`;
    for (const group of order.groups) {
      const from = Math.max(group.from * frame.size - frame.y, 0);
      const to = Math.min(group.to * frame.size - frame.y, frame.height - frame.top);
      if (to - from >= 12) write(group.name, frame.top + (from + to) / 2, false);
    }
  }
  context.restore();
}

function paintColumnHeads(context: Context, scene: Scene, columns: Range): void {
  const { frame, order, palette } = scene;
  context.save();
  context.beginPath();
  context.rect(frame.left, 0, frame.width - frame.left, frame.top);
  context.clip();
  context.fillStyle = palette.surface;
  context.fillRect(frame.left, 0, frame.width - frame.left, frame.top);
  context.textBaseline = "middle";
  if (frame.size >= NAMED) {
    scene.strip.show(context, scene, columns);
    const pointed = scene.hover ?? scene.focus;
    if (pointed) writePointedColumn(context, scene, pointed.column);
  } else {
    context.font = `500 11px ${palette.font}`;
    context.textAlign = "center";
    context.fillStyle = palette.faint;
    for (const group of order.groups) {
      const from = Math.max(group.from * frame.size - frame.x, 0);
      const to = Math.min(group.to * frame.size - frame.x, frame.width - frame.left);
      const name = shortened(context, group.name, to - from - 8);
      if (name.length > 2) context.fillText(name, frame.left + (from + to) / 2, frame.top / 2);
    }
  }
  context.restore();
}

function writePointedColumn(context: Context, { frame, order, palette }: Scene, column: number): void {
  const left = frame.left - frame.x + column * frame.size;
  context.fillStyle = palette.surface;
  context.fillRect(left, 0, frame.size, frame.top);
  context.fillStyle = palette.text;
  writeUpwards(context, frame, palette, order.members[column]?.name ?? "", left);
}

function isPointedAt({ hover, focus }: Scene, line: "row" | "column", at: number): boolean {
  return (hover ?? focus)?.[line] === at;
}
