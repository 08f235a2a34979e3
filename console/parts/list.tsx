// A table that the service sorts and pages; the address holds order and place.
import type { ComponentChildren } from "preact";
import type { Row } from "../core/api.ts";
import { download } from "../core/csv.ts";
import { set } from "../core/state.ts";
import { say } from "../core/text.ts";
import { Empty } from "./basics.tsx";

export interface Column { title: ComponentChildren; cell: (row: Row) => ComponentChildren; sort?: string; number?: boolean; wide?: boolean }
export interface Order { sort: string; down: boolean; offset: number }

/** The order that the address asks for. */
export function order(query: URLSearchParams, first: string): Order {
  return { sort: query.get("sort") ?? first, down: !query.get("up"), offset: Number(query.get("offset") ?? 0) || 0 };
}

function choose(now: Order, column: Column): void {
  const again = now.sort === column.sort;
  const up = again ? now.down : !column.number;
  set({ sort: column.sort!, up: up ? "1" : "", offset: "" });
}

function Head({ column, now }: { column: Column; now?: Order }) {
  const kind = column.number ? "n" : "";
  if (!column.sort || !now) return <th class={kind}>{column.title}</th>;
  const sorted = now.sort === column.sort ? (now.down ? "descending" : "ascending") : undefined;
  return <th class={kind} aria-sort={sorted}>
    <button onClick={() => choose(now, column)}>{column.title}{sorted && (now.down ? " ▾" : " ▴")}</button>
  </th>;
}

/** A table of the rows in sight, of `all`: where there are more, it says so. */
export function List({ name, rows, columns, now, rowKey, empty, limit = 0, class: kind = "", all }: {
  name: string; rows: Row[]; columns: Column[]; now?: Order; rowKey: (row: Row) => string; empty: string; limit?: number; class?: string; all?: number;
}) {
  if (rows.length === 0) return <Empty>{empty}</Empty>;
  const every = Number(all ?? rows[0]!.every ?? rows.length), offset = now?.offset ?? 0;
  return <>
    <div class="scroll" tabIndex={0} role="region" aria-label={name}>
      <table class={kind}>
        <thead><tr>{columns.map((column, at) => <Head key={at} column={column} now={now} />)}</tr></thead>
        <tbody>{rows.map((row) => <tr key={rowKey(row)}>
          {columns.map((column, at) => <td key={at} class={column.number ? "n" : column.wide ? "wide" : ""}>{column.cell(row)}</td>)}
        </tr>)}</tbody>
      </table>
    </div>
    <p class="pager soft">
      {say("shown", { from: offset + 1, to: offset + rows.length, n: every })}
      {offset > 0 && <button onClick={() => set({ offset: String(Math.max(0, offset - limit)) })}>{say("previous")}</button>}
      {offset + rows.length < every && limit > 0 && <button onClick={() => set({ offset: String(offset + limit) })}>{say("next")}</button>}
      <button class="quiet right" onClick={() => download(name, rows)}>CSV ↓</button>
    </p>
  </>;
}
