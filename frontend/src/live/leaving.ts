// Loading the page again because of news must not cut off a form that is just being sent: its answer says what was done.

let leaving = false;
window.addEventListener("beforeunload", () => {
  leaving = true;
});

export function reload(): void {
  if (!leaving) location.reload();
}
