import type { ComponentType } from "preact";
import { useEffect, useState } from "preact/hooks";
import { say } from "../core/text.ts";

/** A page whose script is fetched when it is opened. */
export function later<P extends object>(fetched: () => Promise<ComponentType<P>>): ComponentType<P> {
  let known: ComponentType<P> | null = null;
  return (props: P) => {
    const [, again] = useState(0);
    const [failed, setFailed] = useState("");
    useEffect(() => {
      if (!known) fetched().then((one) => { known = one; again((number) => number + 1); }, (error) => setFailed(String(error.message ?? error)));
    }, []);
    const Ready = known;
    if (Ready) return <Ready {...props} />;
    return failed ? <p class="problem" role="alert">{say("failed")}: {failed}</p> : <div class="skeleton" aria-busy="true"><span>{say("loading")}</span></div>;
  };
}
