// ControlNet: a picture whose edges, depth or pose the drawing follows.
import { t } from "../lib/i18n";
import { sourceOf } from "../lib/pictures";
import { choices, guide, model } from "../lib/settings";
import { say } from "../lib/toast";
import { Choice, Fold, NumberField } from "./fields";
import { Icon } from "./icon";

async function take(file: File | undefined): Promise<void> {
  const name = guide.peek()?.name ?? model.peek()?.controls?.[0];
  if (!file || !name) return;
  try {
    const picture = await sourceOf(file);
    guide.value = { weight: 1, preprocessor: "canny", ...guide.peek(), name, picture };
  } catch {
    say(t("error.unreadable"), "error");
  }
}

export function GuideFields() {
  const names = model.value?.controls ?? [];
  const led = guide.value;
  if (names.length === 0) return null;
  return (
    <Fold title={t("guide.label")} note={led?.name ?? ""}>
      <div class="guide">
        <label class="secondary">
          <Icon name="open" />
          {t("guide.choose")}
          <input
            class="visually-hidden"
            type="file"
            accept="image/*"
            onChange={(event) => void take(event.currentTarget.files?.[0])}
          />
        </label>
        {led && (
          <>
            <img src={led.picture.url} alt={t("guide.picture")} />
            <button
              type="button"
              class="quiet"
              aria-label={t("guide.remove")}
              onClick={() => (guide.value = null)}
            >
              <Icon name="close" />
            </button>
          </>
        )}
      </div>
      {led && (
        <>
          <div class="pair">
            <Choice
              label={t("guide.name")}
              value={led.name}
              options={names}
              set={(name) => (guide.value = { ...led, name: name ?? led.name })}
            />
            <Choice
              label={t("guide.preprocessor")}
              value={led.preprocessor}
              options={choices.value.preprocessors}
              set={(preprocessor) => (guide.value = { ...led, preprocessor: preprocessor ?? "none" })}
            />
          </div>
          <NumberField
            label={t("guide.weight")}
            value={led.weight}
            min={0}
            max={2}
            step={0.05}
            slider={2}
            set={(weight) => (guide.value = { ...led, weight: weight ?? 1 })}
          />
        </>
      )}
    </Fold>
  );
}
