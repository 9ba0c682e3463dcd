// The enrolment dialog waits in place: waiting, enrolled, connected, first handshake, open node.
import { element, fill, keep } from "./dom.ts";
import type { Enrolled, EnrolmentDelta, EnrolmentSnapshot, Worthless } from "./shapes.ts";
import type { Page } from "./socket.ts";
import { enrolmentSteps, type Step } from "./words.ts";

const LINKS_SHOWN = 5;

export class EnrolmentPage implements Page<EnrolmentSnapshot, EnrolmentDelta> {
  readonly #list: Element | null;
  readonly #mark: HTMLTemplateElement | null;
  readonly #links: Element | null;
  readonly #nodes = new Map<number, Enrolled>();
  #used = 0;
  #uses = 1;
  #worthless: Worthless | null = null;

  constructor(root: HTMLElement) {
    this.#list = root.querySelector("[data-enrolled]");
    this.#mark = root.querySelector("template[data-step-mark]");
    this.#links = (root.closest("dialog") ?? document).querySelector("[data-enrolment-links]");
  }

  snapshot(message: EnrolmentSnapshot): void {
    this.#nodes.clear();
    this.#take(message.nodes);
    this.#used = message.used;
    this.#uses = message.uses;
    this.#worthless = message.worthless;
    this.#draw();
  }

  delta(message: EnrolmentDelta): void {
    this.#take(message.nodes ?? []);
    this.#used = message.used ?? this.#used;
    if (message.worthless) this.#worthless = message.worthless;
    this.#draw();
  }

  #take(nodes: Enrolled[]): void {
    for (const node of nodes) this.#nodes.set(node.pk, node);
  }

  #draw(): void {
    const nodes = [...this.#nodes.values()];
    if (this.#list) {
      const steps = enrolmentSteps(nodes, this.#used, this.#uses, this.#worthless);
      const items = keep(
        this.#list,
        steps.map((step) => step.key),
        () => this.#item(),
      );
      steps.forEach((step, at) => {
        const item = items[at];
        if (item) showStep(item, step);
      });
    }
    if (this.#links) this.#drawLinks(this.#links, nodes);
  }

  #drawLinks(place: Element, nodes: Enrolled[]): void {
    const open = nodes.filter((node) => node.stage !== "removed").slice(0, LINKS_SHOWN);
    const links = open.map((node) => {
      const text = node.stage === "pending" ? `Approve ${node.name}` : `Open ${node.name}`;
      return element("a", { class: "btn btn-primary", href: `/nodes/${node.pk}/` }, text);
    });
    fill(place, JSON.stringify(links.map((link) => link.textContent)), ...links);
  }

  #item(): HTMLLIElement {
    const item = element("li");
    if (this.#mark) item.append(this.#mark.content.cloneNode(true));
    item.append(element("span", { "data-words": "" }));
    return item;
  }
}

function showStep(item: HTMLElement, step: Step): void {
  if (item.dataset.step !== step.step) item.dataset.step = step.step;
  const words = item.querySelector("[data-words]") ?? item.lastElementChild;
  if (words && words.textContent !== step.text) words.textContent = step.text;
}
