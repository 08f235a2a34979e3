import { useState } from "preact/hooks";
import { login } from "../core/session.ts";
import { say } from "../core/text.ts";

/** Name and password; the service answers with a cookie. */
export function Login({ onDone }: { onDone: () => void }) {
  const [name, setName] = useState(""), [password, setPassword] = useState("");
  const [error, setError] = useState(""), [busy, setBusy] = useState(false);
  const submit = async (event: Event) => {
    event.preventDefault();
    setBusy(true);
    try { await login(name, password); onDone(); } catch (failed) { setError(String((failed as Error).message)); setPassword(""); }
    setBusy(false);
  };
  return <main class="login"><form class="card" onSubmit={submit}>
    <h1>vmflow</h1>
    <label>{say("userName")}<input name="name" autocomplete="username" required maxLength={64} value={name} autofocus onInput={(event) => setName(event.currentTarget.value)} /></label>
    <label>{say("password")}<input name="password" type="password" autocomplete="current-password" required maxLength={1024} value={password} onInput={(event) => setPassword(event.currentTarget.value)} /></label>
    {error && <p class="problem" role="alert">{error}</p>}
    <button class="main" type="submit" disabled={busy}>{say("logIn")}</button>
  </form></main>;
}
