// Finds what is live on the page: `data-live` names the socket, `data-live-page` who draws.
import { ClusterPage, drawNodes } from "./cluster.ts";
import { EnrolmentPage } from "./enrolment.ts";
import { NodePage } from "./node.ts";
import { OverviewPage } from "./overview.ts";
import { PairPage } from "./pair.ts";
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
    case "node": {
      const page = new NodePage(root, () => socket.look());
      const socket = new LiveSocket(path, page, quiet);
      return socket;
    }
    case "pair":
      return new LiveSocket(path, new PairPage(root), quiet);
    case "enrolment":
      return new LiveSocket(path, new EnrolmentPage(root), quiet);
    case "overview":
      return new LiveSocket(path, new OverviewPage(root), quiet);
    default:
      return null;
  }
}

export function wireLive(): void {
  for (const root of document.querySelectorAll<HTMLElement>("[data-live]")) wire(root);
}
