import type { Key } from "../text/en.ts";

/** The pages by group: word, address, and the key that follows `g`. */
export const PLACES: [Key, [Key, string, string][]][] = [
  ["now", [["overview", "/", "o"], ["alerts", "/alerts", "a"]]],
  ["traffic", [["pairs", "/pairs", "p"], ["vms", "/vms", "v"], ["hosts", "/hosts", "h"], ["interfaces", "/interfaces", "n"], ["matrix", "/matrix", "m"], ["paths", "/paths", "f"], ["explore", "/explore", "q"]]],
  ["trust", [["coverage", "/coverage", "c"], ["exporters", "/exporters", "e"], ["inventory", "/inventory", "i"], ["rules", "/rules", "r"], ["service", "/service", "s"]]],
];
