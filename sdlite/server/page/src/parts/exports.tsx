// Checkpoints of the model folders, made into models from here, and ControlNets added to models.
import type { ComponentChildren } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { Failure, call } from "../lib/api";
import { useFetched } from "../lib/fetched";
import { bytes, t } from "../lib/i18n";
import { loadChoices } from "../lib/settings";
import { say } from "../lib/toast";
import { Choice } from "./fields";

interface Row {
  name: string;
  bytes: number;
  state: "running" | "done" | "failed" | "cancelled" | null;
  share: number;
  error: string | null;
}
interface Checkpoint extends Row {
  exported: boolean;
}
interface Control extends Row {
  /** Models that have it. */
  models: string[];
}
interface Answer {
  checkpoints: Checkpoint[];
  controls: Control[];
  /** Models a ControlNet can be added to. */
  packages: string[];
  free_bytes: number;
}

const PAUSE = 700;

export function Exports() {
  const { found, put, again } = useFetched<Answer>("exports");
  const rows: Row[] = found ? [...found.checkpoints, ...found.controls] : [];
  const running = rows.some((item) => item.state === "running");
  const ran = useRef(false);
  useEffect(() => {
    if (running) {
      ran.current = true;
      const timer = setTimeout(again, PAUSE);
      return () => clearTimeout(timer);
    }
    // What became of it can be drawn with from now on.
    if (ran.current) void loadChoices();
    ran.current = false;
    return undefined;
  }, [found]);
  if (!found) return null;
  const ask = (method: string, path: string, body?: unknown) => {
    call<Answer>(method, path, body).then(put, (error: unknown) => {
      if (error instanceof Failure) say(error.message || t("error.offline"), "error");
    });
  };
  const stop = ({ name }: Row) => ask("DELETE", `exports/${encodeURIComponent(name)}`);
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
          <Line key={item.name} item={item} done={item.exported} stop={stop}>
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
          </Line>
        ))}
      </ul>
      {found.controls.length > 0 && (
        <>
          <h3>{t("controls.title")}</h3>
          <p class="muted">{t(found.packages.length ? "controls.about" : "controls.no-model")}</p>
          <ul class="rows">
            {found.controls.map((item) => (
              <Line key={item.name} item={item} stop={stop}>
                <Adding
                  item={item}
                  packages={found.packages}
                  off={running}
                  add={(model) => ask("POST", "exports", { name: item.name, model })}
                />
              </Line>
            ))}
          </ul>
        </>
      )}
    </section>
  );
}

interface LineProps {
  item: Row;
  done?: boolean;
  stop: (item: Row) => void;
  children: ComponentChildren;
}

function Line({ item, done = false, stop, children }: LineProps) {
  return (
    <li>
      <strong>{item.name}</strong>
      <span>{done ? t("exports.done") : t("exports.needs", { size: bytes(item.bytes) })}</span>
      {item.state === "failed" && <span class="bad">{item.error}</span>}
      {item.state === "running" ? (
        <div class="row">
          <progress value={item.share} max={1} aria-label={item.name} />
          <button type="button" class="secondary" onClick={() => stop(item)}>
            {t("stage.cancel")}
          </button>
        </div>
      ) : (
        !done && children
      )}
    </li>
  );
}

interface AddingProps {
  item: Control;
  packages: string[];
  off: boolean;
  add: (model: string) => void;
}

/** To which model a ControlNet is added. */
function Adding({ item, packages, off, add }: AddingProps) {
  const free = packages.filter((name) => !item.models.includes(name));
  const [chosen, choose] = useState<string | null>(null);
  const model = chosen !== null && free.includes(chosen) ? chosen : free[0];
  return (
    <>
      {item.models.length > 0 && (
        <span>{t("controls.added", { models: item.models.join(", ") })}</span>
      )}
      {model !== undefined && (
        <div class="row">
          <Choice label={t("model.label")} value={model} options={free} set={choose} />
          <button type="button" class="secondary" disabled={off} onClick={() => add(model)}>
            {t("controls.add")}
          </button>
        </div>
      )}
    </>
  );
}
