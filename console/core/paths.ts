// Paths of volume through layers, as nodes and links of a picture.
import type { Row } from "./api.ts";

export interface PathNode { id: string; layer: number; name: string; other: boolean; bits: number }
export interface PathLink { source: string; target: string; bits: number; below: number; above: number; pairs: number; lossy: number; blind: number }

/** Rows have `n0`, `n1` … and `k0`, `k1` …: names, and whether they are among the largest of their layer. */
export function graph(rows: Row[], layers: number): { nodes: PathNode[]; links: PathLink[] } {
  const nodes = new Map<string, PathNode>(), links = new Map<string, PathLink>();
  const node = (row: Row, layer: number): string => {
    const id = JSON.stringify([layer, row[`k${layer}`] ? row[`n${layer}`] : null]);
    const known = nodes.get(id) ?? { id, layer, name: row[`n${layer}`], other: !row[`k${layer}`], bits: 0 };
    nodes.set(id, { ...known, bits: known.bits + row.bits });
    return id;
  };
  for (const row of rows) {
    if (!(row.bits > 0)) continue;
    const ids = Array.from({ length: layers }, (_, layer) => node(row, layer));
    for (let layer = 1; layer < layers; layer += 1) {
      const source = ids[layer - 1]!, target = ids[layer]!, key = `${source} ${target}`;
      const link = links.get(key) ?? { source, target, bits: 0, below: 0, above: 0, pairs: 0, lossy: 0, blind: 0 };
      link.bits += row.bits;
      // Errors of the parts are independent: each side is added up in quadrature.
      link.below = Math.hypot(link.below, row.bits - row.bits_low);
      link.above = Math.hypot(link.above, row.bits_high - row.bits);
      link.pairs += row.pairs;
      link.lossy += row.lossy;
      link.blind += row.blind;
      links.set(key, link);
    }
  }
  return { nodes: [...nodes.values()], links: [...links.values()] };
}
