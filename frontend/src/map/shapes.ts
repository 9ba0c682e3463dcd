// What a map's socket sends: the same shapes as nodes/maps.py.
import type { LinkCounts, Numbered, State } from "../live/shapes.ts";

export interface MapNode {
  pk: number;
  name: string;
  /** `=` and a site's or kind's name, or `none`, or `other`. */
  group: string;
  site: string;
  talos: boolean;
  connected: boolean;
  links: LinkCounts;
}

/** How a node sees a peer, and the step of its traffic. */
export type MapLink = [node: number, peer: number, state: State, level: number];

export type GroupLinks = [one: string, other: string, up: number, unknown: number, down: number];

export interface MapSnapshot extends Numbered {
  type: "snapshot";
  grouped: boolean;
  not_up: number;
  unread: number;
  nodes: MapNode[];
  links: MapLink[];
  groups: GroupLinks[];
}

export interface MapDelta extends Numbered {
  type: "delta";
  grouped?: boolean | null;
  not_up?: number | null;
  unread?: number | null;
  nodes?: MapNode[];
  nodes_gone?: number[];
  links?: MapLink[];
  links_gone?: [number, number][];
  groups?: GroupLinks[];
  groups_gone?: [string, string][];
}
