// What the page asks of the service.
import { useEffect, useRef, useState } from "preact/hooks";

export class Refused extends Error {
  constructor(readonly status: number, message: string) { super(message); }
}

/** An answer, whatever its status is; a refusal where `takes` does not want it. */
export async function answered(path: string, init: RequestInit = {}, takes = (answer: Response) => answer.ok): Promise<Response> {
  const answer = await fetch(path, { ...init, headers: { ...init.headers, "X-Requested-With": "vmflow" } });
  if (answer.status === 401) dispatchEvent(new Event("vmflow-login"));
  if (takes(answer)) return answer;
  const body = await answer.json().catch(() => ({ detail: answer.statusText }));
  throw new Refused(answer.status, [body.detail ?? answer.status, ...(body.errors ?? [])].join(" · "));
}

async function fetched(path: string, init?: RequestInit): Promise<any> {
  const answer = await answered(path, init);
  return answer.status === 204 ? null : answer.json();
}

export const get = (path: string, signal?: AbortSignal) => fetched(path, { signal });
export const post = (path: string, body: object, signal?: AbortSignal) =>
  fetched(path, { method: "POST", signal, headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });

export type Columns = Record<string, any[]>;
export interface Answer { data: Columns; sql: string; values: Record<string, unknown>; seconds: number; rows: number }
export type Row = Record<string, any>;

/** A named question; its columns. */
export async function ask(name: string, values: Record<string, string | number>, signal?: AbortSignal): Promise<Answer> {
  const query = new URLSearchParams(Object.entries(values).map(([key, value]) => [key, String(value)]));
  const body = await get(`/api/v1/ask/${name}?${query}`, signal);
  const first = Object.values(body.data as Columns)[0];
  asked.set(name, body);
  return { ...body, rows: first ? first.length : 0 };
}

/** Questions of the page in sight, for "SQL of this page". */
export const asked = new Map<string, { sql: string; values: Record<string, unknown>; seconds: number }>();

export function rows({ data, rows: count }: Answer): Row[] {
  const names = Object.keys(data);
  return Array.from({ length: count }, (_, at) => Object.fromEntries(names.map((name) => [name, data[name]![at]])));
}

export interface Loaded<T> { value: T | null; error: string; loading: boolean; again: () => void }

/** Load when `key` changes; the old value stays until the new one is there, and when that fails. */
export function useLoad<T>(key: string, load: (signal: AbortSignal) => Promise<T>): Loaded<T> {
  const [state, setState] = useState<{ value: T | null; error: string; loading: boolean }>({ value: null, error: "", loading: true });
  const [turn, setTurn] = useState(0);
  const subject = useRef("");
  useEffect(() => {
    const abort = new AbortController();
    setState((old) => ({ ...old, loading: true }));
    load(abort.signal).then(
      (value) => !abort.signal.aborted && setState({ value, error: "", loading: false }),
      (error) => !abort.signal.aborted && setState((old) => ({ ...old, error: String(error.message ?? error), loading: false })),
    );
    subject.current = key;
    return () => abort.abort();
  }, [key, turn]);
  return { ...state, again: () => setTurn((number) => number + 1) };
}
