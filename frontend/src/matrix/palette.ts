// The style sheet's colours as a canvas takes them; read again when the theme changes.
import { channels, colour } from "../colours.ts";
import { TONES, type Tone } from "./tones.ts";

export interface Palette {
  tones: Record<Tone, string>;
  /** What is written on them. */
  ink: Record<Tone, string>;
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

export function readPalette(beside: Element): Palette {
  const read = (value: string) => colour(value, beside);
  const tones = Object.fromEntries(TONES.map((tone) => [tone, read(`var(--ks-mx-${tone})`)])) as Record<Tone, string>;
  return {
    tones,
    ink: Object.fromEntries(TONES.map((tone) => [tone, inkOn(tones[tone])])) as Record<Tone, string>,
    pixels: Object.fromEntries(TONES.map((tone) => [tone, pixel(tones[tone])])) as Record<Tone, number>,
    surface: read("var(--bg-surface)"),
    text: read("var(--body-color)"),
    faint: read("var(--secondary)"),
    line: read("var(--border-color)"),
    ring: read("var(--ks-ring)"),
    mark: read("var(--ks-mx-mark)"),
    font: getComputedStyle(beside).fontFamily,
  };
}

/** Black or white, whichever stands out more, by relative luminance. */
export function inkOn(colour: string): string {
  const [red = 0, green = 0, blue = 0] = channels(colour).map((value) => {
    const share = value / 255;
    return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.179 ? "#0b0e14" : "#fff";
}

/** `rgb(r, g, b)` as a pixel of ImageData seen as 32 bits. */
function pixel(colour: string): number {
  const [red = 0, green = 0, blue = 0] = channels(colour);
  const bytes = new Uint8Array([red, green, blue, 255]);
  return new Uint32Array(bytes.buffer)[0] ?? 0;
}
