// The address is the state: page, time, filters.  What is a matter of the person's eyes is kept in the browser.
import { useEffect, useState } from "preact/hooks";

export interface Place { query: URLSearchParams }

const heard = new Set<() => void>();
const tell = () => heard.forEach((one) => one());
globalThis.addEventListener?.("popstate", tell);

export const here = (): Place => ({ query: new URLSearchParams(location.search) });

export function go(href: string, replace = false): void {
  if (replace) history.replaceState(null, "", href);
  else history.pushState(null, "", href);
  tell();
}

/** The address of a page, with the time of this one. */
export function link(path: string, more: Record<string, string> = {}): string {
  const kept = new URLSearchParams();
  const query = here().query;
  for (const name of ["from", "until", "level"]) if (query.get(name)) kept.set(name, query.get(name)!);
  for (const [name, value] of Object.entries(more)) if (value) kept.set(name, value);
  const text = kept.toString();
  return path + (text ? `?${text}` : "");
}

/** This page with other values; empty ones are taken away. */
export function set(values: Record<string, string>, replace = true): void {
  const query = here().query;
  for (const [name, value] of Object.entries(values)) value ? query.set(name, value) : query.delete(name);
  const text = query.toString();
  go(location.pathname + (text ? `?${text}` : ""), replace);
}

export function usePlace(): Place {
  const [, again] = useState(0);
  useEffect(() => {
    const one = () => again((number) => number + 1);
    heard.add(one);
    return () => void heard.delete(one);
  }, []);
  return here();
}

const UNITS: Record<string, number> = { s: 1, m: 60, h: 3600, d: 86400 };

/** `-90m`, `now` or RFC 3339, as seconds since 1970. */
export function instant(text: string, now: number): number {
  const found = /^-(\d+)([smhd])$/.exec(text);
  if (found) return Math.floor(now - Number(found[1]) * UNITS[found[2]!]!);
  const parsed = Date.parse(text) / 1000;
  return text === "now" || Number.isNaN(parsed) ? Math.floor(now) : Math.floor(parsed);
}

export type Level = "10s" | "1m" | "1h";
export interface Range { from: number; until: number; level: Level; levels: Level[]; step: number; live: boolean }
export const STEP = { "10s": 10, "1m": 60, "1h": 3600 } as const;

/** Pages about all pairs, VMs or hypervisors read stored figures, which windows of 10 s do not have. */
export const STORED = /^\/(vms|hosts|matrix|paths|coverage)(\/|$)/;

const PAIR = /^\/pairs\/[^/]+\/[^/]+/;

/** The time of the page: windows of 1 min up to 12 h, else of 1 h; of 10 s for minutes of one pair, or if asked for. */
export function range(query: URLSearchParams, path = "/", now = Date.now() / 1000): Range {
  const until = instant(query.get("until") ?? "now", now);
  const from = Math.min(instant(query.get("from") ?? "-1h", now), until - 10);
  const span = until - from;
  const levels = (Object.keys(STEP) as Level[]).filter((one) => span / STEP[one] <= 720 && !(one === "10s" && STORED.test(path)));
  const wanted = query.get("level") as Level;
  const short = span <= 600 && PAIR.test(path) ? "10s" : span <= 43_200 ? "1m" : "1h";
  const level = levels.includes(wanted) ? wanted : short;
  return { from, until, level, levels, step: STEP[level], live: (query.get("until") ?? "now") === "now" };
}

/** A thing kept in the browser. */
export function kept(name: string, missing: string): string {
  try { return localStorage.getItem(`vmflow.${name}`) ?? missing; } catch { return missing; }
}
export function keep(name: string, value: string): void {
  try { localStorage.setItem(`vmflow.${name}`, value); } catch { /* private windows may refuse */ }
  tell();
}
