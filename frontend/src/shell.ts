// The frame around every page: the drawer on a phone, the theme button, the menu of the signed-in user.
import { chooseTheme, chosenTheme, nextTheme, type Theme } from "./themes.ts";

const THEME_WORDS: Record<Theme, string> = { system: "as the system", light: "light", dark: "dark" };

function wireDrawer(): void {
  const button = document.querySelector<HTMLButtonElement>("[data-drawer]");
  const nav = document.getElementById("navigation");
  if (!button || !nav) return;
  const set = (open: boolean) => {
    document.body.classList.toggle("drawer-open", open);
    button.setAttribute("aria-expanded", String(open));
    if (open) nav.querySelector<HTMLElement>("a")?.focus();
  };
  button.addEventListener("click", () => set(button.getAttribute("aria-expanded") !== "true"));
  document.querySelector("[data-drawer-shade]")?.addEventListener("click", () => set(false));
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || button.getAttribute("aria-expanded") !== "true") return;
    set(false);
    button.focus();
  });
}

function wireTheme(): void {
  for (const button of document.querySelectorAll<HTMLButtonElement>("[data-theme-button]")) {
    const name = () => {
      button.setAttribute("aria-label", `Theme: ${THEME_WORDS[chosenTheme()]}. Change it`);
      button.title = `Theme: ${THEME_WORDS[chosenTheme()]}`;
    };
    button.addEventListener("click", () => {
      chooseTheme(nextTheme(chosenTheme()));
      name();
    });
    name();
  }
}

/** Menus are <details>: they close when something else is clicked or Esc is pressed. */
function wireMenus(): void {
  const close = (except: Element | null) => {
    for (const menu of document.querySelectorAll<HTMLDetailsElement>("details.ks-menu[open]")) {
      if (menu !== except) menu.open = false;
    }
  };
  document.addEventListener("click", (event) => close((event.target as Element).closest("details.ks-menu")));
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    const menu = (event.target as Element).closest<HTMLDetailsElement>("details.ks-menu[open]");
    close(null);
    menu?.querySelector("summary")?.focus();
  });
}

/** Forms that filter send themselves when a choice is made; Enter still works everywhere. */
function wireFilters(): void {
  document.addEventListener("change", (event) => {
    if (!(event.target as HTMLInputElement).name) return; // it shows something, and asks for nothing
    const form = (event.target as Element).closest<HTMLFormElement>("form[data-send-on-change]");
    form?.requestSubmit();
  });
}

/** A field that the browser refuses may be folded away: it cannot be shown, and nothing would seem to happen. */
function wireFolded(): void {
  const show = (event: Event) => {
    const folded = (event.target as Element).closest<HTMLDetailsElement>("details:not([open])");
    if (folded) folded.open = true;
  };
  document.addEventListener("invalid", show, true);
}

/** A long list is narrowed by what is typed: `data-narrow` names the list. Enter goes to the first that is left. */
function wireNarrowing(): void {
  for (const field of document.querySelectorAll<HTMLInputElement>("input[data-narrow]")) {
    const items = () => Array.from(document.getElementById(field.dataset.narrow ?? "")?.children ?? []);
    field.addEventListener("input", () => {
      for (const item of items()) {
        (item as HTMLElement).hidden = !contains(item.textContent ?? "", field.value);
      }
    });
    field.addEventListener("keydown", (event) => {
      if (event.key !== "Enter") return;
      const first = items().find((item) => !(item as HTMLElement).hidden);
      first?.querySelector<HTMLAnchorElement>("a")?.click();
    });
  }
}

/** Whether a name has what was typed in it, whatever the case. */
export function contains(name: string, typed: string): boolean {
  return name.toLowerCase().includes(typed.trim().toLowerCase());
}

export function wireShell(): void {
  wireDrawer();
  wireTheme();
  wireMenus();
  wireFilters();
  wireFolded();
  wireNarrowing();
}
