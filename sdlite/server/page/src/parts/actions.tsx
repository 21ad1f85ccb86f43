// What can be done with the picture on the stage.
import {
  again,
  compared,
  continueFrom,
  copyPicture,
  finish,
  isDraft,
  remove,
  save,
} from "../lib/draw";
import { t } from "../lib/i18n";
import { recent } from "../lib/gallery";
import { attempt } from "../lib/jobs";
import { fetched } from "../lib/pictures";
import { source } from "../lib/settings";
import type { Picture } from "../lib/types";
import { Icon, type IconName } from "./icon";
import { Menu } from "./menu";

/** With what a picture is compared first: what it was made from, else the one before. */
export function opposite(picture: Picture): Picture | null {
  const from = source.peek();
  if (from) {
    const { url, width, height } = from;
    return { url, width, height, infotext: "", seed: null, created: 0 };
  }
  return recent.peek().find((item) => item.url !== picture.url) ?? null;
}

export function toggleCompare(picture: Picture): void {
  compared.value = compared.peek() ? null : opposite(picture);
}

function Action(props: { icon: IconName; label: string; on?: boolean; act: () => void }) {
  return (
    <button type="button" class="action" aria-pressed={props.on} onClick={props.act}>
      <Icon name={props.icon} />
      <span>{props.label}</span>
    </button>
  );
}

export function Actions({ picture }: { picture: Picture }) {
  return (
    <div class="actions" role="group" aria-label={t("actions.label")}>
      <Action icon="save" label={t("actions.save")} act={() => save(picture)} />
      <Action icon="copy" label={t("actions.copy")} act={() => void copyPicture(picture)} />
      <Action
        icon="edit"
        label={t("actions.continue")}
        act={() => void attempt(fetched(picture).then(continueFrom))}
      />
      <Menu icon="again" label={t("actions.again")}>
        {isDraft(picture) && (
          <button type="button" onClick={() => void attempt(finish(picture))}>
            {t("again.finish")}
          </button>
        )}
        <button type="button" onClick={() => void attempt(again(picture, true))}>
          {t("again.same")}
        </button>
        <button type="button" onClick={() => void attempt(again(picture, false))}>
          {t("again.seed")}
        </button>
      </Menu>
      <Action
        icon="compare"
        label={t("actions.compare")}
        on={compared.value !== null}
        act={() => toggleCompare(picture)}
      />
      <Action icon="remove" label={t("actions.delete")} act={() => remove(picture)} />
    </div>
  );
}
