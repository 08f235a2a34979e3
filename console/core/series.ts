// Series of windows.

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
