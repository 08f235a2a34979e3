import { asked } from "../core/api.ts";
import { filled } from "../core/sql.ts";
import { link } from "../core/state.ts";
import { say } from "../core/text.ts";
import { Link } from "../parts/basics.tsx";
import { Dialog } from "../parts/dialog.tsx";

/** The questions of the page, as they were asked. */
export function SqlPanel({ onClose }: { onClose: () => void }) {
  return <Dialog title={say("sqlOfPage")} onClose={onClose}>
    <div class="scroll">
      {asked.size === 0 ? say("noSql") : [...asked].map(([name, one]) => <details key={name} open={asked.size < 3}>
        <summary>{name} <span class="soft">{(one.seconds * 1000).toFixed(0)} ms</span></summary>
        <pre>{one.sql}</pre><pre class="soft">{JSON.stringify(one.values)}</pre>
        <Link to={link("/explore", { sql: filled(one.sql, one.values) })}>{say("explore")} →</Link>
      </details>)}
    </div>
    <menu><button onClick={onClose}>{say("close")}</button></menu>
  </Dialog>;
}

export function HelpPanel({ onClose }: { onClose: () => void }) {
  return <Dialog title={say("help")} onClose={onClose}>
    <ul class="lines">{say("helpText").split(" · ").map((one) => <li key={one}>{one}</li>)}</ul>
    <menu><button onClick={onClose}>{say("close")}</button></menu>
  </Dialog>;
}
