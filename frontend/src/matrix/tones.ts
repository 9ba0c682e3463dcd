// Which colour a cell has, which words say it, and the legend. Pure.
import { formatRoundTrip, formatShare } from "../charts/words.ts";
import { formatBytes } from "../format.ts";
import { type Cell, DOWN, type Mode, NOT_SAID, type State, UNKNOWN, UP } from "./cells.ts";
import type { Member } from "./members.ts";

/** Colours by name; `--ks-mx-NAME` in the style sheet. */
export const TONES = ["up", "unknown", "down", "silent", "self", "wait", "1", "2", "3", "4", "5", "6"] as const;
export type Tone = (typeof TONES)[number];

const STATE_TONES: Record<State, Tone> = { [UNKNOWN]: "unknown", [UP]: "up", [DOWN]: "down", [NOT_SAID]: "silent" };
export const STATE_WORDS: Record<State, string> = {
  [UNKNOWN]: "unknown",
  [UP]: "up",
  [DOWN]: "down",
  [NOT_SAID]: "not said",
};

interface Scale {
  title: string;
  /** The least figure of each further step. */
  steps: readonly number[];
  format(figure: number): string;
}

const KIB = 1024;

export const SCALES: Partial<Record<Mode, Scale>> = {
  rtt: { title: "Round trip", steps: [0.002, 0.01, 0.03, 0.08, 0.2], format: formatRoundTrip },
  loss: { title: "Loss", steps: [0.001, 0.01, 0.03, 0.1, 0.25], format: formatShare },
  received: { title: "Received", steps: [1, 100 * KIB, 10 * KIB ** 2, KIB ** 3, 100 * KIB ** 3], format: formatBytes },
  sent: { title: "Sent", steps: [1, 100 * KIB, 10 * KIB ** 2, KIB ** 3, 100 * KIB ** 3], format: formatBytes },
};

const RANK: Record<State, number> = { [DOWN]: 0, [UNKNOWN]: 1, [UP]: 2, [NOT_SAID]: 3 };

/** The worse of two states; what was not said is no state. */
export function worse(one: State, other: State): State {
  return RANK[one] <= RANK[other] ? one : other;
}

/** Whether both ends said something, and not the same. */
export function disagree(cell: Cell): boolean {
  return cell.ours !== cell.theirs && cell.ours !== NOT_SAID && cell.theirs !== NOT_SAID;
}

export function step(scale: Scale, figure: number): Tone {
  return String(1 + scale.steps.filter((least) => figure >= least).length) as Tone;
}

/** The colour of a row's side of a cell. */
export function toneOf(mode: Mode, state: State, figure: number | null): Tone {
  const scale = SCALES[mode];
  if (!scale || state === DOWN || state === UNKNOWN) return STATE_TONES[state];
  return state === NOT_SAID || figure === null ? "silent" : step(scale, figure);
}

export interface Key {
  tone: Tone;
  text: string;
}

/** What colours and shapes mean in a mode. */
export function legend(mode: Mode): Key[] {
  const scale = SCALES[mode];
  const states: Key[] = [
    { tone: "unknown", text: "unknown" },
    { tone: "down", text: "down" },
    { tone: "silent", text: "not said" },
  ];
  if (!scale) return [{ tone: "up", text: "up" }, ...states];
  const bounds = scale.steps.map((least) => scale.format(least).replace(/\.0+(?= )/, ""));
  const steps = ["1", "2", "3", "4", "5", "6"].slice(0, bounds.length + 1).map((tone, at) => ({
    tone: tone as Tone,
    text: at === 0 ? `under ${bounds[0]}` : `from ${bounds[at - 1]}`,
  }));
  return [...steps, ...states];
}

/** What a large cell says itself: the row's side, and the column's where that differs. */
export function labels(cell: Cell, mode: Mode): [ours: string, theirs: string] {
  const scale = SCALES[mode];
  const up = scale && cell.figure !== null ? scale.format(cell.figure) : scale ? "—" : STATE_WORDS[UP];
  const ours = cell.ours === UP ? up : cell.ours === NOT_SAID ? "—" : STATE_WORDS[cell.ours];
  return [ours, disagree(cell) ? STATE_WORDS[cell.theirs] : ""];
}

/** A cell in words, for whoever points at it or hears it. */
export function describe(row: Member, column: Member, cell: Cell | null, mode: Mode): string {
  if (row.index === column.index) return `${row.name}: itself`;
  if (cell === null) return `${row.name} and ${column.name}: not loaded yet`;
  const scale = SCALES[mode];
  const figure = scale && cell.figure !== null ? `, ${scale.title.toLowerCase()} ${scale.format(cell.figure)}` : "";
  const ours =
    cell.ours === NOT_SAID ? silence(row) : `${row.name} sees ${column.name} ${STATE_WORDS[cell.ours]}${figure}`;
  if (cell.theirs === NOT_SAID) return `${ours}; ${silence(column)}`;
  if (cell.theirs === cell.ours) return `${ours}; so does the other end`;
  return `${ours}; ${column.name} sees ${row.name} ${STATE_WORDS[cell.theirs]}`;
}

function silence(member: Member): string {
  if (member.talos) return `${member.name} is a Talos machine and reports nothing`;
  return member.connected ? `${member.name} has not said` : `${member.name} is away`;
}
