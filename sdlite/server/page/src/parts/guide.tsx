// ControlNet: a picture whose edges, depth or pose the drawing follows.
import { useEffect, useState } from "preact/hooks";
import { Failure, call, isAbort } from "../lib/api";
import { type Key, has, t } from "../lib/i18n";
import { sourceOf } from "../lib/pictures";
import { type Guide, choices, guide, model } from "../lib/settings";
import { say } from "../lib/toast";
import { Choice, Fold, NumberField } from "./fields";
import { Icon } from "./icon";
import { Chooser } from "./open";

async function take(file: File): Promise<void> {
  const name = guide.peek()?.name ?? model.peek()?.controls?.[0];
  if (!name) return;
  try {
    const picture = await sourceOf(file);
    guide.value = { weight: 1, preprocessor: "canny", ...guide.peek(), name, picture };
  } catch {
    say(t("error.unreadable"), "error");
  }
}

const named = (name: string): string => {
  const key = `preprocessor.${name}`;
  return has(key) ? t(key as Key) : name;
};

/** The picture as the network gets it. */
function Read({ led }: { led: Guide }) {
  const { picture, preprocessor } = led;
  const [seen, see] = useState<string | null>(null);
  useEffect(() => {
    see(null);
    if (preprocessor === "none") return undefined;
    const stop = new AbortController();
    const body = { image: picture.data, preprocessor };
    call<{ image: string }>("POST", "preprocess", body, stop.signal).then(
      ({ image }) => see(`data:image/png;base64,${image}`),
      (error: unknown) => {
        if (error instanceof Failure) say(error.message || t("error.offline"), "error");
        else if (!isAbort(error)) throw error;
      },
    );
    return () => stop.abort();
  }, [picture, preprocessor]);
  return (
    <div class="seen">
      <img src={picture.url} alt={t("guide.picture")} />
      {seen && <img src={seen} alt={t("guide.read")} />}
    </div>
  );
}

export function GuideFields() {
  const names = model.value?.controls ?? [];
  const led = guide.value;
  if (names.length === 0) return null;
  return (
    <Fold title={t("guide.label")} note={led?.name ?? ""}>
      <div class="guide">
        <Chooser label={t("guide.choose")} look="secondary" take={(file) => void take(file)} />
        {led && (
          <button
            type="button"
            class="quiet"
            aria-label={t("guide.remove")}
            title={t("guide.remove")}
            onClick={() => (guide.value = null)}
          >
            <Icon name="close" />
          </button>
        )}
      </div>
      {led && (
        <>
          <Read led={led} />
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
              options={choices.value.preprocessors.map((name) => [name, named(name)] as const)}
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
