// Which colour a cell has, which words say it, and the legend. Pure.
import { formatRoundTrip, formatShare } from "../charts/words.ts";
import { formatAge, formatBytes } from "../format.ts";
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
  /** Whether it is the least figure that stands out. */
  turned?: boolean;
}

const KIB = 1024;
const MINUTE = 60;
const HOUR = 60 * MINUTE;
const DAY = 24 * HOUR;

export const SCALES: Partial<Record<Mode, Scale>> = {
  rtt: { title: "Round trip", steps: [0.002, 0.01, 0.03, 0.08, 0.2], format: formatRoundTrip },
  loss: { title: "Loss", steps: [0.001, 0.01, 0.03, 0.1, 0.25], format: formatShare },
  received: { title: "Received", steps: [1, 100 * KIB, 10 * KIB ** 2, KIB ** 3, 100 * KIB ** 3], format: formatBytes },
  sent: { title: "Sent", steps: [1, 100 * KIB, 10 * KIB ** 2, KIB ** 3, 100 * KIB ** 3], format: formatBytes },
  uptime: { title: "Uptime", steps: [MINUTE, 10 * MINUTE, HOUR, DAY, 7 * DAY], format: formatAge, turned: true },
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
  return stepTone(scale, scale.steps.filter((least) => figure >= least).length);
}

function stepTone(scale: Scale, step: number): Tone {
  return String(1 + (scale.turned ? scale.steps.length - step : step)) as Tone;
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
  const up = mode === "uptime" ? "up for " : "";
  const steps = Array.from({ length: bounds.length + 1 }, (_, at) => ({
    tone: stepTone(scale, at),
    text: at === 0 ? `${up}under ${bounds[0]}` : `from ${bounds[at - 1]}`,
  }));
  return [...steps, ...states];
}

/** Whether it may be so for longer than its figure: it was when the console first heard of the row's machine. */
function atLeast(row: Member, cell: Cell): boolean {
  return cell.since !== null && cell.since <= row.began;
}

/** What a large cell says itself: the row's side, and the column's where that differs. */
export function labels(row: Member, cell: Cell, mode: Mode): [ours: string, theirs: string] {
  const scale = SCALES[mode];
  const up = scale && cell.figure !== null ? shortly(scale, row, cell, cell.figure) : scale ? "—" : STATE_WORDS[UP];
  const ours = cell.ours === UP ? up : cell.ours === NOT_SAID ? "—" : STATE_WORDS[cell.ours];
  return [ours, disagree(cell) ? STATE_WORDS[cell.theirs] : ""];
}

/** A figure where there is little room: an age has its largest unit alone. */
function shortly(scale: Scale, row: Member, cell: Cell, figure: number): string {
  if (cell.since === null) return scale.format(figure);
  const age = scale.format(figure).split(" ").slice(0, 2).join(" ");
  return atLeast(row, cell) ? `≥ ${age}` : age;
}

/** A figure as a part of a sentence, which says how a link is; none where there is none to say. */
function clause(row: Member, cell: Cell, mode: Mode): string {
  const scale = SCALES[mode];
  if (!scale || cell.figure === null) return "";
  if (cell.since === null) return `, ${scale.title.toLowerCase()} ${scale.format(cell.figure)}`;
  const age = `for ${atLeast(row, cell) ? "at least " : ""}${scale.format(cell.figure)}`;
  return cell.ours === UP ? ` ${age}` : `, not up ${age}`;
}

/** A cell in words, for whoever points at it or hears it. */
export function describe(row: Member, column: Member, cell: Cell | null, mode: Mode): string {
  if (row.index === column.index) return `${row.name}: itself`;
  if (cell === null) return `${row.name} and ${column.name}: not loaded yet`;
  const seen = `${row.name} sees ${column.name} ${STATE_WORDS[cell.ours]}${clause(row, cell, mode)}`;
  const ours = cell.ours === NOT_SAID ? silence(row) : seen;
  if (cell.theirs === NOT_SAID) return `${ours}; ${silence(column)}`;
  if (cell.theirs === cell.ours) return `${ours}; so does the other end`;
  return `${ours}; ${column.name} sees ${row.name} ${STATE_WORDS[cell.theirs]}`;
}

function silence(member: Member): string {
  if (member.talos) return `${member.name} is a Talos machine and reports nothing`;
  return member.connected ? `${member.name} has not said` : `${member.name} is away`;
}
