// The map's own bundle: only pages with a map load it.
import { MapPage } from "./page.ts";

for (const root of document.querySelectorAll<HTMLElement>("[data-map]")) {
  const place = root.querySelector<HTMLElement>("[data-map-canvas]");
  if (root.dataset.map && place) new MapPage(root, place, root.dataset.map);
}
