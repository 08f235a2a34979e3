// The text of /metrics (Prometheus): values by name, over all labels.
export type Metrics = Map<string, number[]>;

export function parsed(text: string): Metrics {
  const found: Metrics = new Map();
  for (const line of text.split("\n")) {
    const one = /^([a-z_][a-z0-9_]*)(?:\{.*\})? (\S+)/i.exec(line);
    if (!one || line.startsWith("#")) continue;
    const values = found.get(one[1]!) ?? [];
    values.push(Number(one[2]));
    found.set(one[1]!, values);
  }
  return found;
}

export function sum(metrics: Metrics, name: string): number | null {
  const values = metrics.get(name);
  return values ? values.reduce((a, b) => a + b, 0) : null;
}
