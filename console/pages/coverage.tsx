import { type Row, ask, rows, useLoad } from "../core/api.ts";
import { clock, plain } from "../core/format.ts";
import { hostLink } from "../core/links.ts";
import { none } from "../core/none.ts";
import type { Page } from "../core/page.ts";
import { kept, link } from "../core/state.ts";
import { say } from "../core/text.ts";
import type { Key } from "../text/en.ts";
import { Card, Empty, Link, Name, REASONS, Shown } from "../parts/basics.tsx";
import { Bits } from "../parts/figures.tsx";
import { List } from "../parts/list.tsx";

const STATES: Record<string, [Key, Key]> = {
  both: ["seenBoth", "seenBothWhy"], one_switch: ["seenOneSwitch", "seenOneSwitchWhy"], sender: ["seenSender", "seenSenderWhy"],
  receiver: ["seenReceiver", "seenReceiverWhy"], insufficient: ["insufficient", "insufficientWhy"], nowhere: ["seenNowhere", "seenNowhereWhy"],
};

/** How much of a whole, as a bar and in words. */
const Share = ({ part, kind }: { part: number; kind: string }) => <span class="share"><meter min={0} max={1} value={part} aria-label={plain(part, "ratio")} class={kind} /> {plain(part, "ratio")}</span>;

export function Coverage({ range, newest }: Page) {
  const at = newest ?? 0, level = range.level;
  const asked = (name: string) => (signal: AbortSignal) => at ? ask(name, { level, at }, signal).then(rows) : none(newest, []);
  const states = useLoad(`coverage ${newest} ${level}`, asked("coverage"));
  const hosts = useLoad(`blind hosts ${newest} ${level}`, asked("coverage_hosts"));
  const latency = useLoad(`untimed ${newest} ${level}`, asked("coverage_latency"));
  const empty = newest === 0 ? `${say("noWindow")}. ${say("noWindowWhy")}` : say("noPair");
  return <>
    <h1>{say("coverage")} <small>{at ? `${say("window")} ${level}, ${clock(at, kept("clock", "utc") === "utc")}` : ""}</small></h1>
    <Card title={say("whereSeen")}><Shown loaded={states}>{(found) => {
      const all = found.reduce((sum: number, row: Row) => sum + (row.bits ?? 0), 0) || 1;
      return <List name={say("coverage")} rows={found} rowKey={(row) => row.state} empty={empty} columns={[
        { title: say("state"), wide: true, cell: (row) => { const [word, why] = STATES[row.state] ?? ["nodata", "nodata"]; return <><b class={row.state === "sender" || row.state === "receiver" ? "hatched" : ""}>{say(word)}</b><span class="soft sub">{say(why)}</span></>; } },
        { title: say("bandwidth"), number: true, cell: (row) => <Bits row={row} name="bits" /> },
        { title: say("share"), number: true, cell: (row) => <Share part={(row.bits ?? 0) / all} kind={row.state} /> },
        { title: say("pairs"), number: true, cell: (row) => <span data-value={String(row.pairs)}>{row.pairs}</span> },
      ]} />;
    }}</Shown></Card>
    <div class="two">
      <Card title={say("blindHosts")} more={<Link to={link("/pairs", { only: "blind" })}>{say("blind")} →</Link>}><Shown loaded={hosts}>{(found) => found.length === 0 ? <Empty>{newest === 0 ? empty : say("noBlindHost")}</Empty>
        : <List name={say("blindHosts")} rows={found} rowKey={(row) => `${row.host} ${row.side}`} empty="" columns={[
          { title: say("host"), wide: true, cell: (row) => <>{row.host ? <Link to={hostLink(row.host)}><Name>{row.host}</Name></Link> : say("outside")}
            <span class="soft sub">{say(row.side === "sender" ? "doesNotShowSent" : "doesNotShowReceived")}</span></> },
          { title: say("blind"), number: true, cell: (row) => <>{row.blind}<span class="soft"> / {row.pairs}</span></> },
          { title: say("bandwidth"), number: true, cell: (row) => row.blind_bits === null ? "–" : plain(row.blind_bits, "bit/s") },
        ]} />}</Shown>
        <p class="soft">{say("blindRepair")} <Link to={link("/exporters")}>{say("exporters")}</Link></p></Card>
      <Card title={say("latencyWhy")}><Shown loaded={latency}>{(found) => <List name={say("latencyWhy")} rows={found} rowKey={(row) => row.reason} empty={empty} columns={[
        { title: say("why"), wide: true, cell: (row) => { const [word, why] = REASONS[row.reason] ?? ["nodata", "nodata"]; return <><b>{say(word)}</b><span class="soft sub">{say(why)}</span></>; } },
        { title: say("pairs"), number: true, cell: (row) => row.pairs },
      ]} />}</Shown></Card>
    </div>
  </>;
}
