// Where nodes stand: worked out from who they are alone, so a page that is opened again looks the same, and kept for as
// long as it is open, so nothing moves when live data arrives. Units are such that neighbours in a group are about two
// apart. Forces would tell nothing here: in a mesh every node is tied to every other.

export interface Spot {
  x: number;
  y: number;
}

export interface Hull extends Spot {
  radius: number;
}

const GOLDEN = Math.PI * (3 - Math.sqrt(5));
/** A group of so many stands in a ring: each node and name is seen. More fill a disc. */
const RING = 14;
/** A map of one group alone: so many stand in a ring. */
const LONE_RING = 64;
const APART = 2.2;
const MARGIN = 1.4;

function ring(count: number, least: number): Spot[] {
  const radius = Math.max(least, (count * APART) / (2 * Math.PI));
  return Array.from({ length: count }, (_, at) => polar(radius, (2 * Math.PI * at) / count + Math.PI / 2));
}

function polar(radius: number, angle: number): Spot {
  return { x: radius * Math.cos(angle), y: radius * Math.sin(angle) };
}

/** The spot at this place of a disc that grows outwards, around a hole. */
function seed(at: number, hole: number): Spot {
  return polar(Math.sqrt(at + 0.5 + hole * hole), at * GOLDEN);
}

function disc(count: number, hole: number): Spot[] {
  return Array.from({ length: count }, (_, at) => seed(at, hole));
}

/** Spots of a group's nodes around its centre. */
export function groupSpots(count: number, alone: boolean): Spot[] {
  if (alone) return count <= LONE_RING ? ring(count, 2) : disc(count, 0.45 * Math.sqrt(count));
  if (count === 1) return [{ x: 0, y: 0 }];
  return count <= RING ? ring(count, 1) : disc(count, 0);
}

export function reach(spots: readonly Spot[]): number {
  return Math.max(0, ...spots.map((spot) => Math.hypot(spot.x, spot.y)));
}

/** Centres of circles with these radii, side by side around a free middle, in their order. */
export function around(radii: readonly number[]): Spot[] {
  if (radii.length === 1) return [{ x: 0, y: 0 }];
  const wide = radii.map((radius) => radius + MARGIN);
  let least = Math.max(...wide) + MARGIN;
  let most = wide.reduce((sum, radius) => sum + radius, least) + 1;
  const turn = (distance: number) =>
    wide.reduce((sum, radius) => sum + 2 * Math.asin(Math.min(1, radius / distance)), 0);
  for (let step = 0; step < 60; step += 1) {
    const middle = (least + most) / 2;
    if (turn(middle) > 2 * Math.PI) least = middle;
    else most = middle;
  }
  const spare = (2 * Math.PI - turn(most)) / radii.length;
  let angle = radii.length === 2 ? Math.PI : Math.PI / 2; // two are beside each other: the drawing is wide
  return wide.map((radius, at) => {
    const half = Math.asin(Math.min(1, radius / most)) + spare / 2;
    if (at > 0) angle -= half;
    const spot = polar(most, angle);
    angle -= half;
    return spot;
  });
}

/** The arrangement of a map, kept while it is open. */
export class Layout {
  readonly spots = new Map<number, Spot>();
  readonly hulls = new Map<string, Hull>();
  readonly #groups = new Map<number, string>();
  readonly #placed = new Map<string, number>();
  #signature = "";

  /**
   * Places whoever has no place yet: nodes by group, in their order. All anew where there are other groups than before;
   * else who came since stands at the outside of its group, and nobody else moves.
   */
  place(members: ReadonlyMap<string, readonly number[]>): void {
    const signature = JSON.stringify([...members.keys()]);
    if (signature !== this.#signature) this.#arrange(members);
    this.#signature = signature;
    const present = new Set([...members.values()].flat());
    for (const pk of [...this.spots.keys()]) if (!present.has(pk)) this.#forget(pk);
    for (const [key, pks] of members) for (const pk of pks) this.#join(key, pk);
  }

  #forget(pk: number): void {
    this.spots.delete(pk);
    this.#groups.delete(pk);
  }

  #join(key: string, pk: number): void {
    if (this.#groups.get(pk) === key) return;
    const hull = this.hulls.get(key);
    if (!hull) return;
    const at = this.#placed.get(key) ?? 0;
    const spot = polar(hull.radius + 0.3, at * GOLDEN);
    this.#set(key, pk, { x: hull.x + spot.x, y: hull.y + spot.y });
    hull.radius = Math.max(hull.radius, reach([spot]) + (at % 8 === 7 ? MARGIN : 0));
  }

  #set(key: string, pk: number, spot: Spot): void {
    this.spots.set(pk, spot);
    this.#groups.set(pk, key);
    this.#placed.set(key, (this.#placed.get(key) ?? 0) + 1);
  }

  #arrange(members: ReadonlyMap<string, readonly number[]>): void {
    for (const kept of [this.spots, this.hulls, this.#groups, this.#placed]) kept.clear();
    const alone = members.size === 1;
    const shapes = [...members].map(([key, pks]) => ({ key, pks, spots: groupSpots(pks.length, alone) }));
    const radii = shapes.map(({ spots }) => reach(spots) + 1);
    const centres = shapes.length ? around(radii) : [];
    shapes.forEach(({ key, pks, spots }, at) => {
      const centre = centres[at] ?? { x: 0, y: 0 };
      this.hulls.set(key, { ...centre, radius: radii[at] ?? 1 });
      pks.forEach((pk, place) => {
        const spot = spots[place] ?? { x: 0, y: 0 };
        this.#set(key, pk, { x: centre.x + spot.x, y: centre.y + spot.y });
      });
    });
  }

  /** Half the side of the square around the middle that holds all of it. */
  extent(): number {
    const reaches = [...this.hulls.values()].map((hull) => Math.hypot(hull.x, hull.y) + hull.radius);
    return Math.max(3, ...reaches);
  }
}
