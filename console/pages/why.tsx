// What stands beside an alert: how other pairs fare, and what else changed around that time.
import { type Row, ask, rows, useLoad } from "../core/api.ts";
import { clock, literal, moment, plain } from "../core/format.ts";
import { hostLink, iso, namedLink, then, vmLink } from "../core/links.ts";
import { kept, link } from "../core/state.ts";
import { say } from "../core/text.ts";
import { BESIDE, type Beside, type Trouble, verdict } from "../core/verdict.ts";
import type { Key } from "../text/en.ts";
import { Card, Cut, Empty, Link, Name, Shown } from "../parts/basics.tsx";
import { Count } from "../parts/figures.tsx";
import { List } from "../parts/list.tsx";

const STEPS: Record<string, number> = { "10s": 60, "1m": 60, "1h": 3600 };
const LENGTHS: Record<string, number> = { "10s": 10, "1m": 60, "1h": 3600 };
const BEFORE = 15, AFTER = 5;

const GROUPS: Record<Beside, Key> = {
  pair: "besidePair", back: "besideBack", from_vm: "besideFromVm", to_vm: "besideToVm", link: "besideLink",
  from_host: "besideFromHost", to_host: "besideToHost", rest: "besideRest",
};
const KINDS: Record<string, Key> = {
  move: "moved", appeared: "appeared", gone: "gone", alert: "alert", rate: "rateChanged", restarted: "restarted", reopened: "restarted",
  lost: "exportLost", dropped: "droppedHere", silent: "exportSilent", away: "vmflowAway",
};
const NEAR: Record<string, Key> = { vm: "nearVm", service: "nearService", host: "nearHost", elsewhere: "nearElsewhere" };
/** What makes the figures themselves doubtful. */
const DOUBT = new Set(["rate", "restarted", "reopened", "lost", "dropped", "silent", "away"]);

export const troubleOf = (measure: string): Trouble | null => measure.startsWith("loss") ? "loss" : measure.startsWith("latency") ? "latency" : null;

export function Why({ alert }: { alert: Row }) {
  const labels = alert.labels as Record<string, string>, step = STEPS[alert.level] ?? 60, level = step === 60 ? "1m" : "1h";
  const names = {
    src_vm: labels.src_vm || labels.vm || "", dst_vm: labels.dst_vm || labels.vm || "",
    src_host: labels.src_host || labels.host || "", dst_host: labels.dst_host || labels.host || "",
  };
  const seconds = (text: string | null) => Math.floor(Date.parse(text ?? alert.since) / 1000);
  // Of one that has ended, the last window is one in which all was well again.
  const last = alert.state === "resolved" ? seconds(alert.fired) - (LENGTHS[alert.level] ?? 60) : seconds(alert.window_start);
  const since = seconds(alert.since), at = Math.floor(last / step) * step;
  const of = alert.condition === "threshold" ? troubleOf(alert.measure) : null, limit = Math.max(0, alert.threshold ?? 0);
  const least: Record<string, number> = of === "loss" ? { least_ppm: Math.round(limit * 1e6) } : of === "latency" ? { least_us: Math.round(limit) } : {};
  const from = since - BEFORE * step, until = Math.min(Math.max(since, seconds(alert.fired)) + AFTER * step, from + 720 * step);
  const named = !!(names.src_vm || names.src_host);
  const key = `${alert.alert_id} ${JSON.stringify(names)} ${level}`;
  const changes = useLoad(`changes ${key} ${from} ${until}`, (signal) =>
    ask("changes", { level, from, until, around: since, ...names, agent: labels.agent || labels.exporter || "", id: alert.alert_id }, signal).then(rows));
  const beside = useLoad(`beside ${key} ${at}`, (signal) => named ? ask("beside", { level, at, ...names, ...least }, signal).then(rows) : Promise.resolve([]));
  return <div class="two">
    <Changes loaded={changes} />
    {named && <Others loaded={beside} alert={alert} names={names} step={step} level={level} />}
  </div>;
}

function Changes({ loaded }: { loaded: ReturnType<typeof useLoad<Row[]>> }) {
  const utc = kept("clock", "utc") === "utc";
  return <Card title={say("changedThen")}><Shown loaded={loaded}>{(found) => found.length === 0 ? <Empty>{say("nothingChanged")}</Empty> : <>
    {found.some((one) => one.near !== "elsewhere" && DOUBT.has(one.kind)) && <p class="so">{say("doubtful")} <Link to={link("/exporters")}>{say("exporters")} →</Link></p>}
    <ul class="lines changes">{found.map((one, place) => <li key={place} class={one.near}>
      <time>{moment(iso(one.t), utc)}</time> <b>{say(KINDS[one.kind] ?? "alert")}</b>
      {one.id ? <Link to={link(`/alerts/${one.id}`)}><Name>{`${one.what}: ${one.subject}`}</Name></Link> : <>
        {["move", "appeared", "gone"].includes(one.kind) ? <Link to={vmLink(one.subject)}><Name>{one.subject}</Name></Link> : <code>{one.subject}</code>} <Name>{one.what}</Name></>}
      <span class="tag right">{say(NEAR[one.near] ?? "nearElsewhere")}</span></li>)}</ul>
    <Cut shown={found.length} all={found[0]!.every} /></>}</Shown></Card>;
}

function Others({ loaded, alert, names, step, level }: { loaded: ReturnType<typeof useLoad<Row[]>>; alert: Row; names: Record<string, string>; step: number; level: string }) {
  // Names inside a sentence must not turn what stands around them.
  const apart = Object.fromEntries(Object.entries(names).map(([key, name]) => [key, `\u2068${name}\u2069`]));
  const of = alert.condition === "threshold" ? troubleOf(alert.measure) : null;
  const utc = kept("clock", "utc") === "utc";
  const address: Record<Beside, string> = {
    pair: namedLink(names.src_vm!, names.dst_vm!), back: namedLink(names.dst_vm!, names.src_vm!),
    from_vm: link("/pairs", { src_vm: names.src_vm! }), to_vm: link("/pairs", { dst_vm: names.dst_vm! }),
    link: link("/pairs", { src_host: names.src_host!, dst_host: names.dst_host! }),
    from_host: link("/pairs", { src_host: names.src_host! }), to_host: link("/pairs", { dst_host: names.dst_host! }), rest: link("/pairs"),
  };
  const sort = of === "loss" ? "certain" : of === "latency" ? "latency" : "";
  return <Card title={say("besideIt")} more={loaded.value?.[0] && <span class="soft">{clock(loaded.value[0].t, utc)} ({level})</span>}><Shown loaded={loaded}>{(found) => {
    if (found.length === 0) return <Empty>{say("noFigureThen")}</Empty>;
    const listed = [...found].sort((a, b) => BESIDE.indexOf(a.beside) - BESIDE.indexOf(b.beside)), t = found[0]!.t;
    const there = (name: Beside) => then(address[name] + (sort ? `${address[name].includes("?") ? "&" : "?"}sort=${sort}` : ""), t, t + step, level);
    return <>
      {of && alert.scope !== "exporter" && <p class="verdict"><b>{say(verdict(found, of), apart)}</b></p>}
      <List name={say("besideIt")} rows={listed} rowKey={(row) => row.beside} empty="" columns={[
        { title: say("pairs"), wide: true, cell: (row) => <Link to={there(row.beside)}><bdi>{say(GROUPS[row.beside as Beside], apart)}</bdi></Link> },
        { title: say("count"), number: true, cell: (row) => row.pairs },
        { title: say("lossyPairs"), number: true, cell: (row) => <><Count n={row.lossy} kind="bad" /><span class="soft"> / {row.measured}</span></> },
        { title: say("worstPair"), number: true, cell: (row) => row.worst > 0 ? <span class="bad">≥ {plain(row.worst, "ratio")}</span> : "–" },
        { title: say("slow"), number: true, cell: (row) => <><Count n={row.slow} kind="so" /><span class="soft"> / {row.timed}</span></> },
        { title: say("blindWord"), number: true, cell: (row) => <Count n={row.blind} kind="hatched" /> },
      ]} />
      <p class="soft">{["src_vm", "dst_vm"].filter((one, at, all) => names[one] && names[one] !== names[all[at - 1]!]).map((one) => <span key={one}><Link to={then(vmLink(names[one]!), t - 1800, t + 1800)}><Name>{names[one]!}</Name></Link> </span>)}
        {["src_host", "dst_host"].filter((one, at, all) => names[one] && names[one] !== names[all[at - 1]!]).map((one) => <span key={one}><Link to={then(hostLink(names[one]!), t - 1800, t + 1800)}><Name>{names[one]!}</Name></Link> </span>)}
        <Link to={link("/alerts", { vm: names.src_vm ? literal(names.src_vm) : "", state: "all" })}>{say("allAlerts")}</Link></p>
    </>;
  }}</Shown></Card>;
}
