// Finds what is live on the page: `data-live` names the socket, `data-live-page` who draws.
import { showMood } from "./banner.ts";
import { ClusterPage, drawLinks, drawNodes } from "./cluster.ts";
import { EnrolmentPage } from "./enrolment.ts";
import { NodePage } from "./node.ts";
import { mood, PATIENCE } from "./sequence.ts";
import { LiveSocket } from "./socket.ts";

const wired = new WeakSet<Element>();

function wire(root: HTMLElement): void {
  const path = root.dataset.live;
  if (!path || wired.has(root)) return;
  wired.add(root);
  const quiet = "quiet" in root.dataset;
  const socket = open(root, path, quiet);
  if (quiet && socket) root.closest("dialog")?.addEventListener("close", () => socket.stop(), { once: true });
}

function open(root: HTMLElement, path: string, quiet: boolean): { stop(): void } | null {
  switch (root.dataset.livePage) {
    case "cluster-nodes":
      return new LiveSocket(path, new ClusterPage(root, drawNodes(root)), quiet);
    case "cluster-links":
      return new LiveSocket(path, new ClusterPage(root, drawLinks(root)), quiet);
    case "node":
      return new LiveSocket(path, new NodePage(root), quiet);
    case "enrolment":
      return new LiveSocket(path, new EnrolmentPage(root), quiet);
    default:
      return null;
  }
}

export function wireLive(): void {
  for (const root of document.querySelectorAll<HTMLElement>("[data-live]")) wire(root);
}

/** Lists that are fetched again every few seconds say so by the same banner. */
export function wirePolling(): void {
  const polled = document.querySelector("[data-poll]");
  if (!polled) return;
  let current = new Date();
  let failing = false;
  const show = () => showMood(mood(!failing, current, failing ? PATIENCE : 0));
  document.addEventListener("htmx:after:swap", () => {
    current = new Date();
    failing = false;
    show();
  });
  for (const name of ["htmx:error", "htmx:response:error"]) {
    document.addEventListener(name, () => {
      failing = true;
      show();
    });
  }
  show();
}
