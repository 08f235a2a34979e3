import { type Row, get, useLoad } from "../core/api.ts";
import { moment, text, unitOf } from "../core/format.ts";
import { part } from "../core/links.ts";
import type { Page } from "../core/page.ts";
import { kept, link } from "../core/state.ts";
import { say } from "../core/text.ts";
import { Card, Link, Severity, Shown } from "../parts/basics.tsx";
import { Count } from "../parts/figures.tsx";
import { List } from "../parts/list.tsx";

function limits(rule: Row): string {
  const unit = unitOf(rule.unit), more = unit === "count" && rule.unit ? ` ${rule.unit}` : "";
  const parts = [];
  if (rule.above !== null) parts.push(`> ${text({ value: rule.above, unit })}${more}`);
  if (rule.below !== null) parts.push(`< ${text({ value: rule.below, unit })}${more}`);
  return parts.join(" · ") || "–";
}

/** The rules that are evaluated, and how their evaluation stands. */
export function Rules({ news, turn }: Page) {
  const loaded = useLoad(`rules ${news.alerts} ${turn}`, (signal) => get("/api/v1/rules", signal).then((body) => body.rules as Row[]));
  const utc = kept("clock", "utc") === "utc";
  return <>
    <h1>{say("rules")}</h1>
    <Card><Shown loaded={loaded}>{(found) => <List name={say("rules")} rows={found} rowKey={(row) => row.name} empty={say("noRule")} columns={[
      { title: say("rule"), wide: true, cell: (row) => <><Link to={link(`/rules/${part(row.name)}`)}><b>{row.name}</b></Link><span class="soft sub">{row.scope} · {row.measure || row.condition}</span></> },
      { title: say("severity"), cell: (row) => <Severity of={row.severity} /> },
      { title: say("threshold"), cell: (row) => <span title={row.in_words}>{limits(row)}</span> },
      { title: say("window"), cell: (row) => row.level },
      { title: say("firing"), number: true, cell: (row) => <Link to={link("/alerts", { rule: row.name })}><Count n={row.firing} kind={row.severity === "critical" ? "bad" : "so"} /></Link> },
      { title: say("pending"), number: true, cell: (row) => <Count n={row.pending} kind="so" /> },
      { title: say("looksAt"), number: true, cell: (row) => row.series },
      { title: say("evaluated"), cell: (row) => <>{moment(row.evaluated, utc)}
        {row.error && <span class={`sub ${row.failed && row.failed >= (row.evaluated ?? "") ? "bad" : "soft"}`} title={row.error}>{say("failedAt", { time: moment(row.failed, utc) })}: {row.error}</span>}</> },
    ]} />}</Shown></Card>
    <p class="soft">{say("rulesHint")}</p>
  </>;
}
