// Numbers as people read them. All pure: what is "now" is an argument.

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"] as const;

/** Bytes in binary units, with three digits at most. */
export function formatBytes(bytes: number): string {
  let value = Math.max(0, bytes);
  let unit = 0;
  while (value >= 1024 && unit < UNITS.length - 1) {
    value /= 1024;
    unit += 1;
  }
  const digits = unit === 0 || value >= 100 ? 0 : value >= 10 ? 1 : 2;
  return `${value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits })} ${UNITS[unit]}`;
}

export function formatRate(bytesPerSecond: number): string {
  return `${formatBytes(bytesPerSecond)}/s`;
}

/** An age in seconds, in its one or two largest units: `4 s`, `12 m`, `3 h 5 m`, `2 d`. */
export function formatAge(seconds: number): string {
  const whole = Math.max(0, Math.floor(seconds));
  if (whole < 60) return `${whole} s`;
  const minutes = Math.floor(whole / 60);
  if (minutes < 60) return `${minutes} m`;
  const hours = Math.floor(minutes / 60);
  if (hours < 24) return minutes % 60 ? `${hours} h ${minutes % 60} m` : `${hours} h`;
  const days = Math.floor(hours / 24);
  if (days < 10) return hours % 24 ? `${days} d ${hours % 24} h` : `${days} d`;
  return `${days} d`;
}

/** A time as distance from now: `just now`, `4 s ago`, `in 23 h`. */
export function formatRelative(at: number, now: number): string {
  const seconds = now - at;
  if (Math.abs(seconds) < 2) return "just now";
  return seconds > 0 ? `${formatAge(seconds)} ago` : `in ${formatAge(Math.round(-seconds))}`;
}

/** HH:MM:SS of this browser's time zone. */
export function formatClock(date: Date): string {
  const two = (value: number) => String(value).padStart(2, "0");
  return `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`;
}

/** YYYY-MM-DD HH:MM:SS of this browser's time zone. */
export function formatExact(date: Date): string {
  const two = (value: number) => String(value).padStart(2, "0");
  return `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())} ${formatClock(date)}`;
}

/** A count as people read it: `1,000`. */
export function formatCount(count: number): string {
  return count.toLocaleString("en");
}

/** A count with its noun: `1 node`, `3 nodes`. */
export function plural(count: number, noun: string): string {
  return `${formatCount(count)} ${noun}${count === 1 ? "" : "s"}`;
}

/** Bytes per second between two readings of a counter; none where it ran backwards (the counter began anew). */
export function rate(before: { at: number; bytes: number }, after: { at: number; bytes: number }): number | null {
  const seconds = after.at - before.at;
  if (seconds <= 0 || after.bytes < before.bytes) return null;
  return (after.bytes - before.bytes) / seconds;
}
