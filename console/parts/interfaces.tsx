import type { Row } from "../core/api.ts";
import { plain } from "../core/format.ts";
import { hostLink, interfaceLink, vmLink } from "../core/links.ts";
import { say } from "../core/text.ts";
import { Link, Name } from "./basics.tsx";
import { Count } from "./figures.tsx";
import { List, type Order } from "./list.tsx";

/** Interfaces by their counters: what the switch received and sent, how full, what it discarded. */
export function Interfaces({ rows, now, limit, empty = say("noInterface") }: { rows: Row[]; now?: Order; limit?: number; empty?: string }) {
  const rate = (row: Row, name: string) => row[name] === null ? "–" : plain(row[name], "bit/s");
  return <List name={say("interfaces")} rows={rows} rowKey={(row) => `${row.on_host}\u0000${row.interface}`} empty={empty} now={now} limit={limit} columns={[
    { title: say("interface"), sort: "interface", wide: true, cell: (row) => <><Link to={interfaceLink(row.on_host, row.interface)}><Name>{row.interface}</Name></Link><span class="soft sub"><Link to={hostLink(row.on_host)}><Name>{row.on_host}</Name></Link></span></> },
    { title: say("vm"), cell: (row) => row.of_vm ? <Link to={vmLink(row.of_vm)}><Name>{row.of_vm}</Name></Link> : "–" },
    { title: say("in"), sort: "in", number: true, cell: (row) => <span data-value={String(row.in_bits_per_second)}>{rate(row, "in_bits_per_second")}</span> },
    { title: say("out"), sort: "out", number: true, cell: (row) => <span data-value={String(row.out_bits_per_second)}>{rate(row, "out_bits_per_second")}</span> },
    { title: say("utilisation"), sort: "used", number: true, cell: (row) => row.utilisation === null ? <span class="soft" title={say("noSpeed")}>–</span>
      : <span class={row.utilisation > 0.8 ? "so" : ""} title={`${plain(row.speed, "bit/s")} · ${row.speed_source}`}>{plain(row.utilisation, "ratio")}</span> },
    { title: say("discards"), sort: "discards", number: true, cell: (row) => <Count n={row.discards} kind="so" /> },
    { title: say("interfaceErrors"), sort: "errors", number: true, cell: (row) => <Count n={row.errors} kind="bad" /> },
    { title: say("countersFrom"), cell: (row) => <span class="soft">{row.counters_from}</span> },
  ]} />;
}
