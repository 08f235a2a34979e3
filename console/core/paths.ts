// Paths of volume through layers, as nodes and links of a picture.
import type { Row } from "./api.ts";
import { text } from "./format.ts";

export interface PathNode { id: string; layer: number; name: string; other: boolean; bits: number; below: number; above: number }
export interface PathLink { source: string; target: string; bits: number; below: number; above: number; pairs: number; lossy: number; blind: number }

/** A volume with that of a row.  Errors of the parts are independent: each side is added up in quadrature. */
const added = <T extends { bits: number; below: number; above: number }>(to: T, row: Row): T => ({
  ...to, bits: to.bits + row.bits, below: Math.hypot(to.below, row.bits - row.bits_low), above: Math.hypot(to.above, row.bits_high - row.bits),
});

/** Volume with its interval. */
export const volume = (of: { bits: number; below: number; above: number }) =>
  text({ value: of.bits, low: Math.max(0, of.bits - of.below), high: of.bits + of.above, unit: "bit/s" });

/** Rows have `n0`, `n1` … and `k0`, `k1` …: names, and whether they are among the largest of their layer. */
export function graph(rows: Row[], layers: number): { nodes: PathNode[]; links: PathLink[]; unmeasured: number } {
  const nodes = new Map<string, PathNode>(), links = new Map<string, PathLink>();
  let unmeasured = 0;
  const node = (row: Row, layer: number): string => {
    const id = JSON.stringify([layer, row[`k${layer}`] ? row[`n${layer}`] : null]);
    const known = nodes.get(id) ?? { id, layer, name: row[`n${layer}`], other: !row[`k${layer}`], bits: 0, below: 0, above: 0 };
    nodes.set(id, added(known, row));
    return id;
  };
  for (const row of rows) {
    if (!(row.bits > 0)) {
      unmeasured += row.pairs;
      continue;
    }
    const ids = Array.from({ length: layers }, (_, layer) => node(row, layer));
    for (let layer = 1; layer < layers; layer += 1) {
      const source = ids[layer - 1]!, target = ids[layer]!, key = `${source} ${target}`;
      const link = links.get(key) ?? { source, target, bits: 0, below: 0, above: 0, pairs: 0, lossy: 0, blind: 0 };
      links.set(key, { ...added(link, row), pairs: link.pairs + row.pairs, lossy: link.lossy + row.lossy, blind: link.blind + row.blind });
    }
  }
  return { nodes: [...nodes.values()], links: [...links.values()], unmeasured };
}
