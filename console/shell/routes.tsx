import type { ComponentType } from "preact";
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
const Vms = more("Vms"), Vm = more("Vm"), Hosts = more("Hosts"), Host = more("Host"), Matrix = more("Matrix");
const Coverage = more("Coverage"), Inventory = more("Inventory"), Rules = more("Rules"), Service = more("Service");
const Explore = later(() => import("../pages/explore.tsx").then((one) => one.Explore));

function decoded(part: string): string {
  try { return decodeURIComponent(part); } catch { return part; }
}

/** The page at an address. */
export function Routed({ path, ...page }: Page & { path: string }) {
  const [first, second, third] = path.split("/").filter(Boolean).map(decoded);
  switch (first) {
    case undefined: return <Overview {...page} />;
    case "alerts": return second ? <Alert {...page} id={second} /> : <Alerts {...page} />;
    case "silences": return <Silences {...page} />;
    case "pairs": return second && third ? <Pair {...page} src={second} dst={third} /> : <Pairs {...page} />;
    case "vms": return second ? <Vm {...page} vm={second} /> : <Vms {...page} />;
    case "hosts": return second ? <Host {...page} host={second} /> : <Hosts {...page} />;
    case "matrix": return <Matrix {...page} />;
    case "coverage": return <Coverage {...page} />;
    case "exporters": return <Exporters {...page} />;
    case "inventory": return <Inventory {...page} />;
    case "rules": return <Rules {...page} />;
    case "service": return <Service {...page} />;
    case "explore": return <Explore {...page} />;
    default: return <p class="empty">{say("notFound")}</p>;
  }
}
