import type { Row } from "./api.ts";
import { link } from "./state.ts";

/** A name as a part of an address.  `.` and `..` are steps for a browser, however they are written: they get a `~`
 * before them, and so does what begins with one. */
export const part = (name: string): string => (/^(~|\.{1,2}$)/.test(name) ? "~" : "") + encodeURIComponent(name);
export function unpart(text: string): string {
  let name = text;
  try { name = decodeURIComponent(text); } catch { /* as it stands */ }
  return name.replace(/^~/, "");
}

/** The page of a pair; with its hash, a series reads little. */
export const pairLink = (src: string, dst: string, more: { network?: string; pair?: string } = {}): string =>
  link(`/pairs/${part(src)}/${part(dst)}`, { network: more.network ?? "", pair: more.pair ?? "" });
export const pairOf = (row: Row): string => pairLink(row.src_vm, row.dst_vm, { network: row.network, pair: row.pair_id });
/** Names of VMs need not be unique: the UUID says which. */
export const vmLink = (vm: string, uuid = ""): string => link(`/vms/${part(vm)}`, { uuid });
export const hostLink = (host: string): string => link(`/hosts/${part(host)}`);
export const interfaceLink = (host: string, name: string): string => link(`/interfaces/${part(host)}/${part(name)}`);
/** All pairs between VMs of two names. */
export const namedLink = (src_vm: string, dst_vm: string): string => link("/pairs", { src_vm, dst_vm });
/** The same page at another time. */
export function then(address: string, from: number, until: number, level = ""): string {
  const [path, query] = address.split("?");
  const values = new URLSearchParams(query);
  values.set("from", iso(from));
  values.set("until", iso(until));
  if (level) values.set("level", level);
  return `${path}?${values}`;
}
export const iso = (seconds: number): string => new Date(seconds * 1000).toISOString();
