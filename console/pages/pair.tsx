import { type Answer, type Columns, ask, rows, useLoad } from "../core/api.ts";
import { download } from "../core/csv.ts";
import { literal, lossState } from "../core/format.ts";
import { hostLink, iso, namedLink, pairLink, vmLink } from "../core/links.ts";
import { type Mark, marked } from "../core/marks.ts";
import { none } from "../core/none.ts";
import { ofTrip, trips } from "../core/series.ts";
import { type Range, link, set } from "../core/state.ts";
import { say } from "../core/text.ts";
import type { Page } from "../core/page.ts";
import { Card, Empty, Link, Name, Shown } from "../parts/basics.tsx";
import { Chart } from "../parts/chart.tsx";

const MEASURES = ["bandwidth", "loss", "latency", "newConnections", "errors"] as const;
type Measure = (typeof MEASURES)[number];

export function PairCharts({ data, range, only = MEASURES as readonly string[], limits = {}, marks = [], onRange }: { data: Columns; range: Range; only?: readonly string[]; limits?: Partial<Record<string, number>>; marks?: Mark[]; onRange: (from: number, until: number) => void }) {
  const time: number[] = data.t ?? [];
  const column = (name: string) => data[name] ?? [];
  const shared = { time, step: range.step, from: range.from, until: range.until, onRange, marks };
  const spread = (sign: number) => column("latency_us").map((value, at) => value === null ? null : Math.max(0, value + sign * (data.latency_spread_us?.[at] ?? 0)));
  const states = column("loss_evidence").map((one, at) => lossState(one, !!data.src_host?.[at] && data.src_host[at] === data.dst_host?.[at]));
  const charts: Record<Measure, () => any> = {
    bandwidth: () => <Chart {...shared} title={say("bandwidth")} unit="bit/s" limit={limits.bandwidth} series={[{ name: say("bandwidth"), color: "--s1", value: column("bits_per_second"), low: column("bits_per_second_low"), high: column("bits_per_second_high") }]} />,
    loss: () => <Chart {...shared} title={say("loss")} unit="ratio" limit={limits.loss} least={0.01} top={1} series={[{ name: say("loss"), color: "--s2", value: column("loss_ratio"), low: column("loss_low"), high: column("loss_high"), state: states }]} />,
    latency: () => <Chart {...shared} title={say("latency")} unit="us" limit={limits.latency} series={trips(data.latency_trip).map((trip, at) => ({
      name: say(trip === "one_way" ? "oneWay" : "roundTrip"), color: at ? "--s1" : "--s4", value: ofTrip(data.latency_trip, trip, column("latency_us")),
      low: ofTrip(data.latency_trip, trip, spread(-1)), high: ofTrip(data.latency_trip, trip, spread(1)) }))} />,
    newConnections: () => <Chart {...shared} title={say("newConnections")} unit="/s" least={1} series={[{ name: say("newConnections"), color: "--s3", value: column("new_connections_per_second"), low: column("new_connections_per_second_low"), high: column("new_connections_per_second_high") }]} />,
    errors: () => <Chart {...shared} title={say("errors")} unit="ratio" limit={limits.errors} least={0.01} top={1} series={[{ name: say("errors"), color: "--s2", value: column("error_ratio"), low: column("error_low"), high: column("error_high") }]} />,
  };
  return <div class="two">{MEASURES.filter((one) => only.includes(one)).map((one) => <Card key={one}>{charts[one]()}</Card>)}</div>;
}

export function Pair({ range, query, turn, src, dst }: Page & { src: string; dst: string }) {
  const network = query.get("network") ?? "", pair = query.get("pair") ?? "";
  const { level, from, until } = range;
  const key = `${src}\u0000${dst}\u0000${network}\u0000${pair} ${from} ${until} ${level} ${turn}`;
  const loaded = useLoad(key, (signal) => ask("pair_series", { level, from, until, src, dst, network, pair: pair || 0 }, signal));
  // What happened to these two, not to others of their names.
  const [src_uuid, dst_uuid] = ["src_uuid", "dst_uuid"].map((name) => loaded.value ? loaded.value.data[name]?.[0] ?? "" : null);
  const happened = useLoad(`marks ${src_uuid} ${dst_uuid} ${key}`, (signal) => src_uuid === null ? none(null, [])
    : ask("marks", { level, from, until, src, dst, src_uuid, dst_uuid }, signal).then(rows));
  const zoom = (first: number, last: number) => set({ from: iso(first), until: iso(last) }, false);
  return <>
    <h1><Name>{src}</Name> → <Name>{dst}</Name></h1>
    <Shown loaded={loaded}>{(answer) => <Both answer={answer} src={src} dst={dst} network={network} range={range} marks={marked(happened.value)} zoom={zoom} />}</Shown>
  </>;
}

function Both({ answer, src, dst, network, range, marks, zoom }: {
  answer: Answer; src: string; dst: string; network: string; range: Range; marks: Mark[]; zoom: (from: number, until: number) => void;
}) {
  const { data, rows: count } = answer;
  const last = (name: string) => count ? data[name]![count - 1] : "";
  const host = (name: string) => last(name) ? <Link to={hostLink(last(name))}><Name>{last(name)}</Name></Link> : "?";
  return <>
    <div class="bar">
      <span class="soft">{host("src_host")}{last("src_host") !== last("dst_host") && <> → {host("dst_host")}</>} · {network || last("network") || "–"}{last("sampling_rate") > 1 && ` · ${say("sampleOf", { n: last("sampling_rate") })}`}</span>
      <span class="right">
        <Link to={pairLink(dst, src, { network: network || last("network"), pair: last("other_id") })}>⇄ {say("other")}</Link>
        <Link to={vmLink(src, last("src_uuid"))}><Name>{src}</Name></Link> <Link to={vmLink(dst, last("dst_uuid"))}><Name>{dst}</Name></Link>
        <Link to={namedLink(src, dst)}>{say("sameNames")}</Link>
        <Link to={link("/alerts", { vm: literal(src), state: "all" })}>{say("alerts")}</Link>
        {count > 0 && <button class="quiet" onClick={() => download("pair", rows(answer))}>CSV ↓</button>}
      </span>
    </div>
    {count === 0 ? <Card><Empty>{say("noWindow")}. {say("noWindowWhy")}</Empty></Card> : <PairCharts data={data} range={range} onRange={zoom} marks={marks} />}
  </>;
}
