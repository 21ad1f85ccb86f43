// Why there is no picture, in words a person understands, and what to do.
import { draw } from "../lib/draw";
import { errorKey, t } from "../lib/i18n";
import { failed } from "../lib/jobs";
import { set, size } from "../lib/settings";
import { Problem } from "./fields";

export function Trouble() {
  const error = failed.value;
  if (!error) return null;
  const { kind, message } = error;
  const [width, height] = size.value;
  const half = (side: number) => Math.max(Math.floor((side * 0.75) / 8) * 8, 64);
  return (
    <Problem title={t(errorKey(kind))} detail={message}>
      <div class="row">
        {kind === "OutOfMemory" && (
          <button
            type="button"
            class="secondary"
            onClick={() => {
              set({ width: half(width), height: half(height) });
              void draw();
            }}
          >
            {t("error.smaller", { width: half(width), height: half(height) })}
          </button>
        )}
        <button type="button" class="secondary" onClick={() => void draw()}>
          {t("error.retry")}
        </button>
        <button type="button" class="link" onClick={() => (failed.value = null)}>
          {t("error.close")}
        </button>
      </div>
    </Problem>
  );
}
