// Figures of rows of answers, by the names of their columns.
import type { Row } from "../core/api.ts";
import { Fig, Trip } from "./basics.tsx";

/** Bits per second with their interval; `way` begins the columns' names. */
export function Bits({ row, name }: { row: Row; name: string }) {
  return <span data-value={String(row[name])}><Fig value={row[name]} low={row[`${name}_low`]} high={row[`${name}_high`]} unit="bit/s" /></span>;
}

/** Loss of many pairs together: of those whose loss is known. */
export function SumLoss({ row, way = "" }: { row: Row; way?: string }) {
  const value = row[`${way}loss_ratio`], low = row[`${way}loss_low`], high = row[`${way}loss_high`];
  if (value === null || value === undefined) return <span class="soft" data-value="null">–</span>;
  return <span class={low > 0.01 ? "bad" : low > 0 ? "so" : ""} data-value={String(value)}><Fig value={value} low={low} high={high} unit="ratio" /></span>;
}

export function SumLatency({ row, way = "" }: { row: Row; way?: string }) {
  const value = row[`${way}latency_us`];
  if (value === null || value === undefined) return <span class="soft">–</span>;
  const low = row[`${way}latency_low`];
  return <span class={low > 20_000 ? "so" : ""}><Fig value={value} low={low} high={row[`${way}latency_high`]} unit="us" /><Trip of={row[`${way}latency_trip`]} /></span>;
}

/** How many of many: loud if there are any. */
export function Count({ n, kind }: { n: number; kind: "bad" | "so" | "hatched" }) {
  return n ? <b class={kind}>{n}</b> : <span class="soft">0</span>;
}
