// A short word at the edge of the page; announced to screen readers, gone by itself.

const SHOWN_FOR = 3_500;

export function toast(text: string, kind: "good" | "bad" = "good"): void {
  const place = document.getElementById("toasts");
  if (!place) return;
  const note = document.createElement("div");
  note.className = `ks-toast ks-toast-${kind}`;
  note.textContent = text;
  place.append(note);
  setTimeout(() => note.remove(), SHOWN_FOR);
}
