// Checkpoints of the model folders, made into models from here.
import { useEffect, useRef } from "preact/hooks";
import { Failure, call } from "../lib/api";
import { useFetched } from "../lib/fetched";
import { bytes, t } from "../lib/i18n";
import { loadChoices } from "../lib/settings";
import { say } from "../lib/toast";

interface Checkpoint {
  name: string;
  bytes: number;
  exported: boolean;
  state: "running" | "done" | "failed" | "cancelled" | null;
  share: number;
  error: string | null;
}
interface Answer {
  checkpoints: Checkpoint[];
  free_bytes: number;
}

const PAUSE = 700;

export function Exports() {
  const { found, put, again } = useFetched<Answer>("exports");
  const running = found?.checkpoints.some((item) => item.state === "running") ?? false;
  const ran = useRef(false);
  useEffect(() => {
    if (running) {
      ran.current = true;
      const timer = setTimeout(again, PAUSE);
      return () => clearTimeout(timer);
    }
    // What became of it is a model from now on.
    if (ran.current) void loadChoices();
    ran.current = false;
    return undefined;
  }, [found]);
  const ask = (method: string, path: string, body?: unknown) => {
    call<Answer>(method, path, body).then(put, (error: unknown) => {
      if (error instanceof Failure) say(error.message, "error");
    });
  };
  if (!found) return null;
  return (
    <section class="card">
      <h2>{t("exports.title")}</h2>
      <p class="muted">
        {t(found.checkpoints.length ? "exports.about" : "exports.none", {
          size: bytes(found.free_bytes),
        })}
      </p>
      <ul class="rows">
        {found.checkpoints.map((item) => (
          <li key={item.name}>
            <strong>{item.name}</strong>
            <span>{t("exports.needs", { size: bytes(item.bytes) })}</span>
            {item.state === "failed" && <span class="bad">{item.error}</span>}
            {item.state === "running" ? (
              <div class="row">
                <progress value={item.share} max={1} aria-label={item.name} />
                <button
                  type="button"
                  class="secondary"
                  onClick={() => ask("DELETE", `exports/${encodeURIComponent(item.name)}`)}
                >
                  {t("stage.cancel")}
                </button>
              </div>
            ) : item.exported ? (
              <span>{t("exports.done")}</span>
            ) : (
              <div class="row">
                <button
                  type="button"
                  class="secondary"
                  disabled={running}
                  onClick={() => ask("POST", "exports", { name: item.name })}
                >
                  {t("exports.start")}
                </button>
              </div>
            )}
          </li>
        ))}
      </ul>
    </section>
  );
}
