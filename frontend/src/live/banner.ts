import type { Mood } from "./sequence.ts";

/** Shows how current the page is; announced once per change by its role. */
export function showMood(mood: Mood): void {
  for (const banner of document.querySelectorAll<HTMLElement>("[data-banner]")) {
    if (banner.dataset.live !== mood.live) banner.dataset.live = mood.live;
    const text = banner.querySelector("[data-banner-text]");
    if (text && text.textContent !== mood.text) text.textContent = mood.text;
  }
}
