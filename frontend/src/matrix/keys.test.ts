import { expect, test } from "vitest";
import { meaningOf } from "./keys.ts";

const PAGE = { rows: 20, columns: 30 };

test.each([
  ["a step", "ArrowDown", false, { kind: "move", rows: 1, columns: 0 }],
  ["to the end", "ArrowRight", true, { kind: "move", rows: 0, columns: Number.MAX_SAFE_INTEGER }],
  ["a page", "PageUp", false, { kind: "move", rows: -20, columns: 0 }],
  ["the row's beginning", "Home", false, { kind: "move", rows: 0, columns: -Number.MAX_SAFE_INTEGER }],
  ["the pair", "Enter", false, { kind: "open" }],
  ["the other direction", "x", false, { kind: "turn" }],
  ["larger", "=", false, { kind: "zoom", step: 1 }],
  ["what is the page's own", "/", false, null],
  ["the way out", "Tab", false, null],
] as const)("%s", (_, key, far, expected) => {
  expect(meaningOf(key, far, PAGE)).toEqual(expected);
});
