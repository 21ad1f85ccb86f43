// What computes, what there is to draw with, and what is in the way.
import { useState } from "preact/hooks";
import { call } from "../lib/api";
import { useFetched } from "../lib/fetched";
import { bytes, t } from "../lib/i18n";
import { choices } from "../lib/settings";
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

/** What an engine that is there is good for; the others say what they lack. */
function Devices() {
  const { found, problem } = useFetched<{ engines: Engine[] }>("devices");
  const engines = found?.engines.filter((engine) => engine.name !== "null") ?? [];
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
                <span>{t(device.name === "cpu" ? "setup.for-cpu" : "setup.for-gpu")}</span>
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
          onClick={() => void call("DELETE", "cache").then(again)}
        >
          {t("setup.cache-clear")}
        </button>
      </div>
    </section>
  );
}

function Doctor() {
  const [asked, ask] = useState(false);
  const { found, problem } = useFetched<{ ok: boolean; checks: Check[] }>(asked ? "doctor" : null);
  return (
    <section class="card">
      <h2>{t("setup.doctor")}</h2>
      {problem && <Problem title={t("error.other")} detail={problem.message} />}
      {!asked && (
        <div class="row">
          <button type="button" class="secondary" onClick={() => ask(true)}>
            {t("setup.examine")}
          </button>
        </div>
      )}
      <p class="muted" role="status">
        {asked && !problem
          ? t(found ? (found.ok ? "setup.well" : "setup.ill") : "setup.looking")
          : t("setup.doctor-about")}
      </p>
      <ul class="rows">
        {found?.checks.map((check) => (
          <li key={`${check.name} ${check.detail}`} class={check.status}>
            <strong>
              {check.name} · {t(`status.${check.status}`)}
            </strong>
            <span>{check.detail}</span>
            {check.fix && <span class="fix">{check.fix}</span>}
          </li>
        ))}
      </ul>
    </section>
  );
}
