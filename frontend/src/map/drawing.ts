// What is drawn of the map's knowledge: shapes with places, sizes and colours, for whoever can draw them. Pure.
import type { Palette } from "./colours.ts";
import type { Layout, Spot } from "./layout.ts";
import { groupName, type MapModel, matches, type Pair, pairs, type Standing, standing, together } from "./model.ts";
import type { MapNode } from "./shapes.ts";

export interface NodeShape {
  x: number;
  y: number;
  size: number;
  colour: string;
  opacity: number;
  shape: "circle" | "square" | "triangle";
  label: string;
  named: "auto" | "visible" | "hidden";
  above: boolean;
  depth: "hulls" | "nodes" | "topNodes";
}

export interface EdgeShape {
  from: string;
  to: string;
  size: number;
  colour: string;
  opacity: number;
  /** How long a dash and the gap after it are; nought for a line without. */
  dashSize: number;
  gapSize: number;
  depth: "edges" | "topEdges";
}

export interface Drawing {
  nodes: Map<string, NodeShape>;
  edges: Map<string, EdgeShape>;
}

export interface View {
  root: number | null;
  search: string;
  palette: Palette;
  /** Graph units that a pixel is worth before anybody zooms. */
  unit: number;
}

/** Pixels of a dash and the gap after it: what is not up is told by its stroke as well. */
const DASHES = { up: [0, 0], unknown: [2, 5], down: [9, 5] } as const;
const WIDTHS = [0.8, 1.5, 2.5, 4] as const;
const FAINT = 0.12;
const HIDDEN = 0.04;

export const nodeKey = (pk: number) => `n${pk}`;
export const hullKey = (group: string) => `g${group}`;

const STANDING_COLOURS: Record<Standing, "quiet" | "down" | "node"> = { away: "quiet", cut: "down", connected: "node" };

function nodeSize(count: number): number {
  if (count <= 16) return 11;
  return count <= 60 ? 8 : count <= 200 ? 6 : 4;
}

function nodeShape(node: MapNode, spot: Spot, model: MapModel, view: View): NodeShape {
  const root = view.root === node.pk;
  const dimmed = !root && !matches(node, view.search);
  const found = !dimmed && view.search.trim() !== "";
  return {
    ...(root ? { x: 0, y: 0 } : { x: spot.x, y: spot.y }),
    size: nodeSize(model.nodes.size) * view.unit * (root ? 1.6 : found ? 1.3 : 1),
    colour: view.palette[STANDING_COLOURS[standing(node)]],
    opacity: dimmed ? FAINT : 1,
    shape: node.connected ? (node.talos ? "square" : "circle") : "triangle",
    label: node.name,
    named: dimmed ? "hidden" : root ? "visible" : "auto",
    above: false,
    depth: root || found ? "topNodes" : "nodes",
  };
}

/** How strongly links that are up are drawn: many of them would hide what is not. */
function upOpacity(count: number): number {
  return Math.max(0.1, Math.min(0.7, 12 / Math.sqrt(Math.max(1, count))));
}

function edgeShape(pair: Pair, opacity: number, view: View, top: boolean): EdgeShape {
  const [dashSize, gapSize] = DASHES[pair.state];
  return {
    from: nodeKey(pair.one),
    to: nodeKey(pair.other),
    size: ((WIDTHS[pair.level] ?? 1) + (pair.state === "up" ? 0 : 0.4)) * view.unit,
    colour: view.palette[pair.state],
    opacity,
    dashSize: dashSize * view.unit,
    gapSize: gapSize * view.unit,
    depth: top ? "topEdges" : "edges",
  };
}

function pairOpacity(pair: Pair, model: MapModel, view: View, ups: number): number {
  const [one, other] = [model.nodes.get(pair.one), model.nodes.get(pair.other)];
  if (!one || !other) return 0;
  const rooted = view.root !== null && (pair.one === view.root || pair.other === view.root);
  if (view.root !== null && !rooted) return pair.state === "up" ? 0 : HIDDEN * 2;
  if (!matches(one, view.search) && !matches(other, view.search)) return pair.state === "up" ? HIDDEN : FAINT;
  if (rooted) return pair.state === "up" ? Math.max(0.35, upOpacity(ups)) : 0.95;
  if (pair.state === "up") return upOpacity(ups);
  return model.grouped ? 0.4 : 0.95;
}

function drawPairs(model: MapModel, view: View, edges: Map<string, EdgeShape>): void {
  const found = pairs(model.links.values());
  const ups = [...found.values()].filter((pair) => pair.state === "up").length;
  for (const [key, pair] of found) {
    const opacity = pairOpacity(pair, model, view, ups);
    if (!opacity) continue;
    const rooted = pair.one === view.root || pair.other === view.root;
    edges.set(key, edgeShape(pair, opacity, view, rooted || pair.state !== "up"));
  }
}

function drawGroups(model: MapModel, layout: Layout, view: View, drawing: Drawing): void {
  const faint = view.search.trim() !== "" || view.root !== null;
  for (const [key, hull] of layout.hulls) {
    const label = layout.hulls.size > 1 || key.startsWith("=") ? groupName(key) : "";
    drawing.nodes.set(hullKey(key), {
      x: hull.x,
      y: hull.y,
      size: hull.radius,
      colour: view.palette.hull,
      opacity: layout.hulls.size > 1 ? 0.85 : 0,
      shape: "circle",
      label,
      named: layout.hulls.size > 1 ? "visible" : "hidden",
      above: true,
      depth: "hulls",
    });
  }
  if (!model.grouped) return;
  for (const [one, other, up, unknown, down] of model.groups.values()) {
    if (one === other || !layout.hulls.has(one) || !layout.hulls.has(other)) continue;
    const state = together(up, unknown, down);
    const size = 1 + Math.log10(Math.max(1, up + unknown + down) / 100 + 1);
    const [dashSize, gapSize] = DASHES[state];
    drawing.edges.set(`${one} ${other}`, {
      from: hullKey(one),
      to: hullKey(other),
      size: size * view.unit,
      colour: view.palette[state],
      opacity: faint ? FAINT : 0.75,
      dashSize: dashSize * 1.5 * view.unit,
      gapSize: gapSize * 1.5 * view.unit,
      depth: "edges",
    });
  }
}

export function draw(model: MapModel, layout: Layout, view: View): Drawing {
  const drawing: Drawing = { nodes: new Map(), edges: new Map() };
  drawGroups(model, layout, view, drawing);
  drawPairs(model, view, drawing.edges);
  for (const node of model.nodes.values()) {
    const spot = layout.spots.get(node.pk);
    if (spot) drawing.nodes.set(nodeKey(node.pk), nodeShape(node, spot, model, view));
  }
  return drawing;
}

/** What differs between two drawings, by key. */
export function difference<T extends object>(
  before: ReadonlyMap<string, T>,
  after: ReadonlyMap<string, T>,
): { gone: string[]; fresh: string[]; changed: string[] } {
  const gone = [...before.keys()].filter((key) => !after.has(key));
  const fresh: string[] = [];
  const changed: string[] = [];
  for (const [key, shape] of after) {
    const known = before.get(key);
    if (!known) fresh.push(key);
    else if (!same(known, shape)) changed.push(key);
  }
  return { gone, fresh, changed };
}

function same<T extends object>(one: T, other: T): boolean {
  for (const name of Object.keys(one) as (keyof T)[]) if (one[name] !== other[name]) return false;
  return true;
}
