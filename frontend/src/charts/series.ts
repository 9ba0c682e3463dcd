// Points of history on their grid: gaps stay gaps. Pure; the shapes are those of nodes/history/reading.py.

export type Column = "connected" | "up" | "unknown" | "down" | "rtt" | "loss" | "received" | "sent";
export const COLUMNS: readonly Column[] = ["connected", "up", "unknown", "down", "rtt", "loss", "received", "sent"];

export type Values = (number | null)[];

export type Series = { name: string; at: number[] } & Record<Column, Values>;

export type StripState = "up" | "unknown" | "down" | "none";

export interface Strip {
  name: string;
  stretches: [start: number, end: number, state: StripState][];
  cut: boolean;
}

export interface Chart {
  span: "24h" | "7d";
  start: number;
  end: number;
  step: number;
  series: Series[];
  strips: Strip[];
  note: string;
}

/** Every moment of a chart that may have a point. */
export function moments(chart: Chart): number[] {
  const count = Math.round((chart.end - chart.start) / chart.step);
  return Array.from({ length: count }, (_, place) => chart.start + place * chart.step);
}

/** A column by moment, null where nothing was noted or measured. */
export function onGrid(chart: Chart, series: Series, column: Column): Values {
  const grid: Values = new Array(Math.round((chart.end - chart.start) / chart.step)).fill(null);
  series.at.forEach((at, index) => {
    const place = Math.round((at - chart.start) / chart.step);
    if (place >= 0 && place < grid.length) grid[place] = series[column][index] ?? null;
  });
  return grid;
}

/** Values put on top of each other; where one is missing, there is none. */
export function stacked(layers: Values[]): Values[] {
  let below: Values | null = null;
  return layers.map((layer) => {
    const under: Values | null = below;
    const sum: Values = under
      ? layer.map((value, place) => {
          const base = under[place] ?? null;
          return value === null || base === null ? null : value + base;
        })
      : layer;
    below = sum;
    return sum;
  });
}

/** Places of values with a gap on both sides: a line has no length there, so they are drawn as dots. */
export function isolated(values: readonly (number | null | undefined)[]): number[] {
  const has = (place: number) => values[place] !== null && values[place] !== undefined;
  return values.flatMap((_, place) => (has(place) && !has(place - 1) && !has(place + 1) ? [place] : []));
}

/** The chart with a minute more, the oldest gone; what is no news is left alone. */
export function extended(chart: Chart, added: Series[]): Chart {
  const newest = Math.max(...added.flatMap((series) => series.at), 0);
  const end = Math.max(chart.end, newest + chart.step);
  const start = end - (chart.end - chart.start);
  const series = chart.series.map((known, index) => {
    const more = added[index];
    const fresh = more?.at.flatMap((at, place) => (at > (known.at.at(-1) ?? 0) ? [place] : [])) ?? [];
    const from = known.at.findIndex((at) => at >= start);
    const old = from < 0 ? known.at.length : from;
    const joined = { name: known.name, at: [...known.at.slice(old), ...fresh.map((place) => more?.at[place] ?? 0)] };
    const columns = COLUMNS.map((column) => [
      column,
      [...known[column].slice(old), ...fresh.map((place) => more?.[column][place] ?? null)],
    ]);
    return { ...joined, ...Object.fromEntries(columns) } as Series;
  });
  return { ...chart, start, end, series };
}

export interface Summary {
  count: number;
  median: number;
  worst: number;
  worstAt: number;
  last: number;
}

/** Median, and the largest with its time; none where there is no value. */
export function summarise(series: Series, column: Column): Summary | null {
  const known = series[column].flatMap((value, place) =>
    value === null ? [] : [{ value, at: series.at[place] ?? 0 }],
  );
  const last = known.at(-1);
  if (!last) return null;
  const sorted = known.map((one) => one.value).sort((a, b) => a - b);
  const middle = Math.floor(sorted.length / 2);
  const high = sorted[middle] ?? 0;
  const median = sorted.length % 2 ? high : ((sorted[middle - 1] ?? 0) + high) / 2;
  const worst = known.reduce((most, one) => (one.value > most.value ? one : most));
  return { count: known.length, median, worst: worst.value, worstAt: worst.at, last: last.value };
}

/** How many points there are. */
export function pointCount(chart: Chart): number {
  return chart.series.reduce((sum, series) => sum + series.at.length, 0);
}
