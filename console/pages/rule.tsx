// One rule: how it stands in the settings, and what it would have done.
import { useState } from "preact/hooks";
import { type Row, get, post, useLoad } from "../core/api.ts";
import { moment, text as figure, unitOf } from "../core/format.ts";
import type { Page } from "../core/page.ts";
import { mayAct } from "../core/session.ts";
import { kept, link } from "../core/state.ts";
import { say } from "../core/text.ts";
import { Card, Cut, Empty, Link, Name, Severity, Shown } from "../parts/basics.tsx";
import { Subject } from "./alerts.tsx";

const SPANS: [number, string][] = [[1800, "30 min"], [3600, "1 h"], [6 * 3600, "6 h"], [86_400, "24 h"], [7 * 86_400, "7 d"]];

export function Rule({ name }: Page & { name: string }) {
  const loaded = useLoad(`rule ${name}`, (signal) => get("/api/v1/rules", signal).then((body) => (body.rules as Row[]).find((one) => one.name === name) ?? null));
  return <>
    <h1><Name>{name}</Name> {loaded.value && <small>{loaded.value.scope} · {loaded.value.in_words}</small>}</h1>
    <div class="bar">{loaded.value && <Severity of={loaded.value.severity} />}<span class="right"><Link to={link("/alerts", { rule: name, state: "all" })}>{say("alerts")} →</Link></span></div>
    {loaded.value === null && !loaded.loading && !loaded.error ? <Empty>{say("noRuleLike")}</Empty> : <Shown loaded={loaded}>{(rule) => <Trial text={rule!.toml} />}</Shown>}
  </>;
}

/** A rule as text that can be changed and tried: what it would have done, in which windows. */
function Trial({ text }: { text: string }) {
  const [now, setNow] = useState(text);
  const [seconds, setSeconds] = useState(3600);
  const [result, setResult] = useState<Row | null>(null);
  const [error, setError] = useState("");
  const [running, setRunning] = useState(false);
  const run = async (event: Event) => {
    event.preventDefault();
    setRunning(true);
    try { setResult(await post("/api/v1/rules/try", { text: now, seconds })); setError(""); } catch (failed) { setError(String((failed as Error).message)); }
    setRunning(false);
  };
  return <>
    <Card title={say("asSettings")}><form onSubmit={run}>
      <textarea class="code" aria-label={say("asSettings")} rows={Math.min(24, now.split("\n").length + 1)} spellcheck={false} maxLength={20_000} value={now} onInput={(event) => setNow(event.currentTarget.value)} />
      <div class="bar spaced">
        <label>{say("lookBack")} <select value={seconds} onChange={(event) => setSeconds(Number(event.currentTarget.value))}>{SPANS.map(([value, word]) => <option key={value} value={value}>{word}</option>)}</select></label>
        <button class="main" type="submit" disabled={running || !mayAct()}>{say("tryIt")}</button>
        {now !== text && <button type="button" onClick={() => setNow(text)}>{say("asItIs")}</button>}
        <span class="soft">{say(mayAct() ? running ? "trying" : "tryHint" : "tryRole")}</span>
      </div>
    </form></Card>
    {error && <p class="problem" role="alert">{error}</p>}
    {result && <Outcome result={result} dim={running} />}
  </>;
}

function Outcome({ result, dim }: { result: Row; dim: boolean }) {
  const utc = kept("clock", "utc") === "utc", unit = unitOf(result.unit);
  const count = `${result.refused ? "≥ " : ""}${result.fired}`;
  return <Card title={say("wouldHave")} class={dim ? "dim" : ""}>
    {!result.complete && <p class="so">{say("notAllTried", { until: moment(result.until, utc) })}</p>}
    {result.windows === 0 ? <Empty>{say("noWindowTried")}</Empty> : <>
      <p><b>{say("wouldFire", { n: count, series: result.series })}</b>{" "}
        {Date.parse(result.until) - Date.parse(result.begin) >= 86_400_000 && <b>{say("aDay", { n: `${result.refused ? "≥ " : ""}${result.per_day < 10 ? result.per_day.toFixed(1) : Math.round(result.per_day)}` })}</b>}{" "}
        <span class="soft">{result.in_words} · {say("triedWindows", { n: result.windows, from: moment(result.begin, utc), until: moment(result.until, utc) })}</span></p>
      {result.alerts.length > 0 && <div class="scroll" tabIndex={0} role="region" aria-label={say("wouldHave")}><table>
        <thead><tr><th>{say("subject")}</th><th>{say("since")}</th><th>{say("until")}</th><th class="n">{say("worstValue")}</th></tr></thead>
        <tbody>{result.alerts.map((one: Row, place: number) => <tr key={place}>
          <td class="wide"><Subject labels={one.labels} /></td><td>{moment(one.since, utc)}</td><td>{one.resolved ? moment(one.resolved, utc) : "…"}</td>
          <td class="n">{figure({ value: one.worst, unit })}{unit === "count" ? ` ${result.unit}` : ""}</td></tr>)}</tbody></table></div>}
      <Cut shown={result.alerts.length} all={result.fired} /></>}
  </Card>;
}
