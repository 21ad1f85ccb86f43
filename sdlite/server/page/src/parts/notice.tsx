// Short notices, and what a screen reader is told of a picture's progress.
import { t } from "../lib/i18n";
import { active, current } from "../lib/jobs";
import { settle, toast, undo } from "../lib/toast";
import { Icon } from "./icon";

export function Notice() {
  const { value } = toast;
  const ticket = active.value;
  return (
    <>
      <div class="visually-hidden" role="status">
        {ticket && !ticket.live ? t("said.draws") : current.value ? t("said.done") : ""}
      </div>
      <div class="toasts" role={value?.kind === "error" ? "alert" : "status"}>
        {value && (
          <div class={`toast ${value.kind}`}>
            <span>{value.text}</span>
            {value.undo && (
              <button type="button" class="link" onClick={undo}>
                {t("undo")}
              </button>
            )}
            <button type="button" class="quiet" aria-label={t("error.close")} onClick={settle}>
              <Icon name="close" />
            </button>
          </div>
        )}
      </div>
    </>
  );
}
