// The page's own colours, as WebGL wants them; asked of the browser, for they depend on the theme.

export interface Palette {
  up: string;
  unknown: string;
  down: string;
  quiet: string;
  node: string;
  hull: string;
  text: string;
  surface: string;
  ring: string;
}

const NAMES: Record<keyof Palette, string> = {
  up: "--ks-up",
  unknown: "--ks-unknown",
  down: "--ks-down",
  quiet: "--ks-quiet",
  node: "--ks-info",
  hull: "--ks-quiet-soft",
  text: "--body-color",
  surface: "--bg-surface",
  ring: "--ks-ring",
};

export function readPalette(place: HTMLElement): Palette {
  const probe = document.createElement("span");
  probe.hidden = true;
  place.append(probe);
  const colour = (name: string) => {
    probe.style.color = `var(${name})`;
    return getComputedStyle(probe).color;
  };
  const found = Object.fromEntries(Object.entries(NAMES).map(([key, name]) => [key, colour(name)]));
  probe.remove();
  return found as unknown as Palette;
}

/** A colour as the browser gives it, `rgb(1, 2, 3)`, let through by so much. */
export function faded(colour: string, opacity: number): string {
  const [red = 0, green = 0, blue = 0] = (colour.match(/[\d.]+/g) ?? []).map(Number);
  return `rgba(${red}, ${green}, ${blue}, ${opacity})`;
}
