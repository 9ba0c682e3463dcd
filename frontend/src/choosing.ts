// Rows that are chosen by boxes stay so while one turns the pages of a list, and are forgotten when its filters change.

const storageName = (path: string): string => `chosen:${path}`;

/** The chosen keys of one list, as a browser's tab keeps them. */
export class Choice {
  readonly #store: Storage;
  readonly #name: string;
  readonly #filters: string;
  #keys: Set<string>;

  constructor(store: Storage, path: string, query: string) {
    this.#store = store;
    this.#name = storageName(path);
    this.#filters = filters(query);
    const kept = JSON.parse(store.getItem(this.#name) ?? "null") as { filters: string; keys: string[] } | null;
    this.#keys = new Set(kept?.filters === this.#filters ? kept.keys : []);
  }

  get keys(): string[] {
    return [...this.#keys];
  }

  has(key: string): boolean {
    return this.#keys.has(key);
  }

  set(keys: Iterable<string>, chosen: boolean): void {
    for (const key of keys) chosen ? this.#keys.add(key) : this.#keys.delete(key);
    this.#keep();
  }

  clear(): void {
    this.#keys.clear();
    this.#keep();
  }

  #keep(): void {
    if (this.#keys.size === 0) this.#store.removeItem(this.#name);
    else this.#store.setItem(this.#name, JSON.stringify({ filters: this.#filters, keys: this.keys }));
  }
}

/** What of an address says which rows there are: neither their order nor the page. */
export function filters(query: string): string {
  const asked = new URLSearchParams(query);
  for (const name of ["page", "sort"]) asked.delete(name);
  asked.sort();
  return asked.toString();
}

const boxes = (): HTMLInputElement[] => [...document.querySelectorAll<HTMLInputElement>('input[name="chosen"]')];
const bar = (): HTMLFormElement | null => document.querySelector<HTMLFormElement>("form[data-choice]");
const isAll = (form: HTMLFormElement): boolean =>
  form.querySelector<HTMLInputElement>('input[name="all"]')?.checked === true;

function remembered(): Choice {
  return new Choice(sessionStorage, location.pathname, location.search);
}

/** Show what is chosen: by boxes, in the bar, and in the form's own field for those on other pages. */
function show(choice: Choice, form: HTMLFormElement): void {
  const all = isAll(form);
  for (const box of boxes()) box.checked = all || choice.has(box.value);
  const page = document.querySelector<HTMLInputElement>("[data-choose-page]");
  if (page) {
    page.hidden = false;
    const chosen = boxes().filter((box) => box.checked).length;
    page.checked = chosen > 0 && chosen === boxes().length;
    page.indeterminate = chosen > 0 && !page.checked;
  }
  const number = all ? Number(form.dataset.choice) : choice.keys.length;
  form.dataset.chosen = String(number);
  const words = form.querySelector("[data-choice-count]");
  const text = `${number.toLocaleString("en")} chosen`;
  if (words && words.textContent !== text) words.textContent = text;
  form.querySelector<HTMLElement>("[data-choose-none]")?.toggleAttribute("hidden", number === 0);
}

function write(choice: Choice, form: HTMLFormElement): void {
  let field = form.querySelector<HTMLInputElement>('input[name="keys"]');
  if (!field) {
    field = document.createElement("input");
    field.type = "hidden";
    field.name = "keys";
    form.append(field);
  }
  field.value = choice.keys.join(",");
}

/** Draw the boxes of a list as they were chosen; again after the list was fetched anew. */
export function settleChoice(): void {
  const form = bar();
  if (form) show(remembered(), form);
}

export function wireChoosing(): void {
  settleChoice();
  document.addEventListener("change", (event) => {
    const form = bar();
    const box = event.target;
    if (!form || !(box instanceof HTMLInputElement)) return;
    const choice = remembered();
    if (box.name === "chosen") {
      const every = form.querySelector<HTMLInputElement>('input[name="all"]');
      if (every?.checked) {
        every.checked = false; // all but this one of the page
        choice.set(
          boxes().map((one) => one.value),
          true,
        );
      }
      choice.set([box.value], box.checked);
    } else if (box.matches("[data-choose-page]"))
      choice.set(
        boxes().map((one) => one.value),
        box.checked,
      );
    else if (box.name !== "all") return;
    show(choice, form);
  });
  document.addEventListener("click", (event) => {
    const form = bar();
    if (!form || !(event.target as Element).closest("[data-choose-none]")) return;
    const every = form.querySelector<HTMLInputElement>('input[name="all"]');
    if (every) every.checked = false;
    const choice = remembered();
    choice.clear();
    show(choice, form);
  });
  document.addEventListener("submit", (event) => {
    const form = event.target as HTMLFormElement;
    if (form === bar()) write(remembered(), form);
    // Where a page of its own asks before the deed, the choice is kept for who goes back.
    if (form === bar() && event.submitter?.matches('[name="deed"]:not([data-asks])')) remembered().clear();
    if (form.dataset.choiceDone) sessionStorage.removeItem(storageName(form.dataset.choiceDone));
  });
}
