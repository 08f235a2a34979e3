import { useState } from "preact/hooks";
import type { Row } from "../core/api.ts";
import { mayAct } from "../core/session.ts";
import { link } from "../core/state.ts";
import { say } from "../core/text.ts";
import { Acts, Subject, figureOf } from "../pages/alerts.tsx";
import { Link, Severity } from "../parts/basics.tsx";

/** The first critical alert that nobody took on. */
export function Banner({ critical, user }: { critical: Row[]; user: string }) {
  const [acting, setActing] = useState<Row | null>(null);
  const waiting = critical.filter((one) => !one.held_back);
  const first = waiting[0];
  return <>
    <div role="alert" class="banners">
      {first && <div class="banner">
        <Severity of={first.severity} /> <b>{first.rule}</b> <Subject labels={first.labels} /> <span>{figureOf(first)}</span>
        {waiting.length > 1 && <Link to={link("/alerts")}>+ {waiting.length - 1}</Link>}
        <span class="right">
          <Link to={link(`/alerts/${first.alert_id}`)}>{say("why")}</Link>
          {mayAct() && <button onClick={() => setActing(first)}>{say("takeOn")}</button>}
        </span>
      </div>}
    </div>
    {acting && <Acts alerts={[acting]} user={user} what="takeOn" onClose={() => setActing(null)} />}
  </>;
}
