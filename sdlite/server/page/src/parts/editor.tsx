// The picture to continue from: paint what is to change, drag the edges outwards.
import type { TargetedPointerEvent } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { t } from "../lib/i18n";
import * as paint from "../lib/paint";
import { extends_, margins, mask, source } from "../lib/settings";
import type { Margins } from "../lib/types";
import { Icon, type IconName } from "./icon";

const SNAP = 8;
const MOST = 1024;

export function Editor() {
  const from = source.value;
  if (!from) return null;
  const { left, top, right, bottom } = margins.value;
  const [width, height] = [from.width + left + right, from.height + top + bottom];
  const inside = {
    left: `${(left / width) * 100}%`,
    top: `${(top / height) * 100}%`,
    width: `${(from.width / width) * 100}%`,
    height: `${(from.height / height) * 100}%`,
  };
  return (
    <div class="editor">
      <Tools />
      <div class="frame" style={{ "--w": width, "--h": height }}>
        <img src={from.url} alt={t("source.label")} style={inside} draggable={false} />
        <div class={extends_.value ? "mask aside" : "mask"} style={inside}>
          <Painting />
        </div>
        {(["left", "top", "right", "bottom"] as const).map((side) => (
          <Edge key={side} side={side} across={width} />
        ))}
      </div>
      <p class="hint">
        {t(extends_.value && mask.value ? "editor.aside" : "editor.hint")}
      </p>
    </div>
  );
}

function Tool(props: { icon: IconName; label: string; on?: boolean; off?: boolean; act: () => void }) {
  return (
    <button
      type="button"
      class="quiet"
      title={props.label}
      aria-label={props.label}
      aria-pressed={props.on}
      disabled={props.off ?? false}
      onClick={props.act}
    >
      <Icon name={props.icon} />
    </button>
  );
}

function Tools() {
  const wide = paint.brush.value;
  return (
    <div class="tools" role="toolbar" aria-label={t("editor.tools")}>
      <Tool
        icon="brush"
        label={t("editor.brush")}
        on={!paint.erasing.value}
        act={() => (paint.erasing.value = false)}
      />
      <Tool
        icon="eraser"
        label={t("editor.eraser")}
        on={paint.erasing.value}
        act={() => (paint.erasing.value = true)}
      />
      <input
        type="range"
        aria-label={t("editor.size")}
        min={2}
        max={Math.max(128, wide)}
        value={wide}
        onInput={(event) => (paint.brush.value = Number(event.currentTarget.value))}
      />
      <Tool
        icon="undo"
        label={t("editor.undo")}
        off={paint.steps.value.length === 0}
        act={paint.undo}
      />
      <button type="button" class="link" onClick={paint.invert}>
        {t("editor.invert")}
      </button>
      <button type="button" class="link" onClick={paint.clear}>
        {t("editor.clear")}
      </button>
    </div>
  );
}

function Painting() {
  const place = useRef<HTMLDivElement>(null);
  const last = useRef<[number, number] | null>(null);
  const canvas = paint.canvas.value;
  const [cursor, move] = useState<[number, number] | null>(null);
  useEffect(() => {
    if (canvas) place.current?.replaceChildren(canvas);
  }, [canvas]);
  if (!canvas) return null;

  const at = (event: TargetedPointerEvent<HTMLElement>): [number, number] => {
    const box = event.currentTarget.getBoundingClientRect();
    return [
      ((event.clientX - box.left) / box.width) * canvas.width,
      ((event.clientY - box.top) / box.height) * canvas.height,
    ];
  };
  const end = () => {
    if (last.current) paint.done();
    last.current = null;
  };
  const key = (event: KeyboardEvent) => {
    const step = Math.max(paint.brush.value / 2, 2);
    const [x, y] = cursor ?? [canvas.width / 2, canvas.height / 2];
    const ways: Record<string, [number, number]> = {
      ArrowLeft: [x - step, y],
      ArrowRight: [x + step, y],
      ArrowUp: [x, y - step],
      ArrowDown: [x, y + step],
    };
    const next = ways[event.key];
    if (next) {
      const held: [number, number] = [
        Math.min(Math.max(next[0], 0), canvas.width),
        Math.min(Math.max(next[1], 0), canvas.height),
      ];
      move(held);
      if (event.shiftKey) dab([x, y], held);
    } else if (event.key === " ") dab([x, y], [x, y]);
    else if (event.key === "e") paint.erasing.value = !paint.erasing.value;
    else if (event.key === "[") paint.brush.value = Math.max(paint.brush.value - 4, 2);
    else if (event.key === "]") paint.brush.value += 4;
    else if (event.key === "z" && (event.ctrlKey || event.metaKey)) paint.undo();
    else return;
    event.preventDefault();
    event.stopPropagation();
  };
  const dab = (start: [number, number], stop: [number, number]) => {
    paint.keep();
    paint.line(start, stop);
    paint.done();
  };
  return (
    <div
      class="painting"
      role="application"
      tabIndex={0}
      aria-label={t("editor.canvas")}
      onKeyDown={key}
      onBlur={() => move(null)}
      onPointerDown={(event) => {
        if (event.button !== 0) return;
        event.currentTarget.setPointerCapture(event.pointerId);
        paint.keep();
        last.current = at(event);
        paint.line(last.current, last.current);
      }}
      onPointerMove={(event) => {
        if (!last.current) return;
        const next = at(event);
        paint.line(last.current, next);
        last.current = next;
      }}
      onPointerUp={end}
      onPointerCancel={end}
    >
      <div ref={place} class="canvas" />
      {cursor && (
        <i
          class="cursor"
          style={{
            left: `${(cursor[0] / canvas.width) * 100}%`,
            top: `${(cursor[1] / canvas.height) * 100}%`,
            width: `${(paint.brush.value / canvas.width) * 100}%`,
          }}
        />
      )}
    </div>
  );
}

/** One edge of the frame; outwards is more picture. */
function Edge({ side, across }: { side: keyof Margins; across: number }) {
  const start = useRef<{ at: number; value: number; scale: number } | null>(null);
  const flat = side === "left" || side === "right";
  const sign = side === "left" || side === "top" ? -1 : 1;
  const value = margins.value[side];
  const put = (next: number) => {
    const snapped = Math.min(Math.max(Math.round(next / SNAP) * SNAP, 0), MOST);
    margins.value = { ...margins.peek(), [side]: snapped };
  };
  return (
    <div
      class={`edge ${side}`}
      role="slider"
      tabIndex={0}
      aria-label={t(`margins.${side}`)}
      aria-orientation={flat ? "horizontal" : "vertical"}
      aria-valuemin={0}
      aria-valuemax={MOST}
      aria-valuenow={value}
      onPointerDown={(event) => {
        event.currentTarget.setPointerCapture(event.pointerId);
        const frame = event.currentTarget.parentElement?.getBoundingClientRect().width ?? 1;
        start.current = {
          at: flat ? event.clientX : event.clientY,
          value,
          scale: across / frame,
        };
      }}
      onPointerMove={(event) => {
        const first = start.current;
        if (!first) return;
        const moved = (flat ? event.clientX : event.clientY) - first.at;
        put(first.value + sign * moved * first.scale);
      }}
      onPointerUp={() => (start.current = null)}
      onPointerCancel={() => (start.current = null)}
      onKeyDown={(event) => {
        const more = ["ArrowLeft", "ArrowUp"].includes(event.key) ? -1 : 1;
        if (!event.key.startsWith("Arrow")) return;
        put(value + sign * more * (event.shiftKey ? 64 : SNAP));
        event.preventDefault();
      }}
    >
      {value > 0 && <b>{value}</b>}
    </div>
  );
}
