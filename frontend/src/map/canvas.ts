// The drawing, by WebGL: keeps what is on the screen equal to what is to be drawn, and touches only what differs.
import Graph from "graphology";
import Sigma, { DEFAULT_STYLES } from "sigma";
import { layerDashed, layerFill, layerPlain, pathLine, sdfCircle, sdfSquare, sdfTriangle } from "sigma/rendering";
import { animateNodes } from "sigma/utils";
import { faded } from "../colours.ts";
import type { Palette } from "./colours.ts";
import { type Drawing, difference, type EdgeShape, type NodeShape } from "./drawing.ts";

const MOVE = 350; // milliseconds
const ZOOM = 1.5;
const LABEL_FONT = "550 Inter, system-ui, sans-serif";

/** Whether this browser can draw it at all. */
export function canDraw(): boolean {
  try {
    return document.createElement("canvas").getContext("webgl2") !== null;
  } catch {
    return false;
  }
}

function calm(): boolean {
  return matchMedia("(prefers-reduced-motion: reduce)").matches;
}

function makeSigma(graph: Graph, container: HTMLElement, palette: Palette) {
  return new Sigma(graph, container, {
    primitives: {
      depthLayers: ["hulls", "edges", "topEdges", "nodes", "topNodes"],
      nodes: {
        shapes: [sdfCircle(), sdfSquare(), sdfTriangle()],
        layers: [layerFill()],
        label: { margin: 4 },
      },
      edges: {
        paths: [pathLine()],
        variables: {
          solid: { type: "color", default: "rgba(0, 0, 0, 0)" },
          dash: { type: "color", default: "rgba(0, 0, 0, 0)" },
          dashSize: { type: "number", default: 0 },
          gapSize: { type: "number", default: 0 },
        },
        layers: [
          layerPlain({ color: { attribute: "solid" } }),
          layerDashed({
            dashColor: { attribute: "dash" },
            dashSize: { attribute: "dashSize", default: 0, mode: "pixels" },
            gapSize: { attribute: "gapSize", default: 0, mode: "pixels" },
          }),
        ],
      },
    },
    styles: {
      nodes: {
        ...DEFAULT_STYLES.nodes,
        depth: { attribute: "depth", defaultValue: "nodes" },
        size: { attribute: "size", defaultValue: 1 },
        color: { attribute: "colour", defaultValue: palette.node },
        shape: { attribute: "shape", defaultValue: "circle" },
        labelColor: palette.text,
        labelVisibility: ({ named }, { isHovered }) => (isHovered ? "visible" : named),
        labelPosition: ({ above }) => (above ? "above" : "right"),
        labelSize: 12,
        labelFont: LABEL_FONT,
        labelDepth: "topNodes",
        labelBackgroundPadding: 2,
        backdropVisibility: "hidden",
        labelBackgroundColor: (_, { isHovered }) => (isHovered ? palette.surface : faded(palette.surface, 0.75)),
        cursor: "pointer",
      },
      edges: {
        ...DEFAULT_STYLES.edges,
        depth: { attribute: "depth", defaultValue: "edges" },
        size: { attribute: "size", defaultValue: 0 },
        solid: { attribute: "solid", defaultValue: "rgba(0, 0, 0, 0)" },
        dash: { attribute: "dash", defaultValue: "rgba(0, 0, 0, 0)" },
        dashSize: { attribute: "dashSize", defaultValue: 0 },
        gapSize: { attribute: "gapSize", defaultValue: 0 },
      },
    },
    settings: {
      autoRescale: true,
      itemSizesReference: "positions",
      zoomToSizeRatioFunction: (ratio: number) => ratio,
      gestureTarget: "graph",
      enableEdgeEvents: false,
      enableCameraRotation: false,
      allowInvalidContainer: true,
      minEdgeThickness: 0.8,
      labelRenderedSizeThreshold: 5,
      labelDensity: 1,
      stagePadding: 28,
      minCameraRatio: 0.06,
      maxCameraRatio: 2,
      inertiaDuration: calm() ? 0 : 150,
      zoomDuration: calm() ? 0 : 200,
      doubleClickZoomingDuration: calm() ? 0 : 200,
    },
  });
}

export class Canvas {
  readonly #container: HTMLElement;
  readonly #graph = new Graph({ type: "undirected", multi: true, allowSelfLoops: false });
  #sigma: ReturnType<typeof makeSigma>;
  #nodes = new Map<string, NodeShape>();
  #edges = new Map<string, EdgeShape>();
  #extent = 0;
  #stop: () => void = () => {};
  readonly #click: (key: string | null) => void;

  constructor(container: HTMLElement, palette: Palette, click: (key: string | null) => void) {
    this.#container = container;
    this.#click = click;
    this.#sigma = this.#make(palette);
  }

  #make(palette: Palette): ReturnType<typeof makeSigma> {
    const sigma = makeSigma(this.#graph, this.#container, palette);
    sigma.on("clickNode", ({ node }) => this.#click(node));
    sigma.on("clickStage", () => this.#click(null));
    return sigma;
  }

  /** In other colours: the theme is another one. */
  repaint(palette: Palette): void {
    const state = this.#sigma.getCamera().getState();
    this.#sigma.kill();
    this.#sigma = this.#make(palette);
    this.#frame(this.#extent);
    this.#sigma.getCamera().setState(state);
  }

  /** Graph units that a pixel is worth, where so much is to be seen to each side of the middle. */
  unit(extent: number): number {
    const { width, height } = this.#container.getBoundingClientRect();
    return (2 * extent) / Math.max(100, Math.min(width, height) - 56);
  }

  #frame(extent: number): void {
    this.#extent = extent;
    this.#sigma.setCustomBBox({ x: [-extent, extent], y: [-extent, extent] });
  }

  /** Shows this drawing; `moving` has nodes glide to where they stand now. */
  show(drawing: Drawing, extent: number, moving: boolean): void {
    this.#stop();
    if (extent !== this.#extent) this.#frame(extent);
    const edges = difference(this.#edges, drawing.edges);
    const nodes = difference(this.#nodes, drawing.nodes);
    for (const key of edges.gone) this.#graph.dropEdge(key);
    for (const key of nodes.gone) this.#graph.dropNode(key); // and edges that it still had
    const targets: Record<string, { x: number; y: number }> = {};
    for (const key of nodes.fresh) this.#graph.addNode(key, { ...drawing.nodes.get(key) });
    for (const key of nodes.changed) {
      const shape = drawing.nodes.get(key);
      if (!shape) continue;
      const { x, y, ...rest } = shape;
      this.#graph.mergeNodeAttributes(key, moving && !calm() ? rest : shape);
      if (moving && !calm()) targets[key] = { x, y };
    }
    for (const key of [...edges.fresh, ...edges.changed]) {
      const shape = drawing.edges.get(key);
      if (!shape || !this.#graph.hasNode(shape.from) || !this.#graph.hasNode(shape.to)) continue;
      if (this.#graph.hasEdge(key)) this.#graph.mergeEdgeAttributes(key, shape);
      else this.#graph.addEdgeWithKey(key, shape.from, shape.to, { ...shape });
    }
    this.#nodes = drawing.nodes;
    this.#edges = drawing.edges;
    if (Object.keys(targets).length) this.#stop = animateNodes(this.#graph, targets, { duration: MOVE });
  }

  fit(): void {
    this.#go({ x: 0.5, y: 0.5, ratio: 1, angle: 0 });
  }

  /** Closer by steps; farther below nought. */
  zoom(steps: number): void {
    const camera = this.#sigma.getCamera();
    this.#go({ ratio: camera.getBoundedRatio(camera.ratio / ZOOM ** steps) });
  }

  /** By shares of what is seen. */
  pan(right: number, up: number): void {
    const { x, y, ratio } = this.#sigma.getCamera().getState();
    this.#go({ x: x + right * ratio, y: y + up * ratio });
  }

  /** Has a drawn thing fill the view. */
  closeUp(key: string): void {
    const shape = this.#nodes.get(key);
    if (!shape) return;
    const { x, y } = this.#sigma.graphToFramedGraph({ x: shape.x, y: shape.y });
    this.#go({ x, y, ratio: Math.min(1, (1.3 * shape.size) / this.#extent) });
  }

  #go(state: Partial<{ x: number; y: number; ratio: number; angle: number }>): void {
    const camera = this.#sigma.getCamera();
    if (calm()) camera.setState(state);
    else void camera.animate(state, { duration: MOVE });
  }
}
