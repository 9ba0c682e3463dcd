// The bundle of pages with charts: uPlot, the strip of states, and the table that says the same.
import { wireHistories } from "./charts/history.ts";

wireHistories();
document.addEventListener("htmx:after:swap", wireHistories);
