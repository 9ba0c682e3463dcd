import { expect, test } from "vitest";
import { Choice, filters } from "./choosing.ts";

function memory(): Storage {
  const kept = new Map<string, string>();
  return {
    get length() {
      return kept.size;
    },
    clear: () => kept.clear(),
    getItem: (name) => kept.get(name) ?? null,
    key: (index) => [...kept.keys()][index] ?? null,
    removeItem: (name) => void kept.delete(name),
    setItem: (name, value) => void kept.set(name, value),
  };
}

test.each([
  ["", ""],
  ["?page=2", ""],
  ["?sort=-name&q=edge&page=3", "q=edge"],
  ["?status=pending&q=edge", "q=edge&status=pending"],
])("%s asks for the rows of %s", (query, rows) => {
  expect(filters(query)).toBe(rows);
});

test("what is chosen stays from page to page, in whatever order", () => {
  const store = memory();
  new Choice(store, "/nodes/", "?q=edge").set(["1", "2"], true);
  const next = new Choice(store, "/nodes/", "?q=edge&page=2&sort=name");
  next.set(["7"], true);
  next.set(["1"], false);
  expect(new Choice(store, "/nodes/", "?q=edge").keys).toEqual(["2", "7"]);
});

test("what no filter shows any more is not chosen", () => {
  const store = memory();
  new Choice(store, "/nodes/", "?q=edge").set(["1"], true);
  expect(new Choice(store, "/nodes/", "?q=core").keys).toEqual([]);
  expect(new Choice(store, "/tokens/", "?q=edge").keys).toEqual([]);
});

test("nothing chosen leaves nothing behind", () => {
  const store = memory();
  const choice = new Choice(store, "/nodes/", "");
  choice.set(["1"], true);
  expect(choice.has("1")).toBe(true);
  choice.clear();
  expect(store.length).toBe(0);
});
