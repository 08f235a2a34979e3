// SQL of one's own, through the guard and the limits of the SQL endpoint.
import { useEffect, useRef, useState } from "preact/hooks";
import { post } from "../core/api.ts";
import { csv, save } from "../core/csv.ts";
import { type Saved, forget, remember, saved } from "../core/saved.ts";
import type { Page } from "../core/page.ts";
import { set } from "../core/state.ts";
import { say } from "../core/text.ts";
import { Card, Empty } from "../parts/basics.tsx";
import { Editor } from "../parts/editor.tsx";

interface Result { meta: { name: string; type: string }[]; data: unknown[][]; rows: number; statistics?: { elapsed: number; rows_read: number } }

const EXAMPLES: [string, string][] = [
  ["top", "SELECT src_vm, dst_vm, network, round(avg(bits_per_second)) AS bits_per_second, max(loss_low) AS loss_low\nFROM pair_figures_1m\nWHERE time > now() - INTERVAL 30 MINUTE\nGROUP BY src_vm, dst_vm, network\nORDER BY bits_per_second DESC\nLIMIT 50"],
  ["lossy", "SELECT time, src_vm, dst_vm, loss_ratio, loss_low, loss_high, loss_evidence\nFROM pair_figures_1m\nWHERE time > now() - INTERVAL 3 HOUR AND loss_low > 0.01\nORDER BY time DESC, loss_low DESC\nLIMIT 100"],
  ["ports", "SELECT dst_vm, dst_port, ip_protocol, round(sum(bytes_estimated) * 8 / 600) AS bits_per_second\nFROM flows\nWHERE time_received > now() - INTERVAL 10 MINUTE AND sighting IN ('source', 'both')\nGROUP BY dst_vm, dst_port, ip_protocol\nORDER BY bits_per_second DESC\nLIMIT 50"],
  ["drops", "SELECT * FROM drops WHERE time_received > now() - INTERVAL 1 HOUR ORDER BY time_received DESC LIMIT 100"],
];
const COLUMNS_OF = "SELECT table, groupArray(name) FROM system.columns WHERE database = currentDatabase() GROUP BY table";
const SHOWN = 1000, LONGEST = 8000;

const shown = (value: unknown) => value === null ? <span class="soft">NULL</span> : typeof value === "object" ? JSON.stringify(value) : String(value);
const number = (type: string) => /^(Nullable\()?(U?Int|Float|Decimal)/.test(type);

export function Explore({ query }: Page) {
  const [given, setGiven] = useState({ sql: query.get("sql") ?? EXAMPLES[0]![1] });
  const text = useRef(given.sql);
  const put = (sql: string) => setGiven({ sql });
  const [result, setResult] = useState<Result | null>(null);
  const [error, setError] = useState("");
  const [seconds, setSeconds] = useState<number | null>(null);
  const [running, setRunning] = useState(false);
  const [schema, setSchema] = useState<Record<string, string[]>>({});
  const [mine, setMine] = useState<Saved[]>(saved());
  const [name, setName] = useState("");
  const asking = useRef<AbortController>();

  useEffect(() => {
    post("/api/v1/sql", { sql: COLUMNS_OF }).then((found: Result) => setSchema(Object.fromEntries(found.data.map(([table, columns]) => [table as string, columns as string[]]))), () => undefined);
    return () => asking.current?.abort();
  }, []);
  // "SQL of this page" of another page opens this one with a statement.
  useEffect(() => { const sql = query.get("sql"); if (sql && sql !== text.current) put(sql); }, [query.get("sql")]);

  const run = async () => {
    asking.current?.abort();
    const mineNow = asking.current = new AbortController();
    const begun = performance.now();
    setRunning(true);
    // An address that is too long would not be answered.
    set({ sql: text.current.length < LONGEST ? text.current : "" });
    try {
      const found = await post("/api/v1/sql", { sql: text.current }, mineNow.signal);
      setResult(found);
      setError("");
      setSeconds((performance.now() - begun) / 1000);
    } catch (failed) {
      if (!mineNow.signal.aborted) setError(String((failed as Error).message));
    }
    if (asking.current === mineNow) setRunning(false);
  };
  const stop = () => { asking.current?.abort(); setRunning(false); };
  const store = (event: Event) => { event.preventDefault(); if (name) { setMine(remember(name, text.current)); setName(""); } };
  return <>
    <h1>{say("explore")}</h1>
    <Card>
      <Editor label="SQL" given={given} schema={schema} onChange={(sql) => { text.current = sql; }} onRun={run} />
      <div class="bar spaced">
        <button class="main" onClick={run} disabled={running}>{say("run")} <kbd>Ctrl ⏎</kbd></button>
        {running && <button onClick={stop}>{say("cancel")}</button>}
        {EXAMPLES.map(([one, sql]) => <button key={one} class="quiet" onClick={() => put(sql)}>{say(`example_${one}` as "example_top")}</button>)}
        <form class="right bar" onSubmit={store}>
          <input value={name} maxLength={60} placeholder={say("saveAs")} aria-label={say("saveAs")} onInput={(event) => setName(event.currentTarget.value)} />
          <button type="submit" disabled={!name}>{say("save")}</button>
        </form>
      </div>
      {mine.length > 0 && <p class="bar spaced">{mine.map((one) => <span key={one.name} class="tag"><button class="plain" onClick={() => put(one.sql)}><bdi>{one.name}</bdi></button>
        <button class="plain soft" aria-label={`${say("forget")}: ${one.name}`} onClick={() => setMine(forget(one.name))}>×</button></span>)}</p>}
    </Card>
    {error && <p class="problem" role="alert">{error}</p>}
    <Card title={result ? say("rowsIn", { n: result.rows, s: (seconds ?? 0).toFixed(2) }) : undefined} class={running ? "dim" : ""}
      more={result && result.rows > 0 && <button class="quiet" onClick={() => save("vmflow.csv", csv(result.meta.map((one) => one.name), result.data))}>CSV ↓</button>}>
      {!result ? <Empty>{say("sqlHint")}</Empty> : result.rows === 0 ? <Empty>{say("noRow")}</Empty> : <div class="scroll tall" tabIndex={0} role="region" aria-label={say("rows")}>
        <table class="result"><thead><tr>{result.meta.map((one, at) => <th key={at} class={number(one.type) ? "n" : ""} title={one.type}>{one.name}</th>)}</tr></thead>
          <tbody>{result.data.slice(0, SHOWN).map((row, at) => <tr key={at}>{row.map((value, place) => <td key={place} class={number(result.meta[place]!.type) ? "n" : ""}><bdi>{shown(value)}</bdi></td>)}</tr>)}</tbody></table></div>}
      {result && result.rows > SHOWN && <p class="soft">{say("firstRows", { n: SHOWN })}</p>}
    </Card>
  </>;
}
