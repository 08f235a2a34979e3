import type { ComponentChildren } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { keep, kept } from "../core/state.ts";
import { say } from "../core/text.ts";

/** A dialog of the browser: focus stays in it, Escape closes it. */
export function Dialog({ title, onClose, children }: { title: string; onClose: () => void; children: ComponentChildren }) {
  const box = useRef<HTMLDialogElement>(null);
  useEffect(() => box.current?.showModal(), []);
  return <dialog ref={box} onClose={onClose} aria-labelledby="dialog-title"><h2 id="dialog-title">{title}</h2>{children}</dialog>;
}

/** Who does something, and why.  The name is asked where the service knows no login. */
export function Act({ title, user, onClose, onDo, children }: { title: string; user: string; onClose: () => void; onDo: (by: { who: string; comment: string }) => Promise<void>; children?: ComponentChildren }) {
  const [who, setWho] = useState(kept("who", ""));
  const [comment, setComment] = useState("");
  const [error, setError] = useState("");
  const submit = async (event: Event) => {
    event.preventDefault();
    try {
      if (!user) keep("who", who);
      await onDo({ who: user || who, comment });
      onClose();
    } catch (failed) { setError(String((failed as Error).message)); }
  };
  return <Dialog title={title} onClose={onClose}>
    <form onSubmit={submit}>
      {!user && <label>{say("yourName")}<input name="who" required maxLength={100} value={who} onInput={(event) => setWho(event.currentTarget.value)} autofocus={!who} /></label>}
      {children}
      <label>{say("comment")}<input name="comment" maxLength={1000} value={comment} onInput={(event) => setComment(event.currentTarget.value)} autofocus={!!(user || who)} /></label>
      {error && <p class="problem" role="alert">{error}</p>}
      <menu><button type="button" onClick={onClose}>{say("cancel")}</button><button class="main" type="submit">{say("doIt")}</button></menu>
    </form>
  </Dialog>;
}
