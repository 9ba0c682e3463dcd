// The enrolment dialog shows its token once: when it is closed the token goes from the page, and the form is back.
import htmx from "htmx.org";

export function wireEnrolmentDialog(): void {
  const dialog = document.getElementById("enrol");
  const place = document.getElementById("enrolment");
  if (!(dialog instanceof HTMLDialogElement) || !place) return;
  const form = Array.from(place.childNodes, (node) => node.cloneNode(true));
  dialog.addEventListener("close", () => {
    if (!place.querySelector("[data-secret]")) return;
    if (!document.querySelector("[data-live]:not([data-quiet])")) {
      location.reload(); // a page that does not follow what happened shows it anew
      return;
    }
    place.replaceChildren(...form.map((node) => node.cloneNode(true)));
    htmx.process(place);
  });
}
