// The drawing, on a canvas: keeps what is on the screen equal to what is to be drawn, and touches only what differs.
import cytoscape from "cytoscape";
import type { Palette } from "./colours.ts";
import { type Drawing, difference, type EdgeShape, type NodeShape } from "./drawing.ts";
import { edgeData, elements, nodeData, position, STYLE } from "./elements.ts";
import type { Spot } from "./layout.ts";
import { type Name, nameOf, placeNames } from "./names.ts";
import { Writing } from "./writing.ts";

const MOVE = 350; // milliseconds
const ZOOM = 1.5;
const PADDING = 28;
/** How much of the whole may be seen: this share of it, or so many times its size. */
const LEAST = 0.06;
const MOST = 2;
/** How much closer a pixel of the wheel brings it, and one of two fingers on a trackpad, which come as small steps. */
const WHEEL = 0.002;
const PINCH = 0.01;
/** Pixels of one line, for wheels that count in lines. */
const LINE = 33;
/** Of the time of a drag, one part in so many may go into drawing anew what it brings into view. */
const SHARE = 10;

interface Viewport {
  zoom: number;
  /** The graph's point at the left top corner. */
  mpan: Spot;
}

/** cytoscape's own renderer, of which its types tell nothing: the picture that it moves about during a drag. */
interface Renderer {
  textureCache: { viewport: Viewport } | null;
  lastRedrawTime: number;
  forcedPixelRatio: number;
}

/**
 * Pixels of the screen to one of the page. A trifle more: where it is one to one, cytoscape makes the picture that is
 * moved about during a drag twice as fine and shrinks it for each frame, which without a graphics card takes longer
 * than all else.
 */
function pixelRatio(): number {
  return window.devicePixelRatio + 1e-7;
}

function calm(): boolean {
  return matchMedia("(prefers-reduced-motion: reduce)").matches;
}

function makeCytoscape(container: HTMLElement): cytoscape.Core {
  // Else cytoscape adds a style element, which the content security policy refuses; what it would say is in _map.scss.
  const said = document.createElement("template");
  said.id = "__________cytoscape_stylesheet";
  if (!document.getElementById(said.id)) document.head.append(said);
  return cytoscape({
    container,
    style: STYLE,
    textureOnViewport: true, // or a thousand nodes are drawn anew for each frame of a drag
    pixelRatio: pixelRatio(),
    autoungrabify: true,
    autounselectify: true,
    boxSelectionEnabled: false,
  });
}

/** What is looked at: the graph's point in the middle, and how much is to be seen, where all of it is 1. */
interface View extends Spot {
  ratio: number;
}

export class Canvas {
  readonly #container: HTMLElement;
  readonly #cy: cytoscape.Core;
  readonly #writing: Writing;
  #palette: Palette;
  #nodes = new Map<string, NodeShape>();
  #edges = new Map<string, EdgeShape>();
  #moving: cytoscape.CollectionReturnValue;
  #names: Name[] = [];
  /** The zoom that the names were placed for; nought when they are to be placed anew. */
  #placed = 0;
  #pointed: string | null = null;
  #extent = 1;
  #unit = 1;
  #size = { width: 0, height: 0 };
  /** The picture that is moved about during a drag, and when it may be made anew. */
  #held: Renderer["textureCache"] = null;
  #due = 0;
  /** Whether something came that this picture does not show. */
  #stale = false;
  /** Where the view is on its way to. */
  #goal: View | null = null;
  #later: ReturnType<typeof setTimeout> | undefined;

  constructor(container: HTMLElement, palette: Palette, click: (key: string | null) => void) {
    this.#container = container;
    this.#palette = palette;
    // Before cytoscape does, for which the notch of a wheel is next to nothing, and which would zoom as well.
    container.addEventListener("wheel", (event) => this.#wheel(event), { capture: true, passive: false });
    this.#cy = makeCytoscape(container);
    this.#moving = this.#cy.collection();
    this.#writing = new Writing(container);
    this.#cy.on("tap", ({ target }) => click(target === this.#cy ? null : target.id()));
    this.#cy.on("dbltap", ({ position: at }) => this.#closer(position(at)));
    this.#cy.on("mouseover", "node", ({ target }) => this.#point(target.id()));
    this.#cy.on("mouseout", "node", () => this.#point(null));
    this.#cy.on("dragpan", () => this.#renew());
    this.#cy.on("render", () => this.#write());
    void document.fonts.ready.then(() => this.#measureAnew());
    // Of who leaves the map cytoscape tells no node.
    container.addEventListener("mouseleave", () => this.#point(null));
    container.addEventListener("mousedown", () => {
      container.focus({ preventScroll: true }); // cytoscape takes the focus away, and the keys with it
      this.#cy.stop();
    });
    container.addEventListener("touchstart", () => this.#cy.stop(), { passive: true });
  }

  /** In other colours: the theme is another one. Shapes have theirs by the next drawing. */
  repaint(palette: Palette): void {
    this.#palette = palette;
    this.#write();
  }

  /** Graph units that a pixel is worth, where so much is to be seen to each side of the middle. */
  unit(extent: number): number {
    const { clientWidth, clientHeight } = this.#container;
    return (2 * extent) / Math.max(100, Math.min(clientWidth, clientHeight) - 2 * PADDING);
  }

  /** Fits what is seen to the drawing's size and the container's, the same in the middle as before. */
  #frame(extent: number): void {
    const { clientWidth: width, clientHeight: height } = this.#container;
    const unit = this.unit(extent);
    const same = width === this.#size.width && height === this.#size.height;
    if (unit === this.#unit && same && this.#renderer.forcedPixelRatio === pixelRatio()) return;
    const view = this.#size.width ? this.#view() : { x: 0, y: 0, ratio: 1 };
    this.#cy.stop(); // it would end where that was in the former frame
    this.#extent = extent;
    this.#unit = unit;
    this.#size = { width, height };
    this.#renderer.forcedPixelRatio = pixelRatio(); // the window may be on another screen
    this.#cy.resize();
    this.#cy.minZoom(1e-9); // or the other limit might be refused
    this.#cy.maxZoom(1 / (unit * LEAST));
    this.#cy.minZoom(1 / (unit * MOST));
    this.#cy.viewport(this.#viewport(view));
  }

  /** What is looked at, or is about to be. */
  #view(): View {
    if (this.#goal && this.#cy.animated()) return this.#goal;
    const { width, height } = this.#size;
    const { x, y } = this.#cy.pan();
    const zoom = this.#cy.zoom();
    return { x: (width / 2 - x) / zoom, y: (y - height / 2) / zoom, ratio: 1 / (this.#unit * zoom) };
  }

  #viewport({ x, y, ratio }: View): { zoom: number; pan: Spot } {
    const { width, height } = this.#size;
    const zoom = 1 / (this.#unit * ratio);
    return { zoom, pan: { x: width / 2 - x * zoom, y: height / 2 + y * zoom } };
  }

  /** Shows this drawing; `moving` has nodes glide to where they stand now. */
  show(drawing: Drawing, extent: number, moving: boolean): void {
    this.#settle();
    this.#frame(extent);
    const edges = difference(this.#edges, drawing.edges);
    const nodes = difference(this.#nodes, drawing.nodes);
    const glide = moving && !calm();
    this.#cy.batch(() => {
      for (const key of [...edges.gone, ...nodes.gone]) this.#cy.getElementById(key).remove();
      this.#cy.add([...elements(drawing, nodes.fresh, edges.fresh)]);
      for (const key of nodes.changed) this.#change(key, drawing.nodes.get(key), !glide);
      for (const key of edges.changed) {
        const shape = drawing.edges.get(key);
        if (shape) this.#cy.getElementById(key).data(edgeData(shape));
      }
    });
    this.#nodes = drawing.nodes;
    this.#edges = drawing.edges;
    this.#moving = this.#cy.collection();
    if (glide) for (const key of nodes.changed) this.#glide(key);
    this.#placed = 0;
    if (this.#pointed !== null && !drawing.nodes.has(this.#pointed)) this.#point(null);
    this.#stale ||= [nodes, edges].some(({ gone, fresh, changed }) => gone.length + fresh.length + changed.length > 0);
    this.#renew();
    this.#write();
  }

  /** Has whoever glides be where it glides to, at once: cytoscape's own way does so with the next frame. */
  #settle(): void {
    this.#moving.forEach((node) => {
      node.stop(true);
      const shape = this.#nodes.get(node.id());
      if (shape) (node as cytoscape.NodeSingular).position(position(shape));
    });
  }

  #change(key: string, shape: NodeShape | undefined, place: boolean): void {
    if (!shape) return;
    const node = this.#cy.getElementById(key);
    node.data(nodeData(shape));
    if (place) node.position(position(shape));
  }

  #glide(key: string): void {
    const shape = this.#nodes.get(key);
    if (!shape) return;
    const node = this.#cy.getElementById(key);
    const { x, y } = position(shape);
    if (node.position("x") === x && node.position("y") === y) return;
    this.#moving.merge(node);
    node.animate({ position: { x, y } }, { duration: MOVE });
  }

  /** Names were measured in the letters of another font until theirs was loaded. */
  #measureAnew(): void {
    this.#writing.forget();
    this.#placed = 0;
    this.#write();
  }

  #point(key: string | null): void {
    if (key === this.#pointed) return;
    this.#pointed = key;
    // Not its own: whenever one of its attributes changes, cytoscape measures the container and draws all anew.
    const around = this.#container.parentElement;
    if (around) around.style.cursor = key === null ? "" : "pointer";
    this.#write();
  }

  #write(): void {
    const zoom = this.#cy.zoom();
    const { measure } = this.#writing;
    if (zoom !== this.#placed) this.#names = placeNames(this.#nodes, zoom, measure);
    this.#placed = zoom;
    const pointed = this.#pointed === null ? undefined : this.#nodes.get(this.#pointed);
    const name = this.#pointed !== null && pointed?.label ? nameOf(this.#pointed, pointed, zoom, measure) : null;
    const spot = (key: string) => {
      const node = this.#cy.getElementById(key);
      return node.nonempty() ? node.renderedPosition() : null;
    };
    this.#writing.write(this.#names, name, spot, this.#palette);
  }

  get #renderer(): Renderer {
    return (this.#cy as unknown as { renderer(): Renderer }).renderer();
  }

  /** During a drag a picture is moved about: it is made anew when it lacks some of the drawing or what came meanwhile,
   * as often as is cheap. */
  #renew(): void {
    const renderer = this.#renderer;
    if (!renderer.textureCache) this.#stale = false;
    if (!renderer.textureCache || (!this.#stale && this.#whole(renderer.textureCache.viewport))) return;
    if (renderer.textureCache !== this.#held) {
      this.#held = renderer.textureCache;
      this.#due = performance.now() + SHARE * renderer.lastRedrawTime;
    }
    clearTimeout(this.#later);
    const left = this.#due - performance.now();
    if (left > 0) {
      this.#later = setTimeout(() => this.#renew(), left); // the pointer may have come to rest
      return;
    }
    renderer.textureCache = null;
    this.#stale = false;
    this.#cy.forceRender();
  }

  /** Whether a picture that was made of this holds all of the drawing. */
  #whole({ mpan: { x, y }, zoom }: Viewport): boolean {
    const [right, bottom] = [x + this.#size.width / zoom, y + this.#size.height / zoom];
    return Math.min(right, bottom) >= this.#extent && Math.max(x, y) <= -this.#extent;
  }

  #wheel(event: WheelEvent): void {
    event.preventDefault();
    event.stopImmediatePropagation();
    this.#cy.stop();
    const { left, top } = this.#container.getBoundingClientRect();
    const pixels = event.deltaY * (event.deltaMode === WheelEvent.DOM_DELTA_PIXEL ? 1 : LINE);
    const level = this.#cy.zoom() * Math.exp(-pixels * (event.ctrlKey ? PINCH : WHEEL));
    this.#cy.zoom({ level, renderedPosition: { x: event.clientX - left, y: event.clientY - top } });
  }

  fit(): void {
    this.#go({ x: 0, y: 0, ratio: 1 });
  }

  /** Closer by steps; farther below nought. */
  zoom(steps: number): void {
    const view = this.#view();
    this.#go({ ...view, ratio: view.ratio / ZOOM ** steps });
  }

  /** A step closer, with this point where it is. */
  #closer({ x, y }: Spot): void {
    const view = this.#view();
    const share = Math.max(LEAST, view.ratio / ZOOM) / view.ratio;
    this.#go({ x: x + (view.x - x) * share, y: y + (view.y - y) * share, ratio: view.ratio * share });
  }

  /** By shares of what is seen. */
  pan(right: number, up: number): void {
    const { x, y, ratio } = this.#view();
    const seen = 2 * this.#extent * ratio;
    this.#go({ x: x + right * seen, y: y + up * seen, ratio });
  }

  /** Has a drawn thing fill the view. */
  closeUp(key: string): void {
    const shape = this.#nodes.get(key);
    if (shape) this.#go({ x: shape.x, y: shape.y, ratio: Math.min(1, (1.3 * shape.size) / this.#extent) });
  }

  #go({ x, y, ratio }: View): void {
    this.#cy.stop();
    this.#goal = { x, y, ratio: Math.max(LEAST, Math.min(MOST, ratio)) };
    const { zoom, pan } = this.#viewport(this.#goal);
    if (calm()) this.#cy.viewport({ zoom, pan });
    else this.#cy.animate({ zoom: zoom as unknown as cytoscape.ZoomOptions, pan }, { duration: MOVE });
  }
}
