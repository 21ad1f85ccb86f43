// What a view asks the server for when it opens.
import { useEffect, useRef, useState } from "preact/hooks";
import { Failure, get } from "./api";

export interface Fetched<T> {
  found: T | null;
  problem: Failure | null;
  /** Take what another call answered, and not what was asked for before it. */
  put: (found: T) => void;
  again: () => void;
}

export function useFetched<T>(path: string | null): Fetched<T> {
  const [found, keep] = useState<T | null>(null);
  const [problem, tell] = useState<Failure | null>(null);
  const [round, turn] = useState(0);
  const asked = useRef<AbortController | null>(null);
  useEffect(() => {
    if (path === null) return undefined;
    const stop = new AbortController();
    asked.current = stop;
    get<T>(path, stop.signal).then(
      (answer) => {
        tell(null);
        if (!stop.signal.aborted) keep(answer);
      },
      (error: unknown) => {
        if (error instanceof Failure) tell(error);
      },
    );
    return () => stop.abort();
  }, [path, round]);
  const put = (answer: T) => {
    asked.current?.abort();
    keep(answer);
  };
  return { found, problem, put, again: () => turn(round + 1) };
}
