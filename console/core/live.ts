// One stream of events for a tab: they say what is new, the pages ask again.
import { useEffect, useState } from "preact/hooks";

export interface News { windows: number; alerts: number; connected: boolean }
let news: News = { windows: 0, alerts: 0, connected: false };
const heard = new Set<(one: News) => void>();
const change = (part: Partial<News>) => {
  news = { ...news, ...part };
  heard.forEach((one) => one(news));
};

let source: EventSource | null = null, over = false;
function open(): void {
  if (source || over) return;
  source = new EventSource("/api/v1/events");
  source.onopen = () => change({ connected: true, alerts: news.alerts + 1 });
  source.onerror = () => {
    change({ connected: false });
    // Where the service refuses, the browser does not try again by itself.
    if (source?.readyState !== EventSource.CLOSED) return;
    source = null;
    setTimeout(open, 10_000);
    // Perhaps the session has ended: the shell looks.
    dispatchEvent(new Event("vmflow-login"));
  };
  source.addEventListener("window", () => change({ windows: news.windows + 1 }));
  source.addEventListener("alerts", () => change({ alerts: news.alerts + 1 }));
  source.addEventListener("bye", () => change({ connected: false }));
}

/** Listen no more: the person leaves. */
export function hush(): void {
  source?.close();
  over = true;
}

export function useNews(): News {
  const [seen, setSeen] = useState(news);
  useEffect(() => {
    open();
    heard.add(setSeen);
    return () => void heard.delete(setSeen);
  }, []);
  return seen;
}
export const alertsChanged = () => change({ alerts: news.alerts + 1 });
