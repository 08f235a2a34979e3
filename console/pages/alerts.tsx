import { useLayoutEffect, useState } from "preact/hooks";
import { type Row, get, post, useLoad } from "../core/api.ts";
import { literal, moment, text, unitOf } from "../core/format.ts";
import { rowKeys } from "../core/keys.ts";
import { alertsChanged } from "../core/live.ts";
import { mayAct } from "../core/session.ts";
import { go, kept, link, set } from "../core/state.ts";
import { say } from "../core/text.ts";
import type { Page } from "../core/page.ts";
import { Card, Empty, Link, Name, Severity, Shown } from "../parts/basics.tsx";
import { Act } from "../parts/dialog.tsx";

/** What an alert is about: a pair as an arrow, else its labels. */
export function Subject({ labels }: { labels: Record<string, string> }) {
  if (labels.src_vm !== undefined && labels.dst_vm !== undefined)
    return <span class="subject"><Name>{labels.src_vm}</Name> → <Name>{labels.dst_vm}</Name></span>;
  const shown = ["vm", "host", "interface", "exporter", "protocol"].filter((one) => labels[one]);
  const names = shown.length ? shown : Object.keys(labels);
  return <span class="subject">{names.map((one, at) => <span key={one}>{at ? " · " : ""}<Name>{labels[one]!}</Name></span>)}</span>;
}

export const figureOf = (alert: Row) => text({ value: alert.value, low: alert.low, high: alert.high, unit: unitOf(alert.unit) }) + (alert.value !== null && unitOf(alert.unit) === "count" && alert.unit ? ` ${alert.unit}` : "");
const MOST = 1000;
const stateWord = { firing: "firingState", acknowledged: "acknowledged", resolved: "resolved" } as const;
export const utcNow = () => kept("clock", "utc") === "utc";

export function AlertLine({ alert }: { alert: Row }) {
  return <Link to={link(`/alerts/${alert.alert_id}`)} class="alertline"><Severity of={alert.severity} /> <Subject labels={alert.labels} /> <span class="soft">{alert.rule}</span> <b class="right">{figureOf(alert)}</b></Link>;
}

/** Take on, end, silence: the dialogs for one alert or many. */
export type Doing = "takeOn" | "resolve" | "judge" | "silence";

export function Acts({ alerts, user, what, onClose }: { alerts: Row[]; user: string; what: Doing; onClose: () => void }) {
  const [seconds, setSeconds] = useState(3600);
  const [verdict, setVerdict] = useState(what === "judge" ? "false" : "");
  const labels = alerts[0]!.labels as Record<string, string>;
  const run = async (by: { who: string; comment: string }) => {
    if (what === "silence") {
      const names = ["src_vm", "dst_vm", "network", "vm", "host", "interface", "exporter"].filter((one) => labels[one]);
      await post("/api/v1/silences", { ...by, seconds, matchers: { rule: alerts[0]!.rule, ...Object.fromEntries(names.map((one) => [one, literal(labels[one]!)])) } });
    } else {
      const failed: string[] = [];
      for (const alert of alerts) await post(`/api/v1/alerts/${alert.alert_id}/${what === "takeOn" ? "acknowledge" : "resolve"}`, verdict ? { ...by, verdict } : by).catch((error) => failed.push(error.message));
      if (failed.length) { alertsChanged(); throw new Error(failed.join(" · ")); }
    }
    alertsChanged();
  };
  return <Act title={`${say(what)}: ${alerts.length > 1 ? `${alerts.length} ${say("alerts")}` : alerts[0]!.rule}`} user={user} onClose={onClose} onDo={run}>
    <p class="about">{alerts.slice(0, 5).map((alert) => <span key={alert.alert_id}><Severity of={alert.severity} /> <Subject labels={alert.labels} /></span>)}{alerts.length > 5 && ` + ${alerts.length - 5}`}</p>
    {what === "silence" && <label>{say("silenceFor")}<select value={seconds} onChange={(event) => setSeconds(Number(event.currentTarget.value))}>{[[900, "15 min"], [3600, "1 h"], [14_400, "4 h"], [86_400, "24 h"], [604_800, "7 d"]].map(([value, name]) => <option key={value} value={value}>{name}</option>)}</select></label>}
    {(what === "resolve" || what === "judge") && <label>{say("rightToFire")}<select value={verdict} onChange={(event) => setVerdict(event.currentTarget.value)}>{what === "resolve" && <option value="">–</option>}<option value="true">{say("yes")}</option><option value="false">{say("no")}</option></select></label>}
  </Act>;
}

export function Alerts({ query, news, user, turn }: Page) {
  const wanted = query.get("state") ?? "active";
  const states = wanted === "all" ? "" : wanted === "active" ? "&state=firing&state=acknowledged" : `&state=${encodeURIComponent(wanted)}`;
  const vm = query.get("vm") ?? "", rule = query.get("rule") ?? "";
  const [most, setMost] = useState(200);
  const loaded = useLoad(`alerts ${news.alerts} ${turn} ${states} ${vm} ${rule} ${most}`, (signal) => get(`/api/v1/alerts?limit=${most}${states}${rule ? `&rule=${encodeURIComponent(rule)}` : ""}${vm ? `&vm=${encodeURIComponent(vm)}` : ""}`, signal));
  const [chosen, setChosen] = useState<Set<string>>(new Set());
  const [at, setAt] = useState(0);
  const [acting, setActing] = useState<Row[] | null>(null);
  const found: Row[] = loaded.value?.alerts ?? [];
  const here = found[Math.min(at, found.length - 1)];
  const toggle = (id: string) => setChosen((old) => { const next = new Set(old); next.has(id) ? next.delete(id) : next.add(id); return next; });
  const selected = found.filter((one) => chosen.has(one.alert_id) && one.state === "firing");
  // With the rows themselves, not after they are painted: who sees a row may press its key.
  useLayoutEffect(() => rowKeys({
    j: () => setAt((old) => Math.min(old + 1, found.length - 1)), k: () => setAt((old) => Math.max(0, old - 1)),
    x: () => here && toggle(here.alert_id), Enter: () => here && go(link(`/alerts/${here.alert_id}`)),
    a: () => { if (!mayAct()) return; const targets = selected.length ? selected : here && here.state === "firing" ? [here] : []; if (targets.length) setActing(targets); },
  }));
  const utc = utcNow();
  return <>
    <h1>{say("alerts")}</h1>
    <div class="bar">
      <div class="seg" role="group" aria-label={say("state")}>{(["active", "firing", "acknowledged", "resolved", "all"] as const).map((one) => <button key={one} aria-pressed={wanted === one} onClick={() => set({ state: one === "active" ? "" : one })}>{say(one === "firing" ? "firingState" : one === "all" ? "allStates" : one)}</button>)}</div>
      <input type="search" id="find" placeholder={say("find")} aria-label={say("find")} defaultValue={vm} onChange={(event) => set({ vm: event.currentTarget.value })} />
      {rule && <button class="tag" onClick={() => set({ rule: "" })}><Name>{rule}</Name> ×</button>}
      {selected.length > 0 && mayAct() && <button class="main" onClick={() => setActing(selected)}>{say("takeOnSelected", { n: selected.length })}</button>}
      <span class="right"><Link to={link("/silences")}>{say("showSilences")} →</Link></span>
    </div>
    <Card><Shown loaded={loaded}>{() => found.length === 0 ? <Empty>{say("noAlerts")}</Empty> : <div class="scroll" tabIndex={0} role="region" aria-label={say("alerts")}><table>
      <thead><tr><th><span class="hidden">{say("selected")}</span></th><th>{say("severity")}</th><th>{say("subject")}</th><th>{say("rule")}</th><th class="n">{say("value")}</th><th>{say("since")}</th><th>{say("state")}</th></tr></thead>
      <tbody>{found.map((alert, place) => <tr key={alert.alert_id} class={`${place === at ? "here" : ""} ${alert.state}`}>
        <td><input type="checkbox" aria-label={`${say("selected")}: ${alert.rule}`} checked={chosen.has(alert.alert_id)} disabled={alert.state !== "firing"} onChange={() => toggle(alert.alert_id)} /></td>
        <td><Severity of={alert.severity} /></td>
        <td class="wide"><Link to={link(`/alerts/${alert.alert_id}`)}><Subject labels={alert.labels} /></Link></td>
        <td>{alert.rule}</td><td class="n">{figureOf(alert)}</td>
        <td><time dateTime={alert.since}>{moment(alert.since, utc)}</time></td>
        <td>{say(stateWord[alert.state as keyof typeof stateWord])}{alert.acknowledged_by && <span class="soft"> · {alert.acknowledged_by}</span>}{alert.held_back && <span class="tag">{say("heldNow")}</span>}</td>
      </tr>)}</tbody></table>
      {loaded.value.next_cursor && <p class="pager soft">{say("newestOnly", { n: found.length })}
        {most < MOST ? <button onClick={() => setMost(Math.min(MOST, most + 400))}>{say("showMore")}</button> : say("narrow")}</p>}</div>}</Shown></Card>
    {acting && <Acts alerts={acting} user={user} what="takeOn" onClose={() => { setActing(null); setChosen(new Set()); }} />}
  </>;
}

export function Silences({ news, user }: Page) {
  const loaded = useLoad(`silences ${news.alerts}`, (signal) => get(`/api/v1/silences?limit=${MOST}`, signal));
  const utc = utcNow();
  const [ending, setEnding] = useState("");
  const end = async (by: { who: string; comment: string }) => { await post(`/api/v1/silences/${ending}/end`, by); alertsChanged(); };
  return <>
    <h1>{say("showSilences")}</h1>
    <Card><Shown loaded={loaded}>{(body) => body.silences.length === 0 ? <Empty>{say("noSilences")}</Empty> : <div class="scroll"><table>
      <thead><tr><th>{say("matchers")}</th><th>{say("until")}</th><th>{say("who")}</th><th>{say("comment")}</th><th /></tr></thead>
      <tbody>{body.silences.map((one: Row) => <tr key={one.silence_id}><td class="wide">{Object.entries(one.matchers).map(([name, value]) => <span class="tag" key={name}>{name} = <Name>{String(value)}</Name></span>)}</td>
        <td>{moment(one.until, utc)}</td><td><Name>{one.who}</Name></td><td class="wide">{one.comment}</td><td>{mayAct() && <button onClick={() => setEnding(one.silence_id)}>{say("endSilence")}</button>}</td></tr>)}</tbody></table>
      {body.silences.length >= MOST && <p class="soft">{say("newestOnly", { n: MOST })}</p>}</div>}</Shown></Card>
    {ending && <Act title={say("endSilence")} user={user} onClose={() => setEnding("")} onDo={end} />}
  </>;
}
