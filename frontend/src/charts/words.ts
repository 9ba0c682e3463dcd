// What charts say in words: for whoever reads instead of looking. Pure.
import { formatAge, formatRate } from "../format.ts";
import { type Chart, type Column, type Series, type Summary, summarise } from "./series.ts";

const two = (value: number) => String(value).padStart(2, "0");
const DAYS = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"];

/** HH:MM, with the day of the week where a chart shows several. */
export function formatMoment(at: number, span: Chart["span"]): string {
  const date = new Date(at * 1000);
  const time = `${two(date.getHours())}:${two(date.getMinutes())}`;
  return span === "24h" ? time : `${DAYS[date.getDay()]} ${time}`;
}

/** A round trip: `0.4 ms`, `12 ms`, `1.2 s`. */
export function formatRoundTrip(seconds: number): string {
  const ms = seconds * 1000;
  if (ms === 0) return "0 ms";
  if (ms >= 1000) return `${seconds.toFixed(1)} s`;
  return ms < 10 ? `${ms.toFixed(1)} ms` : `${Math.round(ms)} ms`;
}

/** A share as per cent: `0 %`, `0.4 %`, `12 %`. */
export function formatShare(share: number): string {
  const percent = share * 100;
  return percent === 0 || percent >= 10 ? `${Math.round(percent)} %` : `${percent.toFixed(1)} %`;
}

/** A mean count: `3`, `2.5`. */
export function formatMean(value: number): string {
  return Number.isInteger(value) ? value.toLocaleString("en") : value.toFixed(1);
}

export const FORMATS: Record<Column, (value: number) => string> = {
  connected: formatShare,
  up: formatMean,
  unknown: formatMean,
  down: formatMean,
  rtt: formatRoundTrip,
  loss: formatShare,
  received: formatRate,
  sent: formatRate,
};

export function format(column: Column, value: number | null | undefined): string {
  return value === null || value === undefined ? "—" : FORMATS[column](value);
}

/** A figure over time: `Median 12 ms, worst 80 ms at 14:05.` */
export function figureWords(chart: Chart, series: Series, column: "rtt" | "loss", within = false): string {
  const found = summarise(series, column);
  const words = found ? figureOf(chart, found, column) : "Not measured.";
  return within ? `${words[0]?.toLowerCase()}${words.slice(1)}` : words;
}

function figureOf(chart: Chart, found: Summary, column: "rtt" | "loss"): string {
  if (column === "loss" && found.worst === 0) return "None.";
  const worst = `worst ${format(column, found.worst)} at ${formatMoment(found.worstAt, chart.span)}`;
  return `Median ${format(column, found.median)}, ${worst}.`;
}

/** Traffic both ways: `Received 1.2 MiB/s at most, at 14:05; sent …` */
export function trafficWords(chart: Chart, series: Series): string {
  const words = (["received", "sent"] as const).flatMap((column) => {
    const found = summarise(series, column);
    if (!found) return [];
    const median = format(column, found.median);
    return [
      `${column} ${median} usually, ${format(column, found.worst)} at ${formatMoment(found.worstAt, chart.span)}`,
    ];
  });
  const text = words.join("; ");
  return text ? `${text[0]?.toUpperCase()}${text.slice(1)}.` : "Not known yet.";
}

/** Links by state: `All up, all the time.` or `At worst 3 of 5 up, at 14:05.` */
export function linksWords(chart: Chart, series: Series): string {
  let worst = -1;
  let place = -1;
  series.at.forEach((_, index) => {
    const bad = (series.unknown[index] ?? 0) + (series.down[index] ?? 0);
    if (bad > worst && (series.connected[index] ?? 0) > 0) [worst, place] = [bad, index];
  });
  const away = series.connected.filter((share) => share === 0).length;
  const gone = away ? ` Away for ${formatAge(away * chart.step)} of it.` : "";
  if (place < 0) return away ? "Away all the time." : "Nothing noted yet.";
  if (worst === 0) return `Every link up whenever it was looked at.${gone}`;
  const up = series.up[place] ?? 0;
  const at = formatMoment(series.at[place] ?? 0, chart.span);
  return `At worst ${formatMean(up)} of ${formatMean(up + worst)} up, at ${at}.${gone}`;
}

/** How far back a chart reaches. */
export const SPAN_WORDS: Record<Chart["span"], string> = { "24h": "24 hours", "7d": "7 days" };

/** When the first point comes to an empty chart. */
export function emptyWords(chart: Chart): string {
  return chart.step === 60
    ? "The first point comes with the next full minute, and one each minute from then on."
    : "The first point comes with the next full quarter of an hour, and one every 15 minutes from then on.";
}
