import { wireCopying } from "./copying.ts";
import { wireDialogButtons, wireDialogs } from "./dialogs.ts";
import { wireKeys } from "./keys.ts";
import { wireLive, wirePolling } from "./live/index.ts";
import { wireShell } from "./shell.ts";
import { keepTimesFresh } from "./times.ts";
import "htmx.org";

wireShell();
wireDialogs();
wireDialogButtons();
wireCopying();
wireKeys();
keepTimesFresh();
wireLive();
wirePolling();
// What htmx puts into the page may hold something live.
document.addEventListener("htmx:after:swap", () => wireLive());
