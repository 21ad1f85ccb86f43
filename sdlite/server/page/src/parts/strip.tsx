// The newest pictures, one click away.
import { compared, gone } from "../lib/draw";
import { t } from "../lib/i18n";
import { recent, small } from "../lib/gallery";
import { active, current, show } from "../lib/jobs";
import { told } from "../lib/pictures";
import { editing } from "../lib/draw";
import type { Picture } from "../lib/types";

export function Strip() {
  const there = recent.value.filter((item) => !gone.value.has(item.url));
  if (there.length === 0) return null;
  const pick = (picture: Picture) => {
    if (compared.value && picture.url !== current.value?.url) compared.value = picture;
    else if (!active.value) {
      editing.value = false;
      show([picture]);
    }
  };
  return (
    <nav class="strip" aria-label={t("strip.label")}>
      {there.map((item) => (
        <button
          key={item.url}
          type="button"
          aria-label={told(item.infotext).prompt || t("strip.picture")}
          aria-current={item.url === current.value?.url}
          onClick={() => pick(item)}
        >
          <img src={small(item)} alt="" loading="lazy" />
        </button>
      ))}
    </nav>
  );
}
