// The map's page: takes what the socket tells, has it drawn and listed, and follows search, clicks and keys.

import { onTheme } from "../colours.ts";
import { LiveSocket, type Page } from "../live/socket.ts";
import { Canvas } from "./canvas.ts";
import { readPalette } from "./colours.ts";
import { draw, hullKey } from "./drawing.ts";
import { Layout } from "./layout.ts";
import { showList } from "./list.ts";
import { MapModel, membersByGroup, summary } from "./model.ts";
import type { MapDelta, MapSnapshot } from "./shapes.ts";

const STEP = 0.12;

export class MapPage implements Page<MapSnapshot, MapDelta> {
  readonly #root: HTMLElement;
  readonly #place: HTMLElement;
  readonly #model = new MapModel();
  readonly #layout = new Layout();
  readonly #socket: LiveSocket<MapSnapshot, MapDelta>;
  #palette;
  #canvas: Canvas | null = null;
  #centre: number | null = null;
  #search = "";
  #known = false;

  constructor(root: HTMLElement, place: HTMLElement, path: string) {
    this.#root = root;
    this.#place = place;
    this.#palette = readPalette(root);
    this.#wire();
    this.#socket = new LiveSocket(path, this);
  }

  view(): number[] {
    return this.#centre === null ? [] : [this.#centre];
  }

  snapshot(message: MapSnapshot): void {
    this.#model.snapshot(message);
    this.#known = true;
    this.#show();
  }

  delta(message: MapDelta): void {
    this.#model.delta(message);
    this.#show();
  }

  #wire(): void {
    const search = this.#root.querySelector<HTMLInputElement>("[data-map-search]");
    search?.addEventListener("input", () => {
      this.#search = search.value;
      this.#show();
    });
    this.#search = search?.value ?? "";
    this.#root.addEventListener("click", (event) => this.#press(event.target as Element));
    this.#place.addEventListener("keydown", (event) => this.#key(event));
    onTheme(() => {
      this.#palette = readPalette(this.#root);
      this.#canvas?.repaint(this.#palette);
      this.#show();
    });
    new ResizeObserver(() => this.#known && this.#show()).observe(this.#place);
  }

  #press(target: Element): void {
    const pressed = target.closest<HTMLElement>("[data-root], [data-group], [data-map-do]");
    if (!pressed) return;
    const { root, group, mapDo } = pressed.dataset;
    if (root) this.#choose(Number(root) === this.#centre ? null : Number(root));
    else if (group) this.#canvas?.closeUp(hullKey(group));
    else if (mapDo === "fit") this.#canvas?.fit();
    else if (mapDo === "closer") this.#canvas?.zoom(1);
    else if (mapDo === "farther") this.#canvas?.zoom(-1);
    else if (mapDo === "back") this.#choose(null);
  }

  #key(event: KeyboardEvent): void {
    const deeds: Record<string, () => void> = {
      ArrowLeft: () => this.#canvas?.pan(-STEP, 0),
      ArrowRight: () => this.#canvas?.pan(STEP, 0),
      ArrowUp: () => this.#canvas?.pan(0, STEP),
      ArrowDown: () => this.#canvas?.pan(0, -STEP),
      "+": () => this.#canvas?.zoom(1),
      "-": () => this.#canvas?.zoom(-1),
      "0": () => this.#canvas?.fit(),
      Escape: () => this.#choose(null),
    };
    const deed = deeds[event.key];
    if (!deed || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    deed();
  }

  #clicked(key: string | null): void {
    if (key === null) this.#choose(null);
    else if (key.startsWith("n")) this.#choose(Number(key.slice(1)));
    else this.#canvas?.closeUp(key);
  }

  /** Puts a node in the centre, or none. */
  #choose(pk: number | null): void {
    if (pk === this.#centre) return;
    this.#centre = pk;
    this.#socket.look();
    this.#show(true);
    if (pk === null) return;
    this.#canvas?.fit();
    this.#root.querySelector("[data-map-details]")?.scrollIntoView({ block: "nearest" });
  }

  #show(moving = false): void {
    if (!this.#known) return;
    if (this.#centre !== null && !this.#model.nodes.has(this.#centre)) this.#centre = null;
    const members = membersByGroup(this.#model.nodes.values());
    this.#layout.place(new Map([...members].map(([key, nodes]) => [key, nodes.map((node) => node.pk)])));
    this.#draw(moving);
    showList(this.#root, this.#model, this.#centre, this.#search);
    this.#say();
  }

  #draw(moving: boolean): void {
    this.#canvas ??= new Canvas(this.#place, this.#palette, (key) => this.#clicked(key));
    const extent = this.#layout.extent();
    const unit = this.#canvas.unit(extent);
    const view = { root: this.#centre, search: this.#search, palette: this.#palette, unit };
    this.#canvas.show(draw(this.#model, this.#layout, view), extent, moving);
    this.#root.dataset.drawn = "yes";
  }

  #say(): void {
    const drawn = [...this.#model.links.values()].filter(([, , state]) => state !== "up").length;
    const text = summary(this.#model, drawn);
    const place = this.#root.querySelector("[data-map-summary]");
    if (place && place.textContent !== text) place.textContent = text;
    this.#root.dataset.state = this.#model.nodes.size ? "there" : "empty";
    this.#root.dataset.grouped = String(this.#model.grouped);
  }
}
