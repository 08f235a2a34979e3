// Small parts without state.
import type { ComponentChildren } from "preact";
import type { Loaded } from "../core/api.ts";
import { type Figure, lossState, written } from "../core/format.ts";
import { go } from "../core/state.ts";
import { say } from "../core/text.ts";
import type { Key } from "../text/en.ts";

/** A name that somebody else chose: isolated, so that it cannot turn the text around it. */
export const Name = ({ children }: { children: string }) => <bdi class="name" title={children}>{children || "?"}</bdi>;

export function Link({ to, children, class: kind, ...rest }: { to: string; children: ComponentChildren; class?: string; "aria-current"?: "page" | undefined }) {
  const follow = (event: MouseEvent) => {
    if (event.metaKey || event.ctrlKey || event.shiftKey || event.button) return;
    event.preventDefault();
    go(to);
    scrollTo(0, 0);
  };
  return <a href={to} class={kind} onClick={follow} {...rest}>{children}</a>;
}

/** A value, and apart from it its interval. */
export function Fig(figure: Figure) {
  const { value, interval } = written(figure);
  return <span class={`fig ${figure.state ?? ""}`}><b>{value}</b>{interval && <i>({interval})</i>}</span>;
}

/** Loss, or the word that says why there is none. */
export function Loss({ row }: { row: Record<string, any> }) {
  const state = lossState(row.loss_evidence, !!row.src_host && row.src_host === row.dst_host);
  if (row.loss_ratio === null) {
    if (state === "within") return <span class="soft" title={say("seenOneSwitchWhy")}>{say("seenOneSwitch")}</span>;
    const word = state === "blind" ? "blindWord" : state === "insufficient" ? "insufficient" : "nodata";
    const long = state === "blind" ? "blindLong" : state === "insufficient" ? "insufficientLong" : "nodata";
    return <span class={`mark ${state}`} title={say(long)}>{say(word)}</span>;
  }
  const bad = row.loss_low > 0.01 ? "bad" : row.loss_low > 0 ? "so" : "";
  return <span class={bad}><Fig value={row.loss_ratio} low={row.loss_low} high={row.loss_high} unit="ratio" state={state} /></span>;
}

const TRIPS: Record<string, [Key, Key]> = { one_way: ["oneWayShort", "oneWay"], round_trip: ["roundTripShort", "roundTrip"] };
/** What a latency holds: one way, or there and back. */
export function Trip({ of }: { of: string | undefined }) {
  const words = of ? TRIPS[of] : undefined;
  return words ? <span class="soft trip" title={say(words[1])}> {say(words[0])}</span> : null;
}

/** Why there is no latency, in a word and in a sentence. */
export const REASONS: Record<string, [Key, Key]> = {
  "": ["measured", "latencyMeasured"], no_ipfix: ["noIpfix", "noIpfixWhy"], sampled: ["sampledReason", "sampledReasonWhy"],
  rate_unstated: ["rateUnstated", "rateUnstatedWhy"], no_new_flow: ["noNewFlow", "noNewFlowWhy"],
};

export function Latency({ row }: { row: Record<string, any> }) {
  if (row.latency_us === null) return <span class="soft" title={row.latency_missing ? say((REASONS[row.latency_missing] ?? ["nodata", "nodata"])[1]) : ""}>–</span>;
  const spread = row.latency_spread_us ?? 0;
  return <span class={row.latency_us > 20_000 ? "so" : ""}><Fig value={row.latency_us} low={Math.max(0, row.latency_us - spread)} high={row.latency_us + spread} unit="us" /><Trip of={row.latency_trip} /></span>;
}

export const Severity = ({ of }: { of: "critical" | "warning" | "info" }) => <span class={`sev ${of}`}>{say(of)}</span>;

export function Card({ title, more, children, class: kind = "" }: { title?: ComponentChildren; more?: ComponentChildren; children: ComponentChildren; class?: string }) {
  return <section class={`card ${kind}`}>{(title || more) && <header>{title && <h2>{title}</h2>}<span class="more">{more}</span></header>}{children}</section>;
}

/** What a page shows: the old picture stays, dimmed while asking; an error says what went wrong. */
export function Shown<T>({ loaded, children }: { loaded: Loaded<T>; children: (value: T) => ComponentChildren }) {
  return <>
    {loaded.error && <p class="problem" role="alert">{say("failed")}: {loaded.error} <button onClick={loaded.again}>{say("again")}</button></p>}
    {loaded.value !== null ? <div class={`stack ${loaded.error ? "dim" : ""}`}>{children(loaded.value)}</div> : !loaded.error && <div class="skeleton" aria-busy="true"><span>{say("loading")}</span></div>}
  </>;
}
/** Of a list without pages: how many of how many it shows, if that is not all. */
export const Cut = ({ shown, all }: { shown: number; all: number }) => shown < all ? <p class="soft">{say("shown", { from: 1, to: shown, n: all })}</p> : null;
export const Empty = ({ children }: { children: ComponentChildren }) => <p class="empty">{children}</p>;
