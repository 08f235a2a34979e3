// Where the trouble of an alert lies, from how the pairs beside it fare.
import type { Row } from "./api.ts";
import type { Key } from "../text/en.ts";

/** Pairs beside an alert, from the narrowest group to the widest.  Each pair is in one of them. */
export const BESIDE = ["pair", "back", "from_vm", "to_vm", "link", "from_host", "to_host", "rest"] as const;
export type Beside = (typeof BESIDE)[number];
export type Trouble = "loss" | "latency";

/** Fewer pairs say nothing about the others of their group. */
const LEAST = 2;

export const known = (row: Row, of: Trouble): number => row[of === "loss" ? "measured" : "timed"];
export const bad = (row: Row, of: Trouble): number => row[of === "loss" ? "lossy" : "slow"];

/** A sentence: the widest group of which at least half is beyond the limit of the alert, for certain.  What is not measured decides nothing. */
export function verdict(found: Row[], of: Trouble): Key {
  const row = (name: Beside) => found.find((one) => one.beside === name);
  const like = (name: Beside) => {
    const one = row(name);
    return one !== undefined && known(one, of) >= LEAST && bad(one, of) * 2 >= known(one, of);
  };
  if (like("rest")) return "whyEverywhere";
  if (like("from_host") && like("to_host")) return "whyBothHosts";
  if (like("from_host")) return "whyFromHost";
  if (like("to_host")) return "whyToHost";
  if (like("link")) return "whyLink";
  if (like("from_vm") && like("to_vm")) return "whyBothVms";
  if (like("from_vm")) return "whyFromVm";
  if (like("to_vm")) return "whyToVm";
  const others = found.filter((one) => one.beside !== "pair" && one.beside !== "back").reduce((sum, one) => sum + known(one, of), 0);
  return others >= LEAST ? "whyPair" : "whyUnknown";
}
