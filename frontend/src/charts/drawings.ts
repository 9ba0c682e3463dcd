// Which charts a node and a link have, and what is in them. Pure.
import type { Drawing, Line } from "./plot.ts";
import { type Chart, type Column, onGrid, type Series, stacked, summarise } from "./series.ts";
import { figureWords, format, linksWords, trafficWords } from "./words.ts";

const DASH = [6, 3];
const DOTS = [2, 3];
const MS = 0.001;

function line(chart: Chart, series: Series, column: Column, label: string, colour: string, dash?: number[]): Line {
  const values = onGrid(chart, series, column);
  return { label, values, said: values, colour, ...(dash ? { dash } : {}) };
}

function links(chart: Chart, series: Series): Drawing {
  const columns = ["down", "unknown", "up"] as const;
  const connected = onGrid(chart, series, "connected");
  const own = columns.map((column) => onGrid(chart, series, column).map((value, at) => (connected[at] ? value : null)));
  const colours = { up: "ks-up", unknown: "ks-unknown", down: "ks-down" };
  const dashes = { up: [], unknown: DOTS, down: DASH };
  const lines = stacked(own).map((values, place): Line => {
    const column = columns[place] ?? "up";
    const dash = dashes[column];
    return {
      label: column,
      values,
      said: own[place] ?? [],
      colour: colours[column],
      fill: true,
      ...(dash.length ? { dash } : {}),
    };
  });
  return {
    title: "Links by state",
    words: linksWords(chart, series),
    lines,
    format: (value) => format("up", value),
    least: 1,
    steps: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000],
  };
}

const PER_SERIES = [
  { colour: "ks-info", dash: undefined },
  { colour: "ks-second", dash: DASH },
] as const;

function figure(chart: Chart, column: "rtt" | "loss", title: string, least: number): Drawing {
  const many = chart.series.length > 1;
  const lines = chart.series.map((series, place): Line => {
    const { colour, dash } = PER_SERIES[place] ?? PER_SERIES[0];
    return line(chart, series, column, many ? series.name : title, colour, dash && [...dash]);
  });
  const words = chart.series.map(
    (series) => `${many ? `${series.name}: ` : ""}${figureWords(chart, series, column, many)}`,
  );
  const most = column === "loss" ? { most: 1 } : {};
  return { title, words: words.join(" "), lines, format: (value) => format(column, value), least, ...most };
}

function traffic(chart: Chart, series: Series, title: string): Drawing {
  return {
    title,
    words: trafficWords(chart, series),
    lines: [
      line(chart, series, "received", "received", "ks-info"),
      line(chart, series, "sent", "sent", "ks-second", DASH),
    ],
    format: (value) => format("received", value),
    least: 1024,
    steps: Array.from({ length: 36 }, (_, power) => 2 ** power),
  };
}

export function nodeDrawings(chart: Chart): Drawing[] {
  const [series] = chart.series;
  if (!series) return [];
  return [
    links(chart, series),
    traffic(chart, series, "Traffic"),
    figure(chart, "rtt", "Round trip", 5 * MS),
    figure(chart, "loss", "Loss", 0.05),
  ];
}

/** Where only one end reports, its word is what there is. */
export function linkDrawings(chart: Chart): Drawing[] {
  const counts = chart.series.map((series) => summarise(series, "received")?.count ?? 0);
  const best = (counts[1] ?? 0) > (counts[0] ?? 0) ? chart.series[1] : chart.series[0];
  const figures = [figure(chart, "rtt", "Round trip", 5 * MS), figure(chart, "loss", "Loss", 0.05)];
  return best ? [...figures, traffic(chart, best, `Traffic, as ${best.name} counts it`)] : figures;
}
