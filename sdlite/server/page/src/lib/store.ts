// Signals that survive a reload.
import { type Signal, effect, signal } from "@preact/signals";

export function stored<T>(name: string, initial: T): Signal<T> {
  const key = `sdlite.${name}`;
  let first = initial;
  try {
    const text = localStorage.getItem(key);
    if (text !== null) first = JSON.parse(text) as T;
  } catch {
    // What cannot be read is begun anew.
  }
  const value = signal(first);
  effect(() => {
    const text = JSON.stringify(value.value);
    try {
      localStorage.setItem(key, text);
    } catch {
      // Full, or forbidden: it lasts until the page is closed.
    }
  });
  return value;
}
