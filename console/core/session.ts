// Who asks.  Where logins are needed, a cookie that scripts cannot read holds one.
import { Refused, get, post } from "./api.ts";
import { hush } from "./live.ts";

export interface Session { user: string; role: string; version: string; needed: boolean }

let role = "";
/** Whether the person may take on, end and silence: a reader may only look. */
export const mayAct = (): boolean => role === "operator";

export async function session(signal?: AbortSignal): Promise<Session> {
  const found: Session = await get("/api/v1/session", signal);
  role = found.role;
  return found;
}
export const login = (name: string, password: string): Promise<Session> => post("/api/v1/session", { name, password });

/** End the session.  Where that fails it lasts, and the error says why. */
export async function logout(): Promise<void> {
  await post("/api/v1/session/end", {}).catch((error) => { if (!(error instanceof Refused && error.status === 401)) throw error; });
  hush();
  location.assign("/");
}
