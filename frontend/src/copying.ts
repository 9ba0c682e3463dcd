// Buttons that copy: `data-copy="text"`, or `data-copy-from="id"` for what another element shows.
import { toast } from "./toast.ts";

function textOf(button: HTMLElement): string {
  const from = button.dataset.copyFrom;
  if (!from) return button.dataset.copy ?? "";
  const element = document.getElementById(from);
  return (element instanceof HTMLInputElement ? element.value : element?.textContent)?.trim() ?? "";
}

/** Without a secure context there is no clipboard: then the text is at least selected through a text field. */
async function write(text: string): Promise<boolean> {
  if (navigator.clipboard) {
    try {
      await navigator.clipboard.writeText(text);
      return true;
    } catch {
      // refused: the old way follows
    }
  }
  const field = document.createElement("textarea");
  field.value = text;
  field.className = "visually-hidden";
  (document.querySelector("dialog[open]") ?? document.body).append(field);
  field.select();
  const done = document.execCommand("copy");
  field.remove();
  return done;
}

export function wireCopying(): void {
  document.addEventListener("click", async (event) => {
    const button = (event.target as Element).closest<HTMLElement>("[data-copy], [data-copy-from]");
    if (!button) return;
    event.preventDefault();
    const what = button.dataset.copyName ?? "Text";
    const done = await write(textOf(button));
    button.focus();
    if (done) toast(`${what} copied`);
    else toast("The browser refused to copy; select the text instead", "bad");
  });
}
