import { describe, expect, it } from "vitest";
import { linkDrawings, nodeDrawings } from "./drawings.ts";
import {
  type Chart,
  extended,
  isolated,
  moments,
  onGrid,
  pointCount,
  type Series,
  stacked,
  summarise,
} from "./series.ts";
import { linkSlots, linkWords, nodeSlots } from "./strip.ts";
import { figureWords, format, linksWords, trafficWords } from "./words.ts";

const START = 1_772_366_400;
const zone = (at: number) => {
  const date = new Date(at * 1000);
  return `${String(date.getHours()).padStart(2, "0")}:${String(date.getMinutes()).padStart(2, "0")}`;
};

/** A series of one value a minute; null is a minute that nobody noted. */
function series(values: (Partial<Record<"up" | "down" | "rtt" | "received" | "connected", number>> | null)[]): Series {
  const made: Series = {
    name: "edge-1",
    at: [],
    connected: [],
    up: [],
    unknown: [],
    down: [],
    rtt: [],
    loss: [],
    received: [],
    sent: [],
  };
  values.forEach((value, place) => {
    if (!value) return;
    made.at.push(START + place * 60);
    made.connected.push(value.connected ?? 1);
    made.up.push(value.up ?? 0);
    made.unknown.push(0);
    made.down.push(value.down ?? 0);
    made.rtt.push(value.rtt ?? null);
    made.loss.push(null);
    made.received.push(value.received ?? null);
    made.sent.push(value.received ?? null);
  });
  return made;
}

function chart(one: Series, minutes: number): Chart {
  return { span: "24h", start: START, end: START + minutes * 60, step: 60, series: [one], strips: [], note: "" };
}

describe("points on their grid", () => {
  it("keep their places, and a gap stays one", () => {
    const found = chart(series([{ up: 1 }, null, { up: 3 }]), 4);
    expect(moments(found)).toHaveLength(4);
    expect(onGrid(found, found.series[0] as Series, "up")).toEqual([1, null, 3, null]);
    expect(pointCount(found)).toBe(2);
  });

  it("are put on top of each other only where both are", () => {
    expect(
      stacked([
        [1, null, 2],
        [3, 4, 5],
      ]),
    ).toEqual([
      [1, null, 2],
      [4, null, 7],
    ]);
  });

  it("stand alone where both neighbours are gaps", () => {
    expect(isolated([1, null, 2, 3, null, 4])).toEqual([0, 5]);
  });

  it("move on with a minute more, once", () => {
    const found = chart(series([{ up: 1 }, { up: 2 }, { up: 3 }]), 3);
    const more = series([null, null, null, { up: 4 }]);
    const next = extended(found, [more]);
    expect([next.start, next.end]).toEqual([START + 60, START + 240]);
    expect(next.series[0]?.up).toEqual([2, 3, 4]);
    expect(extended(next, [more]).series[0]?.up).toEqual([2, 3, 4]);
  });

  it("begin with nothing", () => {
    const next = extended(chart(series([]), 3), [series([null, { up: 1 }])]);
    expect(next.series[0]?.at).toEqual([START + 60]);
  });
});

describe("what charts say", () => {
  it("sums a figure up by its median and its worst", () => {
    const found = series([{ rtt: 0.01 }, { rtt: 0.08 }, { rtt: 0.012 }, {}]);
    expect(summarise(found, "rtt")).toMatchObject({ count: 3, median: 0.012, worst: 0.08, worstAt: START + 60 });
    expect(summarise(found, "loss")).toBeNull();
    expect(figureWords(chart(found, 4), found, "rtt")).toBe(`Median 12 ms, worst 80 ms at ${zone(START + 60)}.`);
    expect(figureWords(chart(found, 4), found, "loss")).toBe("Not measured.");
  });

  it.each([
    [[{ up: 3 }, { up: 3 }], "Every link up whenever it was looked at."],
    [[{ up: 3 }, { up: 1, down: 2 }], `At worst 1 of 3 up, at ${zone(START + 60)}.`],
    [[{ up: 3 }, { connected: 0 }], "Every link up whenever it was looked at. Away for 1 m of it."],
    [[{ connected: 0 }], "Away all the time."],
    [[], "Nothing noted yet."],
  ])("says how links were: %j", (values, words) => {
    const found = series(values);
    expect(linksWords(chart(found, 4), found)).toBe(words);
  });

  it("says how traffic was", () => {
    const found = series([{ received: 1024 }, { received: 4096 }, { received: 1024 }]);
    const worst = `1.00 KiB/s usually, 4.00 KiB/s at ${zone(START + 60)}`;
    expect(trafficWords(chart(found, 3), found)).toBe(`Received ${worst}; sent ${worst}.`);
    expect(trafficWords(chart(series([]), 3), series([]))).toBe("Not known yet.");
  });

  it.each([
    ["rtt", 0.0004, "0.4 ms"],
    ["rtt", 0.0124, "12 ms"],
    ["rtt", 1.25, "1.3 s"],
    ["rtt", 0, "0 ms"],
    ["loss", 0, "0 %"],
    ["loss", 0.004, "0.4 %"],
    ["loss", 0.123, "12 %"],
    ["up", 2.5, "2.5"],
    ["up", null, "—"],
  ] as const)("writes %s of %s as %s", (column, value, text) => {
    expect(format(column, value)).toBe(text);
  });
});

describe("charts of a node and of a link", () => {
  it("have no links while the node was away: that is no link down", () => {
    const found = chart(series([{ up: 2, down: 1 }, { connected: 0 }]), 2);
    const links = nodeDrawings(found)[0];
    expect(links?.lines.map((line) => [line.label, line.values, line.said])).toEqual([
      ["down", [1, null], [1, null]],
      ["unknown", [1, null], [0, null]],
      ["up", [3, null], [2, null]],
    ]);
  });

  it("show the traffic of the end that counted more of it", () => {
    const found = { ...chart(series([{}]), 1), series: [series([{}]), { ...series([{ received: 1 }]), name: "nas" }] };
    expect(linkDrawings(found).map((drawing) => drawing.title)).toEqual([
      "Round trip",
      "Loss",
      "Traffic, as nas counts it",
    ]);
  });
});

describe("a strip", () => {
  it("has a slot for each quarter of the clock, with shares of its links", () => {
    const found = chart(series([...new Array(15).fill({ up: 3, down: 1 }), { connected: 0 }]), 45);
    const slots = nodeSlots(found, found.series[0] as Series);
    expect(slots.map((slot) => slot.shares)).toEqual([
      [
        ["down", 0.25],
        ["up", 0.75],
      ],
      [],
      [],
    ]);
    expect(slots.map((slot) => slot.text.split(": ")[1])).toEqual(["3 of 4 up, 1 down", "away", "nothing noted"]);
  });

  it("of a link goes from change to change", () => {
    const stretches: [number, number, "up" | "down" | "none"][] = [
      [START, START + 60, "none"],
      [START + 60, START + 1000, "up"],
      [START + 1000, START + 1060, "down"],
    ];
    const strip = { name: "a sees b", stretches, cut: false };
    expect(linkSlots(strip, "24h").map((slot) => slot.shares)).toEqual([[], [["up", 1]], [["down", 1]]]);
    expect(linkSlots(strip, "24h")[2]?.text).toMatch(/^down from .* for 1 m$/);
    expect(linkWords(strip)).toBe("Up 94 % of the time, down for 1 m.");
    expect(linkWords({ ...strip, stretches: stretches.slice(0, 1) })).toBe("Nobody could say in this time.");
    expect(linkWords({ ...strip, stretches: stretches.slice(0, 2) })).toBe("Up all the time that anybody could say.");
  });
});
