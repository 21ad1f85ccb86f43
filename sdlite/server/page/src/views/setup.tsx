// What computes, what there is to draw with, and what is in the way.
import { useEffect } from "preact/hooks";
import { Failure, call } from "../lib/api";
import { useFetched } from "../lib/fetched";
import { bytes, has, t } from "../lib/i18n";
import { attempt } from "../lib/jobs";
import { choices } from "../lib/settings";
import { say } from "../lib/toast";
import { Exports } from "../parts/exports";
import { Problem } from "../parts/fields";

interface Device {
  name: string;
  description: string;
  memory_bytes: number | null;
  precisions: string[];
}
interface Engine {
  name: string;
  devices: Device[];
  problem: string | null;
}
interface Check {
  name: string;
  status: "ok" | "warning" | "failure";
  detail: string;
  fix: string;
}
interface Cache {
  count: number;
  bytes: number;
}

export function Setup() {
  return (
    <section class="setup" aria-label={t("nav.setup")}>
      <div>
        <Models />
        <Exports />
        <Compiled />
      </div>
      <div>
        <Devices />
        <Doctor />
      </div>
    </section>
  );
}

function Models() {
  return (
    <section class="card">
      <h2>{t("setup.models")}</h2>
      {choices.value.models.length === 0 && <p class="muted">{t("setup.looking")}</p>}
      <ul class="rows">
        {choices.value.models.map((item) => (
          <li key={item.name}>
            <strong>{item.name}</strong>
            {item.problem ? (
              <span class="bad">{item.problem}</span>
            ) : (
              <span>
                {item.family} · {item.width} × {item.height} · {item.licence}
              </span>
            )}
          </li>
        ))}
      </ul>
    </section>
  );
}

function goodFor(engine: string, device: string) {
  const key = device === "cpu" ? `setup.for-${engine}` : "setup.for-gpu";
  return has(key) && <span>{t(key)}</span>;
}

/** What an engine that is there is good for; the others say what they lack. */
function Devices() {
  const { found, problem } = useFetched<{ engines: Engine[] }>("devices");
  // What can be used first.
  const engines = (found?.engines ?? [])
    .filter((engine) => engine.name !== "null")
    .sort((one, other) => Number(one.problem !== null) - Number(other.problem !== null));
  return (
    <section class="card">
      <h2>{t("setup.devices")}</h2>
      {problem && <Problem title={t("error.other")} detail={problem.message} />}
      {!found && !problem && <p class="muted">{t("setup.looking")}</p>}
      <ul class="rows">
        {engines.map((engine) =>
          engine.problem ? (
            <li key={engine.name}>
              <strong>{engine.name}</strong>
              <span>{engine.problem}</span>
            </li>
          ) : (
            engine.devices.map((device) => (
              <li key={`${engine.name} ${device.name}`}>
                <strong>
                  {engine.name} · {device.name}
                </strong>
                <span>
                  {device.description}
                  {device.memory_bytes ? ` · ${bytes(device.memory_bytes)}` : ""} ·{" "}
                  {device.precisions.join(", ")}
                </span>
                {goodFor(engine.name, device.name)}
              </li>
            ))
          ),
        )}
      </ul>
    </section>
  );
}

function Compiled() {
  const { found, again } = useFetched<Cache>("cache");
  if (!found) return null;
  return (
    <section class="card">
      <h2>{t("setup.cache")}</h2>
      <p class="muted">{t("setup.cache-about")}</p>
      <div class="row">
        <span>{t("setup.cache-size", { n: found.count, size: bytes(found.bytes) })}</span>
        <button
          type="button"
          class="secondary"
          disabled={found.count === 0}
          onClick={() => void attempt(call("DELETE", "cache").then(again))}
        >
          {t("setup.cache-clear")}
        </button>
      </div>
    </section>
  );
}

interface Examination {
  running: boolean;
  ok: boolean | null;
  checks: Check[];
}

const PAUSE = 700;

const named = (name: string): string => {
  const key = `check.${name.replaceAll(" ", "-")}`;
  return has(key) ? t(key) : name;
};

function Doctor() {
  const { found, problem, put, again } = useFetched<Examination>("doctor");
  const running = found?.running ?? false;
  useEffect(() => {
    if (!running) return undefined;
    const timer = setTimeout(again, PAUSE);
    return () => clearTimeout(timer);
  }, [found]);
  const look = () => {
    call<Examination>("POST", "doctor").then(put, (error: unknown) => {
      if (error instanceof Failure) say(error.message, "error");
    });
  };
  return (
    <section class="card">
      <h2>{t("setup.doctor")}</h2>
      {problem && <Problem title={t("error.other")} detail={problem.message} />}
      <div class="row">
        <button type="button" class="secondary" disabled={running} onClick={look}>
          {t("setup.examine")}
        </button>
        <span class="muted" role="status">
          {running
            ? t("setup.looking")
            : found && found.ok !== null
              ? t(found.ok ? "setup.well" : "setup.ill")
              : t("setup.doctor-about")}
        </span>
      </div>
      <ul class="rows">
        {found?.checks.map((check) => (
          <li key={`${check.name} ${check.detail}`} class={check.status}>
            <strong>
              {named(check.name)} · {t(`status.${check.status}`)}
            </strong>
            <span>{check.detail}</span>
            {check.fix && <span class="fix">{check.fix}</span>}
          </li>
        ))}
      </ul>
    </section>
  );
}
