// Pointer, wheel, keyboard and the sizes of things, for the matrix.
import { onTheme } from "../colours.ts";
import { meaningOf } from "./keys.ts";
import type { MatrixPage } from "./page.ts";

export function wireInput(root: HTMLElement, scroller: HTMLElement, page: MatrixPage): void {
  const at = (event: MouseEvent) => {
    const box = scroller.getBoundingClientRect();
    return [event.clientX - box.left - scroller.clientLeft, event.clientY - box.top - scroller.clientTop] as const;
  };
  scroller.addEventListener("scroll", () => page.scrolled(), { passive: true });
  scroller.addEventListener("pointermove", (event) => page.point(...at(event)));
  scroller.addEventListener("pointerleave", () => page.leave());
  scroller.addEventListener("click", (event) => {
    const path = page.take(...at(event));
    // A finger covers what it points at: it first says what that is, and the link beside leads there.
    if (!path || (event as PointerEvent).pointerType === "touch") return;
    if (event.metaKey || event.ctrlKey) window.open(path, "_blank", "noopener");
    else location.assign(path);
  });
  scroller.addEventListener(
    "wheel",
    (event) => {
      if (!event.ctrlKey) return;
      event.preventDefault();
      const [x, y] = at(event);
      page.zoom(event.deltaY < 0 ? 1 : -1, { x, y });
    },
    { passive: false },
  );
  scroller.addEventListener("focus", () => scroller.matches(":focus-visible") && page.enter());
  scroller.addEventListener("keydown", (event) => {
    if (event.altKey) return;
    const deed = meaningOf(event.key, event.ctrlKey || event.metaKey, page.page);
    if (!deed) return;
    event.preventDefault();
    page.press(deed);
  });
  root.querySelector("[data-mx='in']")?.addEventListener("click", () => page.zoom(1));
  root.querySelector("[data-mx='out']")?.addEventListener("click", () => page.zoom(-1));
  new ResizeObserver(() => page.measure()).observe(scroller);
  onTheme(() => page.repaint());
  document.fonts.ready.then(() => page.repaint());
}
