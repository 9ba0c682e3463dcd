// Dialogs are <dialog> elements: the browser keeps the focus inside. `data-open="id"` opens, `data-close` closes.
// `data-stay-with` names what is shown only once: while it is there, neither Esc nor a click outside closes the dialog.
// `data-open-at-load` opens with the page (after a refused form, or a secret or a cluster just made).

function stays(dialog: HTMLDialogElement): boolean {
  const { stayWith } = dialog.dataset;
  return stayWith !== undefined && dialog.querySelector(stayWith) !== null;
}

function open(dialog: HTMLDialogElement): void {
  if (dialog.open) return;
  dialog.showModal();
  settleDialogs();
  dialog.querySelector<HTMLElement>("[data-focus]")?.focus();
}

function wireDialog(dialog: HTMLDialogElement): void {
  dialog.addEventListener("cancel", (event) => stays(dialog) && event.preventDefault());
  dialog.addEventListener("mousedown", (event) => {
    if (event.target === dialog && !stays(dialog)) dialog.close(); // the backdrop belongs to the dialog itself
  });
}

/** Whether the typed name is the one asked for; surrounding blanks are forgiven. */
export function nameMatches(typed: string, wanted: string): boolean {
  return typed.trim() === wanted;
}

/** A destructive form's button works once the name is typed: `data-typed-name` on the field names it. */
function wireTypedName(field: HTMLInputElement): void {
  const button = field.form?.querySelector<HTMLButtonElement>("[data-needs-name]");
  if (!button) return;
  const settle = () => {
    button.disabled = !nameMatches(field.value, field.dataset.typedName ?? "");
  };
  field.addEventListener("input", settle);
  settle();
}

export function wireDialogs(root: ParentNode = document): void {
  for (const dialog of root.querySelectorAll("dialog")) wireDialog(dialog);
  for (const field of root.querySelectorAll<HTMLInputElement>("input[data-typed-name]")) wireTypedName(field);
  for (const dialog of root.querySelectorAll<HTMLDialogElement>("dialog[data-open-at-load]")) open(dialog);
}

/** What was put into a dialog may be shown only once, and may want the focus, which went with what it replaced. */
export function settleDialogs(): void {
  for (const dialog of document.querySelectorAll<HTMLDialogElement>("dialog[open]")) {
    // A browser closes a dialog at the second Esc even where its `cancel` event is prevented, unless it is told so.
    dialog.setAttribute("closedby", stays(dialog) ? "none" : "closerequest");
    if (!dialog.contains(document.activeElement)) dialog.querySelector<HTMLElement>("[data-focus]")?.focus();
  }
}

export function wireDialogButtons(): void {
  document.addEventListener(
    "keydown",
    (event) => {
      const dialog = document.querySelector<HTMLDialogElement>("dialog[open]");
      if (event.key === "Escape" && dialog && stays(dialog)) event.preventDefault();
    },
    true,
  );
  document.addEventListener("click", (event) => {
    const target = event.target as Element;
    const opener = target.closest<HTMLElement>("[data-open]");
    if (opener) {
      const dialog = document.getElementById(opener.dataset.open ?? "");
      if (!(dialog instanceof HTMLDialogElement)) return;
      event.preventDefault(); // it may be a link, for where there is no dialog
      open(dialog);
      return;
    }
    const dialog = target.closest("[data-close]") && target.closest("dialog");
    if (!dialog) return;
    event.preventDefault(); // it may be a link, for where there is no dialog
    dialog.close();
  });
}
