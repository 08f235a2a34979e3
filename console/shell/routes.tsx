import type { ComponentType } from "preact";
import { unpart } from "../core/links.ts";
import type { Page } from "../core/page.ts";
import { say } from "../core/text.ts";
import { Alert } from "../pages/alert.tsx";
import { Alerts, Silences } from "../pages/alerts.tsx";
import { Exporters } from "../pages/exporters.tsx";
import { Overview } from "../pages/overview.tsx";
import { Pair } from "../pages/pair.tsx";
import { Pairs } from "../pages/pairs.tsx";
import { later } from "../parts/later.tsx";

// What the overview does not need comes when it is opened; the editor of SQL by itself.
const more = <K extends keyof typeof import("../pages/more.ts")>(name: K) => later(() => import("../pages/more.ts").then((all) => all[name] as ComponentType<any>));
const Vms = more("Vms"), Vm = more("Vm"), Hosts = more("Hosts"), Host = more("Host"), Interfaces = more("Interfaces"), Interface = more("Interface"), Matrix = more("Matrix"), Paths = more("Paths");
const Coverage = more("Coverage"), Inventory = more("Inventory"), Rules = more("Rules"), Rule = more("Rule"), Service = more("Service");
const Explore = later(() => import("../pages/explore.tsx").then((one) => one.Explore));

/** The page at an address.  Each subject has a page of its own: what is known of one never stands under another. */
export function Routed({ path, ...page }: Page & { path: string }) {
  const [first, second, third] = path.split("/").filter(Boolean).map(unpart);
  const subject = [path, ...["uuid", "pair", "network"].map((name) => page.query.get(name) ?? "")].join(" ");
  switch (first) {
    case undefined: return <Overview {...page} />;
    case "alerts": return second ? <Alert key={subject} {...page} id={second} /> : <Alerts {...page} />;
    case "silences": return <Silences {...page} />;
    case "pairs": return second && third ? <Pair key={subject} {...page} src={second} dst={third} /> : <Pairs {...page} />;
    case "vms": return second ? <Vm key={subject} {...page} vm={second} /> : <Vms {...page} />;
    case "hosts": return second ? <Host key={subject} {...page} host={second} /> : <Hosts {...page} />;
    case "interfaces": return second && third ? <Interface key={subject} {...page} host={second} name={third} /> : <Interfaces {...page} />;
    case "matrix": return <Matrix {...page} />;
    case "paths": return <Paths {...page} />;
    case "coverage": return <Coverage {...page} />;
    case "exporters": return <Exporters {...page} />;
    case "inventory": return <Inventory {...page} />;
    case "rules": return second ? <Rule key={subject} {...page} name={second} /> : <Rules {...page} />;
    case "service": return <Service {...page} />;
    case "explore": return <Explore {...page} />;
    default: return <p class="empty">{say("notFound")}</p>;
  }
}
