// Drawing without jumping: elements are kept by key and only what differs is touched.

type Child = Node | string;

export function element<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  attributes: Record<string, string> = {},
  ...children: Child[]
): HTMLElementTagNameMap[K] {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

/** A state by shape, word and colour, as the template tag `state` draws it. */
export function stateElement(state: string, text = state, ...more: Child[]): HTMLElement {
  const word = element("span", {}, text);
  const shown = element("span", { class: "ks-state", "data-state": state });
  shown.append(element("span", { class: "dot", "aria-hidden": "true" }), word, ...more);
  return shown;
}

const FLASH = "ks-flash";

/** Lights up for a moment what changed; nothing that moves is drawn for whoever asked for less of it. */
export function flash(shown: Element): void {
  if (matchMedia("(prefers-reduced-motion: reduce)").matches) return; // no animation would ever end
  shown.classList.remove(FLASH);
  void (shown as HTMLElement).offsetWidth; // begins the animation anew
  shown.classList.add(FLASH);
  shown.addEventListener("animationend", () => shown.classList.remove(FLASH), { once: true });
}

/** Puts `drawn` into the place unless what is there says the same already; tells whether it did. */
export function fill(place: Element, said: string, ...drawn: Child[]): boolean {
  if (place.getAttribute("data-said") === said) return false;
  const first = !place.hasAttribute("data-said");
  place.setAttribute("data-said", said);
  place.replaceChildren(...drawn);
  return !first;
}

/** Makes the children of `parent` those of `keys`, in this order, keeping elements that exist. */
export function keep<E extends Element>(parent: Element, keys: readonly string[], make: (key: string) => E): E[] {
  const known = new Map(Array.from(parent.children, (child) => [child.getAttribute("data-key"), child as E]));
  const wanted = keys.map((key) => {
    const found = known.get(key);
    if (found) return found;
    const made = make(key);
    made.setAttribute("data-key", key);
    return made;
  });
  const wantedSet = new Set<Element>(wanted);
  for (const child of Array.from(parent.children)) if (!wantedSet.has(child)) child.remove();
  const focused = document.activeElement;
  wanted.forEach((child, at) => {
    if (parent.children[at] !== child) parent.insertBefore(child, parent.children[at] ?? null);
  });
  if (focused !== document.activeElement && focused instanceof HTMLElement && parent.contains(focused)) {
    focused.focus({ preventScroll: true }); // what is moved loses it
  }
  return wanted;
}

const ICON_SPRITE = () => document.querySelector("svg.icon use")?.getAttribute("href")?.split("#")[0] ?? "";

/** An icon of the sprite whose address the page's own icons tell. */
export function icon(name: string, extra = ""): SVGSVGElement {
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  svg.setAttribute("class", `icon ${extra}`.trim());
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS(space, "use");
  use.setAttribute("href", `${ICON_SPRITE()}#${name}`);
  svg.append(use);
  return svg;
}

/** Text that one click copies, as the template tag `copy` draws it. */
export function copyElement(text: string, name: string): HTMLElement {
  const attributes = {
    type: "button",
    class: "ks-copy",
    "data-copy": text,
    "data-copy-name": name,
    title: `Copy ${text}`,
  };
  return element("button", attributes, element("span", {}, text), icon("copy", "icon-sm"));
}

/** Where the page of a link is. */
export function pairPath(node: number, peer: number): string {
  return `/links/${node}/${peer}/`;
}
