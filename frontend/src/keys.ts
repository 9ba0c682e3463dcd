// Keyboard: `/` to the search field, `g` and a letter to a page, `w` to another cluster, `?` for help; never while
// somebody types.

/** Where `g` and this letter lead: elements say it themselves by `data-go="n"`. */
export type Press = { key: string; typing: boolean; modified: boolean };
export type Deed =
  | { kind: "nothing" }
  | { kind: "search" }
  | { kind: "help" }
  | { kind: "switch" }
  | { kind: "await" }
  | { kind: "go"; letter: string };

const NOTHING: Deed = { kind: "nothing" };

/** What a press means, given whether a `g` was pressed just before. */
export function meaning(press: Press, awaiting: boolean): Deed {
  if (press.typing || press.modified) return NOTHING;
  if (awaiting && /^[a-z]$/.test(press.key)) return { kind: "go", letter: press.key };
  if (press.key === "/") return { kind: "search" };
  if (press.key === "?") return { kind: "help" };
  if (press.key === "w") return { kind: "switch" };
  if (press.key === "g") return { kind: "await" };
  return NOTHING;
}

const PATIENCE = 1_500;

function isTyping(target: EventTarget | null): boolean {
  return (
    target instanceof HTMLElement && (target.isContentEditable || /^(input|textarea|select)$/i.test(target.tagName))
  );
}

function go(letter: string): void {
  document.querySelector<HTMLAnchorElement>(`a[data-go="${letter}"]`)?.click();
}

/** On a phone it is in the drawer, which comes with it. */
function openSwitcher(): void {
  const switcher = document.querySelector<HTMLDetailsElement>("details.ks-switcher");
  if (!switcher) return;
  const drawer = document.querySelector<HTMLButtonElement>("[data-drawer]");
  if (drawer?.checkVisibility() && drawer.getAttribute("aria-expanded") !== "true") drawer.click();
  switcher.open = true;
  switcher.querySelector<HTMLElement>("input, a")?.focus();
}

/** The help names the key only where there is something to search. */
function settleHelp(): void {
  const searchable = searchField() !== null;
  for (const said of document.querySelectorAll<HTMLElement>("[data-searches]")) said.hidden = !searchable;
}

function searchField(): HTMLElement | null {
  return document.querySelector<HTMLElement>("[data-search]");
}

export function wireKeys(): void {
  settleHelp();
  document.addEventListener("htmx:after:swap", settleHelp);
  let awaitingUntil = 0;
  document.addEventListener("keydown", (event) => {
    if (document.querySelector("dialog[open]")) return;
    const modified = event.ctrlKey || event.metaKey || event.altKey;
    const press = { key: event.key, typing: isTyping(event.target), modified };
    const deed = meaning(press, event.timeStamp < awaitingUntil);
    awaitingUntil = deed.kind === "await" ? event.timeStamp + PATIENCE : 0;
    if (deed.kind === "nothing" || deed.kind === "await") return;
    event.preventDefault();
    if (deed.kind === "go") go(deed.letter);
    if (deed.kind === "switch") openSwitcher();
    if (deed.kind === "search") searchField()?.focus();
    if (deed.kind === "help") (document.getElementById("keys") as HTMLDialogElement | null)?.showModal();
  });
}
