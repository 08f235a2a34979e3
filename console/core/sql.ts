/** SQL with its values in place.  Numbers may come as text: some have more digits than a number holds here. */
export function filled(sql: string, values: Record<string, unknown>): string {
  return sql.replace(/\{(\w+):(\w+)\}/g, (hole, name: string, type: string) => {
    const value = values[name];
    if (value === undefined) return hole;
    return type === "String" ? `'${String(value).replace(/[\\']/g, "\\$&")}'` : String(value);
  });
}
