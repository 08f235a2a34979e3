// Queries that a person keeps, in the browser.
import { keep, kept } from "./state.ts";

export interface Saved { name: string; sql: string }
const MOST = 50;

export function saved(): Saved[] {
  try {
    const found: unknown = JSON.parse(kept("queries", "[]"));
    return Array.isArray(found) ? found.filter((one) => typeof one?.name === "string" && typeof one?.sql === "string") : [];
  } catch { return []; }
}

function write(all: Saved[]): Saved[] {
  keep("queries", JSON.stringify(all.slice(0, MOST)));
  return all;
}
export const remember = (name: string, sql: string): Saved[] => write([{ name, sql }, ...saved().filter((one) => one.name !== name)]);
export const forget = (name: string): Saved[] => write(saved().filter((one) => one.name !== name));
