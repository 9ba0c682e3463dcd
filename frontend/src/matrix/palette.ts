// The style sheet's colours as a canvas takes them; read again when the theme changes.
import { TONES, type Tone } from "./tones.ts";

export interface Palette {
  tones: Record<Tone, string>;
  /** The same as the four bytes of a pixel. */
  pixels: Record<Tone, number>;
  surface: string;
  text: string;
  faint: string;
  line: string;
  ring: string;
  mark: string;
  font: string;
}

/** Resolves colours by an element, because a custom property alone is only text. */
export function readPalette(beside: Element): Palette {
  const probe = document.createElement("span");
  beside.append(probe);
  const read = (value: string) => {
    probe.style.color = value;
    return getComputedStyle(probe).color;
  };
  const tones = Object.fromEntries(TONES.map((tone) => [tone, read(`var(--ks-mx-${tone})`)])) as Record<Tone, string>;
  const palette: Palette = {
    tones,
    pixels: Object.fromEntries(TONES.map((tone) => [tone, pixel(tones[tone])])) as Record<Tone, number>,
    surface: read("var(--bg-surface)"),
    text: read("var(--body-color)"),
    faint: read("var(--secondary)"),
    line: read("var(--border-color)"),
    ring: read("var(--ks-ring)"),
    mark: read("var(--ks-mx-mark)"),
    font: getComputedStyle(probe).fontFamily,
  };
  probe.remove();
  return palette;
}

/** `rgb(r, g, b)` as a pixel of ImageData seen as 32 bits. */
function pixel(colour: string): number {
  const [red = 0, green = 0, blue = 0] = (colour.match(/[\d.]+/g) ?? []).map(Number);
  const bytes = new Uint8Array([red, green, blue, 255]);
  return new Uint32Array(bytes.buffer)[0] ?? 0;
}
