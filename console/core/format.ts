// The grammar of figures: what is known of a value decides how it is written and drawn.  One module, for text, tables
// and charts; no unit or state is worded anywhere else.

export type State = "exact" | "measured" | "atleast" | "insufficient" | "blind" | "within" | "quiet" | "nodata";
export interface Figure { value: number | null; low?: number | null; high?: number | null; state?: State; unit: Unit }
export type Unit = "bit/s" | "packets/s" | "ratio" | "us" | "count" | "/s";

const STEPS: [number, string][] = [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"], [1, ""]];

/** At most three digits that mean something. */
export function digits(value: number): string {
  const size = Math.abs(value);
  if (size === 0) return "0";
  if (size >= 99.95) return String(Math.round(value));
  if (size >= 9.995) return value.toFixed(1).replace(/\.0$/, "");
  if (size >= 0.01) return value.toFixed(2).replace(/0$/, "").replace(/\.0$/, "");
  return value.toPrecision(1);
}

/** The scale of a value: all ends of an interval are written in that of its middle. */
function scale(value: number, unit: Unit): [number, string] {
  if (unit === "ratio") return [0.01, " %"];
  if (unit === "us") return Math.abs(value) >= 999.5 ? [1e3, " ms"] : [1, " µs"];
  if (unit === "count") return [1, ""];
  const [size, prefix] = STEPS.find(([least]) => Math.abs(value) >= least) ?? [1, ""];
  if (unit === "bit/s") return [size, ` ${prefix}bit/s`];
  return [size, unit === "/s" ? `${prefix}/s` : `${prefix} packets/s`];
}

export function plain(value: number, unit: Unit): string {
  const [size, name] = scale(value, unit);
  return digits(value / size) + name;
}

/** `4.1 %`, and apart from it `3.2 … 5.0`: empty where the value is exact. */
export function written(figure: Figure): { value: string; interval: string } {
  const { value, low, high, unit } = figure;
  if (value === null || value === undefined) return { value: "–", interval: "" };
  const [size, name] = scale(value, unit);
  const middle = (figure.state === "atleast" ? "≥ " : "") + digits(value / size) + name;
  if (low === null || low === undefined || high === null || high === undefined || low === high)
    return { value: middle, interval: "" };
  return { value: middle, interval: `${digits(low / size)} … ${digits(high / size)}` };
}

export function text(figure: Figure): string {
  const { value, interval } = written(figure);
  return interval ? `${value} (${interval})` : value;
}

/** What the views say of loss, as a state.  Within one hypervisor a switch sees both ends at once: that is not blind. */
export function lossState(evidence: string, within = false): State {
  if (evidence === "blind") return within ? "within" : "blind";
  if (evidence === "insufficient") return "insufficient";
  return evidence === "exact" ? "exact" : "measured";
}

/** Ticks at 1, 2 or 5 times a power of ten, from 0 to at least the highest. */
export function ticks(highest: number, most = 4): number[] {
  if (!(highest > 0)) return [0, 1];
  const raw = highest / most;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = power * ([1, 2, 5, 10].find((one) => one * power >= raw) ?? 10);
  const found = [];
  for (let number = 0; number <= most + 1; number += 1) {
    found.push(number * step);
    if (number > 0 && number * step >= highest) break;
  }
  return found;
}

export function clock(seconds: number, utc: boolean, withSeconds = true): string {
  return new Date(seconds * 1000).toLocaleTimeString("en-GB", {
    hour: "2-digit", minute: "2-digit", ...(withSeconds ? { second: "2-digit" } : {}), ...(utc ? { timeZone: "UTC" } : {}),
  });
}

export function day(seconds: number, utc: boolean): string {
  const date = new Date(seconds * 1000);
  const shifted = utc ? date : new Date(date.getTime() - date.getTimezoneOffset() * 60_000);
  return shifted.toISOString().slice(0, 10);
}

export function moment(iso: string | null, utc: boolean, now = Date.now() / 1000): string {
  if (!iso) return "–";
  const at = Date.parse(iso) / 1000;
  return day(at, utc) === day(now, utc) ? clock(at, utc) : `${day(at, utc)} ${clock(at, utc, false)}`;
}

export function ago(seconds: number): string {
  for (const [size, unit] of [[86400, "d"], [3600, "h"], [60, "min"]] as const)
    if (seconds >= 2 * size) return `${Math.round(seconds / size)} ${unit}`;
  return `${Math.max(0, Math.round(seconds))} s`;
}

/** A measure's unit as the alerts' API names it. */
export function unitOf(name: string): Unit {
  const known: Record<string, Unit> = { ratio: "ratio", "bit/s": "bit/s", "packets/s": "packets/s", "µs": "us" };
  return known[name] ?? "count";
}

/** A name as a silence takes it literally: `*` and `?` stand for others there, and a name may hold them. */
export const literal = (name: string): string => name.replace(/[\\*?]/g, "\\$&");
