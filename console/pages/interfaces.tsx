// Interfaces by their counters: all of them, and one in time.
import { type Columns, ask, rows, useLoad } from "../core/api.ts";
import { download } from "../core/csv.ts";
import { clock, plain } from "../core/format.ts";
import { hostLink, iso, vmLink } from "../core/links.ts";
import { none } from "../core/none.ts";
import type { Page } from "../core/page.ts";
import { type Range, kept, link, set } from "../core/state.ts";
import { say } from "../core/text.ts";
import type { Key } from "../text/en.ts";
import { Card, Empty, Link, Name, Shown } from "../parts/basics.tsx";
import { Chart } from "../parts/chart.tsx";
import { Interfaces as Table } from "../parts/interfaces.tsx";
import { order } from "../parts/list.tsx";
import { Choice, Search } from "../parts/search.tsx";

const LIMIT = 50;
const ONLY: [string, Key][] = [["", "onlyAll"], ["wrong", "onlyWrong"], ["full", "onlyFull"]];

export function Interfaces({ range, newest, query }: Page) {
  const at = newest ?? 0, level = range.level, now = order(query, "used");
  const [interface_, host, only] = ["interface", "host", "only"].map((name) => query.get(name) ?? "");
  const loaded = useLoad(`interfaces ${newest} ${level} ${now.sort} ${now.down} ${now.offset} ${interface_} ${host} ${only}`, (signal) => at
    ? ask("interfaces", { level, at, interface: interface_!, host: host!, only: only!, sort: now.sort, down: now.down ? "1" : "0", limit: LIMIT, offset: now.offset }, signal).then(rows)
    : none(newest, []));
  return <>
    <h1>{say("interfaces")} <small>{at ? `${say("window")} ${level}, ${clock(at, kept("clock", "utc") === "utc")}` : ""}</small></h1>
    <div class="bar">
      <Search name="interface" value={interface_!} word="findInterface" first />
      <Search name="host" value={host!} word="findHost" />
      <Choice name="only" value={only!} of={ONLY} label="only" />
    </div>
    <Card><Shown loaded={loaded}>{(found) => <Table rows={found} now={now} limit={LIMIT}
      empty={newest === 0 ? `${say("noWindow")}. ${say("noWindowWhy")}` : say("noInterface")} />}</Shown></Card>
  </>;
}

/** What its counters say in time; rates of a window that they cover in part are those of the part. */
export function InterfaceCharts({ data, range, limits = {}, onRange }: { data: Columns; range: Range; limits?: Record<string, number | undefined>; onRange: (from: number, until: number) => void }) {
  const column = (name: string) => data[name] ?? [];
  const shared = { time: column("t"), step: range.step, from: range.from, until: range.until, onRange };
  return <div class="two">
    <Card><Chart {...shared} title={say("bandwidth")} unit="bit/s" series={[
      { name: say("in"), color: "--s1", value: column("in_bits_per_second") }, { name: say("out"), color: "--s4", value: column("out_bits_per_second") }]} /></Card>
    <Card><Chart {...shared} title={say("utilisation")} unit="ratio" least={0.1} limit={limits.utilisation} series={[{ name: say("utilisation"), color: "--s3", value: column("utilisation") }]} /></Card>
    <Card><Chart {...shared} title={say("discards")} unit="ratio" least={0.01} top={1} limit={limits.loss_ratio} series={[{ name: say("discards"), color: "--s2", value: column("loss_ratio") }]} /></Card>
    <Card><Chart {...shared} title={say("interfaceErrors")} unit="ratio" least={0.01} top={1} limit={limits.error_ratio} series={[{ name: say("interfaceErrors"), color: "--s2", value: column("error_ratio") }]} /></Card>
  </div>;
}

export function Interface({ range, turn, host, name }: Page & { host: string; name: string }) {
  const { level, from, until } = range;
  const loaded = useLoad(`interface ${host}\u0000${name} ${from} ${until} ${level} ${turn}`, (signal) => ask("interface_series", { level, from, until, host, interface: name }, signal));
  return <>
    <h1><Name>{name}</Name> <small><Link to={hostLink(host)}><Name>{host}</Name></Link></small></h1>
    <Shown loaded={loaded}>{(answer) => {
      const { data, rows: count } = answer, last = (of: string) => count ? data[of]![count - 1] : null;
      if (count === 0) return <Card><Empty>{say("noWindow")}. {say("noWindowWhy")}</Empty></Card>;
      return <>
        <div class="bar">
          <span class="soft">{last("speed") ? `${plain(last("speed"), "bit/s")} (${last("speed_source")})` : say("noSpeed")} · {say("countersFrom")} {last("counters_from")}{last("network") && <> · <Name>{last("network")}</Name></>}</span>
          <span class="right">
            {last("of_vm") && <Link to={vmLink(last("of_vm"), last("uuid"))}><Name>{last("of_vm")}</Name></Link>}
            <Link to={link("/alerts", { state: "all" })}>{say("alerts")}</Link>
            <button class="quiet" onClick={() => download("interface", rows(answer))}>CSV ↓</button>
          </span>
        </div>
        <InterfaceCharts data={data} range={range} onRange={(first, until) => set({ from: iso(first), until: iso(until) }, false)} />
      </>;
    }}</Shown>
  </>;
}
