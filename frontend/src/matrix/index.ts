// The bundle of pages with a matrix: wires it to its socket, the pointer, the keyboard and what is chosen beside it.
import { element } from "../live/dom.ts";
import { LiveSocket } from "../live/socket.ts";
import type { Mode } from "./cells.ts";
import { wireInput } from "./input.ts";
import type { Sorting } from "./members.ts";
import { MatrixPage } from "./page.ts";
import { legend } from "./tones.ts";
import { Words } from "./words.ts";

/** How often ages are counted on, in milliseconds. */
const AGE_EVERY = 10_000;

function start(root: HTMLElement): void {
  const scroller = root.querySelector<HTMLElement>("[data-mx='grid']");
  const mode = root.querySelector<HTMLSelectElement>("select[name='mode']");
  const sort = root.querySelector<HTMLSelectElement>("select[name='order']");
  if (!scroller || !mode || !sort || !root.dataset.matrix) return;
  const chosen = () => [mode.value as Mode, sort.value as Sorting] as const;
  const page = new MatrixPage(scroller, new Words(root), ...chosen());
  const socket = new LiveSocket(root.dataset.matrix, page);
  page.say = (message) => socket.say(message);
  drawLegend(root, mode.value as Mode);
  for (const select of [mode, sort]) {
    select.addEventListener("change", () => {
      page.choose(...chosen());
      drawLegend(root, mode.value as Mode);
      remember(select);
    });
  }
  wireInput(root, scroller, page);
  setInterval(() => document.hidden || page.age(), AGE_EVERY);
}

/** What is chosen is in the address, for whoever it is sent to. */
function remember(select: HTMLSelectElement): void {
  const address = new URL(location.href);
  if (select.selectedIndex === 0) address.searchParams.delete(select.name);
  else address.searchParams.set(select.name, select.value);
  history.replaceState(history.state, "", address);
}

function drawLegend(root: HTMLElement, mode: Mode): void {
  const keys = legend(mode).map(({ tone, text }) =>
    element("li", {}, element("span", { class: "ks-mx-key", "data-tone": tone, "aria-hidden": "true" }), text),
  );
  keys.push(
    element(
      "li",
      {},
      element("span", { class: "ks-mx-key", "data-tone": "split", "aria-hidden": "true" }),
      "ends disagree",
    ),
  );
  root.querySelector("[data-mx='legend']")?.replaceChildren(...keys);
}

for (const root of document.querySelectorAll<HTMLElement>("[data-matrix]")) start(root);
