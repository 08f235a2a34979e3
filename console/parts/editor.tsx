// An editor of SQL (CodeMirror), for the one page that has it.  It lives in a shadow root: there its styles are a sheet of
// its own, which the policy of the page allows, where a `<style>` element would need a nonce.
import { autocompletion } from "@codemirror/autocomplete";
import { defaultKeymap, history, historyKeymap } from "@codemirror/commands";
import { SQLDialect, sql } from "@codemirror/lang-sql";
import { HighlightStyle, bracketMatching, syntaxHighlighting } from "@codemirror/language";
import { EditorState, Prec } from "@codemirror/state";
import { EditorView, keymap, lineNumbers } from "@codemirror/view";
import { tags } from "@lezer/highlight";
import { useEffect, useRef } from "preact/hooks";

const WORDS = "select from where group by order limit offset as and or not in is null like ilike between case when then else end with having distinct join left inner using on union all final interval desc asc array prewhere any";
const TYPES = "string uint8 uint16 uint32 uint64 int32 int64 float64 datetime datetime64 uuid ipv6";
const CLICKHOUSE = SQLDialect.define({ keywords: WORDS, types: TYPES, backslashEscapes: true, doubleQuotedStrings: false, identifierQuotes: "`\"" });

const LOOK = EditorView.theme({
  "&": { fontSize: "13px", color: "var(--text)", backgroundColor: "var(--ground)", border: "1px solid var(--line)", borderRadius: "6px" },
  "&.cm-focused": { outline: "2px solid var(--accent)" },
  ".cm-scroller": { fontFamily: "ui-monospace, Menlo, Consolas, monospace", minHeight: "120px", maxHeight: "45vh", overflow: "auto" },
  ".cm-gutters": { backgroundColor: "var(--ground)", color: "var(--soft)", border: "none" },
  ".cm-content": { caretColor: "var(--text)" },
  ".cm-cursor": { borderLeftColor: "var(--text)" },
  ".cm-selectionBackground, &.cm-focused .cm-selectionBackground": { backgroundColor: "color-mix(in srgb, var(--accent) 30%, transparent) !important" },
  ".cm-tooltip": { backgroundColor: "var(--card)", color: "var(--text)", border: "1px solid var(--line)" },
  ".cm-tooltip-autocomplete ul li[aria-selected]": { backgroundColor: "var(--raise)", color: "var(--text)" },
});
const COLOURS = HighlightStyle.define([
  { tag: tags.keyword, color: "var(--accent)" }, { tag: tags.string, color: "var(--good)" }, { tag: tags.number, color: "var(--s2)" },
  { tag: tags.comment, color: "var(--soft)" }, { tag: tags.typeName, color: "var(--s4)" },
]);

// Where typed text replaces lines, the browser would join them with inline styles, which the policy forbids.
const replaced = EditorView.domEventHandlers({
  beforeinput: (event, view) => {
    if (event.inputType !== "insertText" || !event.data || view.state.selection.main.empty) return false;
    event.preventDefault();
    view.dispatch(view.state.replaceSelection(event.data), { userEvent: "input.type", scrollIntoView: true });
    return true;
  },
});

/** `given` replaces the text when it is another object; what a person types comes by `onChange`, and kept here. */
export interface EditorProps { label: string; given: { sql: string }; schema: Record<string, string[]>; onChange: (value: string) => void; onRun: () => void }

export function Editor({ label, given, schema, onChange, onRun }: EditorProps) {
  const box = useRef<HTMLDivElement>(null), view = useRef<EditorView>();
  const run = useRef(onRun), change = useRef(onChange), text = useRef(given.sql);
  run.current = onRun;
  change.current = onChange;
  useEffect(() => {
    const root = box.current!.shadowRoot ?? box.current!.attachShadow({ mode: "open" });
    const state = EditorState.create({
      doc: text.current,
      extensions: [
        Prec.highest(keymap.of([{ key: "Mod-Enter", run: () => { run.current(); return true; } }])),
        lineNumbers(), history(), bracketMatching(), autocompletion({ icons: false }),
        keymap.of([...defaultKeymap, ...historyKeymap]),
        sql({ dialect: CLICKHOUSE, schema, upperCaseKeywords: true }),
        syntaxHighlighting(COLOURS), LOOK, EditorView.lineWrapping,
        replaced,
        EditorView.contentAttributes.of({ "aria-label": label }),
        EditorView.updateListener.of((update) => { if (update.docChanged) change.current(text.current = update.state.doc.toString()); }),
      ],
    });
    view.current = new EditorView({ state, parent: root, root });
    return () => view.current?.destroy();
  }, [Object.keys(schema).length]);
  useEffect(() => {
    const now = view.current;
    if (now && text.current !== given.sql) now.dispatch({ changes: { from: 0, to: now.state.doc.length, insert: given.sql } });
  }, [given]);
  return <div class="editor" ref={box} />;
}
