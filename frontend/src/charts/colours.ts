// Colours as the theme has them now: a canvas knows no CSS variables, and none that differ by theme.

let probe: HTMLElement | null = null;

/** What `var(--name)` comes to just now. */
export function colour(name: string): string {
  if (!probe) {
    probe = document.createElement("span");
    probe.hidden = true;
    document.body.append(probe);
  }
  probe.style.color = `var(--${name})`;
  return getComputedStyle(probe).color;
}

/** The same, so transparent. */
export function tint(name: string, alpha: number): string {
  return colour(name).replace(/^rgb\((.*)\)$/, (_, parts: string) => `rgba(${parts}, ${alpha})`);
}

/** Calls back whenever the theme changes. */
export function onTheme(changed: () => void): void {
  new MutationObserver(changed).observe(document.documentElement, { attributeFilter: ["data-bs-theme"] });
}
