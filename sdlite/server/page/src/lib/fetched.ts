// What a view asks the server for when it opens.
import { useEffect, useState } from "preact/hooks";
import { Failure, get } from "./api";

export interface Fetched<T> {
  found: T | null;
  problem: Failure | null;
  /** Take what another call answered. */
  put: (found: T) => void;
  again: () => void;
}

export function useFetched<T>(path: string | null): Fetched<T> {
  const [found, put] = useState<T | null>(null);
  const [problem, tell] = useState<Failure | null>(null);
  const [round, turn] = useState(0);
  useEffect(() => {
    if (path === null) return undefined;
    const stop = new AbortController();
    get<T>(path, stop.signal).then(put, (error: unknown) => {
      if (error instanceof Failure) tell(error);
    });
    return () => stop.abort();
  }, [path, round]);
  return { found, problem, put, again: () => turn(round + 1) };
}
