// Which names are written, and where: one that covers no other name and no other node. Pure.
import type { NodeShape } from "./drawing.ts";

/** A name beside its node: from the node's middle to the left top corner of the text's box, in pixels. */
export interface Name {
  key: string;
  text: string;
  left: number;
  top: number;
  width: number;
}

export const HEIGHT = 18;
const MARGIN = 4;
/** Pixels from a node's middle to its rim below which nobody could tell whose name it is. */
const LEAST = 5;
const CELL = 64;

interface Box {
  left: number;
  top: number;
  right: number;
  bottom: number;
}

/** What is covered already, by squares, so that not everything is compared with everything. */
class Covered {
  readonly #cells = new Map<string, Box[]>();

  *#near(box: Box): Generator<Box[]> {
    for (let x = Math.floor(box.left / CELL); x <= box.right / CELL; x += 1) {
      for (let y = Math.floor(box.top / CELL); y <= box.bottom / CELL; y += 1) {
        const key = `${x} ${y}`;
        const cell = this.#cells.get(key) ?? [];
        this.#cells.set(key, cell);
        yield cell;
      }
    }
  }

  add(box: Box): void {
    for (const cell of this.#near(box)) cell.push(box);
  }

  meets(box: Box): boolean {
    for (const cell of this.#near(box)) {
      for (const other of cell) {
        if (box.left < other.right && other.left < box.right && box.top < other.bottom && other.top < box.bottom) {
          return true;
        }
      }
    }
    return false;
  }
}

function beside(key: string, shape: NodeShape, zoom: number, width: number): Name {
  const reach = shape.size * zoom + MARGIN;
  const [left, top] = shape.above ? [-width / 2, -reach - HEIGHT] : [reach, -HEIGHT / 2];
  return { key, text: shape.label, left, top, width };
}

function box(name: Name, shape: NodeShape, zoom: number): Box {
  const left = shape.x * zoom + name.left;
  const top = name.top - shape.y * zoom; // the graph's up is the screen's down
  return { left, top, right: left + name.width, bottom: top + HEIGHT };
}

function disc(shape: NodeShape, zoom: number): Box {
  const [x, y, reach] = [shape.x * zoom, -shape.y * zoom, shape.size * zoom];
  return { left: x - reach, top: y - reach, right: x + reach, bottom: y + reach };
}

/** The names of a drawing where a graph unit is so many pixels: all that must be seen, and others while there is room. */
export function placeNames(
  shapes: ReadonlyMap<string, NodeShape>,
  zoom: number,
  measure: (text: string) => number,
): Name[] {
  const covered = new Covered();
  const names: Name[] = [];
  for (const shape of shapes.values()) if (shape.depth !== "hulls") covered.add(disc(shape, zoom));
  const write = (key: string, shape: NodeShape, must: boolean) => {
    const name = beside(key, shape, zoom, measure(shape.label));
    const taken = box(name, shape, zoom);
    if (!must && covered.meets(taken)) return;
    covered.add(taken);
    names.push(name);
  };
  for (const [key, shape] of shapes) if (shape.named === "visible" && shape.label) write(key, shape, true);
  const rest = [...shapes].filter(([, shape]) => shape.named === "auto" && shape.size * zoom >= LEAST);
  for (const depth of ["topNodes", "nodes"] as const) {
    for (const [key, shape] of rest) if (shape.depth === depth) write(key, shape, false);
  }
  return names;
}

/** The name of one node, room or not: somebody points at it. */
export function nameOf(key: string, shape: NodeShape, zoom: number, measure: (text: string) => number): Name {
  return beside(key, shape, zoom, measure(shape.label));
}
