import { type Row, ask, rows, useLoad } from "../core/api.ts";
import { none } from "../core/none.ts";
import { clock } from "../core/format.ts";
import { link, set } from "../core/state.ts";
import { type Key } from "../text/en.ts";
import { say } from "../core/text.ts";
import type { Page } from "../main.tsx";
import { Card, Empty, Fig, Latency, Link, Loss, Name, Shown } from "../parts/basics.tsx";
import { utcNow } from "./alerts.tsx";

const COLUMNS: [string, Key, boolean][] = [["src", "source", false], ["dst", "destination", false], ["bits", "bandwidth", true], ["loss", "loss", true], ["latency", "latency", true], ["connections", "connections", true]];
const LIMIT = 50;

export function Pairs({ range, newest, query }: Page) {
  const at = newest ?? 0, level = range.level;
  const sort = query.get("sort") ?? "bits", down = query.get("up") ? "0" : "1", only = query.get("only") ?? "";
  const vm = query.get("vm") ?? "", host = query.get("host") ?? "", offset = Number(query.get("offset") ?? 0) || 0;
  const loaded = useLoad(`pairs ${newest} ${at} ${level} ${sort} ${down} ${only} ${vm} ${host} ${offset}`, (signal) => at ? ask("pairs", { level, at, sort, down, only, vm, host, limit: LIMIT, offset }, signal).then(rows) : none(newest, []));
  const choose = (name: string) => set({ sort: name, up: sort === name ? (down === "1" ? "1" : "") : name === "src" || name === "dst" ? "1" : "", offset: "" });
  return <>
    <h1>{say("pairs")} <small>{at ? `${say("window")} ${level}, ${clock(at, utcNow())}` : ""}</small></h1>
    <div class="bar">
      <input type="search" id="find" placeholder={say("find")} aria-label={say("find")} key={`vm${vm}`} defaultValue={vm} onChange={(event) => set({ vm: event.currentTarget.value, offset: "" })} />
      <input type="search" placeholder={say("findHost")} aria-label={say("findHost")} key={`host${host}`} defaultValue={host} onChange={(event) => set({ host: event.currentTarget.value, offset: "" })} />
      <div class="seg" role="group" aria-label={say("only")}>{([["", "onlyAll"], ["lossy", "onlyLossy"], ["slow", "onlySlow"], ["blind", "onlyBlind"]] as const).map(([one, word]) => <button key={one} aria-pressed={only === one} onClick={() => set({ only: one, offset: "" })}>{say(word)}</button>)}</div>
    </div>
    <Card><Shown loaded={loaded}>{(found) => found.length === 0 ? <Empty>{newest === 0 ? `${say("noWindow")}. ${say("noWindowWhy")}` : say("noPair")}</Empty> : <>
      <div class="scroll" tabIndex={0} role="region" aria-label={say("pairs")}><table class="pairs"><thead><tr>{COLUMNS.map(([name, word, number]) => <th key={name} class={number ? "n" : ""} aria-sort={sort === name ? (down === "1" ? "descending" : "ascending") : undefined}><button onClick={() => choose(name)}>{say(word)}{sort === name && (down === "1" ? " ▾" : " ▴")}</button></th>)}</tr></thead>
        <tbody>{found.map((row: Row) => <tr key={`${row.src_vm}\u0000${row.dst_vm}\u0000${row.network}`}>
          <td class="wide"><Link to={link(`/pairs/${encodeURIComponent(row.src_vm)}/${encodeURIComponent(row.dst_vm)}`, { network: row.network })}><Name>{row.src_vm}</Name></Link><span class="soft sub">{row.src_host}</span></td>
          <td class="wide"><Link to={link(`/pairs/${encodeURIComponent(row.src_vm)}/${encodeURIComponent(row.dst_vm)}`, { network: row.network })}><Name>{row.dst_vm}</Name></Link><span class="soft sub">{row.dst_host}{row.network && ` · ${row.network}`}</span></td>
          <td class="n" data-value={String(row.bits_per_second)}><Fig value={row.bits_per_second} low={row.bits_per_second_low} high={row.bits_per_second_high} unit="bit/s" /></td>
          <td class="n" data-value={String(row.loss_ratio)}><Loss row={row} /></td>
          <td class="n"><Latency row={row} /></td>
          <td class="n"><Fig value={row.connections} unit="count" state={row.connections_evidence === "exact" ? "exact" : "atleast"} /></td>
        </tr>)}</tbody></table></div>
      <p class="pager soft">{say("shown", { from: offset + 1, to: offset + found.length, n: found[0]!.every })} {offset > 0 && <button onClick={() => set({ offset: String(Math.max(0, offset - LIMIT)) })}>{say("previous")}</button>} {offset + found.length < found[0]!.every && <button onClick={() => set({ offset: String(offset + LIMIT) })}>{say("next")}</button>}</p>
    </>}</Shown></Card>
  </>;
}
