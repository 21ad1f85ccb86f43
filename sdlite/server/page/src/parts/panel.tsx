// The form: prompt, forecast, button, settings.
import { useEffect, useRef } from "preact/hooks";
import { draw } from "../lib/draw";
import { t } from "../lib/i18n";
import { active } from "../lib/jobs";
import { QUICK, live, quick } from "../lib/live";
import { plan } from "../lib/forecast";
import { choices, model, settings, set, source } from "../lib/settings";
import { Switch } from "./fields";
import { Forecast } from "./forecast";
import { OpenPicture } from "./open";
import { Settings } from "./settings";
import { SourceCard } from "./source";

const INSPIRED = ["example.1", "example.2", "example.3"] as const;

function Prompt() {
  const area = useRef<HTMLTextAreaElement>(null);
  const text = settings.value.prompt;
  useEffect(() => {
    // As tall as what is written.
    const box = area.current;
    if (!box) return;
    box.style.height = "auto";
    box.style.height = `${Math.min(box.scrollHeight + 2, 320)}px`;
  }, [text]);
  return (
    <div class="prompt">
      <label for="prompt" class="visually-hidden">
        {t("prompt.label")}
      </label>
      <textarea
        id="prompt"
        ref={area}
        rows={3}
        maxLength={20000}
        placeholder={t("prompt.placeholder")}
        value={text}
        onInput={(event) => set({ prompt: event.currentTarget.value })}
      />
      <label for="negative" class="visually-hidden">
        {t("negative.label")}
      </label>
      <input
        id="negative"
        maxLength={20000}
        placeholder={t("negative.placeholder")}
        value={settings.value.negative_prompt}
        onInput={(event) => set({ negative_prompt: event.currentTarget.value })}
      />
    </div>
  );
}

function Examples() {
  if (settings.value.prompt || model.value?.name !== "shapes") return null;
  return (
    <div class="chips">
      {INSPIRED.map((key) => (
        <button key={key} type="button" class="chip" onClick={() => set({ prompt: t(key) })}>
          {t(key)}
        </button>
      ))}
    </div>
  );
}

export function Panel() {
  const running = active.value !== undefined && !active.value.live;
  const follows = quick();
  const slow = plan.value !== null && !follows && !live.value;
  const { models } = choices.value;
  return (
    <form
      class="panel"
      aria-label={t("panel.label")}
      onSubmit={(event) => {
        event.preventDefault();
        void draw();
      }}
    >
      <Prompt />
      <Examples />
      {source.value ? <SourceCard /> : <OpenPicture />}
      <Forecast />
      <div class="go">
        <button type="submit" class="primary">
          {running ? t("draw.queue") : t("draw.button")}
          <kbd>{navigator.platform.startsWith("Mac") ? "⌘↵" : "Ctrl ↵"}</kbd>
        </button>
        <Switch
          label={t("live.label")}
          on={live.value}
          disabled={!live.value && !follows}
          hint={t("live.hint")}
          set={(on) => (live.value = on)}
        />
      </div>
      {slow && (
        <small>{plan.value?.seconds === null ? t("live.unknown") : t("live.slow", { n: QUICK })}</small>
      )}
      {models.length === 0 ? null : <Settings />}
    </form>
  );
}
