import { expect, it } from "vitest";
import { faded } from "./colours.ts";

it("fades a colour as the browser writes it", () => {
  expect(faded("rgb(10, 20, 30)", 0.5)).toBe("rgba(10, 20, 30, 0.5)");
});
