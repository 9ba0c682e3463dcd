// Colours as the theme has them now, for canvases, which know no CSS variables.

const probes = new WeakMap<Element, HTMLElement>();

/** What a CSS colour, such as `var(--body-color)`, comes to just now, as `rgb(1, 2, 3)`; beside an element that may have its own. */
export function colour(value: string, beside: Element = document.body): string {
  let probe = probes.get(beside);
  if (!probe?.isConnected) {
    probe = document.createElement("span");
    probe.hidden = true;
    beside.append(probe);
    probes.set(beside, probe);
  }
  probe.style.color = value;
  return getComputedStyle(probe).color;
}

/** A colour as the browser gives it, let through by so much. */
export function faded(found: string, opacity: number): string {
  const [red = 0, green = 0, blue = 0] = channels(found);
  return `rgba(${red}, ${green}, ${blue}, ${opacity})`;
}

/** Red, green and blue of what the browser gives. */
export function channels(found: string): number[] {
  return (found.match(/[\d.]+/g) ?? []).slice(0, 3).map(Number);
}

/** Calls back whenever the theme changes. */
export function onTheme(changed: () => void): void {
  new MutationObserver(changed).observe(document.documentElement, { attributeFilter: ["data-bs-theme"] });
}
