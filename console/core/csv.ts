// Rows as a file that spreadsheets open (RFC 4180).
import type { Row } from "./api.ts";

/** Where a spreadsheet may see a formula begin, as in `collector/lines.py`: names of VMs may be meant to be one. */
const FORMULA = /(^|;)(\s*)(?=[=+\-@＝＋－＠])/g;
const NUMBER = /^[+-]?\d+(\.\d+)?(e[+-]?\d+)?$/i;

const flat = (value: unknown): string => typeof value === "object" && value !== null ? JSON.stringify(value) : String(value ?? "");

export function cell(value: unknown): string {
  if (value === null || value === undefined) return "";
  if (typeof value === "number") return String(value);
  const text = Array.isArray(value) ? value.map(flat).join(" ") : flat(value);
  const safe = NUMBER.test(text) ? text : text.replace(FORMULA, "$1$2'");
  return /[",\r\n]/.test(safe) ? `"${safe.replace(/"/g, '""')}"` : safe;
}

export function csv(names: string[], rows: unknown[][]): string {
  return [names, ...rows].map((row) => row.map(cell).join(",")).join("\r\n") + "\r\n";
}

/** Save rows as they were answered: every column, numbers in full, nothing for what was not measured. */
export function download(name: string, rows: Row[]): void {
  const names = Object.keys(rows[0] ?? {}).filter((one) => one !== "every");
  save(`${name}.csv`, csv(names, rows.map((row) => names.map((one) => row[one]))));
}

export const save = (name: string, text: string): void => keep(name, new Blob([text], { type: "text/csv" }));

/** Give the browser a file to keep. */
export function keep(name: string, content: Blob): void {
  const url = URL.createObjectURL(content);
  const anchor = document.createElement("a");
  anchor.href = url;
  anchor.download = name;
  anchor.click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}
