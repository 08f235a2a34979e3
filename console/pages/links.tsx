import { ask, rows, useLoad } from "../core/api.ts";
import { hostLink } from "../core/links.ts";
import { none } from "../core/none.ts";
import { link } from "../core/state.ts";
import { say } from "../core/text.ts";
import { Link, Name, Shown } from "../parts/basics.tsx";
import { Bits, Count, SumLatency, SumLoss } from "../parts/figures.tsx";
import { List } from "../parts/list.tsx";

const host = (name: string) => name ? <Link to={hostLink(name)}><Name>{name}</Name></Link> : <span class="soft">{say("outside")}</span>;

/** From hypervisor to hypervisor: all pairs between two of them together. */
export function Links({ level, at, host: of, sort, only, limit }: { level: string; at: number | null; host: string; sort: string; only: string; limit: number }) {
  const loaded = useLoad(`links ${of} ${at} ${level} ${sort} ${only}`, (signal) => at
    ? ask("host_links", { level, at, host: of, sort, only, limit }, signal).then(rows) : none(at, []));
  return <Shown loaded={loaded}>{(found) => <List name={say("links")} rows={found} rowKey={(row) => `${row.src_host}\u0000${row.dst_host}`}
    empty={say(only === "lossy" ? "noLossyLink" : "noPair")} columns={[
      { title: say("source"), wide: true, cell: (row) => host(row.src_host) },
      { title: say("destination"), wide: true, cell: (row) => host(row.dst_host) },
      { title: say("bandwidth"), number: true, cell: (row) => <Bits row={row} name="bits_per_second" /> },
      { title: say("loss"), number: true, cell: (row) => <SumLoss row={row} /> },
      { title: say("latency"), number: true, cell: (row) => <SumLatency row={row} /> },
      { title: say("lossyPairs"), number: true, cell: (row) => <><Count n={row.lossy_pairs} kind="bad" /><span class="soft"> / {row.measured_pairs}</span></> },
      { title: say("blindWord"), number: true, cell: (row) => <Count n={row.blind_pairs} kind="hatched" /> },
      { title: say("pairs"), number: true, cell: (row) => row.src_host && row.dst_host
        ? <Link to={link("/pairs", { src_host: row.src_host, dst_host: row.dst_host })}>{row.pairs}</Link> : row.pairs },
    ]} />}</Shown>;
}
