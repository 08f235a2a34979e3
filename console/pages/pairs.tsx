import { type Row, ask, rows, useLoad } from "../core/api.ts";
import { clock } from "../core/format.ts";
import { pairOf, vmLink } from "../core/links.ts";
import { none } from "../core/none.ts";
import type { Page } from "../core/page.ts";
import { kept, set } from "../core/state.ts";
import { say } from "../core/text.ts";
import { Card, Fig, Latency, Link, Loss, Name, Shown } from "../parts/basics.tsx";
import { Bits } from "../parts/figures.tsx";
import { type Column, List, order } from "../parts/list.tsx";
import { Choice, ONLY, Search } from "../parts/search.tsx";

const LIMIT = 50;

const end = (row: Row, name: "src" | "dst", more = "") => <>
  <Link to={pairOf(row)}><Name>{row[`${name}_vm`]}</Name></Link>
  <span class="soft sub">{row[`${name}_host`] || "–"}{more && ` · ${more}`} <Link to={vmLink(row[`${name}_vm`], row[`${name}_uuid`])} class="to">{say("vm")} →</Link></span>
</>;

const COLUMNS = (): Column[] => [
  { title: say("source"), sort: "src", wide: true, cell: (row) => end(row, "src") },
  { title: say("destination"), sort: "dst", wide: true, cell: (row) => end(row, "dst", row.network) },
  { title: say("bandwidth"), sort: "bits", number: true, cell: (row) => <Bits row={row} name="bits_per_second" /> },
  { title: say("loss"), sort: "loss", number: true, cell: (row) => <span data-value={String(row.loss_ratio)}><Loss row={row} /></span> },
  { title: say("latency"), sort: "latency", number: true, cell: (row) => <Latency row={row} /> },
  { title: say("connections"), sort: "connections", number: true, cell: (row) => <Fig value={row.connections} unit="count" state={row.connections_evidence === "exact" ? "exact" : "atleast"} /> },
];

export function Pairs({ range, newest, query }: Page) {
  const at = newest ?? 0, level = range.level, now = order(query, "bits"), only = query.get("only") ?? "";
  const vm = query.get("vm") ?? "", host = query.get("host") ?? "";
  const names = ["src_host", "dst_host", "src_vm", "dst_vm"], exact = Object.fromEntries(names.map((name) => [name, query.get(name) ?? ""]));
  const loaded = useLoad(`pairs ${newest} ${level} ${now.sort} ${now.down} ${only} ${vm} ${host} ${JSON.stringify(exact)} ${now.offset}`, (signal) => at
    ? ask("pairs", { level, at, sort: now.sort, down: now.down ? "1" : "0", only, vm, host, ...exact, limit: LIMIT, offset: now.offset }, signal).then(rows)
    : none(newest, []));
  return <>
    <h1>{say("pairs")} <small>{at ? `${say("window")} ${level}, ${clock(at, kept("clock", "utc") === "utc")}` : ""}</small></h1>
    <div class="bar">
      <Search name="vm" value={vm} word="find" first />
      <Search name="host" value={host} word="findHost" />
      <Choice name="only" value={only} of={ONLY} label="only" />
      {(["host", "vm"] as const).map((end) => [exact[`src_${end}`]!, exact[`dst_${end}`]!, end]).filter(([src, dst]) => src || dst).map(([src, dst, end]) =>
        <button key={end} class="tag" onClick={() => set({ [`src_${end}`]: "", [`dst_${end}`]: "", offset: "" })}>{say(end as "host" | "vm")} <Name>{src || "*"}</Name> → <Name>{dst || "*"}</Name> ×</button>)}
      {(only === "one_way" || only === "round_trip") && <button class="tag" onClick={() => set({ only: "", offset: "" })}>{say(only === "one_way" ? "oneWay" : "roundTrip")} ×</button>}
    </div>
    {now.sort === "latency" && <p class="soft">{say("tripsApart")} <button class="plain" onClick={() => set({ only: "one_way", offset: "" })}>{say("oneWay")}</button> · <button class="plain" onClick={() => set({ only: "round_trip", offset: "" })}>{say("roundTrip")}</button></p>}
    <Card><Shown loaded={loaded}>{(found) => <List name={say("pairs")} class="pairs" rows={found} columns={COLUMNS()} now={now} limit={LIMIT}
      rowKey={(row) => `${row.pair_id} ${row.src_vm} ${row.dst_vm}`} empty={newest === 0 ? `${say("noWindow")}. ${say("noWindowWhy")}` : say("noPair")} />}</Shown></Card>
  </>;
}
