// Light, dark, or as the system has it; the choice stays in this browser.

export type Theme = "system" | "light" | "dark";

const KEY = "kubespan-theme";
const ORDER: readonly Theme[] = ["system", "light", "dark"];

export function parseTheme(text: string | null): Theme {
  return ORDER.find((theme) => theme === text) ?? "system";
}

/** The theme that a press of the button chooses. */
export function nextTheme(theme: Theme): Theme {
  return ORDER[(ORDER.indexOf(theme) + 1) % ORDER.length] ?? "system";
}

export function resolveTheme(theme: Theme, systemIsDark: boolean): "light" | "dark" {
  if (theme === "system") return systemIsDark ? "dark" : "light";
  return theme;
}

export function chosenTheme(): Theme {
  try {
    return parseTheme(localStorage.getItem(KEY));
  } catch {
    return "system"; // storage is switched off: the page still works
  }
}

export function chooseTheme(theme: Theme): void {
  try {
    localStorage.setItem(KEY, theme);
  } catch {
    // the choice then lasts as long as the page
  }
  paint(theme);
}

export function paint(theme: Theme): void {
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  document.documentElement.dataset.bsTheme = resolveTheme(theme, dark);
  document.documentElement.dataset.theme = resolveTheme(theme, dark);
  document.documentElement.dataset.themeChoice = theme;
}
