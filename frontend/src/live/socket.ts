// One socket of a page: a snapshot, then numbered deltas; a gap or a lost connection begins again with a snapshot.
import { showMood } from "./banner.ts";
import { reload } from "./leaving.ts";
import { delayBefore, mood, PATIENCE, Sequence } from "./sequence.ts";
import type { Numbered } from "./shapes.ts";

const SIGNED_OUT = 4401;
const FORBIDDEN = 4403;
const GONE = 4404;

interface Incoming extends Numbered {
  type: "snapshot" | "delta";
}

export interface Page<S extends Incoming, D extends Incoming> {
  snapshot(message: S): void;
  delta(message: D): void;
  /** Reads a binary message, where the console sends such. */
  decode?(message: ArrayBuffer): S | D;
  /** Nodes of a large cluster that are in view: they report at full pace. Empty where the console knows without. */
  view?(): number[];
  /** Since when what is shown is old although the socket is open: where a fetch failed. */
  stale?(): Date | null;
  /** What was shown does not exist any more; by default the page is loaded again and says so. */
  gone?(): void;
}

export class LiveSocket<S extends Incoming, D extends Incoming> {
  readonly #path: string;
  readonly #page: Page<S, D>;
  readonly #quiet: boolean;
  readonly #sequence = new Sequence();
  readonly #stopping = new AbortController();
  #socket: WebSocket | null = null;
  #attempt = 0;
  #current: Date | null = null;
  #lost = performance.now();
  #again: ReturnType<typeof setTimeout> | undefined;

  /** `quiet` sockets leave the banner alone: a dialog's own, beside the page's. */
  constructor(path: string, page: Page<S, D>, quiet = false) {
    this.#path = path;
    this.#page = page;
    this.#quiet = quiet;
    const { signal } = this.#stopping;
    window.addEventListener("offline", () => this.#socket?.close(), { signal });
    window.addEventListener("online", () => this.#hurry(), { signal });
    document.addEventListener("visibilitychange", () => document.hidden || this.#hurry(), { signal });
    const showing = setInterval(() => this.#show(), 1_000);
    signal.addEventListener("abort", () => clearInterval(showing));
    this.#connect();
  }

  /** Tells the console anew what the page has in view. */
  look(): void {
    const nodes = this.#page.view?.() ?? [];
    if (this.#socket?.readyState === WebSocket.OPEN) this.#socket.send(JSON.stringify({ type: "view", nodes }));
  }

  stop(): void {
    this.#stopping.abort();
    clearTimeout(this.#again);
    this.#socket?.close();
  }

  /** Tells the console something, where it can be told; after a reconnection a page says it anew with its snapshot. */
  say(message: unknown): void {
    if (this.#socket?.readyState === WebSocket.OPEN) this.#socket.send(JSON.stringify(message));
  }

  #connect(): void {
    const scheme = location.protocol === "https:" ? "wss:" : "ws:";
    const socket = new WebSocket(`${scheme}//${location.host}${this.#path}`);
    this.#socket = socket;
    this.#sequence.forget();
    socket.binaryType = "arraybuffer";
    socket.onmessage = ({ data }) => {
      const message = data instanceof ArrayBuffer ? this.#page.decode?.(data) : JSON.parse(data);
      if (message) this.#take(message);
    };
    socket.onclose = (event) => this.#closed(socket, event.code);
  }

  #take(message: S | D): void {
    if (this.#sequence.take(message) === "gap") {
      this.#socket?.close();
      return;
    }
    this.#attempt = 0;
    this.#current = new Date();
    if (message.type === "snapshot") {
      this.#page.snapshot(message as S);
      const nodes = this.#page.view?.() ?? [];
      if (nodes.length) this.#socket?.send(JSON.stringify({ type: "view", nodes }));
    } else {
      this.#page.delta(message as D);
    }
    this.#show();
  }

  #closed(socket: WebSocket, code: number): void {
    if (socket !== this.#socket) return;
    if (this.#current && this.#attempt === 0) this.#current = new Date(); // it was current until just now
    if (this.#attempt === 0) this.#lost = performance.now();
    this.#socket = null;
    this.#show();
    if (this.#stopping.signal.aborted) return;
    if (code === SIGNED_OUT || code === FORBIDDEN) {
      this.#stopping.abort();
      reload(); // leads to the sign-in page, and from there back here
      return;
    }
    if (code === GONE) {
      this.#stopping.abort();
      if (this.#page.gone) this.#page.gone();
      else reload();
      return;
    }
    this.#again = setTimeout(() => this.#connect(), delayBefore(this.#attempt, Math.random()));
    this.#attempt += 1;
  }

  #hurry(): void {
    if (this.#socket || this.#stopping.signal.aborted) return;
    clearTimeout(this.#again);
    this.#connect();
  }

  #show(): void {
    if (this.#quiet || this.#stopping.signal.aborted) return;
    const connected = this.#socket?.readyState === WebSocket.OPEN && this.#current !== null && this.#attempt === 0;
    const stale = this.#page.stale?.();
    if (connected && stale) showMood(mood(false, stale, PATIENCE));
    else showMood(mood(connected, this.#current, performance.now() - this.#lost));
  }
}
