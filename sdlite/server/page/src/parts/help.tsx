// The keys.
import { useEffect, useRef } from "preact/hooks";
import { t } from "../lib/i18n";
import { help } from "../lib/keys";

const KEYS = [
  ["Ctrl ↵", "keys.draw"],
  ["Esc", "keys.stop"],
  ["/", "keys.focus"],
  ["← →", "keys.step"],
  ["s", "keys.save"],
  ["c", "keys.copy"],
  ["v", "keys.compare"],
  ["Del", "keys.delete"],
  ["Alt 1 … 4", "keys.views"],
  ["?", "keys.help"],
] as const;

export function Help() {
  const dialog = useRef<HTMLDialogElement>(null);
  useEffect(() => {
    if (help.value) dialog.current?.showModal();
    else dialog.current?.close();
  }, [help.value]);
  return (
    <dialog ref={dialog} aria-labelledby="keys" onClose={() => (help.value = false)}>
      <h2 id="keys">{t("help.title")}</h2>
      <dl>
        {KEYS.map(([key, meaning]) => (
          <div key={key}>
            <dt>
              <kbd>{key}</kbd>
            </dt>
            <dd>{t(meaning)}</dd>
          </div>
        ))}
      </dl>
      <p>{t("help.paint")}</p>
      <button type="button" class="secondary" onClick={() => (help.value = false)}>
        {t("error.close")}
      </button>
    </dialog>
  );
}
