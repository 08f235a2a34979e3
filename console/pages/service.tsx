import { type Row, answered, useLoad } from "../core/api.ts";
import { ago, plain } from "../core/format.ts";
import { type Metrics, parsed, sum } from "../core/metrics.ts";
import type { Page } from "../core/page.ts";
import { say } from "../core/text.ts";
import type { Key } from "../text/en.ts";
import { Card, Shown } from "../parts/basics.tsx";

/** Queues with what they hold, and what was lost: names as in /metrics, a word, and whether more than 0 is bad. */
const COUNTERS: [Key, string, boolean][] = [
  ["datagrams", "vmflow_listen_datagrams_total", false], ["records", "vmflow_decoded_rows_total", false], ["rows", "vmflow_store_rows_total", false],
  ["kernelDrops", "vmflow_listen_kernel_drops_total", true], ["inboxDrops", "vmflow_inbox_dropped_datagrams_total", true], ["rowDrops", "vmflow_store_dropped_rows_total", true],
  ["figureWindows", "vmflow_figure_windows_total", false], ["requestsFailed", "vmflow_requests_failed_total", true],
];

async function health(signal: AbortSignal): Promise<Row> {
  // It answers 503 with the same body when it is not well; a refusal has another type.
  const own = (answer: Response) => answer.ok || (answer.status === 503 && !!answer.headers.get("content-type")?.startsWith("application/json"));
  return (await answered("/health", { signal }, own)).json();
}
const metrics = (signal: AbortSignal): Promise<Metrics> => answered("/metrics", { signal }).then((answer) => answer.text()).then(parsed);

const octets = (value: number) => plain(value, "bit/s").replace("bit/s", "B");

function Line({ name, value, bad }: { name: string; value: any; bad?: boolean }) {
  const shown = typeof value === "object" && value !== null ? Object.entries(value).map(([key, one]) => `${key}: ${typeof one === "object" ? JSON.stringify(one) : one}`).join(" · ") : String(value);
  return <><dt>{name}</dt><dd class={bad ? "bad" : ""}>{shown}</dd></>;
}

/** vmflow itself: its state as /health says it, and counts of /metrics. */
export function Service({ turn }: Page) {
  const state = useLoad(`health ${turn}`, health);
  const counts = useLoad(`metrics ${turn}`, metrics);
  return <>
    <h1>{say("service")}</h1>
    <Shown loaded={state}>{(body) => <div class="two">
      <Card title={say("state")}><dl>
        <Line name={say("state")} value={body.status} bad={!["ok", "starting"].includes(body.status)} />
        <Line name={say("version")} value={body.version ?? "–"} />
        <Line name={say("runs")} value={body.uptime_seconds === undefined ? "–" : ago(body.uptime_seconds)} />
        {["store", "held", "templates", "spool", "sql"].filter((one) => one in body).map((one) => <Line key={one} name={one} value={body[one]} bad={body[one] !== "ok"} />)}
        {"confined" in body && <Line name="confined" value={body.confined} />}
        {"inventory" in body && <Line name="inventory" value={body.inventory} />}
      </dl></Card>
      <Card title={say("queues")}><dl>
        {["inbox_bytes", "store_queue_bytes", "spool_bytes"].filter((one) => one in body).map((one) => <Line key={one} name={one.replace(/_/g, " ")} value={octets(body[one])} bad={one === "spool_bytes" && body[one] > 0} />)}
        {"messages_waiting" in body && <Line name="messages waiting" value={body.messages_waiting} />}
      </dl>
        <Shown loaded={counts}>{(found) => <dl>{COUNTERS.filter(([, name]) => sum(found, name) !== null).map(([word, name, bad]) => {
          const value = sum(found, name)!;
          return <Line key={name} name={say(word)} value={value.toLocaleString("en")} bad={bad && value > 0} />;
        })}</dl>}</Shown></Card>
    </div>}</Shown>
    <p class="soft">{say("serviceHint")} <a href="/metrics">/metrics</a> <a href="/health">/health</a> <a href="/api/openapi.json">/api/openapi.json</a></p>
  </>;
}
