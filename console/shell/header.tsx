import { useState } from "preact/hooks";
import { clock } from "../core/format.ts";
import type { Key } from "../text/en.ts";
import { type Range, keep, kept, set } from "../core/state.ts";
import { chinese, say } from "../core/text.ts";
import { logout } from "../core/session.ts";

const SPANS: [string, Key][] = [["-15m", "last15m"], ["-1h", "last1h"], ["-6h", "last6h"], ["-24h", "last24h"], ["-7d", "last7d"]];
const otherTheme = () => keep("theme", document.documentElement.dataset.theme === "dark" ? "light" : "dark");

/** The times of the range, moved by its own length. */
export function move(now: Range, way: number): void {
  const span = now.until - now.from;
  const at = (seconds: number) => new Date((seconds + way * span) * 1000).toISOString();
  set({ from: at(now.from), until: at(now.until) }, false);
}

export function Header({ now, span, connected, user, menu, onMenu, onHelp }: {
  now: Range; span: string; connected: boolean; user: string; menu: boolean; onMenu: () => void; onHelp: () => void;
}) {
  const [failed, setFailed] = useState("");
  const utc = kept("clock", "utc") === "utc";
  return <header class="top">
    <button class="burger" aria-label={say("menu")} aria-expanded={menu} onClick={onMenu}>☰</button>
    <div class="seg" role="group" aria-label={say("range")}>
      <button aria-label={say("earlier")} onClick={() => move(now, -1)}>◀</button>
      {SPANS.map(([one, word]) => <button key={one} aria-pressed={now.live && span === one}
        onClick={() => set({ from: one === "-1h" ? "" : one, until: "", level: "" }, false)}>{say(word)}</button>)}
      <button aria-label={say("later")} disabled={now.live} onClick={() => move(now, 1)}>▶</button>
    </div>
    <div class="seg" role="group" aria-label={say("window")}>
      {now.levels.map((one) => <button key={one} aria-pressed={now.level === one} onClick={() => set({ level: one })}>{one}</button>)}
    </div>
    {!now.live && <button class="then" onClick={() => set({ from: "", until: "" }, false)}>
      {clock(now.from, utc, false)} – {clock(now.until, utc, false)} ×</button>}
    <span class={`live ${now.live && connected ? "on" : ""}`}>
      <span aria-hidden="true">●</span> {now.live ? say(connected ? "live" : "offline") : say("paused")}</span>
    <span class="right">
      <button class="quiet" onClick={() => keep("clock", utc ? "local" : "utc")}>{say(utc ? "utc" : "local")}</button>
      <button class="quiet" lang={chinese() ? "en" : "zh-Hans"} onClick={() => keep("language", chinese() ? "en" : "zh")}>{say("language")}</button>
      <button class="quiet" aria-label={say("theme")} onClick={otherTheme}>◐</button>
      <button class="quiet" aria-label={say("help")} onClick={onHelp}>?</button>
      {user && <button class="quiet" title={say("logOut")} onClick={() => logout().catch((error) => setFailed(String(error.message ?? error)))}>{user} ⏻</button>}
      {failed && <span class="problem" role="alert">{say("failed")}: {failed}</span>}
    </span>
  </header>;
}
