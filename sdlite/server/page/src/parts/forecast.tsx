// What the machine will need, said before the button is pressed, and what would make it faster.
import { objection, plan } from "../lib/forecast";
import { type Key, about, brief, bytes, errorKey, has, t } from "../lib/i18n";
import { set, settings } from "../lib/settings";
import type { Faster } from "../lib/types";

function words({ kind, change }: Faster): string {
  const key = `faster.${kind}`;
  if (!has(key)) return kind;
  const { width = 0, height = 0, steps = 0, profile = "" } = change;
  const named = `profile.${profile}`;
  return t(key, { width, height, steps, profile: has(named) ? t(named as Key) : profile });
}

export function Forecast() {
  const { value: told } = plan;
  if (objection.value) {
    const { kind, message } = objection.value;
    return (
      <p class="forecast objection" role="status">
        <strong>{t(errorKey(kind))}</strong>
        <span>{message}</span>
      </p>
    );
  }
  if (!told) return <p class="forecast">{t("forecast.asking")}</p>;
  return (
    <div class="forecast">
      <p role="status">
        <strong>
          {told.seconds === null ? t("forecast.unknown") : about(told.seconds)}
        </strong>
        <span>{t("forecast.memory", { size: bytes(told.peak_bytes) })}</span>
        {told.waiting > 0 && <span>{t("forecast.waiting", { n: told.waiting })}</span>}
      </p>
      {told.faster.length > 0 && (
        <ul class="chips" aria-label={t("forecast.faster")}>
          <li aria-hidden="true" class="faster">
            {t("forecast.faster")}
          </li>
          {told.faster.map((item) => (
            <li key={JSON.stringify(item.change)}>
              <button
                type="button"
                class="chip"
                onClick={() => set(item.change as Partial<typeof settings.value>)}
              >
                {words(item)} <b>{brief(item.seconds)}</b>
              </button>
            </li>
          ))}
        </ul>
      )}
      <details class="why">
        <summary>{t("forecast.why")}</summary>
        <pre tabIndex={0}>{told.explanation}</pre>
      </details>
    </div>
  );
}
