// Series of windows.

/** The kinds of latency in a series: one way and round trips are lines of their own. */
export const trips = (column: string[] = []): string[] => {
  const found = ["one_way", "round_trip"].filter((one) => column.includes(one));
  return found.length ? found : ["one_way"];
};
export const ofTrip = (column: string[] | undefined, trip: string, values: (number | null)[]): (number | null)[] =>
  values.map((value, at) => column?.[at] === trip ? value : null);

/** Windows that are missing in an answer end the line: one NULL stands for them. */
export function spread(time: number[], step: number, values: (number | null)[]): { time: number[]; values: (number | null)[] } {
  const out: (number | null)[] = [], at: number[] = [];
  time.forEach((moment, index) => {
    const before = at[at.length - 1];
    if (before !== undefined && moment - before > step) { at.push(before + step); out.push(null); }
    at.push(moment);
    out.push(values[index] ?? null);
  });
  return { time: at, values: out };
}
