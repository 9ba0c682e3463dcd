// Shapes of a drawing as cytoscape takes them.
import type cytoscape from "cytoscape";
import type { Drawing, EdgeShape, NodeShape } from "./drawing.ts";
import type { Spot } from "./layout.ts";

const DEPTHS = { hulls: 0, edges: 1, topEdges: 2, nodes: 3, topNodes: 4 } as const;

export const STYLE: cytoscape.StylesheetJson = [
  { selector: "core", style: { "active-bg-opacity": 0, "outside-texture-bg-opacity": 0 } as cytoscape.Css.Core },
  {
    selector: "node",
    style: {
      width: "data(width)",
      height: "data(width)",
      shape: "data(shape)" as cytoscape.Css.NodeShape,
      "background-color": "data(colour)",
      "background-opacity": "data(opacity)" as unknown as number,
      "z-index": "data(z)" as unknown as number,
      "z-index-compare": "manual",
      "overlay-opacity": 0,
    },
  },
  { selector: "node[opacity = 0]", style: { events: "no" } },
  {
    selector: "edge",
    style: {
      "curve-style": "haystack",
      "haystack-radius": 0,
      width: "data(size)",
      "line-color": "data(colour)",
      "line-opacity": "data(opacity)" as unknown as number,
      "z-index": "data(z)" as unknown as number,
      "z-index-compare": "manual",
      events: "no",
    },
  },
  {
    selector: "edge[dashSize > 0]",
    style: {
      "line-style": "dashed",
      "line-dash-pattern": ((edge: cytoscape.EdgeSingular) => [edge.data("dashSize"), edge.data("gapSize")]) as never,
    },
  },
];

/** Where it stands; the graph's up is the screen's down. */
export function position({ x, y }: Spot): Spot {
  return { x, y: -y };
}

const SHAPES = { circle: "ellipse", square: "rectangle", triangle: "triangle" } as const;
/** A square's side to the diameter of a circle that is as large. */
const SIDE = Math.sqrt(Math.PI) / 2;

export function nodeData({ size, colour, opacity, shape, depth }: NodeShape) {
  const width = 2 * size * (shape === "square" ? SIDE : 1);
  return { width, colour, opacity, shape: SHAPES[shape], z: DEPTHS[depth] };
}

export function edgeData({ size, colour, opacity, dashSize, gapSize, depth }: EdgeShape) {
  return { size, colour, opacity, dashSize, gapSize, z: DEPTHS[depth] };
}

/** Elements for these new keys of a drawing, nodes before the edges between them. */
export function* elements(
  { nodes, edges }: Drawing,
  newNodes: string[],
  newEdges: string[],
): Generator<cytoscape.ElementDefinition> {
  for (const id of newNodes) {
    const shape = nodes.get(id);
    // Groups cover most of a large map: where a drag begins is of no matter.
    if (shape) yield { group: "nodes", pannable: true, data: { id, ...nodeData(shape) }, position: position(shape) };
  }
  for (const id of newEdges) {
    const shape = edges.get(id);
    if (shape) yield { group: "edges", data: { id, source: shape.from, target: shape.to, ...edgeData(shape) } };
  }
}
