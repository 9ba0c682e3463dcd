import { expect, test } from "vitest";
import { type Asked, Cells, type Delta, DOWN, decode, NOT_SAID, UP } from "./cells.ts";

const ASKED: Asked = { id: 7, mode: "state", rows: { from: 10, to: 12 }, columns: { from: 20, to: 23 } };
const both = (ours: number, theirs: number) => ours | (theirs << 2);
const bytes = (...values: number[]) => new Uint8Array(values).buffer;

/** As nodes/matrix.py puts a message together. */
function message(head: object, body: ArrayBuffer): ArrayBuffer {
  let text = JSON.stringify(head);
  text += " ".repeat((8 - ((4 + text.length) % 8)) % 8);
  const whole = new Uint8Array(4 + text.length + body.byteLength);
  new DataView(whole.buffer).setUint32(0, text.length, true);
  whole.set(new TextEncoder().encode(text), 4);
  whole.set(new Uint8Array(body), 4 + text.length);
  return whole.buffer;
}

test("a message is a head and what follows it", () => {
  const read = decode(message({ type: "delta", number: 3, at: 1, cells: 1 }, bytes(1, 2, 3))) as Delta;
  expect([read.number, read.cells, [...new Uint8Array(read.body ?? new ArrayBuffer())]]).toEqual([3, 1, [1, 2, 3]]);
});

test("cells are found by their place in the order", () => {
  const cells = new Cells(ASKED, bytes(both(UP, UP), both(DOWN, UP), 15, 5, 5, 5));
  expect(cells.cell(10, 21)).toEqual({ ours: DOWN, theirs: UP, figure: null, since: null });
  expect(cells.cell(10, 22)).toEqual({ ours: NOT_SAID, theirs: NOT_SAID, figure: null, since: null });
  expect([cells.cell(9, 21), cells.cell(10, 23)]).toEqual([null, null]);
});

test("a changed cell is written in its place", () => {
  const cells = new Cells(ASKED, bytes(5, 5, 5, 5, 5, 5));
  const body = new ArrayBuffer(5);
  new Uint16Array(body, 0, 2).set([1, 2]);
  new Uint8Array(body, 4, 1).set([both(DOWN, UP)]);
  expect(cells.change(1, body)).toEqual([{ row: 11, column: 22 }]);
  expect(cells.cell(11, 22)?.ours).toBe(DOWN);
});

test("figures come before the states", () => {
  const body = new ArrayBuffer(2 * 4 + 2);
  new Float32Array(body, 0, 2).set([0.25, -1]);
  new Uint8Array(body, 8).set([5, both(UP, NOT_SAID)]);
  const asked: Asked = { id: 1, mode: "rtt", rows: { from: 0, to: 1 }, columns: { from: 1, to: 3 } };
  const cells = new Cells(asked, body);
  expect(cells.cell(0, 1)).toEqual({ ours: UP, theirs: UP, figure: 0.25, since: null });
  expect(cells.cell(0, 2)).toEqual({ ours: UP, theirs: NOT_SAID, figure: null, since: null });
  const change = new ArrayBuffer(4 + 4 + 1);
  new Float32Array(change, 0, 1).set([0.5]);
  new Uint16Array(change, 4, 2).set([0, 1]);
  new Uint8Array(change, 8).set([5]);
  cells.change(1, change);
  expect(cells.cell(0, 2)).toEqual({ ours: UP, theirs: UP, figure: 0.5, since: null });
});

test("an age is counted on to the second from when it began", () => {
  const since = 1_700_000_001;
  const body = new ArrayBuffer(2 * 8 + 2);
  new Float64Array(body, 0, 2).set([since, -1]);
  new Uint8Array(body, 16).set([5, 5]);
  const asked: Asked = { id: 1, mode: "uptime", rows: { from: 0, to: 1 }, columns: { from: 1, to: 3 } };
  const cells = new Cells(asked, body);
  cells.now = since + 59;
  expect(cells.cell(0, 1)).toEqual({ ours: UP, theirs: UP, figure: 59, since });
  expect(cells.cell(0, 2)).toEqual({ ours: UP, theirs: UP, figure: null, since: null });
  cells.now = since + 60;
  expect([cells.figure(0, 1), cells.figure(0, 2)]).toEqual([60, -1]);
  const change = new ArrayBuffer(8 + 4 + 1);
  new Float64Array(change, 0, 1).set([since + 90]);
  new Uint16Array(change, 8, 2).set([0, 1]);
  new Uint8Array(change, 12).set([both(DOWN, UP)]);
  cells.change(1, change);
  expect(cells.cell(0, 2)).toEqual({ ours: DOWN, theirs: UP, figure: 0, since: since + 90 });
});

test("a day of changes holds what the first moment held", () => {
  const cells = new Cells(ASKED, bytes(5, 5, 5, 5, 5, 5));
  const before = cells.weight;
  for (let turn = 0; turn < 100_000; turn += 1) {
    const body = new ArrayBuffer(5);
    new Uint16Array(body, 0, 2).set([turn % 2, turn % 3]);
    cells.change(1, body);
  }
  expect(cells.weight).toBe(before);
});
