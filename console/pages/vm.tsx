import { type Columns, type Row, ask, get, rows, useLoad } from "../core/api.ts";
import { literal, moment } from "../core/format.ts";
import { hostLink, iso, pairLink, vmLink } from "../core/links.ts";
import { type Mark, marked } from "../core/marks.ts";
import { none } from "../core/none.ts";
import type { Page } from "../core/page.ts";
import { ofTrip, trips } from "../core/series.ts";
import { kept, link, set } from "../core/state.ts";
import { say } from "../core/text.ts";
import { Card, Cut, Empty, Latency, Link, Loss, Name, Shown } from "../parts/basics.tsx";
import { Chart } from "../parts/chart.tsx";
import { Bits } from "../parts/figures.tsx";
import { Interfaces } from "../parts/interfaces.tsx";
import { type Column, List, order } from "../parts/list.tsx";
import { AlertLine } from "./alerts.tsx";

const LIMIT = 25, OPEN_ALERTS = 20;

/** Both directions of a VM in one chart. */
function Ways({ title, data, unit, figure, loss, ...shared }: {
  title: string; data: Columns; unit: "bit/s" | "ratio" | "us"; figure: string; loss?: boolean;
  time: number[]; step: number; from: number; until: number; onRange: (from: number, until: number) => void; marks: Mark[];
}) {
  const ends = figure.replace(/_ratio$|_us$/, "");
  const series = (["sent", "received"] as const).flatMap((way, at) => {
    const kinds: string[] = data[`${way}_latency_trip`] ?? [], column = (name: string): (number | null)[] => data[`${way}_${name}`] ?? [];
    const one = (more: string, color: string, of: (values: (number | null)[]) => (number | null)[]) =>
      ({ name: say(way) + more, color, value: of(column(figure)), low: of(column(`${ends}_low`)), high: of(column(`${ends}_high`)) });
    if (unit !== "us") return [one("", at ? "--s2" : "--s1", (values) => values)];
    // A direction without any is left out, unless both are.
    const other: string[] = data[`${way === "sent" ? "received" : "sent"}_latency_trip`] ?? [];
    if (!kinds.some(Boolean) && (at || other.some(Boolean))) return [];
    return trips(kinds).map((trip) => one(`, ${say(trip === "one_way" ? "oneWay" : "roundTrip")}`, `--s${1 + at + (trip === "one_way" ? 0 : 2)}`, (values) => ofTrip(kinds, trip, values)));
  });
  return <Card><Chart {...shared} title={title} unit={unit} series={series} {...(loss ? { least: 0.01, top: 1 } : {})} /></Card>;
}

const way = (row: Row, name: string): Row => Object.fromEntries(Object.entries(row).filter(([key]) => key.startsWith(`${name}_`))
  .map(([key, value]) => [key.slice(name.length + 1), value]));

function peerColumns(vm: string): Column[] {
  const direction = (name: "sent" | "received"): Column[] => [
    { title: say(name), number: true, sort: name, cell: (row) => <Link to={name === "sent" ? pairLink(vm, row.peer, { network: row.network, pair: row.sent_pair_id }) : pairLink(row.peer, vm, { network: row.network, pair: row.received_pair_id })}>
      <Bits row={row} name={`${name}_bits_per_second`} /></Link> },
    { title: say(name === "sent" ? "lossSent" : "lossReceived"), number: true, sort: name === "sent" ? "lost" : "missed",
      cell: (row) => row[`${name}_loss_evidence`] ? <Loss row={{ ...way(row, name), src_host: row.own_on, dst_host: row.peer_on }} /> : <span class="soft">–</span> },
    { title: say("latency"), number: true, cell: (row) => <Latency row={way(row, name)} /> },
  ];
  return [
    { title: say("peer"), sort: "peer", wide: true, cell: (row) => <>{row.peer ? <Link to={vmLink(row.peer, row.uuid)}><Name>{row.peer}</Name></Link> : <span class="soft">{say("outside")}</span>}
      <span class="soft sub"><Name>{row.peer_on || "–"}</Name>{row.network && <> · <Name>{row.network}</Name></>}</span></> },
    ...direction("sent"), ...direction("received"),
  ];
}

export function Vm({ range, newest, query, news, turn, vm }: Page & { vm: string }) {
  const { level, from, until } = range, at = newest ?? 0, now = order(query, "bits"), uuid = query.get("uuid") ?? "";
  const utc = kept("clock", "utc") === "utc";
  const series = useLoad(`vm ${vm} ${uuid} ${from} ${until} ${level} ${turn}`, (signal) => ask("vm_series", { level, from, until, vm, uuid }, signal));
  const peers = useLoad(`peers ${vm} ${uuid} ${newest} ${level} ${now.sort} ${now.down} ${now.offset}`, (signal) => at
    ? ask("vm_peers", { level, at, vm, uuid, sort: now.sort, down: now.down ? "1" : "0", limit: LIMIT, offset: now.offset }, signal).then(rows) : none(newest, []));
  // Without a UUID in the address the series says which VM of this name is shown.
  const own: string | null = uuid || (series.value ? series.value.data.uuid?.[0] ?? "" : series.error ? "" : null);
  const of = (name: string, more: Record<string, string | number>) => (signal: AbortSignal): Promise<Row[]> =>
    own === null ? none(null, []) : ask(name, more, signal).then(rows);
  const interfaces = useLoad(`ports ${vm} ${own} ${newest} ${level}`, at ? of("interfaces", { level, at, vm, uuid: own ?? "" }) : () => none(newest, []));
  const places = useLoad(`places ${vm} ${own}`, of("places", { vm, uuid: own ?? "" }));
  const happened = useLoad(`marks ${vm} ${own} ${from} ${until} ${level} ${turn}`, of("marks", { level, from, until, src: vm, src_uuid: own ?? "" }));
  const alerts = useLoad(`of ${vm} ${news.alerts}`, (signal) => get(`/api/v1/alerts?limit=${OPEN_ALERTS + 1}&state=firing&state=acknowledged&vm=${encodeURIComponent(literal(vm))}`, signal).then((body) => body.alerts as Row[]));
  const zoom = (first: number, last: number) => set({ from: iso(first), until: iso(last) }, false);
  const marks = marked(happened.value);
  return <>
    <h1><Name>{vm}</Name></h1>
    <Shown loaded={series}>{({ data, rows: count }) => {
      const shared = { data, time: data.t ?? [], step: range.step, from, until, onRange: zoom, marks };
      const host = count ? data.on_host![count - 1] : "", project = count ? data.of_project![count - 1] : "";
      return <>
        <div class="bar"><span class="soft">{host && <>{say("host")} <Link to={hostLink(host)}><Name>{host}</Name></Link></>}{project && <> · {say("project")} <Name>{project}</Name></>}</span>
          <span class="right"><Link to={link("/vms", { vm: literal(vm) })}>{say("sameName")}</Link> <Link to={link("/pairs", { vm: literal(vm) })}>{say("pairs")}</Link> <Link to={link("/alerts", { vm: literal(vm), state: "all" })}>{say("alerts")}</Link></span></div>
        {count === 0 ? <Card><Empty>{say("noWindow")}. {say("noWindowWhy")}</Empty></Card> : <>
          <Ways {...shared} title={say("bandwidth")} unit="bit/s" figure="bits_per_second" />
          <div class="two">
            <Ways {...shared} title={say("loss")} unit="ratio" figure="loss_ratio" loss />
            <Ways {...shared} title={say("latency")} unit="us" figure="latency_us" />
          </div></>}
      </>;
    }}</Shown>
    <Card title={say("peers")}><Shown loaded={peers}>{(found) => <List name={say("peers")} rows={found} columns={peerColumns(vm)} now={now} limit={LIMIT}
      rowKey={(row) => `${row.peer}\u0000${row.uuid}\u0000${row.network}`} empty={say("noPair")} />}</Shown></Card>
    <div class="two">
      <Card title={say("firingNow")}><Shown loaded={alerts}>{(found) => found.length === 0 ? <Empty>{say("noneFiring")}</Empty>
        : <><ul class="lines">{found.slice(0, OPEN_ALERTS).map((one) => <li key={one.alert_id}><AlertLine alert={one} /></li>)}</ul>
          {found.length > OPEN_ALERTS && <p><Link to={link("/alerts", { vm: literal(vm) })}>{say("allAlerts")} →</Link></p>}</>}</Shown></Card>
      <Card title={say("places")}><Shown loaded={places}>{(found) => found.length === 0 ? <Empty>{say("noPlace")}</Empty> : <><ul class="lines">{found.map((one, place) => <li key={place}>
        <Link to={hostLink(one.host)}><Name>{one.host || "–"}</Name></Link> <code>{one.port_name}</code> <span class="soft">{one.addresses.join(" ") || one.mac_text}</span>
        {one.conflict && <span class="tag so" title={one.conflict}>{say("conflict")}</span>}
        <span class="soft right">{moment(iso(one.begins), utc)} – {one.open ? say("now") : moment(iso(one.ends), utc)}</span></li>)}</ul><Cut shown={found.length} all={found[0]!.every} /></>}</Shown></Card>
    </div>
    <Card title={say("interfaces")}><Shown loaded={interfaces}>{(found) => <Interfaces rows={found} />}</Shown></Card>
  </>;
}
