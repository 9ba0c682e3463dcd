// The colours of a view as a small picture, a pixel a cell: scrolling then only shows another part of it.
import { type Cells, NOT_SAID, type State } from "./cells.ts";
import type { Palette } from "./palette.ts";
import { SCALES, step, toneOf, worse } from "./tones.ts";

export class Field {
  readonly picture = document.createElement("canvas");

  /** Draws a view's cells; of two ends that disagree, `halves` has the row's colour, else the worse one shows. */
  draw(cells: Cells, palette: Palette, halves: boolean): void {
    const { width, height } = cells;
    if (!width || !height) return;
    if (this.picture.width !== width || this.picture.height !== height) {
      this.picture.width = width;
      this.picture.height = height;
    }
    const context = this.picture.getContext("2d");
    if (!context) return;
    const image = context.createImageData(width, height);
    const pixels = new Uint32Array(image.data.buffer);
    const { rows, columns, mode } = cells.asked;
    const scale = SCALES[mode];
    const tones = colours(palette, halves, mode);
    let place = 0;
    for (let row = rows.from; row < rows.to; row += 1) {
      for (let column = columns.from; column < columns.to; column += 1, place += 1) {
        const both = cells.both(row, column) ?? 15;
        if (row === column) pixels[place] = palette.pixels.self;
        else if (scale && (both & 3) === 1) {
          const figure = cells.figure(row, column);
          pixels[place] = figure < 0 ? palette.pixels.silent : palette.pixels[step(scale, figure)];
        } else pixels[place] = tones[both] ?? 0;
      }
    }
    context.putImageData(image, 0, 0);
  }
}

/** The pixel of each of the sixteen pairs of states, where there is no figure. */
function colours(palette: Palette, halves: boolean, mode: Cells["asked"]["mode"]): number[] {
  return Array.from({ length: 16 }, (_, both) => {
    const ours = (both & 3) as State;
    const theirs = (both >> 2) as State;
    const shown = halves || ours === NOT_SAID ? ours : worse(ours, theirs);
    return palette.pixels[toneOf(mode, shown, null)];
  });
}
