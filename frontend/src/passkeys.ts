// What WebAuthn's calls take and give is bytes; the console speaks JSON with base64url in their place.

export function toBytes(text: string): ArrayBuffer {
  const plain = atob(text.replaceAll("-", "+").replaceAll("_", "/"));
  return Uint8Array.from(plain, (character) => character.charCodeAt(0)).buffer;
}

export function fromBytes(bytes: ArrayBuffer): string {
  const plain = String.fromCharCode(...new Uint8Array(bytes));
  return btoa(plain).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
}

type Named = Record<string, unknown> & { id: string };

function described(listed: Named[] | undefined): PublicKeyCredentialDescriptor[] {
  return (listed ?? []).map((one) => ({ ...one, type: "public-key", id: toBytes(one.id) }));
}

/** What `navigator.credentials.create` takes; a key that signs in alone is kept by the device, and asks who is there. */
export function creation(json: Record<string, unknown>, alone: boolean): PublicKeyCredentialCreationOptions {
  const given = json as unknown as PublicKeyCredentialCreationOptionsJSON;
  const selection: AuthenticatorSelectionCriteria = {
    ...(given.authenticatorSelection as AuthenticatorSelectionCriteria | undefined),
    residentKey: alone ? "required" : "discouraged",
    requireResidentKey: alone,
  };
  if (alone) selection.userVerification = "required";
  return {
    ...(given as unknown as PublicKeyCredentialCreationOptions),
    challenge: toBytes(given.challenge),
    user: { ...given.user, id: toBytes(given.user.id) },
    excludeCredentials: described(given.excludeCredentials as unknown as Named[] | undefined),
    authenticatorSelection: selection,
  };
}

/** What `navigator.credentials.get` takes. */
export function request(json: Record<string, unknown>): PublicKeyCredentialRequestOptions {
  const given = json as unknown as PublicKeyCredentialRequestOptionsJSON;
  return {
    ...(given as unknown as PublicKeyCredentialRequestOptions),
    challenge: toBytes(given.challenge),
    allowCredentials: described(given.allowCredentials as unknown as Named[] | undefined),
  };
}

function parts(response: AuthenticatorResponse): Record<string, unknown> {
  if (response instanceof AuthenticatorAttestationResponse)
    return {
      attestationObject: fromBytes(response.attestationObject),
      clientDataJSON: fromBytes(response.clientDataJSON),
      transports: response.getTransports(),
    };
  const { authenticatorData, clientDataJSON, signature, userHandle } = response as AuthenticatorAssertionResponse;
  return {
    authenticatorData: fromBytes(authenticatorData),
    clientDataJSON: fromBytes(clientDataJSON),
    signature: fromBytes(signature),
    userHandle: userHandle && fromBytes(userHandle),
  };
}

/** What the console is sent of a key's answer. */
export function answer(credential: PublicKeyCredential): string {
  const { id, rawId, type, response } = credential;
  const clientExtensionResults = credential.getClientExtensionResults();
  return JSON.stringify({ id, rawId: fromBytes(rawId), type, clientExtensionResults, response: parts(response) });
}

/** Why nothing came of it, for whoever pressed the button. */
export function excuse(error: unknown): string {
  const name = error instanceof Error ? error.name : "";
  if (name === "InvalidStateError") return "That key is added already.";
  if (name === "NotAllowedError") return "Nothing was confirmed. Try again when you are ready.";
  if (name === "SecurityError") return "The browser allows keys only over https, and at a name, not at an address.";
  return "The browser could not use a key here.";
}
