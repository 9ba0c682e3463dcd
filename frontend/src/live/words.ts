// Sentences and figures of live pages; pure.
import { formatCount, plural } from "../format.ts";
import type { Enrolled, Link, LinkCounts, NodeRow, Worthless } from "./shapes.ts";

export interface Totals extends LinkCounts {
  nodes: number;
  connected: number;
  drift: number;
}

/** A cluster's strip of figures. */
export function totals(rows: Iterable<NodeRow>): Totals {
  const sum: Totals = { nodes: 0, connected: 0, drift: 0, up: 0, unknown: 0, down: 0 };
  for (const row of rows) {
    if (row.status !== "approved") continue;
    sum.nodes += 1;
    sum.connected += row.connected ? 1 : 0;
    sum.drift += row.behind > 0 || row.fault ? 1 : 0;
    if (row.talos) continue; // its links are as its peers see them, and counted with theirs
    sum.up += row.links.up;
    sum.unknown += row.links.unknown;
    sum.down += row.links.down;
  }
  return sum;
}

/** The worst state that any of a node's links is in. */
export function worst(links: LinkCounts): "down" | "unknown" | "up" | "none" {
  if (links.down) return "down";
  if (links.unknown) return "unknown";
  return links.up ? "up" : "none";
}

/** A node's links in words: `3 of 4, 1 down`. */
export function linksText(links: LinkCounts): string {
  const all = links.up + links.unknown + links.down;
  if (!all) return "—";
  return `${formatCount(links.up)} of ${formatCount(all)}${links.down ? `, ${formatCount(links.down)} down` : ""}`;
}

/** Whether a node is there, in words; of one that is not, since when goes with it, where that is known. */
export function presenceWords(row: NodeRow): string {
  if (row.talos) return row.connected ? "in discovery" : "left discovery";
  if (row.connected) return "connected";
  return row.last_seen ? "away since" : "never connected";
}

/** A node's configuration: state and words. */
export function configurationWords(row: NodeRow): [state: string, text: string] {
  if (row.status !== "approved") return ["none", "nothing to apply"];
  if (row.fault) return ["fault", "could not be applied"];
  if (row.behind > 0)
    return ["behind", row.applied ? `behind by ${plural(row.behind, "revision")}` : "nothing applied yet"];
  return ["applied", "applied"];
}

const RANK = { down: 0, unknown: 1, up: 2 };

/** Links that are not up: down before unknown, the longest without a handshake first. */
export function worstFirst(links: Iterable<Link>): Link[] {
  const found = [...links].filter((link) => link.state !== "up");
  return found.sort(
    (a, b) =>
      RANK[a.state] - RANK[b.state] || (a.handshake ?? 0) - (b.handshake ?? 0) || a.node - b.node || a.peer - b.peer,
  );
}

export interface Step {
  key: string;
  step: "done" | "now" | "next";
  text: string;
}

const STAGES = ["enrolled", "connected", "up"] as const;

function handshakeText(node: Enrolled): string {
  return node.handshake === null ? "First handshake" : `First handshake after ${node.handshake.toFixed(1)} s`;
}

function stepsOfOne(node: Enrolled | undefined): Step[] {
  if (!node) {
    return [
      { key: "enrolled", step: "now", text: "Waiting for the machine" },
      { key: "connected", step: "next", text: "Connected" },
      { key: "up", step: "next", text: "First handshake" },
    ];
  }
  if (node.stage === "removed") return [{ key: "enrolled", step: "now", text: `${node.name} has been removed again` }];
  const reached = node.stage === "pending" ? 0 : STAGES.indexOf(node.stage);
  const steps: Step[] = [{ key: "enrolled", step: "done", text: `${node.name} has enrolled` }];
  if (node.stage === "pending")
    steps.push({ key: "pending", step: "now", text: `${node.name} waits for your approval` });
  steps.push({ key: "connected", step: reached >= 1 ? "done" : "next", text: "Connected" });
  if (node.peers === 0) {
    steps.push({
      key: "up",
      step: reached >= 1 ? "done" : "next",
      text: "It is the first machine: enrol another one to mesh with",
    });
  } else {
    const text = reached >= 2 ? handshakeText(node) : "First handshake";
    steps.push({ key: "up", step: reached >= 2 ? "done" : "next", text });
  }
  const next = steps.find((step) => step.step === "next");
  if (next && !steps.some((step) => step.step === "now")) next.step = "now";
  return steps;
}

function stepOfMany(node: Enrolled): Step {
  const words = {
    pending: "waits for your approval",
    enrolled: "has enrolled",
    connected: node.peers ? "is connected, no handshake yet" : "is connected",
    up: handshakeText(node).toLowerCase(),
    removed: "has been removed again",
  };
  const done = node.stage === "up" || (node.stage === "connected" && node.peers === 0);
  return { key: String(node.pk), step: done ? "done" : "now", text: `${node.name}: ${words[node.stage]}` };
}

/** How far an enrolment is: three steps for one machine, a line a machine for several. */
export function enrolmentSteps(nodes: Enrolled[], used: number, uses: number, worthless: Worthless | null): Step[] {
  const closed = worthless === "expired" || worthless === "revoked";
  if (uses === 1) {
    const [node] = nodes;
    if (!node && closed)
      return [{ key: "enrolled", step: "now", text: `The token is ${worthless}; close this and make another` }];
    return stepsOfOne(node);
  }
  const steps = nodes.map(stepOfMany);
  if (closed)
    steps.push({
      key: "more",
      step: "now",
      text: `The token is ${worthless}; ${plural(uses - used, "use")} left unused`,
    });
  else if (used < uses)
    steps.push({ key: "more", step: "now", text: `Waiting for ${plural(uses - used, "more machine")}` });
  return steps;
}
