// Nodes and snapshots for tests.
import type { MapNode, MapSnapshot } from "./shapes.ts";

export const node = (pk: number, fields: Partial<MapNode> = {}): MapNode => ({
  pk,
  name: `edge-${pk}`,
  group: "=fra",
  site: "fra",
  talos: false,
  connected: true,
  links: { up: 3, unknown: 0, down: 0 },
  ...fields,
});

export const snapshot = (fields: Partial<MapSnapshot> = {}): MapSnapshot => ({
  type: "snapshot",
  number: 0,
  at: 0,
  grouped: false,
  not_up: 0,
  unread: 0,
  nodes: [],
  links: [],
  groups: [],
  ...fields,
});
