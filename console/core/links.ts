import type { Row } from "./api.ts";
import { link } from "./state.ts";

const part = encodeURIComponent;

/** The page of a pair; with its hash, a series reads little. */
export const pairLink = (src: string, dst: string, more: { network?: string; pair?: string } = {}): string =>
  link(`/pairs/${part(src)}/${part(dst)}`, { network: more.network ?? "", pair: more.pair ?? "" });
export const pairOf = (row: Row): string => pairLink(row.src_vm, row.dst_vm, { network: row.network, pair: row.pair_id });
/** Names of VMs need not be unique: the UUID says which. */
export const vmLink = (vm: string, uuid = ""): string => link(`/vms/${part(vm)}`, { uuid });
export const hostLink = (host: string): string => link(`/hosts/${part(host)}`);
/** A name as a search takes it literally. */
export const iso = (seconds: number): string => new Date(seconds * 1000).toISOString();
