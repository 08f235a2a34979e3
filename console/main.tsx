// The shell: navigation, time, banner of alerts; pages by address.
import { render } from "preact";
import { useEffect, useMemo, useState } from "preact/hooks";
import { type Row, ask, asked, get, rows, useLoad } from "./core/api.ts";
import { ago, clock } from "./core/format.ts";
import { shellKeys } from "./core/keys.ts";
import { useNews } from "./core/live.ts";
import { session } from "./core/session.ts";
import { go, kept, link, range, set, usePlace } from "./core/state.ts";
import { chinese, say } from "./core/text.ts";
import { Login } from "./pages/login.tsx";
import { Link } from "./parts/basics.tsx";
import { Banner } from "./shell/banner.tsx";
import { Header, move } from "./shell/header.tsx";
import { HelpPanel, SqlPanel } from "./shell/panels.tsx";
import { PLACES } from "./shell/places.ts";
import { Routed } from "./shell/routes.tsx";

const GOING = Object.fromEntries(PLACES.flatMap(([, places]) => places).map(([, to, key]) => [key, () => go(link(to))]));
const icon = () => document.querySelector<HTMLLinkElement>("link[rel=icon]")!.href;

function useTheme(): void {
  const theme = kept("theme", matchMedia("(prefers-color-scheme: light)").matches ? "light" : "dark");
  document.documentElement.dataset.theme = theme;
  document.documentElement.lang = chinese() ? "zh-Hans" : "en";
}

function Menu({ open, path, count }: { open: boolean; path: string; count: string }) {
  const inside = (to: string) => (to === "/" ? path === "/" : path === to || path.startsWith(`${to}/`));
  return <nav class={open ? "open" : ""} aria-label={say("menu")}>
    <Link to={link("/")} class="brand"><img src={icon()} alt="" width="20" height="20" />vmflow</Link>
    {PLACES.map(([group, places]) => <div key={group}>
      <h2>{say(group)}</h2>
      {places.map(([word, to, key]) => <Link key={to} to={link(to)} aria-current={inside(to) ? "page" : undefined}>
        <span>{say(word)}</span>{to === "/alerts" && count ? <em>{count}</em> : <kbd>g {key}</kbd>}</Link>)}
    </div>)}
  </nav>;
}

function Shell({ user }: { user: string }) {
  const { query } = usePlace();
  const news = useNews();
  const path = location.pathname;
  const [tick, setTick] = useState(0);
  const [panel, setPanel] = useState<"" | "sql" | "help">("");
  const [menu, setMenu] = useState(false);
  // Its ends stay until a window closes: with each second, pages would ask again.
  const now = useMemo(() => range(query, path), [String(query), path, tick]);
  // A window is asked for once it is evaluated, some seconds after it closed; never in a hidden tab.
  useEffect(() => {
    if (!now.live || document.hidden || !news.windows) return;
    const soon = setTimeout(() => setTick((old) => old + 1), 500);
    return () => clearTimeout(soon);
  }, [news.windows]);
  const turn = now.live ? tick : 0;
  const window = useLoad(`newest ${query.get("from")} ${query.get("until")} ${now.level} ${turn}`, (signal) =>
    ask("newest", { level: now.level, from: now.from, until: now.until }, signal).then((one) => rows(one)[0]!));
  // One question for banner, count and overview.
  const firing = useLoad(`alerts ${news.alerts}`, (signal) =>
    get("/api/v1/alerts?state=firing&state=acknowledged&limit=500", signal).then((body) => ({ alerts: body.alerts as Row[], more: !!body.next_cursor })));
  // Of its own: many others must not hide one.
  const critical = useLoad(`critical ${news.alerts}`, (signal) =>
    get("/api/v1/alerts?state=firing&severity=critical&limit=100", signal).then((body) => body.alerts as Row[]));
  const waiting = (firing.value?.alerts ?? []).filter((one) => one.state === "firing").length;
  const count = waiting ? `${waiting}${firing.value!.more ? "+" : ""}` : "";
  // Without an answer it is not known whether there is a window.
  const newest = window.value ? (window.value.found ? window.value.t as number : 0) : null;
  const utc = kept("clock", "utc") === "utc";
  useEffect(() => { document.title = `${count ? `(${count}) ` : ""}vmflow${path === "/" ? "" : ` ${path.slice(1)}`}`; });
  useEffect(() => {
    setMenu(false);
    // What the page before asked is no SQL of this one.
    for (const name of asked.keys()) if (name !== "newest") asked.delete(name);
  }, [path]);
  useEffect(() => shellKeys({
    "/": () => document.querySelector<HTMLInputElement>("#find")?.focus(), "[": () => move(now, -1), "]": () => move(now, 1),
    l: () => set({ from: "", until: "" }), "?": () => setPanel("help"),
  }, GOING));
  return <div class="shell">
    <Menu open={menu} path={path} count={count} />
    <div class="body">
      <Header now={now} span={query.get("from") ?? "-1h"} connected={news.connected} user={user} menu={menu}
        onMenu={() => setMenu(!menu)} onHelp={() => setPanel("help")} />
      <Banner critical={critical.value ?? []} user={user} />
      <main>{window.error && <p class="problem" role="alert">{say("failed")}: {window.error} <button onClick={window.again}>{say("again")}</button></p>}
        <Routed range={now} newest={newest} query={query} news={news} turn={turn} user={user} firing={firing} path={path} /></main>
      <footer>
        <span>{newest ? say("newestWindow", { time: `${clock(newest, utc)} (${now.level})`, ago: ago(Date.now() / 1000 - newest - now.step) }) : say(newest === 0 ? "noWindow" : window.error ? "failed" : "loading")}</span>
        <button class="quiet" onClick={() => setPanel("sql")}>{say("sqlOfPage")}</button>
      </footer>
    </div>
    {panel === "sql" && <SqlPanel onClose={() => setPanel("")} />}
    {panel === "help" && <HelpPanel onClose={() => setPanel("")} />}
  </div>;
}

function App() {
  useTheme();
  usePlace();
  const known = useLoad("session", session);
  // A session that has ended: the page asks for a login, and is where it was.
  useEffect(() => {
    if (!known.value?.user) return;
    addEventListener("vmflow-login", known.again);
    return () => removeEventListener("vmflow-login", known.again);
  }, [known.value?.user]);
  if (known.value?.needed) return <Login onDone={known.again} />;
  if (known.value) return <Shell user={known.value.user} />;
  return known.error ? <p class="problem" role="alert">{say("failed")}: {known.error} <button onClick={known.again}>{say("again")}</button></p> : null;
}

render(<App />, document.getElementById("app")!);
