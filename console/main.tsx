// The shell: navigation, time, banner of alerts; pages by address.
import { render } from "preact";
import { useEffect, useState } from "preact/hooks";
import { type Loaded, type Row, ask, asked, get, rows, useLoad } from "./core/api.ts";
import { ago, clock } from "./core/format.ts";
import { shellKeys } from "./core/keys.ts";
import { type News, useNews } from "./core/live.ts";
import { type Range, go, keep, kept, link, range, set, usePlace } from "./core/state.ts";
import { chinese, say } from "./core/text.ts";
import { Alert } from "./pages/alert.tsx";
import { Acts, Alerts, Silences, Subject, figureOf } from "./pages/alerts.tsx";
import { Exporters } from "./pages/exporters.tsx";
import { Overview } from "./pages/overview.tsx";
import { Pair } from "./pages/pair.tsx";
import { Pairs } from "./pages/pairs.tsx";
import { Link, Severity } from "./parts/basics.tsx";
import { Dialog } from "./parts/dialog.tsx";
import type { Key } from "./text/en.ts";

/** What every page gets: the time, the newest window in it (0: none, null: not known yet), what is new, who asks. */
export interface Page { range: Range; newest: number | null; query: URLSearchParams; news: News; turn: number; user: string; firing: Loaded<Row[]> }

const NAV: [Key, [Key, string, string][]][] = [
  ["now", [["overview", "/", "o"], ["alerts", "/alerts", "a"]]],
  ["traffic", [["pairs", "/pairs", "p"]]],
  ["trust", [["exporters", "/exporters", "e"]]],
];
const SPANS: [string, Key][] = [["-15m", "last15m"], ["-1h", "last1h"], ["-6h", "last6h"], ["-24h", "last24h"], ["-7d", "last7d"]];

function useTheme(): void {
  const theme = kept("theme", matchMedia("(prefers-color-scheme: light)").matches ? "light" : "dark");
  document.documentElement.dataset.theme = theme;
  document.documentElement.lang = chinese() ? "zh-Hans" : "en";
}
const other = () => keep("theme", document.documentElement.dataset.theme === "dark" ? "light" : "dark");

/** The times of the range, moved by its own length. */
function move(now: Range, way: number): void {
  const span = now.until - now.from;
  set({ from: new Date((now.from + way * span) * 1000).toISOString(), until: new Date((now.until + way * span) * 1000).toISOString() }, false);
}

function Banner({ firing, user }: { firing: Row[]; user: string }) {
  const [acting, setActing] = useState<Row | null>(null);
  const waiting = firing.filter((one) => one.severity === "critical" && one.state === "firing" && !one.held_back);
  const first = waiting[0];
  return <>
    <div role="alert" class="banners">{first && <div class="banner"><Severity of={first.severity} /> <b>{first.rule}</b> <Subject labels={first.labels} /> <span>{figureOf(first)}</span>{waiting.length > 1 && <Link to={link("/alerts")}>+ {waiting.length - 1}</Link>}
      <span class="right"><Link to={link(`/alerts/${first.alert_id}`)}>{say("why")}</Link> <button onClick={() => setActing(first)}>{say("takeOn")}</button></span></div>}</div>
    {acting && <Acts alerts={[acting]} user={user} what="takeOn" onClose={() => setActing(null)} />}
  </>;
}

function Routed(page: Page & { path: string }) {
  const parts = page.path.split("/").filter(Boolean).map((part) => { try { return decodeURIComponent(part); } catch { return part; } });
  const [first, second, third] = parts;
  if (!first) return <Overview {...page} />;
  if (first === "alerts") return second ? <Alert {...page} id={second} /> : <Alerts {...page} />;
  if (first === "silences") return <Silences {...page} />;
  if (first === "pairs") return second && third ? <Pair {...page} src={second} dst={third} /> : <Pairs {...page} />;
  if (first === "exporters") return <Exporters {...page} />;
  return <p class="empty">{say("notFound")}</p>;
}

function App() {
  useTheme();
  const { query } = usePlace();
  const news = useNews();
  const [tick, setTick] = useState(0);
  const [panel, setPanel] = useState<"" | "sql" | "help">("");
  const [menu, setMenu] = useState(false);
  const live = range(query).live;
  // A closed window is asked for once its late records have had their time: at most every 5 s, never in a hidden tab.
  useEffect(() => { if (!live || document.hidden) return; const soon = setTimeout(() => setTick((old) => old + 1), 500); return () => clearTimeout(soon); }, [news.windows]);
  const now = range(query);
  const turn = live ? tick : 0;
  const window = useLoad(`newest ${query.get("from")} ${query.get("until")} ${now.level} ${turn}`, (signal) => ask("newest", { level: now.level, from: now.from, until: now.until }, signal).then((one) => rows(one)[0]!));
  const session = useLoad("session", (signal) => get("/api/v1/session", signal));
  // One question for banner, count and overview.
  const firing = useLoad(`alerts ${news.alerts}`, (signal) => get("/api/v1/alerts?state=firing&state=acknowledged&limit=500", signal).then((body) => body.alerts as Row[]));
  const count = (firing.value ?? []).filter((one) => one.state === "firing").length;
  const newest = window.value ? (window.value.found ? window.value.t as number : 0) : window.error ? 0 : null;
  const user: string = session.value?.user ?? "";
  const path = location.pathname;
  const utc = kept("clock", "utc") === "utc";
  useEffect(() => { document.title = `${count ? `(${count}) ` : ""}vmflow${path === "/" ? "" : ` ${path.slice(1)}`}`; });
  useEffect(() => setMenu(false), [path]);
  useEffect(() => shellKeys(
    { "/": () => document.querySelector<HTMLInputElement>("#find")?.focus(), "[": () => move(now, -1), "]": () => move(now, 1), l: () => set({ from: "", until: "" }), "?": () => setPanel("help") },
    Object.fromEntries(NAV.flatMap(([, entries]) => entries).map(([, to, key]) => [key, () => go(link(to))])),
  ));
  const span = query.get("from") ?? "-1h";
  return <div class="shell">
    <nav class={menu ? "open" : ""} aria-label={say("menu")}><Link to={link("/")} class="brand"><img src={document.querySelector<HTMLLinkElement>("link[rel=icon]")!.href} alt="" width="20" height="20" />vmflow</Link>
      {NAV.map(([group, entries]) => <div key={group}><h2>{say(group)}</h2>{entries.map(([word, to, key]) => <Link key={to} to={link(to)} aria-current={(to === "/" ? path === "/" : path.startsWith(to)) ? "page" : undefined}><span>{say(word)}</span>{to === "/alerts" && count ? <em>{count}</em> : <kbd>g {key}</kbd>}</Link>)}</div>)}
    </nav>
    <div class="body">
      <header class="top">
        <button class="burger" aria-label={say("menu")} aria-expanded={menu} onClick={() => setMenu(!menu)}>☰</button>
        <div class="seg" role="group" aria-label={say("range")}><button aria-label={say("earlier")} onClick={() => move(now, -1)}>◀</button>{SPANS.map(([one, word]) => <button key={one} aria-pressed={now.live && span === one} onClick={() => set({ from: one === "-1h" ? "" : one, until: "" }, false)}>{say(word)}</button>)}<button aria-label={say("later")} disabled={now.live} onClick={() => move(now, 1)}>▶</button></div>
        {!now.live && <button class="then" onClick={() => set({ from: "", until: "" }, false)}>{clock(now.from, utc, false)} – {clock(now.until, utc, false)} ×</button>}
        <span class={`live ${now.live && news.connected ? "on" : ""}`}><span aria-hidden="true">●</span> {now.live ? say(news.connected ? "live" : "offline") : say("paused")}</span>
        <span class="right">
          <button class="quiet" onClick={() => keep("clock", utc ? "local" : "utc")}>{say(utc ? "utc" : "local")}</button>
          <button class="quiet" lang={chinese() ? "en" : "zh-Hans"} onClick={() => keep("language", chinese() ? "en" : "zh")}>{say("language")}</button>
          <button class="quiet" aria-label={say("theme")} onClick={other}>◐</button>
          <button class="quiet" aria-label={say("help")} onClick={() => setPanel("help")}>?</button>
          {user && <span class="soft">{user}</span>}
        </span>
      </header>
      <Banner firing={firing.value ?? []} user={user} />
      <main><Routed range={now} newest={newest} query={query} news={news} turn={turn} user={user} firing={firing} path={path} /></main>
      <footer><span>{newest ? say("newestWindow", { time: `${clock(newest, utc)} (${now.level})`, ago: ago(Date.now() / 1000 - newest - now.step) }) : say("noWindow")}</span><button class="quiet" onClick={() => setPanel("sql")}>{say("sqlOfPage")}</button></footer>
    </div>
    {panel === "sql" && <Dialog title={say("sqlOfPage")} onClose={() => setPanel("")}><div class="scroll">{asked.size === 0 ? say("noSql") : [...asked].map(([name, one]) => <details key={name} open={asked.size < 3}><summary>{name} <span class="soft">{(one.seconds * 1000).toFixed(0)} ms</span></summary><pre>{one.sql}</pre><pre class="soft">{JSON.stringify(one.values)}</pre></details>)}</div><menu><button onClick={() => setPanel("")}>{say("close")}</button></menu></Dialog>}
    {panel === "help" && <Dialog title={say("help")} onClose={() => setPanel("")}><ul class="lines">{say("helpText").split(" · ").map((one) => <li key={one}>{one}</li>)}</ul><menu><button onClick={() => setPanel("")}>{say("close")}</button></menu></Dialog>}
  </div>;
}

render(<App />, document.getElementById("app")!);
