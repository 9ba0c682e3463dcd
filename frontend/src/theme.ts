// Loaded in the head, before anything is painted: the page never flashes in the other theme.
import { chosenTheme, paint } from "./themes.ts";

paint(chosenTheme());
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => paint(chosenTheme()));
