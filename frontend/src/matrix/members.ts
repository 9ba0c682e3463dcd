// Members and the order in which they stand. Pure.

/** As nodes/matrix.py sends it. */
export type MemberRow = [
  index: number,
  pk: number,
  name: string,
  site: string,
  talos: boolean,
  connected: boolean,
  up: number,
  unknown: number,
  down: number,
  began: number,
];

export interface Member {
  index: number;
  pk: number;
  name: string;
  site: string;
  talos: boolean;
  connected: boolean;
  up: number;
  unknown: number;
  down: number;
  /** Unix time at which the console's record of it began: what it sees since then, it may have seen for longer. */
  began: number;
}

export function readMember(row: MemberRow): Member {
  const [index, pk, name, site, talos, connected, up, unknown, down, began] = row;
  return { index, pk, name, site, talos, connected, up, unknown, down, began };
}

export type Sorting = "group" | "name" | "worst";

export interface Group {
  name: string;
  from: number;
  to: number;
}

export interface Order {
  members: Member[];
  /** Neighbours that belong together; none where the order has no groups. */
  groups: Group[];
}

const names = new Intl.Collator("en", { numeric: true, sensitivity: "base" });

const byName = (one: Member, other: Member) => names.compare(one.name, other.name) || one.index - other.index;

/** Sites where anybody has one, else kinds. */
export function groupOf(member: Member, sites: boolean): string {
  if (sites) return member.site || "no site";
  return member.talos ? "Talos" : "Linux";
}

function worstFirst(one: Member, other: Member): number {
  const deaf = (member: Member) => (member.connected || member.talos ? 0 : 1);
  return deaf(other) - deaf(one) || other.down - one.down || other.unknown - one.unknown || byName(one, other);
}

/** All members in one order, for rows and columns alike. */
export function arrange(members: Iterable<Member>, sorting: Sorting): Order {
  const all = [...members];
  if (sorting === "worst") return { members: all.sort(worstFirst), groups: [] };
  if (sorting === "name") return { members: all.sort(byName), groups: [] };
  const sites = all.some((member) => member.site);
  const key = (member: Member) => groupOf(member, sites);
  all.sort((one, other) => names.compare(key(one), key(other)) || byName(one, other));
  const groups: Group[] = [];
  all.forEach((member, at) => {
    const last = groups.at(-1);
    if (last?.name === key(member)) last.to = at + 1;
    else groups.push({ name: key(member), from: at, to: at + 1 });
  });
  return { members: all, groups };
}

/** Whether two orders name the same members in the same places. */
export function sameOrder(one: Order, other: Order): boolean {
  if (one.members.length !== other.members.length) return false;
  return one.members.every((member, at) => member.pk === other.members[at]?.pk);
}
