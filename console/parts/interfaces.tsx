import type { Row } from "../core/api.ts";
import { plain } from "../core/format.ts";
import { hostLink, vmLink } from "../core/links.ts";
import { say } from "../core/text.ts";
import { Link, Name } from "./basics.tsx";
import { Count } from "./figures.tsx";
import { List } from "./list.tsx";

/** Interfaces by their counters: what the switch received and sent, how full, what it discarded. */
export function Interfaces({ rows }: { rows: Row[] }) {
  const rate = (row: Row, name: string) => row[name] === null ? "–" : plain(row[name], "bit/s");
  return <List name={say("interfaces")} rows={rows} rowKey={(row) => `${row.on_host}\u0000${row.interface}`} empty={say("noInterface")} columns={[
    { title: say("interface"), wide: true, cell: (row) => <><code>{row.interface}</code><span class="soft sub"><Link to={hostLink(row.on_host)}><Name>{row.on_host}</Name></Link></span></> },
    { title: say("vm"), cell: (row) => row.of_vm ? <Link to={vmLink(row.of_vm)}><Name>{row.of_vm}</Name></Link> : "–" },
    { title: say("in"), number: true, cell: (row) => rate(row, "in_bits_per_second") },
    { title: say("out"), number: true, cell: (row) => rate(row, "out_bits_per_second") },
    { title: say("utilisation"), number: true, cell: (row) => row.utilisation === null ? <span class="soft" title={say("noSpeed")}>–</span>
      : <span class={row.utilisation > 0.8 ? "so" : ""} title={`${plain(row.speed, "bit/s")} · ${row.speed_source}`}>{plain(row.utilisation, "ratio")}</span> },
    { title: say("discards"), number: true, cell: (row) => <Count n={row.discards} kind="so" /> },
    { title: say("interfaceErrors"), number: true, cell: (row) => <Count n={row.errors} kind="bad" /> },
    { title: say("countersFrom"), cell: (row) => <span class="soft">{row.counters_from}</span> },
  ]} />;
}
