// Keeps every <time data-relative> fresh. The server writes the exact time into it; this shows the distance.
import { formatExact, formatRelative } from "./format.ts";

const EVERY = 1_000;

export function showTime(element: HTMLTimeElement, now: number): void {
  const at = Date.parse(element.dateTime);
  if (Number.isNaN(at)) return;
  const text = formatRelative(at / 1000, now / 1000);
  if (element.textContent !== text) element.textContent = text;
  if (!element.title) {
    const exact = formatExact(new Date(at));
    element.title = exact;
    element.setAttribute("aria-label", exact); // does not change each second under a screen reader
  }
}

/** A <time> that stays fresh, for pages that draw themselves. */
export function timeElement(unixSeconds: number): HTMLTimeElement {
  const element = document.createElement("time");
  element.dateTime = new Date(unixSeconds * 1000).toISOString();
  element.dataset.relative = "";
  showTime(element, Date.now());
  return element;
}

export function keepTimesFresh(): void {
  const all = () => {
    for (const element of document.querySelectorAll<HTMLTimeElement>("time[data-relative]")) {
      showTime(element, Date.now());
    }
  };
  all();
  setInterval(() => document.hidden || all(), EVERY);
  document.addEventListener("visibilitychange", all);
  document.addEventListener("htmx:after:swap", all);
}
