// Forms that a passkey or security key answers: `data-webauthn` says how, `data-options` what the console asks.
import { answer, creation, excuse, request } from "./passkeys.ts";

interface Options {
  creation_options?: { publicKey: Record<string, unknown> };
  request_options?: { publicKey: Record<string, unknown> };
}

async function fetchOptions(form: HTMLFormElement): Promise<Options> {
  const response = await fetch(form.action, { headers: { Accept: "application/json" } });
  if (!response.ok) throw new Error(response.statusText);
  return (await response.json()) as Options;
}

async function ask(form: HTMLFormElement): Promise<PublicKeyCredential> {
  const kind = form.dataset.webauthn;
  const options = kind === "login" ? await fetchOptions(form) : (JSON.parse(form.dataset.options ?? "{}") as Options);
  const alone = form.querySelector<HTMLInputElement>("input[name=passwordless]")?.checked ?? false;
  const credential =
    kind === "create"
      ? await navigator.credentials.create({ publicKey: creation(options.creation_options?.publicKey ?? {}, alone) })
      : await navigator.credentials.get({ publicKey: request(options.request_options?.publicKey ?? {}) });
  return credential as PublicKeyCredential;
}

function wire(form: HTMLFormElement): void {
  const button = form.querySelector<HTMLButtonElement>("[data-webauthn-button]");
  const said = form.querySelector<HTMLElement>("[data-webauthn-said]");
  const field = form.querySelector<HTMLInputElement>("input[name=credential]");
  if (!button || !said || !field) return;
  if (!("credentials" in navigator)) {
    button.disabled = true;
    said.textContent = "This browser has no keys, or the console is not reached by https.";
    return;
  }
  button.addEventListener("click", async () => {
    said.textContent = "";
    try {
      field.value = answer(await ask(form));
      form.submit();
    } catch (error) {
      said.textContent = excuse(error);
    }
  });
}

for (const form of document.querySelectorAll<HTMLFormElement>("form[data-webauthn]")) wire(form);
