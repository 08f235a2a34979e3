import { type ComponentType, Fragment } from "preact";
import { useLayoutEffect, useState } from "preact/hooks";
import { type Row, ask, get, useLoad } from "../core/api.ts";
import { moment, text, unitOf } from "../core/format.ts";
import { interfaceLink, pairLink, part, then } from "../core/links.ts";
import { rowKeys } from "../core/keys.ts";
import { mayAct } from "../core/session.ts";
import { type Range, go, link } from "../core/state.ts";
import { say } from "../core/text.ts";
import type { Key } from "../text/en.ts";
import type { Page } from "../core/page.ts";
import { Card, Link, Name, Severity, Shown } from "../parts/basics.tsx";
import { Acts, type Doing, Subject, figureOf, utcNow } from "./alerts.tsx";
import { later } from "../parts/later.tsx";
import { PairCharts } from "./pair.tsx";

const InterfaceCharts = later(() => import("./more.ts").then((all) => all.InterfaceCharts as ComponentType<any>));

const Why = later<{ alert: Row }>(() => import("./more.ts").then((all) => all.Why));

const MOST = 1000;
const STEPS = { "10s": 10, "1m": 60, "1h": 3600 } as const;

export function Alert({ id, news, user }: Page & { id: string }) {
  const loaded = useLoad(`alert ${id} ${news.alerts}`, (signal) => get(`/api/v1/alerts/${encodeURIComponent(id)}?limit=${MOST}`, signal));
  const [acting, setActing] = useState<Doing | null>(null);
  const alert: Row | undefined = loaded.value?.alert;
  useLayoutEffect(() => rowKeys(mayAct() ? { a: () => alert?.state === "firing" && setActing("takeOn"), s: () => alert && setActing("silence") } : {}));
  return <Shown loaded={loaded}>{(body) => <Detail alert={body.alert} history={body.history} acting={acting} setActing={setActing} user={user} />}</Shown>;
}

function Detail({ alert, history, acting, setActing, user }: { alert: Row; history: Row[]; acting: Doing | null; setActing: (one: Doing | null) => void; user: string }) {
  const utc = utcNow();
  const unit = unitOf(alert.unit);
  const lasts = alert.state !== "resolved";
  return <>
    <h1><Severity of={alert.severity} /> <Subject labels={alert.labels} /></h1>
    <div class="bar">
      <span class={`tag ${lasts && alert.state === "firing" ? "so" : ""}`}>{say(alert.state === "firing" ? "firingState" : alert.state === "acknowledged" ? "acknowledged" : "resolved")}</span>
      {alert.acknowledged_by && <span class="soft">{say("takenBy", { who: alert.acknowledged_by })}</span>}
      {alert.resolved_by && <span class="soft">{say("endedBy", { who: alert.resolved_by })}</span>}
      {alert.verdict !== "none" && <span class="tag">{say("rightToFire")} {say(alert.verdict === "true" ? "yes" : "no")}</span>}
      {alert.held_back && <span class="tag">{say("heldBack", { who: alert.held_back_by || "?" })}</span>}
      {alert.stale_since && <span class="tag">{say("stale", { time: moment(alert.stale_since, utc) })}</span>}
      {mayAct() && <span class="right">{alert.state === "firing" && <button class="main" onClick={() => setActing("takeOn")}>{say("takeOn")} <kbd>a</kbd></button>} {lasts ? <button onClick={() => setActing("resolve")}>{say("resolve")}</button> : <button onClick={() => setActing("judge")}>{say("judge")}</button>} <button onClick={() => setActing("silence")}>{say("silence")} <kbd>s</kbd></button></span>}
    </div>
    <div class="two">
      <Card title={<Link to={link(`/rules/${part(alert.rule)}`)}>{alert.rule}</Link>}><dl>
        <dt>{alert.measure || alert.condition}</dt><dd><b>{figureOf(alert)}</b></dd>
        <dt>{say("threshold")}</dt><dd>{text({ value: alert.threshold, unit })}</dd>
        <dt>{say("evidence")}</dt><dd>{alert.evidence || "–"}{alert.samples !== null && ` · ${Math.round(alert.samples)} ${say("samples")}`}</dd>
        <dt>{say("window")}</dt><dd>{alert.level} · {moment(alert.window_end, utc)}</dd>
        <dt>{say("since")}</dt><dd>{moment(alert.since, utc)}</dd>
        {Object.entries(alert.labels).map(([name, value]) => <Fragment key={name}><dt>{name}</dt><dd><Name>{String(value)}</Name></dd></Fragment>)}
      </dl>{alert.summary && <p>{alert.summary}</p>}</Card>
      <Card title={say("history")}><ol class="history">{history.map((event, place) => <li key={place}><time>{moment(event.time, utc)}</time> <b>{say(EVENTS[event.event as keyof typeof EVENTS])}</b> {event.who && <Name>{event.who}</Name>} {event.value !== null && <span class="soft">{text({ value: event.value, low: event.low, high: event.high, unit })}</span>} {event.comment && <q>{event.comment}</q>}</li>)}</ol>
        {history.length >= MOST && <p class="soft">{say("firstOnly", { n: MOST })}</p>}</Card>
    </div>
    {alert.scope === "pair" && <Around alert={alert} />}
    {alert.scope === "interface" && <AroundInterface alert={alert} />}
    <Why alert={alert} />
    {acting && <Acts alerts={[alert]} user={user} what={acting} onClose={() => setActing(null)} />}
  </>;
}

/** What happens to an alert (`schemas/alerts.py`). */
const EVENTS = {
  firing: "fired", resolved: "resolved", escalated: "escalated", acknowledged: "acknowledged", stale: "notMeasured", measured: "measuredAgain",
  inhibited: "inhibited", silenced: "silencedEvent", notified: "notified", judged: "judged",
} satisfies Record<string, Key>;

/** Measures that a chart shows in their own unit. */
const CHARTS: Record<string, string> = { latency_us: "latency", loss_ratio: "loss", error_ratio: "errors", bits_per_second: "bandwidth" };

/** From before an alert began until now. */
function around(alert: Row): Range {
  const level = alert.level as keyof typeof STEPS, step = STEPS[level];
  const since = Math.floor(Date.parse(alert.since) / 1000 / step) * step;
  const last = Math.floor(Date.parse(alert.window_end) / 1000);
  const from = since - 30 * step;
  return { from, until: Math.min(last + 10 * step, from + 720 * step), level, levels: [], step, live: false };
}

/** The series of the alert, with the limit. */
function Around({ alert }: { alert: Row }) {
  const range = around(alert), { level, from, until } = range;
  const { src_vm: src, dst_vm: dst, network = "", src_host = "", dst_host = "" } = alert.labels;
  const loaded = useLoad(`around ${src} ${dst} ${from} ${until} ${level}`, (signal) => ask("pair_series", { level, from, until, src, dst, network, src_host, dst_host }, signal));
  const chart = CHARTS[alert.measure], only = chart ? [...new Set([chart, "bandwidth"])] : undefined;
  const limits = chart && alert.condition === "threshold" ? { [chart]: alert.threshold ?? undefined } : {};
  return <><Shown loaded={loaded}>{({ data }) => <PairCharts data={data} range={range} only={only} limits={limits} onRange={(first, last) => go(then(pairLink(src, dst, { network, pair: data.pair_id?.[0] }), first, last))} />}</Shown>
    <p><Link to={then(pairLink(src, dst, { network, pair: loaded.value?.data.pair_id?.[0] }), from, until)}>{say("showPair")} →</Link></p></>;
}

function AroundInterface({ alert }: { alert: Row }) {
  const range = around(alert), { level, from, until } = range, { host = "", interface: name = "" } = alert.labels;
  const loaded = useLoad(`around ${host} ${name} ${from} ${until} ${level}`, (signal) => ask("interface_series", { level, from, until, host, interface: name }, signal));
  const page = then(interfaceLink(host, name), from, until);
  const limits = alert.condition === "threshold" ? { [alert.measure]: alert.threshold ?? undefined } : {};
  return <><Shown loaded={loaded}>{({ data }) => <InterfaceCharts data={data} range={range} limits={limits} onRange={(first: number, last: number) => go(then(interfaceLink(host, name), first, last))} />}</Shown>
    <p><Link to={page}>{say("interface")} →</Link></p></>;
}
