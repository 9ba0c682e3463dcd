import { describe, expect, it } from "vitest";
import { nameMatches } from "./dialogs.ts";
import { meaning } from "./keys.ts";
import { contains } from "./shell.ts";
import { nextTheme, parseTheme, resolveTheme } from "./themes.ts";

const press = (key: string, more = {}) => ({ key, typing: false, modified: false, ...more });

describe("keys", () => {
  it.each([
    ["/", false, { kind: "search" }],
    ["?", false, { kind: "help" }],
    ["g", false, { kind: "await" }],
    ["w", false, { kind: "switch" }],
    ["n", true, { kind: "go", letter: "n" }],
    ["n", false, { kind: "nothing" }],
    ["?", true, { kind: "help" }],
  ])("%s (after g: %s)", (key, awaiting, deed) => expect(meaning(press(key), awaiting)).toEqual(deed));

  it("mean nothing while somebody types", () =>
    expect(meaning(press("/", { typing: true }), false).kind).toBe("nothing"));
  it("mean nothing with Ctrl", () => expect(meaning(press("g", { modified: true }), false).kind).toBe("nothing"));
});

describe("a typed name", () => {
  it("forgives blanks around it", () => expect(nameMatches(" edge-7 ", "edge-7")).toBe(true));
  it("forgives nothing else", () => expect(nameMatches("Edge-7", "edge-7")).toBe(false));
});

describe("a list that is narrowed", () => {
  it("finds a part of a name, whatever the case", () => expect(contains("Office-2", " office")).toBe(true));
  it("leaves out what is called otherwise", () => expect(contains("Office-2", "home")).toBe(false));
  it("is whole while nothing is typed", () => expect(contains("Office-2", "")).toBe(true));
});

describe("the theme", () => {
  it("follows the system unless chosen", () =>
    expect([resolveTheme("system", true), resolveTheme("system", false), resolveTheme("light", true)]).toEqual([
      "dark",
      "light",
      "light",
    ]));
  it("goes round", () =>
    expect(["system", "light", "dark"].map((theme) => nextTheme(parseTheme(theme)))).toEqual([
      "light",
      "dark",
      "system",
    ]));
  it("ignores what is no theme", () => expect(parseTheme("pink")).toBe("system"));
});
