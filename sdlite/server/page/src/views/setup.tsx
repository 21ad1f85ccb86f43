// What computes, what is there to draw with.
import { useEffect, useState } from "preact/hooks";
import { Failure, get } from "../lib/api";
import { bytes, t } from "../lib/i18n";
import { choices } from "../lib/settings";
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

/** Fetch once, when the view opens. */
export function useFetched<T>(path: string): [T | null, Failure | null, () => void] {
  const [found, put] = useState<T | null>(null);
  const [problem, tell] = useState<Failure | null>(null);
  const [round, turn] = useState(0);
  useEffect(() => {
    const stop = new AbortController();
    get<T>(path, stop.signal).then(put, (error: unknown) => {
      if (error instanceof Failure) tell(error);
    });
    return () => stop.abort();
  }, [path, round]);
  return [found, problem, () => turn(round + 1)];
}

export function Setup() {
  return (
    <section class="setup" aria-label={t("nav.setup")}>
      <Models />
      <Devices />
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

function Devices() {
  const [found, problem] = useFetched<{ engines: Engine[] }>("devices");
  return (
    <section class="card">
      <h2>{t("setup.devices")}</h2>
      {problem && <Problem title={t("error.other")} detail={problem.message} />}
      {!found && !problem && <p class="muted">{t("setup.looking")}</p>}
      <ul class="rows">
        {found?.engines
          .filter((engine) => engine.name !== "null")
          .flatMap((engine) =>
            engine.problem
              ? [
                  <li key={engine.name}>
                    <strong>{engine.name}</strong>
                    <span class="bad">{engine.problem}</span>
                  </li>,
                ]
              : engine.devices.map((device) => (
                  <li key={`${engine.name} ${device.name}`}>
                    <strong>
                      {engine.name} · {device.name}
                    </strong>
                    <span>
                      {device.description}
                      {device.memory_bytes ? ` · ${bytes(device.memory_bytes)}` : ""} ·{" "}
                      {device.precisions.join(", ")}
                    </span>
                  </li>
                )),
          )}
      </ul>
    </section>
  );
}
