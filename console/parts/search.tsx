import { set } from "../core/state.ts";
import { say } from "../core/text.ts";
import type { Key } from "../text/en.ts";

/** A field of the address: a change asks again, from the first row. */
export function Search({ name, value, word, first = false }: { name: string; value: string; word: Key; first?: boolean }) {
  return <input type="search" id={first ? "find" : undefined} placeholder={say(word)} aria-label={say(word)} key={`${name}${value}`}
    defaultValue={value} onChange={(event) => set({ [name]: event.currentTarget.value, offset: "" })} />;
}

/** One of several, kept in the address; the first is the default. */
export function Choice({ name, value, of, label }: { name: string; value: string; of: [string, Key][]; label: Key }) {
  const first = of[0]![0];
  return <div class="seg" role="group" aria-label={say(label)}>
    {of.map(([one, word]) => <button key={one} aria-pressed={value === one} onClick={() => set({ [name]: one === first ? "" : one, offset: "" })}>{say(word)}</button>)}
  </div>;
}

export const ONLY: [string, Key][] = [["", "onlyAll"], ["lossy", "onlyLossy"], ["slow", "onlySlow"], ["blind", "onlyBlind"]];
