import { describe, expect, it } from "vitest";
import { creation, excuse, fromBytes, request, toBytes } from "./passkeys.ts";

const asked = {
  challenge: "-_8A",
  user: { id: "MQ", name: "alice", displayName: "alice" },
  excludeCredentials: [{ id: "AQID", type: "public-key" }],
  authenticatorSelection: { userVerification: "preferred" },
};

describe("bytes", () => {
  it("go by base64url, without padding", () => {
    expect(fromBytes(new Uint8Array([251, 255, 0]).buffer)).toBe("-_8A");
    expect([...new Uint8Array(toBytes("-_8A"))]).toEqual([251, 255, 0]);
    expect([...new Uint8Array(toBytes("MQ"))]).toEqual([49]);
  });
});

describe("creation", () => {
  it("of a key that signs in alone wants it kept by the device, and to ask who is there", () => {
    const { authenticatorSelection, challenge } = creation(asked, true);
    expect(authenticatorSelection).toMatchObject({ residentKey: "required", userVerification: "required" });
    expect(challenge.byteLength).toBe(3);
  });
  it("of a second factor leaves that to the device", () => {
    const { authenticatorSelection, excludeCredentials } = creation(asked, false);
    expect(authenticatorSelection).toMatchObject({ residentKey: "discouraged", userVerification: "preferred" });
    expect(excludeCredentials?.[0]?.id.byteLength).toBe(3);
  });
});

describe("request", () => {
  it("of a passkey names none", () => {
    expect(request({ challenge: "MQ" }).allowCredentials).toEqual([]);
  });
});

describe("excuse", () => {
  it.each([
    ["NotAllowedError", "Try again"],
    ["InvalidStateError", "added already"],
    ["SecurityError", "https"],
    ["Other", "could not use a key"],
  ])("of %s", (name, text) => {
    expect(excuse(Object.assign(new Error(), { name }))).toContain(text);
  });
});
