import { settleChoice, wireChoosing } from "./choosing.ts";
import { wireCopying } from "./copying.ts";
import { settleDialogs, wireDialogButtons, wireDialogs } from "./dialogs.ts";
import { wireEnrolmentDialog } from "./enrolment.ts";
import { wireKeys } from "./keys.ts";
import { flashChanged } from "./live/changed.ts";
import { wireLive } from "./live/index.ts";
import { wireShell } from "./shell.ts";
import { keepTimesFresh } from "./times.ts";

wireShell();
wireDialogs();
wireDialogButtons();
wireCopying();
wireEnrolmentDialog();
wireKeys();
wireChoosing();
keepTimesFresh();
wireLive();
flashChanged();
// What htmx puts into the page may hold something live, or something that is shown only once.
document.addEventListener("htmx:after:swap", () => {
  wireLive();
  settleDialogs();
  settleChoice();
  flashChanged();
});
