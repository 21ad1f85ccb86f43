// Everything that was drawn, found by words.
import { gone, page } from "../lib/draw";
import { number, t, when } from "../lib/i18n";
import { further, more, pictures, search, small } from "../lib/gallery";
import { attempt, show } from "../lib/jobs";
import { told } from "../lib/pictures";
import { Icon } from "../parts/icon";

export function Gallery() {
  const there = pictures.value.filter((item) => !gone.value.has(item.url));
  return (
    <section class="gallery" aria-label={t("nav.gallery")}>
      <div class="search">
        <Icon name="search" />
        <input
          id="search"
          type="search"
          aria-label={t("gallery.search")}
          placeholder={t("gallery.search")}
          value={search.value}
          onInput={(event) => (search.value = event.currentTarget.value)}
        />
        <span role="status">
          {t("gallery.count", { n: number(there.length) + (more.value ? "+" : "") })}
        </span>
      </div>
      {there.length === 0 && (
        <p class="nothing">{t(search.value ? "gallery.no-match" : "gallery.empty")}</p>
      )}
      <ul class="wall">
        {there.map((item) => {
          const { prompt } = told(item.infotext);
          return (
            <li key={item.url}>
              <button
                type="button"
                onClick={() => {
                  show([item]);
                  page.value = "draw";
                }}
              >
                <img src={small(item)} alt="" loading="lazy" />
                <span>{prompt}</span>
                <small>{when(item.created)}</small>
              </button>
            </li>
          );
        })}
      </ul>
      {more.value && (
        <button type="button" class="secondary" onClick={() => void attempt(further())}>
          {t("gallery.more")}
        </button>
      )}
    </section>
  );
}
