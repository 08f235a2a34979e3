import { type Row, ask, rows, useLoad } from "../core/api.ts";
import { clock, day, text } from "../core/format.ts";
import { namedLink, pairLink } from "../core/links.ts";
import { none } from "../core/none.ts";
import type { Page } from "../core/page.ts";
import { go, kept, link } from "../core/state.ts";
import { say } from "../core/text.ts";
import type { Key } from "../text/en.ts";
import { Card, Empty, Shown } from "../parts/basics.tsx";
import { Bits, Count, SumLoss } from "../parts/figures.tsx";
import { type Cell, Heat } from "../parts/heat.tsx";
import { List } from "../parts/list.tsx";
import { Choice } from "../parts/search.tsx";

const BY: [string, Key][] = [["host", "hosts"], ["vm", "vms"]];
const COLOURS: [string, Key][] = [["volume", "volume"], ["loss", "loss"], ["one_way", "oneWay"], ["round_trip", "roundTrip"], ["blind", "blindWord"]];

/** What a cell says, in words: all pairs between two groups. */
export function worded(row: Row): string {
  const parts = [text({ value: row.bits, low: row.bits_low, high: row.bits_high, unit: "bit/s" })];
  if (row.loss !== null) parts.push(`${say("loss")} ${text({ value: row.loss, low: row.low, high: row.high, unit: "ratio" })}`);
  else if (row.worst !== null) parts.push(`${say("worstPair")} ≥ ${text({ value: row.worst, unit: "ratio" })}`);
  for (const trip of ["one_way", "round_trip"] as const)
    if (row[trip] !== null) parts.push(`${say(trip === "one_way" ? "oneWay" : "roundTrip")} ≤ ${text({ value: row[trip], unit: "us" })}`);
  if (row.lossy) parts.push(say("nLossy", { n: row.lossy }));
  if (row.blind) parts.push(say("nBlind", { n: row.blind }));
  parts.push(say("ofPairs", { n: row.count }));
  return parts.join(" · ");
}

/** Of a cell: how much of its colour, and which colour. */
function shade(row: Row, colour: string, least: number, most: number): Cell["shade"] {
  if (colour === "blind") return { kind: row.blind ? "blind" : "volume", part: row.blind ? 1 : 0.05 };
  if (colour === "loss") {
    if (row.measured === 0) return { kind: row.blind ? "blind" : "nothing", part: 1 };
    const certain = row.low ?? row.worst ?? 0;
    return certain > 0 ? { kind: "loss", part: 0.35 + 0.65 * Math.min(1, certain / 0.1) } : { kind: "good", part: 0.25 };
  }
  if (colour === "one_way" || colour === "round_trip") {
    const highest: number | null = row[colour];
    return highest === null ? { kind: "nothing", part: 1 } : { kind: highest > 20_000 ? "loss" : "volume", part: Math.min(1, 0.1 + Math.log10(1 + highest) / 6) };
  }
  if (row.bits === null) return { kind: "nothing", part: 1 };
  // One ramp, logarithmic, over what there is: at least two powers of ten.
  const decades = Math.max(2, Math.log10(most / least));
  return { kind: "volume", part: Math.max(0.1, 1 + 0.9 * Math.log10(Math.max(row.bits, least) / most) / decades) };
}

export function Matrix({ range, newest, query }: Page) {
  const at = newest ?? 0, level = range.level;
  const by = query.get("by") ?? "host", colour = query.get("colour") ?? "volume", wrong = !!query.get("wrong");
  const loaded = useLoad(`matrix ${by} ${newest} ${level}`, (signal) => at
    ? ask(by === "vm" ? "vm_matrix" : "host_matrix", { level, at, most: by === "vm" ? 40 : 56 }, signal).then(rows) : none(newest, []));
  const open = (row: Row) => {
    if (!row.r || !row.c) return;
    if (by === "vm") go(row.pair_id ? pairLink(row.r, row.c, { pair: row.pair_id }) : namedLink(row.r, row.c));
    else go(link("/pairs", { src_host: row.r, dst_host: row.c }));
  };
  return <>
    <h1>{say("matrix")} <small>{at ? `${say("window")} ${level}, ${clock(at, kept("clock", "utc") === "utc")}` : ""}</small></h1>
    <div class="bar">
      <Choice name="by" value={by} of={BY} label="by" />
      <Choice name="colour" value={colour} of={COLOURS} label="colour" />
      <Choice name="wrong" value={wrong ? "1" : ""} of={[["", "onlyAll"], ["1", "onlyWrong"]]} label="only" />
    </div>
    <Shown loaded={loaded}>{(all) => {
      const found = wrong ? all.filter((row: Row) => row.lossy > 0 || row.blind > 0) : all;
      if (found.length === 0) return <Card><Empty>{newest === 0 ? `${say("noWindow")}. ${say("noWindowWhy")}` : say(wrong ? "nothingWrong" : "noPair")}</Empty></Card>;
      const most = Math.max(1, ...all.map((row: Row) => row.bits ?? 0));
      const least = Math.max(1, Math.min(...all.map((row: Row) => row.bits || most)));
      const total = new Map<string, number>();
      for (const row of found) for (const name of [row.r, row.c]) total.set(name, (total.get(name) ?? 0) + (row.bits ?? 0));
      const names = [...total.keys()].sort((a, b) => a === "" ? 1 : b === "" ? -1 : a.localeCompare(b, "en", { numeric: true }));
      const cells = found.map((row: Row) => ({ row: row.r, column: row.c, shade: shade(row, colour, least, most), words: worded(row), open: () => open(row) }));
      return <div class={names.length > 24 ? "stack" : "two"}>
        <Card><Heat title={say("matrix")} about={`${say((COLOURS.find(([one]) => one === colour) ?? COLOURS[0]!)[1])} · ${day(at, kept("clock", "utc") === "utc")}`} names={names} cells={cells} /></Card>
        <Card title={say("asTable")}><List name={say("matrix")} all={found.length} rows={[...found].sort((a, b) => (b.bits ?? 0) - (a.bits ?? 0)).slice(0, 200)} rowKey={(row) => `${row.r}\u0000${row.c}`} empty="" columns={[
          { title: `${say("source")} → ${say("destination")}`, wide: true, cell: (row) => <button class="plain" disabled={!row.r || !row.c} onClick={() => open(row)}>
            <bdi>{row.r || say("otherGroup")}</bdi> → <bdi>{row.c || say("otherGroup")}</bdi></button> },
          { title: say("bandwidth"), number: true, cell: (row) => <Bits row={row} name="bits" /> },
          { title: say("loss"), number: true, cell: (row) => <SumLoss row={{ loss_ratio: row.loss, loss_low: row.low, loss_high: row.high }} /> },
          { title: say("lossyPairs"), number: true, cell: (row) => <Count n={row.lossy} kind="bad" /> },
          { title: say("blindWord"), number: true, cell: (row) => <Count n={row.blind} kind="hatched" /> },
        ]} /></Card>
      </div>;
    }}</Shown>
  </>;
}
