// Through what the volume flows: layers of projects, hypervisors, networks or VMs.
import { ask, rows, useLoad } from "../core/api.ts";
import { clock } from "../core/format.ts";
import { none } from "../core/none.ts";
import { type PathLink, type PathNode, graph, volume } from "../core/paths.ts";
import type { Page } from "../core/page.ts";
import { go, kept, link, set } from "../core/state.ts";
import { say } from "../core/text.ts";
import type { Key } from "../text/en.ts";
import { Card, Empty, Name, Shown } from "../parts/basics.tsx";
import { Count } from "../parts/figures.tsx";
import { List } from "../parts/list.tsx";
import { Sankey } from "../parts/sankey.tsx";
import { Choice } from "../parts/search.tsx";

type Kind = "project" | "host" | "network" | "vm";
const LAYERS: Record<string, Kind[]> = {
  project: ["project", "host", "host", "project"], vm: ["vm", "host", "host", "vm"], network: ["project", "network", "project"],
};
const BY: [string, Key][] = [["project", "byProject"], ["vm", "byVm"], ["network", "byNetwork"]];
const WORDS: Record<Kind, Key> = { project: "project", host: "host", network: "network", vm: "vm" };
const MOST = 8, LISTED = 50;

export function Paths({ range, newest, query }: Page) {
  const at = newest ?? 0, level = range.level, by = LAYERS[query.get("by") ?? ""] ? query.get("by")! : "project", layers = LAYERS[by]!;
  const only = Object.fromEntries((["project", "host", "network", "vm"] as const).map((one) => [one, query.get(one) ?? ""]));
  const loaded = useLoad(`paths ${by} ${newest} ${level} ${JSON.stringify(only)}`, (signal) => at
    ? ask(`paths_by_${by}`, { level, at, most: MOST, ...only }, signal).then(rows) : none(newest, []));
  const name = (node: PathNode) => node.other ? say("otherGroup") : node.name || say("outside");
  const filter = (node: PathNode) => !node.other && node.name && set({ [layers[node.layer]!]: node.name }, false);
  return <>
    <h1>{say("paths")} <small>{at ? `${say("window")} ${level}, ${clock(at, kept("clock", "utc") === "utc")}` : ""}</small></h1>
    <div class="bar">
      <Choice name="by" value={by} of={BY} label="by" />
      {Object.entries(only).filter(([, value]) => value).map(([key, value]) => <button key={key} class="tag" onClick={() => set({ [key]: "" })}>{say(WORDS[key as Kind])} <Name>{value}</Name> ×</button>)}
    </div>
    <Shown loaded={loaded}>{(found) => {
      const { nodes, links, unmeasured } = graph(found, layers.length);
      if (links.length === 0) return <Card><Empty>{newest === 0 ? `${say("noWindow")}. ${say("noWindowWhy")}` : unmeasured ? say("pathsUnmeasured", { n: unmeasured }) : say("noPair")}</Empty></Card>;
      const known = new Map(nodes.map((node) => [node.id, node]));
      const ends = (one: PathLink) => [known.get(one.source)!, known.get(one.target)!] as const;
      const words = (one: PathLink) => `${ends(one).map((node) => `\u2068${name(node)}\u2069`).join(" → ")}: ${volume(one)} · ${say("ofPairs", { n: one.pairs })}${one.lossy ? ` · ${say("nLossy", { n: one.lossy })}` : ""}${one.blind ? ` · ${say("nBlind", { n: one.blind })}` : ""}`;
      // Two hypervisors, or a VM and its own: the pairs between them.
      const open = (one: PathLink) => {
        const [source, target] = ends(one), kinds = [layers[source.layer], layers[target.layer]];
        if (source.other || target.other || !source.name || !target.name) return;
        if (kinds[0] === "host" && kinds[1] === "host") go(link("/pairs", { src_host: source.name, dst_host: target.name }));
        else if (kinds[0] === "vm") go(link("/pairs", { src_vm: source.name, src_host: target.name }));
        else if (kinds[1] === "vm") go(link("/pairs", { dst_vm: target.name, dst_host: source.name }));
        else set({ [kinds[0]!]: source.name, [kinds[1]!]: target.name }, false);
      };
      const largest = [...links].sort((a, b) => b.bits - a.bits);
      return <>
        <Card><Sankey title={say("paths")} heads={layers.map((kind, layer) => `${say(WORDS[kind])}${layer === 0 ? ` ${say("sent")}` : layer === layers.length - 1 ? ` ${say("received")}` : ""}`)}
          nodes={nodes} links={links} name={name} words={words} onNode={filter} onLink={open} />
          {unmeasured > 0 && <p class="soft">{say("pathsUnmeasured", { n: unmeasured })}</p>}</Card>
        <Card title={say("asTable")}><List name={say("paths")} all={largest.length} rows={largest.slice(0, LISTED)} rowKey={(row) => `${row.source} ${row.target}`} empty="" columns={[
          { title: `${say("source")} → ${say("destination")}`, wide: true, cell: (row) => { const [source, target] = ends(row as PathLink);
            return <button class="plain" onClick={() => open(row as PathLink)}><bdi>{name(source)}</bdi> → <bdi>{name(target)}</bdi></button>; } },
          { title: say("bandwidth"), number: true, cell: (row) => <span data-value={String(row.bits)}>{volume(row as PathLink)}</span> },
          { title: say("pairs"), number: true, cell: (row) => row.pairs },
          { title: say("lossyPairs"), number: true, cell: (row) => <Count n={row.lossy} kind="bad" /> },
          { title: say("blindWord"), number: true, cell: (row) => <Count n={row.blind} kind="hatched" /> },
        ]} /></Card>
      </>;
    }}</Shown>
  </>;
}
