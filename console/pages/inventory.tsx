import { ask, rows, useLoad } from "../core/api.ts";
import { moment } from "../core/format.ts";
import { hostLink, iso, vmLink } from "../core/links.ts";
import type { Page } from "../core/page.ts";
import { kept } from "../core/state.ts";
import { say } from "../core/text.ts";
import { Card, Link, Name, Shown } from "../parts/basics.tsx";
import { List, order } from "../parts/list.tsx";
import { Choice, Search } from "../parts/search.tsx";

const LIMIT = 100;

/** Who was who at the end of the page's time. */
export function Inventory({ range, query, turn }: Page) {
  const now = order(query, "vm"), vm = query.get("vm") ?? "", host = query.get("host") ?? "", only = query.get("only") ?? "";
  const down = query.get("sort") ? now.down : false, utc = kept("clock", "utc") === "utc";
  const at = range.until;
  // Live, it is asked again with each window, not with each second.
  const loaded = useLoad(`inventory ${range.live ? turn : at} ${now.sort} ${down} ${now.offset} ${vm} ${host} ${only}`, (signal) =>
    ask("inventory", { at, vm, host, only, sort: now.sort, down: down ? "1" : "0", limit: LIMIT, offset: now.offset }, signal).then(rows));
  return <>
    <h1>{say("inventory")} <small>{say("asOf", { time: moment(iso(at), utc) })}</small></h1>
    <div class="bar">
      <Search name="vm" value={vm} word="find" first />
      <Search name="host" value={host} word="findHost" />
      <Choice name="only" value={only} of={[["", "onlyAll"], ["conflict", "conflicts"]]} label="only" />
    </div>
    <Card><Shown loaded={loaded}>{(found) => <List name={say("inventory")} rows={found} now={{ ...now, down }} limit={LIMIT}
      rowKey={(row) => `${row.vm} ${row.mac_text} ${row.host} ${row.network} ${row.port_name}`} empty={say("noVmThen")} columns={[
        { title: say("vm"), sort: "vm", wide: true, cell: (row) => <><Link to={vmLink(row.vm)}><Name>{row.vm}</Name></Link>
          {row.conflict && <span class="tag so" title={row.conflict}>{say("conflict")}</span>}</> },
        { title: say("project"), sort: "project", cell: (row) => row.project ? <Name>{row.project}</Name> : "–" },
        { title: say("host"), sort: "host", cell: (row) => row.host ? <Link to={hostLink(row.host)}><Name>{row.host}</Name></Link> : "–" },
        { title: say("network"), sort: "network", cell: (row) => row.network ? <Name>{row.network}</Name> : "–" },
        { title: say("addresses"), cell: (row) => <><code>{row.addresses.join(" ") || "–"}</code><span class="soft sub"><code>{row.mac_text}</code></span></> },
        { title: say("interface"), cell: (row) => <code>{row.port_name || "–"}</code> },
        { title: say("saidBy"), cell: (row) => <span class="soft">{row.sources}</span> },
        { title: say("since"), sort: "since", cell: (row) => <>{moment(iso(row.begins), utc)}{!row.open && <span class="soft sub">{say("until")} {moment(iso(row.ends), utc)}</span>}</> },
      ]} />}</Shown></Card>
  </>;
}
