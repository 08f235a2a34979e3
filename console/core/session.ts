// Who asks.  Where logins are needed, a cookie that scripts cannot read holds one.
import { get, post } from "./api.ts";

export interface Session { user: string; role: string; version: string; needed: boolean }

export const session = (signal?: AbortSignal): Promise<Session> => get("/api/v1/session", signal);
export const login = (name: string, password: string): Promise<Session> => post("/api/v1/session", { name, password });

export async function logout(): Promise<void> {
  await post("/api/v1/session/end", {});
  location.assign("/");
}
