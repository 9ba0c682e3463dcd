// The same points as a table, made when it is opened.
import { element } from "../live/dom.ts";
import { type Chart, COLUMNS, type Column, type Series } from "./series.ts";
import { format, formatMoment } from "./words.ts";

const NODE: Partial<Record<Column, string>> = {
  connected: "Connected",
  up: "Links up",
  unknown: "Unknown",
  down: "Down",
  rtt: "Round trip",
  loss: "Loss",
  received: "Received",
  sent: "Sent",
};
const LINK: Partial<Record<Column, string>> = { rtt: "Round trip", loss: "Loss", received: "Received", sent: "Sent" };

/** A link's state at a point: the worst that it was in. */
function stateOf(series: Series, place: number): string {
  for (const state of ["down", "unknown", "up"] as const) if (series[state][place]) return state;
  return "not known";
}

function tableOf(chart: Chart, series: Series, kind: "node" | "link"): HTMLTableElement {
  const heads = kind === "node" ? NODE : LINK;
  const columns = COLUMNS.filter((column) => heads[column]);
  const names = ["Time", ...(kind === "link" ? ["State"] : []), ...columns.map((column) => heads[column] ?? "")];
  const head = element("tr", {}, ...names.map((name) => element("th", { scope: "col" }, name)));
  const body = element("tbody");
  for (let place = series.at.length - 1; place >= 0; place -= 1) {
    const at = series.at[place] ?? 0;
    const time = element("time", { datetime: new Date(at * 1000).toISOString() }, formatMoment(at, chart.span));
    const cells = columns.map((column) => element("td", { class: "num" }, format(column, series[column][place])));
    const state = kind === "link" ? [element("td", {}, stateOf(series, place))] : [];
    body.append(element("tr", {}, element("th", { scope: "row" }, time), ...state, ...cells));
  }
  const caption = element(
    "caption",
    { class: "ks-caption" },
    `${kind === "link" ? `As ${series.name} sees it` : series.name}, the newest first`,
  );
  return element("table", { class: "table ks-points" }, caption, element("thead", {}, head), body);
}

/** Every series as a table that scrolls in its own box. */
export function tables(chart: Chart, kind: "node" | "link"): HTMLElement[] {
  return chart.series
    .filter((series) => series.at.length)
    .map((series) =>
      element(
        "div",
        { class: "ks-points-wrap", tabindex: "0", role: "region", "aria-label": `Points of ${series.name}` },
        tableOf(chart, series, kind),
      ),
    );
}
