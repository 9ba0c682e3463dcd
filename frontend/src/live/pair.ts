// The page of one link: figures as both ends report them; what needs words is drawn by the server, and fetched anew.

import { formatRoundTrip, formatShare } from "../charts/words.ts";
import { formatBytes, formatRate, rate } from "../format.ts";
import { timeElement } from "../times.ts";
import { fill } from "./dom.ts";
import { addPoints, renewHistory } from "./history.ts";
import type { PairDelta, PairSnapshot, Sight } from "./shapes.ts";
import type { Page } from "./socket.ts";
import { drawSpark, Trail } from "./spark.ts";

const SECONDS = 120;
const FIGURES = ["rtt", "loss", "received", "sent"] as const;
type Figure = (typeof FIGURES)[number];

class End {
  readonly #trails = Object.fromEntries(FIGURES.map((figure) => [figure, new Trail(SECONDS)])) as Record<Figure, Trail>;
  #before: Sight | null = null;
  #sight: Sight | null = null;
  #rates: Record<"received" | "sent", number | null> = { received: null, sent: null };

  take(sight: Sight | null): void {
    this.#sight = sight;
    if (!sight || (this.#before && sight.at <= this.#before.at)) return;
    for (const which of ["received", "sent"] as const) {
      const before = this.#before && { at: this.#before.at, bytes: this.#before[which] };
      this.#rates[which] = before ? rate(before, { at: sight.at, bytes: sight[which] }) : null;
      this.#trails[which].push(this.#rates[which]);
    }
    this.#trails.rtt.push(sight.rtt);
    this.#trails.loss.push(sight.loss);
    this.#before = sight;
  }

  draw(place: Element): void {
    const sight = this.#sight;
    const cell = (name: string) => place.querySelector(`[data-figure="${name}"]`);
    const handshake = cell("handshake");
    if (handshake) {
      const age = sight?.handshake ? timeElement(sight.handshake) : "never";
      fill(handshake, String(sight?.handshake ? Math.round(sight.handshake) : "never"), age);
    }
    for (const figure of FIGURES) {
      const shown = cell(figure);
      const text = sight ? this.#text(figure, sight) : "—";
      if (shown && shown.textContent !== text) shown.textContent = text;
      const spark = place.querySelector(`[data-spark="${figure}"]`);
      if (spark) drawSpark(spark, this.#trails[figure].padded());
      if (spark instanceof HTMLElement) spark.hidden = sight !== null && (sight as Partial<Sight>)[figure] === null;
    }
  }

  #text(figure: Figure, sight: Sight): string {
    if (figure === "rtt") return sight.rtt === null ? "not measured" : formatRoundTrip(sight.rtt);
    if (figure === "loss") return sight.loss === null ? "not measured" : formatShare(sight.loss);
    const speed = this.#rates[figure];
    const total = formatBytes(sight[figure]);
    return speed === null ? total : `${formatRate(speed)}, ${total} in all`;
  }
}

export class PairPage implements Page<PairSnapshot, PairDelta> {
  readonly #root: HTMLElement;
  readonly #ends = { here: new End(), there: new End() };
  #started = false;

  constructor(root: HTMLElement) {
    this.#root = root;
    document.addEventListener("htmx:after:swap", () => this.#draw());
  }

  snapshot(message: PairSnapshot): void {
    this.#take(message);
    if (this.#started) renewHistory(this.#root); // points were missed
    this.#started = true;
    this.#renew();
  }

  delta(message: PairDelta): void {
    this.#take(message);
    if (message.renew) {
      this.#renew();
      renewHistory(this.#root);
    }
    addPoints(this.#root, message.history);
  }

  #take(message: PairSnapshot | PairDelta): void {
    for (const end of ["here", "there"] as const) this.#ends[end].take(message[end]);
    this.#draw();
  }

  #draw(): void {
    for (const end of ["here", "there"] as const) {
      const place = this.#root.querySelector(`[data-end="${end}"]`);
      if (place) this.#ends[end].draw(place);
    }
  }

  #renew(): void {
    for (const place of this.#root.querySelectorAll("[data-follow]")) place.dispatchEvent(new Event("news"));
  }
}
