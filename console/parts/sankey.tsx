// Flows through layers, left to right: heights are volume.  What it shows stands in a table, too.
import { sankey, sankeyLinkHorizontal } from "d3-sankey";
import { useEffect, useRef, useState } from "preact/hooks";
import { type PathLink, type PathNode, volume } from "../core/paths.ts";
import { say } from "../core/text.ts";

const BAR = 12, GAP = 8, LEAST_HEIGHT = 200, ROW = 26, LABEL = 22;
const shortened = (name: string, most: number) => (name.length > most ? `${name.slice(0, most - 1)}…` : name);

export function Sankey({ title, heads, nodes, links, name, words, onNode, onLink }: {
  title: string; heads: string[]; nodes: PathNode[]; links: PathLink[]; name: (node: PathNode) => string;
  words: (link: PathLink) => string; onNode: (node: PathNode) => void; onLink: (link: PathLink) => void;
}) {
  const box = useRef<HTMLDivElement>(null);
  const [width, setWidth] = useState(700);
  const [at, setAt] = useState("");
  useEffect(() => {
    const watch = new ResizeObserver(() => setWidth(box.current?.clientWidth ?? 700));
    watch.observe(box.current!);
    return () => watch.disconnect();
  }, []);
  const most = Math.max(...heads.map((_, layer) => nodes.filter((one) => one.layer === layer).length));
  const height = Math.max(LEAST_HEIGHT, most * ROW), wide = Math.max(width, 120 * heads.length);
  const made = sankey<PathNode, PathLink>().nodeId((node) => node.id).nodeAlign((node) => node.layer).nodeWidth(BAR).nodePadding(GAP)
    .nodeSort((a, b) => Number(a.other) - Number(b.other) || b.bits - a.bits).extent([[0, LABEL], [wide, height]]);
  const drawn = made({ nodes: nodes.map((one) => ({ ...one })), links: links.map((one) => ({ ...one, value: one.bits })) });
  const curve = sankeyLinkHorizontal();
  const last = heads.length - 1, room = Math.floor((wide / Math.max(1, last) - BAR) / 8);
  return <figure class="sankey" aria-label={title}>
    <p class="tip" role="status">{at || <span class="soft">{say("pathsHint")}</span>}</p>
    <div ref={box} class="scroll">
      <svg width={wide} height={height + LABEL / 2} viewBox={`0 0 ${wide} ${height + LABEL / 2}`} role="group" aria-label={title}>
        {heads.map((head, layer) => <text key={layer} class="head" x={layer === last ? wide : (wide - BAR) * layer / Math.max(1, last)} y={12} text-anchor={layer === last ? "end" : "start"}>{head}</text>)}
        {drawn.links.map((link) => {
          const own = links[link.index!]!;
          return <path key={`${own.source} ${own.target}`} d={curve(link) ?? ""} stroke-width={Math.max(1, link.width ?? 1)} class={own.lossy ? "lossy" : ""}
            onMouseEnter={() => setAt(words(own))} onMouseLeave={() => setAt("")} onClick={() => onLink(own)}><title>{words(own)}</title></path>;
        })}
        {drawn.nodes.map((node) => {
          const right = node.layer === last, said = `${name(node)} ${volume(node)}`;
          const keys = (event: KeyboardEvent) => { if (event.key === "Enter") onNode(node); };
          return <g key={node.id} tabIndex={0} role="button" aria-label={said} onClick={() => onNode(node)} onKeyDown={keys} onMouseEnter={() => setAt(said)} onMouseLeave={() => setAt("")} onFocus={() => setAt(said)}>
            <rect x={node.x0} y={node.y0} width={BAR} height={Math.max(1, node.y1! - node.y0!)} class={node.other ? "rest" : ""} />
            <text x={right ? node.x0! - 5 : node.x1! + 5} y={(node.y0! + node.y1!) / 2} dy="0.35em" text-anchor={right ? "end" : "start"}>{shortened(name(node), Math.max(6, room))}</text></g>;
        })}
      </svg>
    </div>
  </figure>;
}
