// What sockets send: the same shapes as nodes/pages.py. Fields with `?` are left out where nothing changed.

import type { Series as HistorySeries } from "../charts/series.ts";

export type { HistorySeries };

export type State = "unknown" | "up" | "down";
export type Status = "pending" | "approved" | "left" | "removed";

export interface LinkCounts {
  up: number;
  unknown: number;
  down: number;
}

export interface NodeRow {
  pk: number;
  index: number | null;
  name: string;
  status: Status;
  address: string;
  connected: boolean;
  last_seen: number | null;
  applied: number;
  behind: number;
  fault: string;
  links: LinkCounts;
  /** Known through discovery alone: its links are as its peers see them. */
  talos?: boolean;
  found?: number | null;
}

export interface Sight {
  state: State;
  endpoint: string;
  handshake: number | null;
  received: number;
  sent: number;
  at: number;
  /** Seconds of a round trip through the tunnel; null while not measured. */
  rtt: number | null;
  /** Share of the last probes that were not answered, 0 to 1; null while not measured. */
  loss: number | null;
}

export interface Link extends Sight {
  node: number;
  peer: number;
}

export interface PeerRow {
  pk: number;
  name: string;
  ours: Sight | null;
  theirs: Sight | null;
  /** Why the link is not up, or carries little though it is, where it is in view. */
  why?: string;
}

export interface Enrolled {
  pk: number;
  name: string;
  stage: "pending" | "enrolled" | "connected" | "up" | "removed";
  handshake: number | null;
  peers: number;
}

export interface Numbered {
  number: number;
  at: number;
}

export interface ClusterSnapshot extends Numbered {
  type: "snapshot";
  revision: number;
  partial: boolean;
  nodes: NodeRow[];
  links: Link[];
}

export interface ClusterDelta extends Numbered {
  type: "delta";
  revision?: number | null;
  nodes?: NodeRow[];
  nodes_gone?: number[];
  links?: Link[];
  links_gone?: [number, number][];
}

export interface NodeSnapshot extends Numbered {
  type: "snapshot";
  revision: number;
  node: NodeRow;
  peers: PeerRow[];
}

export interface NodeDelta extends Numbered {
  type: "delta";
  revision?: number | null;
  node?: NodeRow | null;
  peers?: PeerRow[];
  peers_gone?: number[];
  history?: HistorySeries[];
}

export interface PairSnapshot extends Numbered {
  type: "snapshot";
  here: Sight | null;
  there: Sight | null;
}

export interface PairDelta extends Numbered {
  type: "delta";
  here: Sight | null;
  there: Sight | null;
  renew: boolean;
  history: HistorySeries[];
}

export interface OverviewSnapshot extends Numbered {
  type: "snapshot";
}

export interface OverviewDelta extends Numbered {
  type: "delta";
}

export type Worthless = "revoked" | "expired" | "used-up";

export interface EnrolmentSnapshot extends Numbered {
  type: "snapshot";
  nodes: Enrolled[];
  used: number;
  uses: number;
  worthless: Worthless | null;
}

export interface EnrolmentDelta extends Numbered {
  type: "delta";
  nodes?: Enrolled[];
  used?: number | null;
  worthless?: Worthless | "";
}
