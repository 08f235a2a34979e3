// A matrix on canvas: rows send, columns receive.  Keys move a cell, Enter opens it, and what it says is read out.
import { useEffect, useRef, useState } from "preact/hooks";
import { head, picture } from "../core/png.ts";
import { say } from "../core/text.ts";
import { hatch } from "./hatch.ts";

export interface Cell { row: string; column: string; shade: { kind: "volume" | "loss" | "good" | "blind" | "nothing"; part: number }; words: string; open: () => void }

const COLOURS = { volume: "--s1", loss: "--critical", good: "--good", blind: "--blind", nothing: "--line" };
const colour = (name: string) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const shortened = (name: string) => (name.length > 18 ? `${name.slice(0, 17)}…` : name) || say("otherGroup");

export function Heat({ title, about, names, cells }: { title: string; about: string; names: string[]; cells: Cell[] }) {
  const box = useRef<HTMLDivElement>(null), canvas = useRef<HTMLCanvasElement>(null);
  const [width, setWidth] = useState(600);
  const [at, setAt] = useState<[number, number] | null>(null);
  const theme = document.documentElement.dataset.theme;
  const longest = Math.max(...names.map((name) => shortened(name).length));
  const label = Math.min(width < 500 ? 72 : 124, 14 + 6.5 * longest);
  const size = Math.max(4, Math.min(48, Math.floor((width - label - 8) / names.length)));
  const known = new Map(cells.map((cell) => [`${cell.row}\u0000${cell.column}`, cell]));
  const cellAt = (place: [number, number] | null) => place ? known.get(`${names[place[0]]}\u0000${names[place[1]]}`) : undefined;

  useEffect(() => {
    const watch = new ResizeObserver(() => setWidth(box.current?.clientWidth ?? 600));
    watch.observe(box.current!);
    return () => watch.disconnect();
  }, []);

  useEffect(() => {
    const element = canvas.current!, ratio = devicePixelRatio, side = names.length * size;
    element.width = (label + side) * ratio;
    element.height = (label + side) * ratio;
    const context = element.getContext("2d")!;
    context.scale(ratio, ratio);
    context.font = `${Math.min(11, Math.max(8, size - 2))}px system-ui`;
    context.fillStyle = colour("--soft");
    context.textBaseline = "middle";
    const every = Math.ceil(10 / size);
    names.forEach((name, place) => {
      if (place % every) return;
      const middle = label + place * size + size / 2;
      context.textAlign = "right";
      context.fillText(shortened(name), label - 5, middle, label - 8);
      context.save();
      context.translate(middle, label - 5);
      context.rotate(-Math.PI / 2);
      context.textAlign = "left";
      context.fillText(shortened(name), 0, 0, label - 8);
      context.restore();
    });
    const places = new Map(names.map((name, place) => [name, place]));
    const grid = size > 6 ? 1 : 0;
    context.fillStyle = colour("--raise");
    context.fillRect(label, label, side, side);
    for (const cell of cells) {
      const x = label + places.get(cell.column)! * size, y = label + places.get(cell.row)! * size;
      context.globalAlpha = Math.max(0.05, Math.min(1, cell.shade.part));
      if (cell.shade.kind === "blind") hatch(context, x, y, size - grid, size - grid, colour("--blind"), 1, 4);
      else { context.fillStyle = colour(COLOURS[cell.shade.kind]); context.fillRect(x, y, size - grid, size - grid); }
    }
    context.globalAlpha = 1;
    if (at) { context.strokeStyle = colour("--text"); context.lineWidth = 1.5; context.strokeRect(label + at[1] * size - 0.5, label + at[0] * size - 0.5, size, size); }
  });

  const placed = (event: MouseEvent): [number, number] | null => {
    const bounds = canvas.current!.getBoundingClientRect();
    const row = Math.floor((event.clientY - bounds.top - label) / size), column = Math.floor((event.clientX - bounds.left - label) / size);
    return row >= 0 && column >= 0 && row < names.length && column < names.length ? [row, column] : null;
  };
  const keys = (event: KeyboardEvent) => {
    const by = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if (event.key === "Enter") return cellAt(at)?.open();
    if (!by) return;
    event.preventDefault();
    const inside = (place: number) => Math.max(0, Math.min(names.length - 1, place));
    setAt((old) => old ? [inside(old[0] + by[0]!), inside(old[1] + by[1]!)] : [0, 0]);
  };
  const save = () => picture("vmflow", canvas.current!, [[head()], [{ text: about, color: "--soft" }]]);
  const cell = cellAt(at);
  return <figure class="heat" aria-label={title}>
    <p class="tip" role="status">{at ? <><b><bdi>{names[at[0]] || say("otherGroup")}</bdi> → <bdi>{names[at[1]] || say("otherGroup")}</bdi></b> {cell ? cell.words : say("noTraffic")}</> : <span class="soft">{say("matrixHint")}</span>}</p>
    <p><button class="quiet" onClick={save}>PNG ↓</button></p>
    <div ref={box}>
      <canvas ref={canvas} tabIndex={0} role="img" aria-label={`${title}: ${say("matrixHint")}`} width={600} height={600} data-theme={theme}
        onMouseMove={(event) => { const place = placed(event); if (String(place) !== String(at)) setAt(place); }}
        onMouseLeave={() => setAt(null)} onClick={(event) => cellAt(placed(event))?.open()} onKeyDown={keys} />
    </div>
  </figure>;
}
