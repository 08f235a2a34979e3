import { ask, rows, useLoad } from "../core/api.ts";
import { clock, plain } from "../core/format.ts";
import { hostLink } from "../core/links.ts";
import { none } from "../core/none.ts";
import type { Page } from "../core/page.ts";
import { kept } from "../core/state.ts";
import { say } from "../core/text.ts";
import { Card, Link, Name, Shown } from "../parts/basics.tsx";
import { Bits, Count } from "../parts/figures.tsx";
import { type Column, List, order } from "../parts/list.tsx";
import { Search } from "../parts/search.tsx";
import { Links } from "./links.tsx";

const LIMIT = 50;

const COLUMNS = (): Column[] => [
  { title: say("host"), sort: "host", wide: true, cell: (row) => row.host ? <Link to={hostLink(row.host)}><Name>{row.host}</Name></Link> : <span class="soft">{say("outside")}</span> },
  { title: say("sent"), sort: "sent", number: true, cell: (row) => <Bits row={row} name="bits" /> },
  { title: say("received"), sort: "received", number: true, cell: (row) => <Bits row={row} name="in_bits" /> },
  { title: say("within"), number: true, cell: (row) => row.within_bits === null ? "–" : plain(row.within_bits, "bit/s") },
  { title: say("worstPair"), sort: "worst", number: true, cell: (row) => row.worst === null ? <span class="soft">–</span> : row.worst > 0 ? <span class="bad">≥ {plain(row.worst, "ratio")}</span> : "0 %" },
  { title: say("lossyPairs"), number: true, cell: (row) => <Count n={row.lossy} kind="bad" /> },
  { title: say("slow"), number: true, cell: (row) => <Count n={row.slow} kind="so" /> },
  { title: say("blindWord"), sort: "blind", number: true, cell: (row) => <Count n={row.blind} kind="hatched" /> },
  { title: say("pairs"), number: true, cell: (row) => row.every_pair },
];

export function Hosts({ range, newest, query }: Page) {
  const at = newest ?? 0, level = range.level, now = order(query, "sent"), host = query.get("host") ?? "";
  const loaded = useLoad(`hosts ${newest} ${level} ${now.sort} ${now.down} ${now.offset} ${host}`, (signal) => at
    ? ask("hosts", { level, at, host, sort: now.sort, down: now.down ? "1" : "0", limit: LIMIT, offset: now.offset }, signal).then(rows)
    : none(newest, []));
  return <>
    <h1>{say("hosts")} <small>{at ? `${say("window")} ${level}, ${clock(at, kept("clock", "utc") === "utc")}` : ""}</small></h1>
    <div class="bar"><Search name="host" value={host} word="findHost" first /></div>
    <Card><Shown loaded={loaded}>{(found) => <List name={say("hosts")} rows={found} columns={COLUMNS()} now={now} limit={LIMIT}
      rowKey={(row) => row.host} empty={newest === 0 ? `${say("noWindow")}. ${say("noWindowWhy")}` : say("noHost")} />}</Shown></Card>
    <Card title={say("worstLinks")}><Links level={level} at={newest} host="" sort="worst" only="lossy" limit={20} /></Card>
  </>;
}
