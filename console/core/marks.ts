// What happened beside a series: moves, alerts, restarts of exports.
import type { Row } from "./api.ts";
import type { Key } from "../text/en.ts";

export interface Mark { at: number; until: number; kind: "move" | "alert" | "restart"; text: string; id: string }
export const MARK_WORDS: Record<Mark["kind"], Key> = { move: "moved", alert: "alert", restart: "restarted" };

export function marked(found: Row[] | null): Mark[] {
  return [...(found ?? [])].reverse().map((row) => ({
    at: row.t, until: row.until, kind: row.kind, id: row.id,
    text: row.kind === "move" ? `${row.subject}: ${row.what}` : row.kind === "alert" ? `${row.what} (${row.subject})` : `${row.what} ${row.subject}`,
  }));
}
