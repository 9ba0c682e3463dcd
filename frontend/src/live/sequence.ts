// Decisions of a live page, without a socket or a clock: which messages fit, when to try again, what to say of it.
import { formatClock } from "../format.ts";
import type { Numbered } from "./shapes.ts";

type Message = Numbered & { type: "snapshot" | "delta" };

/** Takes a message's number into account: `use` it, or there is a `gap` and only a new snapshot helps. */
export class Sequence {
  #held: number | null = null;

  take(message: Message): "use" | "gap" {
    if (message.type === "snapshot") {
      this.#held = message.number;
      return "use";
    }
    if (this.#held === null || message.number !== this.#held + 1) return "gap";
    this.#held = message.number;
    return "use";
  }

  forget(): void {
    this.#held = null;
  }
}

const FIRST_DELAY = 250;
const LONGEST_DELAY = 15_000;

/** Milliseconds before the next attempt: doubling with full jitter, so that a thousand pages don't come at once. */
export function delayBefore(attempt: number, random: number): number {
  const ceiling = Math.min(LONGEST_DELAY, FIRST_DELAY * 2 ** Math.min(attempt, 16));
  return Math.round(FIRST_DELAY / 2 + ceiling * random);
}

/** After this many milliseconds without a connection what is shown counts as stale. */
export const PATIENCE = 4_000;

export type Mood = { live: "starting" | "live" | "reconnecting" | "stale"; text: string };

/** What the banner says, given when the page last knew that it was current (none: never yet). */
export function mood(connected: boolean, current: Date | null, lostFor: number): Mood {
  if (connected) return { live: "live", text: "Live" };
  if (lostFor < PATIENCE) {
    return current ? { live: "reconnecting", text: "Reconnecting" } : { live: "starting", text: "Connecting" };
  }
  return current
    ? { live: "stale", text: `Stale since ${formatClock(current)}` }
    : { live: "stale", text: "Not connected" };
}
