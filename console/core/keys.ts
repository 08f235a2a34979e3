// Keys: none while a person types or a dialog is open.
type Keys = Record<string, () => unknown>;
const typing = (event: KeyboardEvent) => (event.target as HTMLElement).closest("input:not([type=checkbox]),select,textarea,dialog") !== null || document.querySelector("dialog[open]") !== null;

/** Hear keys until the returned function is called. */
export function rowKeys(keys: Keys): () => void {
  const hear = (event: KeyboardEvent) => {
    if (typing(event) || event.ctrlKey || event.metaKey || event.altKey || after) return;
    if (event.key === "Enter" && (event.target as HTMLElement).closest("a,button")) return;
    const act = keys[event.key];
    if (act) { event.preventDefault(); act(); }
  };
  addEventListener("keydown", hear);
  return () => removeEventListener("keydown", hear);
}

let after = false;
/** Keys of the shell: those of `g` come after it. */
export function shellKeys(keys: Keys, going: Keys): () => void {
  const hear = (event: KeyboardEvent) => {
    if (typing(event) || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "g") { after = true; setTimeout(() => (after = false), 1500); return; }
    const act = after ? going[event.key] : keys[event.key];
    if (act) { event.preventDefault(); event.stopImmediatePropagation(); act(); }
    after = false;
  };
  addEventListener("keydown", hear, true);
  return () => removeEventListener("keydown", hear, true);
}
