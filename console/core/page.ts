import type { Loaded, Row } from "./api.ts";
import type { News } from "./live.ts";
import type { Range } from "./state.ts";

/** Alerts that have not ended; `more`: there are more than the service lists at once. */
export interface Firing { alerts: Row[]; more: boolean }

/** What every page gets: the time, the newest window in it (0: none, null: not known yet), what is new, who asks. */
export interface Page {
  range: Range;
  newest: number | null;
  query: URLSearchParams;
  news: News;
  turn: number;
  user: string;
  firing: Loaded<Firing>;
}
