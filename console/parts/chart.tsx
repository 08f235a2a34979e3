// A time series: line and 95 % band, gaps as gaps, blind windows hatched, limits dashed.  uPlot draws axes and lines;
// bands and hatches are drawn here, since its own bands break where the ends of intervals are NULL.
import { useEffect, useRef, useState } from "preact/hooks";
import uPlot from "uplot";
import { type Figure, type State, type Unit, clock, day, plain, text, ticks } from "../core/format.ts";
import { kept } from "../core/state.ts";
import { head, picture } from "../core/png.ts";
import { MARK_WORDS, type Mark } from "../core/marks.ts";
import { spread } from "../core/series.ts";
import { say } from "../core/text.ts";
import { hatch } from "./hatch.ts";
import { Link } from "./basics.tsx";

export interface Series { name: string; color: string; value: (number | null)[]; low?: (number | null)[]; high?: (number | null)[]; state?: State[] }
export interface Props { title: string; time: number[]; step: number; from: number; until: number; unit: Unit; series: Series[]; limit?: number; least?: number; top?: number; onRange: (from: number, until: number) => void; marks?: Mark[] }

const SHOWN_MARKS = 6;
const colour = (name: string) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

export function Chart(props: Props) {
  const box = useRef<HTMLDivElement>(null);
  const [table, setTable] = useState(false);
  const [at, setAt] = useState<number | null>(null);
  const { series, time, step, unit } = props;
  const utc = kept("clock", "utc") === "utc";
  const theme = document.documentElement.dataset.theme;
  const happened = (props.marks ?? []).filter((one) => one.until >= props.from && one.at < props.until);
  const shape = JSON.stringify([time, series, props.from, props.until, theme, utc, happened]);

  useEffect(() => {
    if (table || !box.current) return;
    const host = box.current;
    const spreaded = series.map((one) => spread(time, step, one.value));
    const x = spreaded[0]?.time ?? [];
    const highest = Math.max(0, props.least ?? 0, ...series.flatMap((one) => [...one.value, ...(one.high ?? [])].map((value) => value ?? 0)));
    const marks = ticks(Math.min(highest, props.top ?? Infinity) || 1);
    const soft = colour("--soft"), line = colour("--line");
    const under = (plot: uPlot) => {
      const context = plot.ctx;
      const { left, top, width, height } = plot.bbox;
      context.save();
      context.beginPath();
      context.rect(left, top, width, height);
      context.clip();
      const px = (moment: number) => plot.valToPos(moment, "x", true);
      const py = (value: number) => plot.valToPos(value, "y", true);
      series.forEach((one) => {
        const stroke = colour(one.color);
        context.fillStyle = stroke;
        context.globalAlpha = 0.2;
        time.forEach((moment, index) => {
          const low = one.low?.[index], high = one.high?.[index];
          if (low === null || low === undefined || high === null || high === undefined) return;
          const first = px(moment), next = px(moment + step);
          context.fillRect(first, py(high), next - first, Math.max(devicePixelRatio, py(low) - py(high)));
        });
        context.globalAlpha = 1;
        one.state?.forEach((state, index) => {
          const first = px(time[index]!), next = px(time[index]! + step);
          if (state === "blind") hatch(context, first, top, next - first + 1, height, colour("--blind"));
          if (state === "insufficient") {
            context.fillStyle = soft;
            for (let dot = first; dot < next; dot += 4 * devicePixelRatio) context.fillRect(dot, top + height - 3 * devicePixelRatio, devicePixelRatio, devicePixelRatio);
          }
        });
      });
      // Each window is a level of its own width, joined to its neighbour only if there is one: what stands alone is seen.
      series.forEach((one) => {
        context.strokeStyle = colour(one.color);
        context.lineWidth = 1.5 * devicePixelRatio;
        context.beginPath();
        time.forEach((moment, index) => {
          const value = one.value[index] ?? null;
          if (value === null) return;
          const joined = index > 0 && moment - time[index - 1]! === step && (one.value[index - 1] ?? null) !== null;
          if (joined) context.lineTo(px(moment), py(value));
          else context.moveTo(px(moment), py(value));
          context.lineTo(px(moment + step), py(value));
        });
        context.stroke();
      });
      // Alerts are bars at the top from begin to end, what happened at a moment is a line.
      happened.forEach((one) => {
        context.strokeStyle = context.fillStyle = colour(one.kind === "alert" ? "--critical" : "--s4");
        if (one.kind === "alert") context.fillRect(px(Math.max(one.at, props.from)), top, Math.max(2, px(Math.min(one.until, props.until)) - px(Math.max(one.at, props.from))), 3 * devicePixelRatio);
        else { context.lineWidth = devicePixelRatio; context.setLineDash([2 * devicePixelRatio, 2 * devicePixelRatio]); context.beginPath(); context.moveTo(px(one.at), top); context.lineTo(px(one.at), top + height); context.stroke(); context.setLineDash([]); }
      });
      if (props.limit !== undefined) {
        context.strokeStyle = colour("--critical");
        context.setLineDash([5 * devicePixelRatio, 4 * devicePixelRatio]);
        context.beginPath();
        context.moveTo(left, py(props.limit));
        context.lineTo(left + width, py(props.limit));
        context.stroke();
      }
      context.restore();
    };
    const plot = new uPlot({
      width: host.clientWidth || 300, height: 150, ms: 1e-3, legend: { show: false }, padding: [8, 18, 0, 0],
      ...(utc ? { tzDate: (seconds: number) => uPlot.tzDate(new Date(seconds * 1000), "Etc/UTC") } : {}),
      cursor: { y: false, points: { show: false }, drag: { x: true, y: false, setScale: false } },
      scales: { x: { time: true, range: () => [props.from, props.until] }, y: { range: () => [0, marks[marks.length - 1]!] } },
      axes: [
        { stroke: soft, grid: { show: false }, ticks: { stroke: line, size: 4 }, font: "11px system-ui", size: 26, space: 70, values: (_, splits, __, ___, incr) => splits.map((one) => incr >= 86400 ? day(one, utc).slice(5) : clock(one, utc, incr < 60)) },
        { stroke: soft, grid: { stroke: line, width: 1 }, ticks: { show: false }, font: "11px system-ui", size: 74, splits: () => marks, values: (_, splits) => splits.map((one) => plain(one, unit)) },
      ],
      series: [{}, ...series.map((one) => ({ stroke: colour(one.color), width: 1.5, spanGaps: false, paths: () => null, points: { show: false } }))],
      hooks: {
        drawAxes: [under],
        setCursor: [(plot) => setAt(plot.cursor.idx === null || plot.cursor.idx === undefined || !plot.cursor.left || plot.cursor.left < 0 ? null : x[plot.cursor.idx] ?? null)],
        setSelect: [(plot) => {
          if (plot.select.width < 8) return;
          const ends = [plot.select.left, plot.select.left + plot.select.width].map((one) => Math.round(plot.posToVal(one, "x")));
          plot.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
          props.onRange(ends[0]!, Math.max(ends[1]!, ends[0]! + 3 * step));
        }],
      },
    }, [x, ...spreaded.map((one) => one.values)] as uPlot.AlignedData, host);
    const watch = new ResizeObserver(() => plot.setSize({ width: host.clientWidth, height: 150 }));
    watch.observe(host);
    return () => { watch.disconnect(); plot.destroy(); };
  }, [shape, table]);

  const index = at === null ? -1 : time.indexOf(at);
  const shown = index >= 0 ? index : time.length - 1;
  const figure = (one: Series, place: number): Figure => ({ value: one.value[place] ?? null, low: one.low?.[place], high: one.high?.[place], unit, state: one.state?.[place] });
  const worded = (one: Series, place: number): string => {
    const state = one.state?.[place];
    if ((one.value[place] ?? null) === null) return state === "blind" ? say("blindLong") : state === "insufficient" ? say("insufficientLong") : state === "within" ? say("seenOneSwitch") : say("nodata");
    return text(figure(one, place));
  };
  const nothing = series.every((one) => one.value.every((value) => value === null) && !one.state?.includes("blind") && !one.state?.includes("insufficient"));
  const save = () => picture("vmflow", box.current!.querySelector("canvas")!, [
    [head(), { text: props.title, color: "--text" }],
    [{ text: `${day(props.from, utc)} ${clock(props.from, utc)} – ${day(props.until, utc)} ${clock(props.until, utc)}${utc ? " UTC" : ""}`, color: "--soft" },
      ...series.map((one) => ({ text: one.name, color: one.color })), ...(props.limit === undefined ? [] : [{ text: `${say("threshold")} ${plain(props.limit, unit)}`, color: "--critical" }])],
  ]);
  return <figure class="chart" aria-label={props.title}>
    <figcaption>
      <h2>{props.title}</h2>
      <span class="read">{shown >= 0 && <><time>{clock(time[shown]!, utc)}</time>{series.map((one) => <span key={one.name}><span class={`key ${one.color.slice(2)}`} aria-hidden="true" />{series.length > 1 && one.name} {worded(one, shown)}</span>)}</>}</span>
      {!table && !nothing && time.length > 0 && <button class="quiet" onClick={save}>PNG ↓</button>}
      <button class="quiet" onClick={() => setTable(!table)} aria-pressed={table}>{say(table ? "asChart" : "asTable")}</button>
    </figcaption>
    {(time.length === 0 || (nothing && !table)) && <p class="empty">{series.some((one) => one.state?.includes("within")) ? `${say("seenOneSwitch")}: ${say("seenOneSwitchWhy")}` : say("nodata")}</p>}
    {!table && !nothing && time.length > 0 && <div class="plot" ref={box} />}
    {happened.length > 0 && <ul class="marks">{happened.length > SHOWN_MARKS && <li class="soft">{say("earlierMarks", { n: happened.length - SHOWN_MARKS })}</li>}{happened.slice(-SHOWN_MARKS).map((one, place) => <li key={place} class={one.kind}><time>{clock(one.at, utc, false)}</time> {say(MARK_WORDS[one.kind])} {one.id ? <Link to={`/alerts/${one.id}`}><bdi>{one.text}</bdi></Link> : <bdi>{one.text}</bdi>}</li>)}</ul>}
    {table && <div class="scroll" tabIndex={0} role="region" aria-label={props.title}><table><thead><tr><th>{say("time")}</th>{series.map((one) => <th key={one.name} class="n">{one.name}</th>)}</tr></thead>
      <tbody>{time.map((moment, place) => <tr key={moment}><td><time>{clock(moment, utc)}</time></td>{series.map((one) => <td key={one.name} class="n" data-value={String(one.value[place] ?? "null")}>{worded(one, place)}</td>)}</tr>)}</tbody></table></div>}
  </figure>;
}
