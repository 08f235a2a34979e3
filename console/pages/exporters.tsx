import { type Row, ask, rows, useLoad } from "../core/api.ts";
import { ago, plain } from "../core/format.ts";
import { say } from "../core/text.ts";
import type { Page } from "../core/page.ts";
import { Card, Cut, Empty, Shown } from "../parts/basics.tsx";

const share = (lost: number, rest: number) => (lost ? plain(lost / (lost + rest), "ratio") : "0");

export function Exporters({ turn }: Page) {
  const loaded = useLoad(`exporters ${turn}`, (signal) => ask("exporters", {}, signal).then(rows));
  return <>
    <h1>{say("exporters")}</h1>
    <Card><Shown loaded={loaded}>{(found) => found.length === 0 ? <Empty>{say("noExporter")}</Empty> : <div class="scroll" tabIndex={0} role="region" aria-label={say("exporters")}><table>
      <thead><tr><th>{say("exporter")}</th><th>{say("protocol")}</th><th class="n">{say("domain")}</th><th class="n">{say("lastSeen")}</th><th class="n">{say("records")}</th><th class="n">{say("lostExport")}</th><th class="n">{say("lostSampling")}</th><th class="n">{say("lostHere")}</th><th class="n">{say("rate")}</th><th class="n">{say("clockSkew")}</th><th>{say("findings")}</th></tr></thead>
      <tbody>{found.map((row: Row) => <tr key={`${row.exporter} ${row.agent} ${row.protocol} ${row.domain}`}>
        <td><code>{row.exporter}</code></td><td>{row.protocol}</td><td class="n">{row.domain}</td><td class="n">{ago(Date.now() / 1000 - row.last_seen)}</td><td class="n">{row.records.toLocaleString("en")}</td>
        <td class={`n ${row.export_lost ? "so" : ""}`}>{share(row.export_lost, row.datagrams)}</td><td class={`n ${row.samples_lost ? "so" : ""}`}>{share(row.samples_lost, row.records)}</td><td class={`n ${row.queue_drops + row.kernel_drops ? "bad" : ""}`}>{row.queue_drops + row.kernel_drops}</td>
        <td class="n">{row.rate ? `1:${row.rate}` : "–"}</td><td class="n">{row.clock_skew_us === null ? "–" : plain(row.clock_skew_us, "us")}</td>
        <td class="wide">{row.findings ? String(row.findings).split(",").map((code) => <span key={code} class="tag so">{code}</span>) : <span class="good">✓ {say("fine")}</span>}</td>
      </tr>)}</tbody></table><Cut shown={found.length} all={found[0]!.every} /></div>}</Shown></Card>
  </>;
}
