import { ask, rows, useLoad } from "../core/api.ts";
import { clock } from "../core/format.ts";
import { hostLink, vmLink } from "../core/links.ts";
import { none } from "../core/none.ts";
import type { Page } from "../core/page.ts";
import { kept } from "../core/state.ts";
import { say } from "../core/text.ts";
import { Card, Link, Name, Shown } from "../parts/basics.tsx";
import { Bits, Count, SumLatency, SumLoss } from "../parts/figures.tsx";
import { type Column, List, order } from "../parts/list.tsx";
import { Choice, ONLY, Search } from "../parts/search.tsx";

const LIMIT = 50;

export const VM_COLUMNS = (): Column[] => [
  { title: say("vm"), sort: "vm", wide: true, cell: (row) => <><Link to={vmLink(row.vm, row.uuid)}><Name>{row.vm}</Name></Link>
    <span class="soft sub">{row.of_project && <Name>{row.of_project}</Name>}</span></> },
  { title: say("host"), sort: "host", cell: (row) => row.on_host ? <Link to={hostLink(row.on_host)}><Name>{row.on_host}</Name></Link> : "–" },
  { title: say("sent"), sort: "sent", number: true, cell: (row) => <Bits row={row} name="sent_bits_per_second" /> },
  { title: say("received"), sort: "received", number: true, cell: (row) => <Bits row={row} name="received_bits_per_second" /> },
  { title: say("lossSent"), sort: "lost", number: true, cell: (row) => <SumLoss row={row} way="sent_" /> },
  { title: say("lossReceived"), sort: "missed", number: true, cell: (row) => <SumLoss row={row} way="received_" /> },
  { title: say("latency"), number: true, cell: (row) => <SumLatency row={row} way="sent_" /> },
  { title: say("lossyPairs"), sort: "worst", number: true, cell: (row) => <Count n={row.lossy} kind="bad" /> },
  { title: say("blindWord"), number: true, cell: (row) => <Count n={row.blind} kind="hatched" /> },
  { title: say("peers"), sort: "peers", number: true, cell: (row) => row.peers },
];

export function Vms({ range, newest, query }: Page) {
  const at = newest ?? 0, level = range.level, now = order(query, "sent");
  const vm = query.get("vm") ?? "", host = query.get("host") ?? "", only = query.get("only") ?? "";
  const loaded = useLoad(`vms ${newest} ${level} ${now.sort} ${now.down} ${now.offset} ${vm} ${host} ${only}`, (signal) => at
    ? ask("vms", { level, at, vm, host, only, sort: now.sort, down: now.down ? "1" : "0", limit: LIMIT, offset: now.offset }, signal).then(rows)
    : none(newest, []));
  return <>
    <h1>{say("vms")} <small>{at ? `${say("window")} ${level}, ${clock(at, kept("clock", "utc") === "utc")}` : ""}</small></h1>
    <div class="bar">
      <Search name="vm" value={vm} word="find" first />
      <Search name="host" value={host} word="findHost" />
      <Choice name="only" value={only} of={ONLY} label="only" />
    </div>
    <Card><Shown loaded={loaded}>{(found) => <List name={say("vms")} rows={found} columns={VM_COLUMNS()} now={now} limit={LIMIT}
      rowKey={(row) => row.uuid + row.vm} empty={newest === 0 ? `${say("noWindow")}. ${say("noWindowWhy")}` : say("noVm")} />}</Shown></Card>
  </>;
}
