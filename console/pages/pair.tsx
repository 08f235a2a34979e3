import { type Columns, ask, useLoad } from "../core/api.ts";
import { lossState } from "../core/format.ts";
import { type Range, link, set } from "../core/state.ts";
import { say } from "../core/text.ts";
import type { Page } from "../main.tsx";
import { Card, Empty, Link, Name, Shown } from "../parts/basics.tsx";
import { Chart } from "../parts/chart.tsx";

const MEASURES = ["bandwidth", "loss", "latency", "newConnections", "errors"] as const;
type Measure = (typeof MEASURES)[number];

export function PairCharts({ data, range, only = MEASURES as readonly string[], limits = {}, onRange }: { data: Columns; range: Range; only?: readonly string[]; limits?: Partial<Record<string, number>>; onRange: (from: number, until: number) => void }) {
  const time: number[] = data.t ?? [];
  const column = (name: string) => data[name] ?? [];
  const shared = { time, step: range.step, from: range.from, until: range.until, onRange };
  const spread = (sign: number) => column("latency_us").map((value, at) => value === null ? null : Math.max(0, value + sign * (data.latency_spread_us?.[at] ?? 0)));
  const states = column("loss_evidence").map(lossState);
  const charts: Record<Measure, () => any> = {
    bandwidth: () => <Chart {...shared} title={say("bandwidth")} unit="bit/s" limit={limits.bandwidth} series={[{ name: say("bandwidth"), color: "--s1", value: column("bits_per_second"), low: column("bits_per_second_low"), high: column("bits_per_second_high") }]} />,
    loss: () => <Chart {...shared} title={say("loss")} unit="ratio" limit={limits.loss} least={0.01} top={1} series={[{ name: say("loss"), color: "--s2", value: column("loss_ratio"), low: column("loss_low"), high: column("loss_high"), state: states }]} />,
    latency: () => <Chart {...shared} title={say("latency")} unit="us" limit={limits.latency} series={[{ name: say("latency"), color: "--s4", value: column("latency_us"), low: spread(-1), high: spread(1) }]} />,
    newConnections: () => <Chart {...shared} title={say("newConnections")} unit="/s" least={1} series={[{ name: say("newConnections"), color: "--s3", value: column("new_connections_per_second"), low: column("new_connections_per_second_low"), high: column("new_connections_per_second_high") }]} />,
    errors: () => <Chart {...shared} title={say("errors")} unit="ratio" limit={limits.errors} least={0.01} top={1} series={[{ name: say("errors"), color: "--s2", value: column("error_ratio"), low: column("error_low"), high: column("error_high") }]} />,
  };
  return <div class="two">{MEASURES.filter((one) => only.includes(one)).map((one) => <Card key={one}>{charts[one]()}</Card>)}</div>;
}

export function Pair({ range, query, turn, src, dst }: Page & { src: string; dst: string }) {
  const network = query.get("network") ?? "";
  const key = `${src}\u0000${dst}\u0000${network}\u0000${range.from} ${range.until} ${range.level} ${turn}`;
  const loaded = useLoad(key, (signal) => ask("pair_series", { level: range.level, from: range.from, until: range.until, src, dst, network }, signal));
  const zoom = (from: number, until: number) => set({ from: new Date(from * 1000).toISOString(), until: new Date(until * 1000).toISOString() }, false);
  return <>
    <h1><Name>{src}</Name> → <Name>{dst}</Name></h1>
    <Shown loaded={loaded}>{({ data, rows: count }) => {
      const last = (name: string) => count ? data[name]![count - 1] : "";
      return <>
        <div class="bar"><span class="soft">{last("src_host") === last("dst_host") ? say("sameHost", { host: last("src_host") || "?" }) : say("between", { src: last("src_host") || "?", dst: last("dst_host") || "?" })} · {network || last("network") || "–"}{last("sampling_rate") > 1 && ` · ${say("sampleOf", { n: last("sampling_rate") })}`}</span>
          <span class="right"><Link to={link(`/pairs/${encodeURIComponent(dst)}/${encodeURIComponent(src)}`, { network })}>⇄ {say("other")}</Link> · <Link to={link("/alerts", { vm: src, state: "all" })}>{say("alerts")}</Link></span></div>
        {count === 0 ? <Card><Empty>{say("noWindow")}. {say("noWindowWhy")}</Empty></Card> : <PairCharts data={data} range={range} onRange={zoom} />}
      </>;
    }}</Shown>
  </>;
}
