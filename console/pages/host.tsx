import { ask, rows, useLoad } from "../core/api.ts";
import { literal } from "../core/format.ts";
import { iso } from "../core/links.ts";
import { none } from "../core/none.ts";
import type { Page } from "../core/page.ts";
import { link, set } from "../core/state.ts";
import { say } from "../core/text.ts";
import { Card, Link, Name, Shown } from "../parts/basics.tsx";
import { Chart } from "../parts/chart.tsx";
import { Interfaces } from "../parts/interfaces.tsx";
import { List } from "../parts/list.tsx";
import { Links } from "./links.tsx";
import { VM_COLUMNS } from "./vms.tsx";

export function Host({ range, newest, turn, host }: Page & { host: string }) {
  const { level, from, until, step } = range, at = newest ?? 0;
  const series = useLoad(`host ${host} ${from} ${until} ${level} ${turn}`, (signal) => ask("host_series", { level, from, until, host }, signal));
  const vms = useLoad(`on ${host} ${newest} ${level}`, (signal) => at
    ? ask("vms", { level, at, host: literal(host), limit: 50 }, signal).then(rows) : none(newest, []));
  const interfaces = useLoad(`ports of ${host} ${newest} ${level}`, (signal) => at ? ask("interfaces", { level, at, host: literal(host), limit: 200 }, signal).then(rows) : none(newest, []));
  const zoom = (first: number, last: number) => set({ from: iso(first), until: iso(last) }, false);
  return <>
    <h1><Name>{host}</Name></h1>
    <div class="bar"><span class="right"><Link to={link("/pairs", { host: literal(host) })}>{say("pairs")}</Link> <Link to={link("/inventory", { host: literal(host) })}>{say("inventory")}</Link></span></div>
    <Card><Shown loaded={series}>{({ data }) => <Chart title={say("sentToOthers")} time={data.t ?? []} step={step} from={from} until={until} unit="bit/s" onRange={zoom}
      series={[{ name: say("sent"), color: "--s1", value: data.bits ?? [], low: data.bits_low ?? [], high: data.bits_high ?? [] }]} />}</Shown></Card>
    <Card title={say("links")}><Links level={level} at={newest} host={host} sort="bits" only="" limit={50} /></Card>
    <Card title={say("vms")} more={<Link to={link("/vms", { host: literal(host) })}>{say("allVms")} →</Link>}><Shown loaded={vms}>{(found) => <List name={say("vms")} rows={found} columns={VM_COLUMNS()} rowKey={(row) => row.uuid + row.vm} empty={say("noVm")} />}</Shown></Card>
    <Card title={say("interfaces")} more={<Link to={link("/interfaces", { host: literal(host) })}>{say("onlyAll")} →</Link>}><Shown loaded={interfaces}>{(found) => <Interfaces rows={found} />}</Shown></Card>
  </>;
}
