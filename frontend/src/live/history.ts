// Hands what the page's socket says of history to the charts, which are a bundle of their own: by an event on their place.
import type { HistorySeries } from "./shapes.ts";

function tell(root: Element, name: string, detail?: HistorySeries[]): void {
  for (const place of root.querySelectorAll("[data-history]")) place.dispatchEvent(new CustomEvent(name, { detail }));
}

/** A minute was noted. */
export function addPoints(root: Element, points: HistorySeries[] | undefined): void {
  if (points?.length) tell(root, "history:points", points);
}

/** What charts show may be another now: they fetch it. */
export function renewHistory(root: Element): void {
  tell(root, "history:changed");
}
