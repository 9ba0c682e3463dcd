import { wireCopying } from "./copying.ts";
import { wireDialogButtons, wireDialogs } from "./dialogs.ts";
import { wireKeys } from "./keys.ts";
import { wireShell } from "./shell.ts";
import { keepTimesFresh } from "./times.ts";
import "htmx.org";

wireShell();
wireDialogs();
wireDialogButtons();
wireCopying();
wireKeys();
keepTimesFresh();
document.addEventListener("htmx:after:swap", () => wireDialogs());
