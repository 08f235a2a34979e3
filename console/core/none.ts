/** What a page shows without a window: nothing, once it is known that there is none; until then it goes on asking. */
export const none = <T>(newest: number | null, nothing: T): Promise<any> => newest === 0 ? Promise.resolve(nothing) : new Promise(() => undefined);
