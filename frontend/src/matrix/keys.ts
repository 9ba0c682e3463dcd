// What keys mean while the matrix has the focus. Pure.

export type Deed =
  | { kind: "move"; rows: number; columns: number }
  | { kind: "open" }
  | { kind: "zoom"; step: 1 | -1 }
  | { kind: "turn" }
  | { kind: "leave" };

/** `page` is how many cells a page has; with `far`, to the first or last one. */
export function meaningOf(key: string, far: boolean, page: { rows: number; columns: number }): Deed | null {
  const all = Number.MAX_SAFE_INTEGER;
  const move = (rows: number, columns: number): Deed => ({ kind: "move", rows, columns });
  switch (key) {
    case "ArrowUp":
      return move(far ? -all : -1, 0);
    case "ArrowDown":
      return move(far ? all : 1, 0);
    case "ArrowLeft":
      return move(0, far ? -all : -1);
    case "ArrowRight":
      return move(0, far ? all : 1);
    case "PageUp":
      return move(-page.rows, 0);
    case "PageDown":
      return move(page.rows, 0);
    case "Home":
      return move(far ? -all : 0, -all);
    case "End":
      return move(far ? all : 0, all);
    case "Enter":
      return { kind: "open" };
    case "+":
    case "=":
      return { kind: "zoom", step: 1 };
    case "-":
      return { kind: "zoom", step: -1 };
    case "x":
      return { kind: "turn" };
    case "Escape":
      return { kind: "leave" };
    default:
      return null;
  }
}
