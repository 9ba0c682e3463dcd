// The page's own colours, as a canvas wants them; asked of the browser, for they depend on the theme.
import { colour } from "../colours.ts";

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
  const found = Object.entries(NAMES).map(([key, name]) => [key, colour(`var(${name})`, place)]);
  return Object.fromEntries(found) as unknown as Palette;
}
