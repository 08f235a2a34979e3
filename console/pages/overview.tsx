import { type Row, ask, rows, useLoad } from "../core/api.ts";
import { none } from "../core/none.ts";
import { ago, plain, text } from "../core/format.ts";
import { iso, pairOf } from "../core/links.ts";
import { link, set } from "../core/state.ts";
import { say } from "../core/text.ts";
import type { Page } from "../core/page.ts";
import { AlertLine } from "./alerts.tsx";
import { Card, Empty, Fig, Latency, Link, Loss, Name, Shown } from "../parts/basics.tsx";
import { Chart } from "../parts/chart.tsx";

const short = (name: string) => (name.length > 40 ? `${name.slice(0, 39)}…` : name);

function Top({ title, found, more, children }: { title: string; found: Row[]; more: string; children: (row: Row) => any }) {
  return <Card title={title} more={<Link to={more}>{say("allPairs")} →</Link>}>
    {found.length === 0 ? <Empty>{say("noPair")}</Empty> : <table class="tight"><tbody>{found.map((row) => <tr key={`${row.src_vm} ${row.dst_vm} ${row.network}`}>
      <td class="wide"><Link to={pairOf(row)}><Name>{row.src_vm}</Name> → <Name>{row.dst_vm}</Name></Link> <span class="soft">{row.network && <Name>{row.network}</Name>}</span></td><td class="n">{children(row)}</td></tr>)}</tbody></table>}
  </Card>;
}

export function Overview({ range, newest, firing, turn }: Page) {
  const level = range.level, at = newest ?? 0;
  const key = `${at} ${level}`;
  const summary = useLoad(`summary ${newest} ${key}`, (signal) => at ? ask("summary", { level, at }, signal).then((one) => rows(one)[0]!) : none(newest, null));
  const most = useLoad(`most ${newest} ${key}`, (signal) => at ? ask("pairs", { level, at, limit: 10 }, signal).then(rows) : none(newest, []));
  const worst = useLoad(`worst ${newest} ${key}`, (signal) => at ? ask("pairs", { level, at, limit: 10, sort: "certain", only: "lossy" }, signal).then(rows) : none(newest, []));
  const totals = useLoad(`totals ${range.from} ${range.until} ${level} ${turn}`, (signal) => ask("totals", { level, from: range.from, until: range.until }, signal));
  const exporters = useLoad(`exporters ${turn}`, (signal) => ask("exporters", {}, signal).then(rows));
  const listed = firing.value?.alerts ?? [], more = firing.value?.more ? "+" : "";
  const count = (severity: string) => listed.filter((one) => one.severity === severity && one.state === "firing").length;
  const bad = (exporters.value ?? []).filter((one) => one.findings);
  return <>
    <h1>{say("overview")}</h1>
    <Shown loaded={summary}>{(row) => <div class="tiles">
      <Link class="tile" to={link("/pairs")}><h2>{say("volume")}</h2>{row ? <Fig value={row.bits} low={row.bits_low} high={row.bits_high} unit="bit/s" /> : "–"}<p>{say("ofPairs", { n: row?.pairs ?? 0 })}</p></Link>
      <Link class={`tile ${row?.lossy ? "bad" : ""}`} to={link("/pairs", { only: "lossy", sort: "certain" })}><h2>{say("lossy")}</h2><b class="big">{row ? row.lossy : "–"}</b><p>{row?.lossy ? say("worst", { figure: text({ value: row.worst, low: row.worst_low, high: row.worst_high, unit: "ratio" }) }) : say("ofPairs", { n: row?.pairs ?? 0 })}</p></Link>
      <Link class={`tile ${row?.slow ? "so" : ""}`} to={link("/pairs", { only: "slow", sort: "latency" })}><h2>{say("slow")}</h2><b class="big">{row ? row.slow : "–"}</b><p>{say("above20", { n: row?.timed ?? 0 })}</p></Link>
      <Link class="tile" to={link("/coverage")}><h2>{say("blind")}</h2><b class={`big ${row?.blind ? "hatched" : ""}`}>{row ? row.blind : "–"}</b><p>{say("ofCrossing", { n: row?.crossing ?? 0, share: row?.crossing_bits ? plain(row.blind_bits / row.crossing_bits, "ratio") : "0 %" })}</p></Link>
      <Link class={`tile ${count("critical") ? "bad" : ""}`} to={link("/alerts")}><h2>{say("firing")}</h2><b class="big">{firing.value ? `${listed.length}${more}` : "–"}</b><p>{listed.length ? (["critical", "warning", "info"] as const).filter(count).map((one) => `${count(one)}${more} ${say(one)}`).join(" · ") || say("acknowledged") : say("noneFiring")}</p></Link>
    </div>}</Shown>
    {newest === 0 && <Card><Empty><b>{say("noWindow")}.</b> {say("noWindowWhy")}</Empty></Card>}
    <Card><Shown loaded={totals}>{({ data }) => <Chart title={say("volume")} time={data.t ?? []} step={range.step} from={range.from} until={range.until} unit="bit/s" onRange={(from, until) => set({ from: iso(from), until: iso(until) }, false)}
      series={[{ name: say("volume"), color: "--s1", value: data.bits ?? [], low: data.bits_low ?? [], high: data.bits_high ?? [] }]} />}</Shown></Card>
    <div class="two">
      <Shown loaded={most}>{(found) => <Top title={say("most")} found={found} more={link("/pairs")}>{(row) => <Fig value={row.bits_per_second} low={row.bits_per_second_low} high={row.bits_per_second_high} unit="bit/s" />}</Top>}</Shown>
      <Shown loaded={worst}>{(found) => <Top title={say("mostLoss")} found={found} more={link("/pairs", { only: "lossy", sort: "certain" })}>{(row) => <><Loss row={row} /> {row.latency_us !== null && <Latency row={row} />}</>}</Top>}</Shown>
      <Card title={say("firingNow")} more={<Link to={link("/alerts")}>{say("allAlerts")} →</Link>}>
        <Shown loaded={firing}>{() => listed.length === 0 ? <Empty>{say("noneFiring")}</Empty> : <ul class="lines">{listed.slice(0, 8).map((one) => <li key={one.alert_id}><AlertLine alert={one} /></li>)}</ul>}</Shown>
      </Card>
      <Card title={say("monitoring")} more={<Link to={link("/exporters")}>{say("allExporters")} →</Link>}>
        <Shown loaded={exporters}>{(all) => all.length === 0 ? <Empty>{say("noExporter")}</Empty> : <>
          <p class="soft">{say("exportersOf", { n: all.length, bad: bad.length })}</p>
          <ul class="lines">{bad.slice(0, 8).map((one) => <li key={`${one.exporter} ${one.protocol} ${one.domain}`}><code>{one.exporter}</code> <span class="soft">{one.protocol}</span> {String(one.findings).split(",").map((code) => <span key={code} class="tag so">{short(code)}</span>)} <span class="soft right">{ago(Date.now() / 1000 - one.last_seen)}</span></li>)}</ul>
        </>}</Shown>
      </Card>
    </div>
  </>;
}
